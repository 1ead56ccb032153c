"""The one data-set object of the project: what it came from no longer matters once it is built."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import torch

from medmnist_diffusion.data.arrow import ArrowImages
from medmnist_diffusion.data.conditioning import Conditioning, random_rows

ImageArray = np.ndarray | ArrowImages  # uint8 N×H×W×C, in memory or memory-mapped; indexed by a slice or an array
CHUNK = 1024  # images read at once where a whole split is walked through


def without_grey_axis(images: np.ndarray) -> np.ndarray:
    """`…×H×W×1` as `…×H×W`, which is what Pillow and MedMNIST take; RGB as it is."""
    return images.squeeze(-1) if images.shape[-1] == 1 else images


@dataclass(frozen=True)
class Split:
    """The images of one split, uint8 N×H×W×C, and their class ids, int64 N; the names of their files where they have some."""

    name: str
    images: ImageArray
    labels: np.ndarray
    files: list[str] | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.labels)

    def chunks(self, size: int = CHUNK) -> Iterator[np.ndarray]:
        """All images in order, `size` at a time: bounded memory whatever the split's size."""
        for start in range(0, len(self), size):
            yield self.images[start : start + size]

    def subset(self, indices: np.ndarray) -> "Split":
        """The images at `indices` as a split in memory."""
        files = None if self.files is None else [self.files[row] for row in indices]
        return Split(self.name, self.images[indices], self.labels[indices], files)

    def images_of(self, labels: np.ndarray, seed: int) -> np.ndarray:
        """A random image of each label."""
        return self.images[random_rows(self.labels, labels, np.random.default_rng([seed, 11]))]

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over shape, pixels and labels: the same content has the same hash whatever file it came from."""
        if isinstance(self.images, ArrowImages):
            return self.images.content_hash(self.labels, self._hashed)
        return self._hashed()

    def _hashed(self) -> str:
        digest = hashlib.sha256(repr((len(self), *self.images.shape[1:])).encode())
        for chunk in self.chunks():
            digest.update(np.ascontiguousarray(chunk).data)
        digest.update(np.ascontiguousarray(self.labels, dtype="<i8").data)
        return digest.hexdigest()


@dataclass(frozen=True)
class ImageDataset:
    """A labelled image data set with splits `train`, `val` and `test`.

    Attributes:
        name: what the user called it: a flag, a path's stem, a Hub id.
        splits: name → Split.
        id2label: class id → name, ids 0 … K − 1.
        license: the licence's name as its source gives it ("unknown" where it gives none).
        citation: how to cite it; may be empty.
        description: one paragraph.
        synthetic: True for the generated phantom.
        source: "medmnist", "file" (an npz or a folder), "hub", or "generated".
        notes: what a user should know about how it was read (an unverified copy, splits that we drew).
    """

    name: str
    splits: dict[str, Split]
    id2label: dict[int, str]
    license: str = "unknown"
    citation: str = ""
    description: str = ""
    synthetic: bool = False
    source: str = "file"
    notes: list[str] = field(default_factory=list)

    @property
    def train(self) -> Split:
        return self.splits["train"]

    @cached_property
    def conditioning(self) -> Conditioning:
        """What an image can be asked to show."""
        return Conditioning(self.id2label)

    @property
    def num_classes(self) -> int:
        return self.conditioning.num_classes

    @property
    def image_size(self) -> int:
        return int(self.train.images.shape[1])

    @property
    def channels(self) -> int:
        return int(self.train.images.shape[3])

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over the hashes of all splits."""
        parts = [f"{name}:{split.content_hash}" for name, split in sorted(self.splits.items())]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()

    def balanced_labels(self, count: int) -> np.ndarray:
        """At least `count` class ids, each equally often, in order."""
        return self.conditioning.balanced(count)

    def labels_in_shares(self, count: int) -> np.ndarray:
        """At least `count` class ids in the training set's shares, rounded up a class, in order: what to generate."""
        return self.conditioning.in_shares(count, self.conditioning.shares(self.train.labels))


def to_model_range(images: np.ndarray) -> torch.Tensor:
    """uint8 N×H×W×C → float32 N×C×H×W in −1 … 1."""
    return torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """float N×C×H×W in −1 … 1 → uint8 N×H×W×C; what lies outside is clipped."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
