"""`load_dataset`: a flag, an npz, a folder, a Hub id or `phantom` in, one ImageDataset out."""

import difflib
from dataclasses import replace
from pathlib import Path

import numpy as np

from medmnist_diffusion.data import phantom
from medmnist_diffusion.data.dataset import ImageDataset, Split
from medmnist_diffusion.data.medmnist_files import as_medmnist, medmnist_dataset, medmnist_info
from medmnist_diffusion.data.npz import LARGEST, SMALLEST, SPLITS, SYNTHETIC, generated_images, read_npz
from medmnist_diffusion.data.tables import folder_dataset, hub_dataset
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import has_suffix

PHANTOMS = {"phantom": 1, "phantom-rgb": 3}
DEFAULT_SIZE = 28
NEARLY_BLACK = 31  # grey levels


def load_dataset(
    name: str, root: str | Path | None = None, size: int | None = None, download: bool = True
) -> ImageDataset:
    """One data set from whatever the user named.

    Args:
        name: a MedMNIST flag (`pneumoniamnist`), the path of an npz in MedMNIST's layout, a folder with one subfolder
            a class (or train/val/test folders of such), a folder of parquet files, a Hub id with an image and a label
            column, `phantom` or `phantom-rgb`.
        root: where MedMNIST files lie; default $MEDMNIST_ROOT, else ~/.medmnist.
        size: pixels a side; MedMNIST has 28, 64, 128 and 224; folders and Hub sets are resized. Default 28.
        download: whether a MedMNIST file that is missing may be downloaded.

    Raises:
        UserError: one line that names the source, what is wrong, and the remedy.

    Example:
        >>> import medmnist_diffusion as md
        >>> dataset = md.load_dataset("phantom")
        >>> dataset.train.images.shape, dataset.id2label[0]
        ((2400, 28, 28, 1), 'clear lungs')
    """
    if not name.strip():
        raise UserError("no data set was named. Give a MedMNIST flag, an npz, an image folder, a Hub id, or phantom.")
    path = Path(name).expanduser()
    if size is not None and not SMALLEST <= size <= LARGEST:
        raise UserError(f"--size is {size}; from {SMALLEST} to {LARGEST} pixels a side are possible.")
    if name in PHANTOMS:
        dataset = _phantom_dataset(name, size or DEFAULT_SIZE)
    elif name in medmnist_info():
        dataset = medmnist_dataset(name, root, size or DEFAULT_SIZE, download)
    elif has_suffix(path, ".npz"):
        dataset = _npz_dataset(path, size)
    elif path.is_dir():
        dataset = folder_dataset(path, size or DEFAULT_SIZE)
    elif path.exists():
        raise UserError(
            f"{path} is a file that is no npz. Give an npz, or the folder that holds your images or parquet files."
        )
    elif name.count("/") == 1 and not name.startswith((".", "/", "~")):
        dataset = hub_dataset(name, size or DEFAULT_SIZE)
    else:
        known = [flag for flag in medmnist_info() if not flag.endswith("3d")] + list(PHANTOMS)
        nearest = difflib.get_close_matches(name.lower(), known, 1, cutoff=0.5)
        hint = f"Did you mean {nearest[0]!r}?" if nearest else f"Known: {', '.join(known)}."
        raise UserError(f"{name!r} is no MedMNIST flag, and no such file or folder exists. {hint}")
    return _checked(dataset, name)


def _checked(dataset: ImageDataset, where: str) -> ImageDataset:
    """Labels are 0 … K − 1, there are at least two classes, and every class has a training image."""
    conditioning = dataset.conditioning
    for split in dataset.splits.values():
        if len(split) == 0:
            raise UserError(f"{where}: {split.name} is empty. Every split needs images: move some there.")
        if len(outside := conditioning.outside(split.labels)):
            raise UserError(
                f"{where}: {split.name} has label {outside[0]}, outside the classes 0 … {conditioning.num_classes - 1}. Correct "
                "the label, or add training images of that class."
            )
    if conditioning.num_classes < 2:
        raise UserError(
            f"{where}: there is one class only. A class-conditional model needs two or more: add images of another class, in a "
            "subfolder of their own or with a label of their own."
        )
    counts = conditioning.counts(dataset.train.labels)
    if not counts.all():
        empty = int(np.argmin(counts))
        raise UserError(
            f"{where}: class {empty} ({dataset.id2label[empty]}) has no training image. Add some, or number the "
            "classes without gaps."
        )
    shapes = {split.images.shape[1:] for split in dataset.splits.values()}
    if len(shapes) > 1:
        raise UserError(f"{where}: the splits' images differ in shape: {sorted(shapes)}. Make them alike.")
    return replace(dataset, notes=[*dataset.notes, *_odd_ranges(dataset)])


def _odd_ranges(dataset: ImageDataset) -> list[str]:
    """A note on images that are nearly black as they stand: masks with levels 0 and 1, images scaled to 0 … 1."""
    brightest = {name: _brightest(split) for name, split in dataset.splits.items()}
    dark = {name: level for name, level in brightest.items() if level <= NEARLY_BLACK}
    if not dark:
        return []
    listed = " and ".join(f"{name} ({level})" for name, level in dark.items())
    return [
        f"The brightest pixel of 255 grey levels is very dark in {listed}: these images are nearly black. If they are masks, or "
        f"are scaled to 0 … 1, multiply them by {255 // max(1, *dark.values())}."
    ]


def _brightest(split: Split) -> int:
    """The highest grey level, or the first one seen that is not nearly black: hardly any set is read to its end for this."""
    highest = 0
    for chunk in split.chunks():
        highest = max(highest, int(chunk.max()))
        if highest > NEARLY_BLACK:
            break
    return highest


def _phantom_dataset(name: str, size: int) -> ImageDataset:
    if size < 16 or size % 4:
        raise UserError(f"{name}: size {size} is not supported. Use a multiple of 4 from 16 on.")
    arrays = phantom.make_phantom(PHANTOMS[name], size)
    splits = {}
    for split in SPLITS:
        images = arrays[f"{split}_images"]
        splits[split] = Split(
            split, images.reshape(*images.shape[:3], -1), arrays[f"{split}_labels"][:, 0].astype(np.int64)
        )
    return ImageDataset(
        name,
        splits,
        dict(phantom.CLASSES),
        license="CC0 1.0",
        description=phantom.DESCRIPTION,
        synthetic=True,
        source="generated",
        notes=[phantom.DESCRIPTION],
    )


def _npz_dataset(path: Path, size: int | None) -> ImageDataset:
    notes: list[str] = []
    splits = read_npz(path, notes=notes)
    train = splits["train"]
    if size not in (None, train.images.shape[1]):
        raise UserError(f"{path} holds {train.images.shape[1]} px images: --size {size} does not fit. Leave it out.")
    if generated := generated_images(path):
        notes = [*notes, f"{generated} of the training images are generated ({SYNTHETIC}), not real."]
    elif named := as_medmnist(path, splits):
        return replace(named, notes=[*notes, *named.notes])
    highest = int(train.labels.max())
    if highest >= len(train):  # ids of something else, patients say: no dictionary of millions of names
        raise UserError(
            f"{path}: train has label {highest} and only {len(train)} images. Number the classes 0 … K − 1 without gaps."
        )
    classes = range(highest + 1)
    return ImageDataset(path.stem, splits, {label: str(label) for label in classes}, notes=notes)
