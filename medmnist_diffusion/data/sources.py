"""`load_dataset`: a flag, an npz, a folder, a Hub id or `phantom` in, one ImageDataset out."""

import difflib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from medmnist_diffusion.data import phantom
from medmnist_diffusion.data.conditioning import MOST_LABELS, conditions_of
from medmnist_diffusion.data.dataset import ImageDataset, Split
from medmnist_diffusion.data.description import class_names, description_beside
from medmnist_diffusion.data.medmnist_files import as_medmnist, medmnist_dataset, medmnist_info
from medmnist_diffusion.data.npz import (
    SPLITS,
    SYNTHETIC,
    generated_images,
    label_columns,
    read_npz,
)
from medmnist_diffusion.data.reading import LARGEST_VOLUME, Fit, Reading, checked_reading
from medmnist_diffusion.data.tables import folder_dataset, hub_dataset
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import has_suffix, is_hub_id

PHANTOMS: dict[str, phantom.Form] = {
    "phantom": "multi-class", "phantom-rgb": "multi-class", "phantom-multilabel": "multi-label", "phantom-ordinal": "ordinal",
    "phantom-3d": "volume",
}  # fmt: skip
NEARLY_BLACK = 31  # grey levels


class DataSource(NamedTuple):
    """A data set as a user names it, and how it is to be read: the arguments of `load_dataset`. It can be sent to other
    processes."""

    dataset: str
    root: str | Path | None = None
    size: int | Sequence[int] | None = None
    fit: Fit | None = None
    window: str | Sequence[str | float] | None = None
    slices: int | None = None

    @property
    def reading(self) -> Reading:
        """How files become images."""
        return checked_reading(self.size, self.fit, self.window, self.slices)

    def load(self) -> ImageDataset:
        return load_dataset(self.dataset, self.root, self.size, fit=self.fit, window=self.window, slices=self.slices)


def as_source(dataset: "str | DataSource", root: str | Path | None, size: Any) -> DataSource:
    """A data set's name, with `root` and `size`, as a source."""
    return dataset if isinstance(dataset, DataSource) else DataSource(dataset, root, size)


def as_dataset(dataset: "str | DataSource | ImageDataset", root: str | Path | None, size: Any) -> ImageDataset:
    """A data set that may still have to be loaded, from a name with `root` and `size`."""
    return dataset if isinstance(dataset, ImageDataset) else as_source(dataset, root, size).load()


def load_dataset(
    name: str,
    root: str | Path | None = None,
    size: int | Sequence[int] | None = None,
    download: bool = True,
    *,
    fit: Fit | None = None,
    window: str | Sequence[str | float] | None = None,
    slices: int | None = None,
) -> ImageDataset:
    """One data set from whatever the user named.

    Args:
        name: a MedMNIST flag (`pneumoniamnist`), the path of an npz in MedMNIST's layout, a folder with one subfolder
            a class (or train/val/test folders of such), or with a table of labels beside the images (`metadata.csv`), a folder of
            parquet files, a Hub id with an image and a label column, `phantom` or another of PHANTOMS.
        root: where MedMNIST files lie; default $MEDMNIST_ROOT, else ~/.medmnist.
        size: pixels a side, or height and width; MedMNIST has 28, 64, 128 and 224 (volumes 28 and 64); folders and Hub sets are
            resized. Default 28.
        download: whether a MedMNIST file that is missing may be downloaded.
        fit: how images of a folder or the Hub become so large: `crop` to their middle (default), `pad` or `squash`.
        window: of images with more than 8 bits, which values become black and white: `auto` (default), `percentile`, `file`, or
            two numbers (`data/reading.py`).
        slices: read each volume of a folder of NIfTI files as so many slices.

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
    path, reading = Path(name).expanduser(), checked_reading(size, fit, window, slices)
    if name in PHANTOMS:
        dataset = _phantom_dataset(name, _one_side(name, reading))
    elif name in medmnist_info():
        dataset = medmnist_dataset(name, root, _one_side(name, reading), download)
    elif has_suffix(path, ".npz"):
        dataset = _npz_dataset(path, _as_they_are(name, reading).size)
    elif path.is_dir():
        dataset = folder_dataset(path, reading)
    elif path.exists():
        raise UserError(
            f"{path} is a file that is no npz. Give an npz, or the folder that holds your images or parquet files."
        )
    elif is_hub_id(name):
        dataset = hub_dataset(name, reading)
    else:
        known = [*medmnist_info(), *PHANTOMS]
        nearest = difflib.get_close_matches(name.lower(), known, 1, cutoff=0.5)
        hint = f"Did you mean {nearest[0]!r}?" if nearest else f"Known: {', '.join(known)}."
        raise UserError(f"{name!r} is no MedMNIST flag, and no such file or folder exists. {hint}")
    return _checked(dataset, name)


def _as_they_are(name: str, reading: Reading) -> Reading:
    """Raises:
    UserError: for ways to read images of a set that holds its pixels as they are.
    """
    if not reading.is_default:
        raise UserError(
            f"{name} holds its pixels as they are: --fit, --window and --slices are for folders of images."
        )
    return reading


def _one_side(name: str, reading: Reading) -> int:
    height, width = _as_they_are(name, reading).sides
    if height != width:
        raise UserError(f"{name} has as many rows as columns: give one number as --size.")
    return height


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
    if conditioning.num_classes < (1 if conditioning.multi_label else 2):
        raise UserError(
            f"{where}: there is one class only. A class-conditional model needs two or more: add images of another class, in a "
            f"subfolder of their own or with a label of their own.{_tables(dataset)}"
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


def _tables(dataset: ImageDataset) -> str:
    """What was said of tables that were not used."""
    return "".join(f" {note}" for note in dataset.notes if " was not used: " in note)


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
    if name == "phantom-3d" and size > LARGEST_VOLUME:
        raise UserError(f"{name}: size {size} is not supported. Volumes have at most {LARGEST_VOLUME} voxels a side.")
    if size < 16 or size % 4:
        raise UserError(f"{name}: size {size} is not supported. Use a multiple of 4 from 16 on.")
    form, channels = PHANTOMS[name], 3 if name == "phantom-rgb" else 1
    arrays = phantom.make_phantom(channels, size, form=form, counts=phantom.VOLUMES if form == "volume" else None)
    splits = {}
    for split in SPLITS:
        images, labels = arrays[f"{split}_images"], arrays[f"{split}_labels"]
        images = images if channels == 3 else images[..., None]
        splits[split] = Split(
            split, images, conditions_of(labels) if form == "multi-label" else labels[:, 0].astype(np.int64)
        )
    return ImageDataset(
        name,
        splits,
        dict(phantom.NAMES[form]),
        "multi-class" if form == "volume" else form,
        license="CC0 1.0",
        description=phantom.DESCRIPTION,
        synthetic=True,
        source="generated",
        notes=[phantom.DESCRIPTION],
    )


def _npz_dataset(path: Path, size: tuple[int, int] | None) -> ImageDataset:
    notes: list[str] = []
    said: list[str] = []
    description = description_beside(path, said)
    num_labels = label_columns(path)
    if num_labels is None and description.kind == "multi-label":
        num_labels = len(description.id2label)
    splits = read_npz(path, notes=notes, num_labels=num_labels)
    train = splits["train"]
    if size is not None and train.images.shape[-3:-1] != size:
        sides = "×".join(map(str, train.images.shape[1:-1]))
        raise UserError(
            f"{path} holds {sides} px images: --size {' '.join(map(str, dict.fromkeys(size)))} does not fit. Leave it out."
        )
    if generated := generated_images(path):
        notes.append(f"{generated} of the training images are generated ({SYNTHETIC}), not real.")
    elif named := as_medmnist(path, splits):
        return replace(named, notes=[*notes, *named.notes])
    notes += said
    if num_labels is not None:
        if num_labels > MOST_LABELS:
            raise UserError(
                f"{path} has {num_labels} labels an image; {MOST_LABELS} are possible. Leave the rarest out."
            )
        notes.append(f"Images have any number of {num_labels} labels: rows of zeros and ones; all zeros is no label.")
        names = class_names(description, num_labels, path)
        return ImageDataset(path.stem, splits, names, "multi-label", notes=notes, **description.source)
    highest = int(train.labels.max())
    if highest >= len(train):  # ids of something else, patients say: no dictionary of millions of names
        raise UserError(
            f"{path}: train has label {highest} and only {len(train)} images. Number the classes 0 … K − 1 without gaps."
        )
    names = class_names(description, highest + 1, path)
    return ImageDataset(path.stem, splits, names, description.kind, notes=notes, **description.source)
