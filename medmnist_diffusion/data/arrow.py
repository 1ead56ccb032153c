"""Images that stay on disk: a memory-mapped `datasets.Dataset` behind the few array operations that we use."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, StringConstraints

from medmnist_diffusion.cache import cache_dir, cached_record
from medmnist_diffusion.resources import check_disk, check_memory

IN_MEMORY_BYTES = 2**29  # a split up to this size becomes one array in memory


class ContentHash(BaseModel):
    """The content hash of a split, as it is kept beside its images."""

    sha256: Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]


class ArrowImages:
    """uint8 N×H×W×C images in an Arrow file, read when they are indexed by a slice or an index array."""

    def __init__(self, table: Any, image_shape: tuple[int, ...], folder: Path) -> None:
        self._table, self._folder = table, folder
        self.shape = (len(table), *image_shape)

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def ndim(self) -> int:
        return len(self.shape)

    def __getitem__(self, index: slice | np.ndarray) -> np.ndarray:
        if not isinstance(index, slice):
            index = np.asarray(index)
            index = np.flatnonzero(index) if index.dtype == bool else index
        rows = self._table[index]["image"]
        return np.frombuffer(bytearray().join(rows), np.uint8).reshape(len(rows), *self.shape[1:])  # writable

    def content_hash(self, labels: np.ndarray, compute: Callable[[], str], kind: str = "content_hash") -> str:
        """A hash of these images with these labels, kept beside the images: a million are not read again for it."""
        named = hashlib.sha256(np.ascontiguousarray(labels, dtype="<i8").data).hexdigest()[:32]
        path = self._folder / f"{kind}-{named}.json"
        return cached_record(path, ContentHash, lambda: ContentHash(sha256=compute())).sha256


def is_stored(fingerprint: str) -> bool:
    """Whether the images of this content lie in an Arrow file already."""
    return any((cache_dir() / "arrow" / fingerprint).rglob("*.arrow"))


def store_images(
    chunks: Callable[[], Iterator[np.ndarray]],
    count: int,
    image_shape: tuple[int, ...],
    fingerprint: str,
    where: str,
    in_memory_bytes: int = IN_MEMORY_BYTES,
    remedy: str = "",
) -> np.ndarray | ArrowImages:
    """Collect uint8 chunks n×H×W×C into one array, or into a memory-mapped Arrow file where they are too many.

    Args:
        chunks: called once; yields the images in order.
        count: their number.
        image_shape: H, W, C.
        fingerprint: names the content; an Arrow file made before under the same name is used again.
        where: what they are, in an error.
        in_memory_bytes: above this many bytes the images go to disk.
        remedy: what to do if they claim more room than they should.

    Raises:
        UserError: if memory or disk have no room for them.
    """
    size = count * int(np.prod(image_shape, dtype=object))
    if size <= in_memory_bytes:
        check_memory(size, where, remedy)
        images = np.empty((count, *image_shape), np.uint8)
        start = 0
        for chunk in chunks():
            images[start : start + len(chunk)] = chunk
            start += len(chunk)
        return images

    import datasets

    folder = cache_dir() / "arrow" / fingerprint
    if not is_stored(fingerprint):
        check_disk(cache_dir(), size, where, f"MEDMNIST_DIFFUSION_CACHE names another place. {remedy}".strip())

    def rows() -> Iterator[dict[str, bytes]]:
        for chunk in chunks():
            for image in chunk:
                yield {"image": image.tobytes()}

    # `datasets` names its cache file by the builder's config: our fingerprint, not a hash of the closure.
    table = datasets.Dataset.from_generator(
        rows,
        features=datasets.Features({"image": datasets.Value("binary")}),
        cache_dir=str(folder),
        fingerprint=fingerprint,
    )
    return ArrowImages(table, image_shape, folder)
