"""Reading and writing npz files in MedMNIST's layout, without ever unpickling anything.

The layout: `train_images`, `train_labels`, `val_…`, `test_…`; images uint8 N×H×W or N×H×W×3, volumes N×D×H×W; labels integer N or
N×1, or of several labels an image zeros and ones N×K. Labels 1×N, and one-hot rows N×K for classes, are read as well, and said.
"""

import io
import lzma
import zipfile
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from medmnist_diffusion.data.arrow import IN_MEMORY_BYTES, store_images
from medmnist_diffusion.data.conditioning import Conditioning, conditions_of
from medmnist_diffusion.data.dataset import CHUNK, Split, without_grey_axis
from medmnist_diffusion.data.reading import LARGEST, LARGEST_VOLUME, SMALLEST
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import atomic_file, file_hash, write_json
from medmnist_diffusion.resources import check_memory

# What zipfile raises on a damaged archive, or one that it cannot read (encrypted, say).
DAMAGED = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError, KeyError, lzma.LZMAError)
# What NumPy raises on a header that somebody made up.
MADE_UP = (ValueError, TypeError, SyntaxError, TokenError, OverflowError, RecursionError, MemoryError)
LONGEST_HEADER = 16_384  # bytes; the format allows 4 GiB
CHANNELS = (1, 3)
SPLITS = ("train", "val", "test")
SYNTHETIC = "train_synthetic"  # of a set that `augment` wrote: which training images are generated
Headers = dict[str, tuple[tuple[int, ...], Any]]  # shape and dtype of every array
REMEDY = "Write it with numpy.savez_compressed in MedMNIST's layout (docs/data.md)."


def read_npz(
    path: Path,
    splits: tuple[str, ...] = SPLITS,
    in_memory_bytes: int = IN_MEMORY_BYTES,
    notes: list[str] | None = None,
    num_labels: int | None = None,
) -> dict[str, Split]:
    """The named splits of an npz file, each checked; images come out as uint8 N×H×W×C (volumes N×D×H×W×C), labels as int64 N.

    Args:
        num_labels: read labels N×K as conditions of so many labels an image (`label_columns` tells); None: as classes.
        notes: where given, what was read otherwise than it stands there is added to it.

    Raises:
        UserError: one line that names the file, what is wrong with it, and the remedy.
    """
    headers = _headers(path, splits)
    content = lru_cache(lambda: file_hash(path))  # of large files alone, and once for all splits
    notes = [] if notes is None else notes
    return {split: _read_split(path, split, headers, in_memory_bytes, content, notes, num_labels) for split in splits}


def _headers(path: Path, splits: tuple[str, ...]) -> Headers:
    """Of every array, whose types and sizes can be believed; no array is read.

    Raises:
        UserError: if the file is not of MedMNIST's layout, or holds anything but numbers.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file. Give the path of an existing .npz file.")
    wanted = {f"{split}_{kind}" for split in SPLITS for kind in ("images", "labels")} | {SYNTHETIC}
    required = {f"{split}_{kind}" for split in splits for kind in ("images", "labels")}
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename.removesuffix(".npy") for info in archive.infolist()]
            if missing := sorted(required - set(names)):
                raise UserError(f"{path}: array {missing[0]!r} is missing. {REMEDY}")
            if extra := sorted(set(names) - wanted):
                raise UserError(f"{path}: array {extra[0]!r} does not belong to MedMNIST's layout. {REMEDY}")
            if len(names) > len(set(names)):
                raise UserError(f"{path}: an array is there twice. {REMEDY}")
            headers = {name: _header(archive, f"{name}.npy") for name in names}
    except DAMAGED as error:
        raise UserError(
            f"{path}: not a readable npz file, or cut short ({error}). Download or write it again."
        ) from None

    for name, (_, dtype) in headers.items():
        if dtype is None:
            raise UserError(f"{path}: {name} has no readable array header. {REMEDY}")
        if dtype.hasobject:
            raise UserError(
                f"{path}: {name} holds pickled Python objects, which are never loaded. Write plain uint8 arrays with "
                "numpy.savez_compressed in MedMNIST's layout (docs/data.md)."
            )
    return headers


def label_columns(path: Path, splits: tuple[str, ...] = SPLITS) -> int | None:
    """K of a file with several labels an image: rows of K zeros and ones, of which some have no 1 or several. None of every other
    file, and of one that cannot be read (`read_npz` says why)."""
    try:
        headers = _headers(path, splits)
        for split in splits:
            shape, dtype = headers[f"{split}_labels"]
            images = headers[f"{split}_images"][0][:1]
            if len(shape) != 2 or shape[1] < 2 or shape[:1] != images or dtype.kind not in "iufb":
                return None
            _check_label_memory(f"{path}: {split}", shape, dtype)
        with np.load(path, allow_pickle=False) as arrays:
            labels = [arrays[f"{split}_labels"] for split in splits]
    except (UserError, *DAMAGED):
        return None
    if len({one.shape[1] for one in labels}) > 1 or not all(np.isin(one, (0, 1)).all() for one in labels):
        return None
    return labels[0].shape[1] if any((one.sum(1) != 1).any() for one in labels) else None


def _read_split(
    path: Path,
    split: str,
    headers: Headers,
    in_memory_bytes: int,
    content: Callable[[], str],
    notes: list[str],
    num_labels: int | None,
) -> Split:
    where = f"{path}: {split}"
    image_shape, _ = headers[f"{split}_images"]
    _check_image_header(where, *headers[f"{split}_images"])
    _check_label_header(where, *headers[f"{split}_labels"], image_shape[0])
    if split == "train" and SYNTHETIC in headers:
        marks_shape, marks_dtype = headers[SYNTHETIC]
        if marks_shape not in ((image_shape[0],), (image_shape[0], 1)) or marks_dtype not in (np.uint8, bool):
            raise UserError(f"{path}: {SYNTHETIC} must hold a 0 or 1 for each training image. {REMEDY}")

    size = int(np.prod(image_shape, dtype=object))
    shape = image_shape[1:] if image_shape[-1] in CHANNELS and len(image_shape) > 3 else (*image_shape[1:], 1)
    try:
        images = store_images(
            lambda: _image_chunks(path, f"{split}_images", (image_shape[0], *shape)),
            image_shape[0],
            shape,
            f"{path.stem}-{split}-{content()[:16]}" if size > in_memory_bytes else "",
            where,
            in_memory_bytes,
            # A few kilobytes of zip can unpack to any size.
            "If that is not what you expect, the file's header is wrong: write it again.",
        )
        with np.load(path, allow_pickle=False) as arrays:  # last: there is room for them where there is for the images
            labels = arrays[f"{split}_labels"]
            if num_labels is None:
                labels = _flat_labels(labels, image_shape[0], where, notes)
            else:
                labels = _conditions(labels, image_shape[0], num_labels, where)
        if labels.dtype.kind == "f" and np.isnan(labels).any():
            raise UserError(f"{where}_labels holds NaN. Give every image a class id.")
        if labels.dtype.kind == "f":
            raise UserError(f"{where}_labels has dtype {labels.dtype}; integer class ids are needed.")
    except DAMAGED as error:
        raise UserError(
            f"{where} cannot be read, the file is damaged ({error}). Download or write it again."
        ) from None
    return Split(split, images, labels.astype(np.int64))


def _check_image_header(where: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """uint8 N×H×W or N×H×W×3, volumes N×D×H×W, of a size that is read."""
    if dtype != np.uint8:
        raise UserError(f"{where}_images has dtype {dtype}; uint8 in 0 … 255 is needed. {REMEDY}")
    sides = shape[1:-1] if len(shape) > 3 and shape[-1] in CHANNELS else shape[1:]
    if len(sides) not in (2, 3):
        raise UserError(f"{where}_images has shape {shape}; N×H×W, N×H×W×3 or for volumes N×D×H×W is needed. {REMEDY}")
    if shape[0] and not SMALLEST <= min(sides) <= max(sides) <= (LARGEST if len(sides) == 2 else LARGEST_VOLUME):
        what = f"from {SMALLEST} to {LARGEST} pixels a side, of volumes to {LARGEST_VOLUME}, are read"
        order = len(shape) == 4 and (shape[1] in (1, 2, 3, 4) or shape[-1] in (2, 4))
        remedy = "Put the colours last, three or none (N×H×W×3)" if order else "Resize them first"
        raise UserError(f"{where}_images has shape {shape}: {what}. {remedy}.")


def _conditions(labels: np.ndarray, images: int, num_labels: int, where: str) -> np.ndarray:
    """int64 N of N×K zeros and ones."""
    if labels.shape != (images, num_labels) or not np.isin(labels, (0, 1)).all():
        raise UserError(f"{where}_labels has shape {labels.shape}; {images}×{num_labels} zeros and ones are needed.")
    return conditions_of(labels)


def _flat_labels(labels: np.ndarray, images: int, where: str, notes: list[str]) -> np.ndarray:
    """N of N, N×1, 1×N, or of one-hot rows N×K, where that is said."""
    if labels.size == images:
        return labels.reshape(-1)
    ones = np.isin(labels, (0, 1)).all() and (labels.sum(1) == 1).all()
    if not ones:
        raise UserError(
            f"{where}_labels has {labels.shape[1]} columns. For several labels an image, all splits need rows of zeros and ones; "
            f"for classes, one number an image."
        )
    notes.append(
        f"{where.rsplit(': ', 1)[-1]}: the labels are one-hot rows; the place of the 1 was taken for the class."
    )
    return labels.argmax(1)


def _check_label_header(where: str, shape: tuple[int, ...], dtype: np.dtype, images: int) -> None:
    """One number an image, N, N×1 or 1×N; or K numbers an image."""
    if len(shape) == 2 and shape[0] == 1 != images == shape[1]:
        shape = (images,)
    if len(shape) not in (1, 2):
        raise UserError(f"{where}_labels has shape {shape}; N or N×1 is needed. {REMEDY}")
    if images == 0 or shape[0] == 0:
        raise UserError(f"{where} is empty. Every split needs images: move some there.")
    if images != shape[0]:
        raise UserError(f"{where} has {images} images but {shape[0]} labels. They must be as many.")
    if dtype.kind not in "iuf" and not (dtype.kind == "b" and len(shape) == 2):
        raise UserError(f"{where}_labels has dtype {dtype}; integer class ids are needed.")
    _check_label_memory(where, shape, dtype)


def _check_label_memory(where: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Before they are read: an archive can say any size."""
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    check_memory(size, f"{where}_labels of shape {shape}", "If that is not what you expect, write the file again.")


def _header(archive: zipfile.ZipFile, member: str) -> tuple[tuple[int, ...], np.dtype | None]:
    """Shape and dtype from an array's header alone, checked against the bytes that the archive says it has."""
    info = archive.getinfo(member)
    with archive.open(info) as file:
        try:
            shape, _, dtype = _read_header(io.BytesIO(file.read(LONGEST_HEADER)))
        except MADE_UP:
            return (), None
        if any(length < 0 for length in shape):
            return (), None
    size = int(np.prod(shape, dtype=object)) * dtype.itemsize
    if not dtype.hasobject and not size <= info.file_size <= size + 65536:
        return (), None
    return shape, dtype


def _read_header(file: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(file)
    reader = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if reader is None:
        raise ValueError(f"npy format {version}")
    return reader(file)


def _image_chunks(path: Path, name: str, shape: tuple[int, ...]) -> Iterator[np.ndarray]:
    """Rows of one array as they are decompressed: the whole array never needs to fit into memory."""
    with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
        _, fortran_order, _ = _read_header(file)
        row_bytes = int(np.prod(shape[1:]))
        if fortran_order:  # its rows are scattered over the whole array
            check_memory(
                2 * shape[0] * row_bytes, f"{path}: {name}, which is in Fortran order,", "Save a C-ordered array."
            )
            whole = np.frombuffer(file.read(shape[0] * row_bytes), np.uint8).reshape(shape, order="F")
            yield from (np.ascontiguousarray(whole[start : start + CHUNK]) for start in range(0, shape[0], CHUNK))
            return
        for start in range(0, shape[0], CHUNK):
            rows = min(CHUNK, shape[0] - start)
            data = file.read(rows * row_bytes)
            if len(data) != rows * row_bytes:
                raise EOFError("cut short")
            yield np.frombuffer(data, np.uint8).reshape(rows, *shape[1:])


def generated_images(path: Path) -> int:
    """How many training images an npz marks as generated (`train_synthetic`, written by `augment`)."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return int(np.count_nonzero(arrays[SYNTHETIC])) if SYNTHETIC in arrays.files else 0
    except DAMAGED as error:
        raise UserError(f"{path}: {SYNTHETIC} cannot be read ({error}). Write the file again.") from None


def npz_arrays(splits: dict[str, Split], conditioning: Conditioning) -> dict[str, np.ndarray]:
    """MedMNIST's arrays of the splits: grey images as N×H×W, volumes as N×D×H×W; labels N×1 in the smallest unsigned type that
    holds them, or of several labels an image N×K."""
    arrays = {}
    for name, split in splits.items():
        arrays[f"{name}_images"] = without_grey_axis(split.images[:])
        kind = np.min_scalar_type(conditioning.num_classes - 1)
        arrays[f"{name}_labels"] = (
            conditioning.matrix(split.labels) if conditioning.multi_label else split.labels.astype(kind)[:, None]
        )
    return arrays


def write_npz(path: Path, arrays: dict[str, np.ndarray], record: dict[str, Any] | None = None) -> None:
    """Write the arrays (of MedMNIST's layout) atomically, and beside them, as JSON, the record of how they were made."""
    with atomic_file(path) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **arrays)
        if record is not None:
            write_json(path.with_suffix(".json"), record)  # before the npz has its name, not before it fits
