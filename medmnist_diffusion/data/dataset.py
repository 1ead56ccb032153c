"""The one data-set object of the project: what it came from no longer matters once it is built."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain

import numpy as np
import torch

from medmnist_diffusion.data.arrow import ArrowImages
from medmnist_diffusion.data.conditioning import Conditioning, Task, random_rows

# uint8 N×H×W×C, volumes N×D×H×W×C, in memory or memory-mapped; indexed by a slice or an array
ImageArray = np.ndarray | ArrowImages
CHUNK = 1024  # images read at once where a whole split is walked through


def without_grey_axis(images: np.ndarray) -> np.ndarray:
    """`…×H×W×1` as `…×H×W`, which is what Pillow and MedMNIST take; RGB as it is."""
    return images.squeeze(-1) if images.shape[-1] == 1 else images


@dataclass(frozen=True)
class Split:
    """The images of one split, uint8 N×H×W×C (volumes N×D×H×W×C), and their conditions, int64 N (data/conditioning.py): class ids,
    or several labels as the bits of a number; the names of their files, and which person or lesion they show, where that is
    known."""

    name: str
    images: ImageArray
    labels: np.ndarray
    files: list[str] | None = field(default=None, repr=False, compare=False)
    groups: list[str] | None = field(default=None, repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.labels)

    def chunks(self, size: int = CHUNK) -> Iterator[np.ndarray]:
        """All images in order, `size` at a time: bounded memory whatever the split's size."""
        for start in range(0, len(self), size):
            yield self.images[start : start + size]

    def subset(self, indices: np.ndarray) -> "Split":
        """The images at `indices` as a split in memory."""
        files, groups = (
            None if known is None else [known[row] for row in indices] for known in (self.files, self.groups)
        )
        return Split(self.name, self.images[indices], self.labels[indices], files, groups)

    def images_of(self, labels: np.ndarray, seed: int) -> np.ndarray:
        """A random image of each label."""
        return self.images[random_rows(self.labels, labels, np.random.default_rng([seed, 11]))]

    @cached_property
    def is_binary(self) -> bool:
        """Whether the images hold nothing but black (0) and white (255)."""
        return all(bool(((chunk == 0) | (chunk == 255)).all()) for chunk in self.chunks())

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over shape, pixels and labels: the same content has the same hash whatever file it came from."""
        if isinstance(self.images, ArrowImages):
            return self.images.content_hash(self.labels, self._hashed)
        return self._hashed()

    @cached_property
    def unordered_hash(self) -> str:
        """SHA-256 over shape and the sorted hashes of all images with their labels: the same in whatever order they stand."""
        if isinstance(self.images, ArrowImages):
            return self.images.content_hash(self.labels, self._hashed_in_any_order, "unordered_hash")
        return self._hashed_in_any_order()

    def _hashed_in_any_order(self) -> str:
        rows = zip((image for chunk in self.chunks() for image in chunk), self.labels.astype("<i8"), strict=True)
        digests = sorted(hashlib.sha256(image.tobytes() + label.tobytes()).digest() for image, label in rows)
        return hashlib.sha256(repr(self.images.shape[1:]).encode() + b"".join(digests)).hexdigest()

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
        task: whether an image has one class, one grade (ordinal), or any number of labels.
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
    task: Task = "multi-class"
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
        return Conditioning(self.id2label, self.task, self.train.labels)

    @property
    def num_classes(self) -> int:
        return self.conditioning.num_classes

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image, H×W×C, or of one volume, D×H×W×C."""
        return tuple(map(int, self.train.images.shape[1:]))

    @property
    def model_shape(self) -> tuple[int, ...]:
        """The same as the model has it, C×H×W or C×D×H×W."""
        return (self.channels, *self.shape[:-1])

    @property
    def image_size(self) -> int:
        """Pixels of the last side."""
        return self.shape[-2]

    @property
    def is_volume(self) -> bool:
        return len(self.shape) == 4

    @cached_property
    def is_binary(self) -> bool:
        """Whether the training images hold nothing but black (0) and white (255)."""
        return self.train.is_binary

    @property
    def channels(self) -> int:
        return self.shape[-1]

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over the hashes of all splits."""
        return _together({name: split.content_hash for name, split in self.splits.items()})

    @cached_property
    def unordered_hash(self) -> str:
        """The same over those that know no order: the same images and labels in each split, in whatever order."""
        return _together({name: split.unordered_hash for name, split in self.splits.items()})

    def balanced_labels(self, count: int) -> np.ndarray:
        """At least `count` conditions, each class equally often, in order."""
        return self.conditioning.balanced(count)

    def labels_to_add(self, count: int) -> np.ndarray:
        """At least `count` conditions of images to train on beside the real ones: each class equally often; of several labels an
        image combinations as in train."""
        return self.labels_in_shares(count) if self.conditioning.multi_label else self.balanced_labels(count)

    def labels_in_shares(self, count: int) -> np.ndarray:
        """At least `count` conditions in the training set's shares, in order: what to generate."""
        return self.conditioning.as_in(self.train.labels, count)


def _together(hashes: dict[str, str]) -> str:
    """SHA-256 over the hashes of splits by their names."""
    return hashlib.sha256("\n".join(f"{name}:{hashes[name]}" for name in sorted(hashes)).encode()).hexdigest()


def size_in_words(shape: Sequence[int]) -> str:
    """Of an image H×W×C: `28×28 grey`, `64×48 RGB`; of a volume D×H×W×C `28×28×28 grey`."""
    return f"{'×'.join(map(str, shape[:-1]))} {'grey' if shape[-1] == 1 else 'RGB'}"


def joined(name: str, splits: Sequence[Split]) -> Split:
    """The images of several splits after each other, in memory; persons where all are known, names of files are not kept."""
    known = [one.groups for one in splits if one.groups is not None]
    groups = list(chain.from_iterable(known)) if len(known) == len(splits) else None
    images, labels = (
        np.concatenate(parts) for parts in zip(*((one.images[:], one.labels) for one in splits), strict=True)
    )
    return Split(name, images, labels, groups=groups)


def to_model_range(images: np.ndarray, device: torch.device | str = "cpu") -> torch.Tensor:
    """uint8 N×H×W×C → float32 N×C×H×W in −1 … 1; volumes N×D×H×W×C → N×C×D×H×W. A GPU gets bytes, and nobody waits for them."""
    pixels = torch.from_numpy(np.ascontiguousarray(images))
    if torch.device(device).type == "cuda":
        pixels = pixels.pin_memory().to(device, non_blocking=True)
    return pixels.movedim(-1, 1).float() / 127.5 - 1


def to_uint8(images: torch.Tensor) -> np.ndarray:
    """float N×C×H×W in −1 … 1 → uint8 N×H×W×C, volumes likewise; what lies outside is clipped."""
    return ((images.float() + 1) * 127.5).round().clamp(0, 255).byte().movedim(1, -1).cpu().numpy()
