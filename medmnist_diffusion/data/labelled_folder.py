"""A folder of images of known classes, to be compared with a data set: read as they are, or refused."""

from pathlib import Path
from typing import Any

import numpy as np

from medmnist_diffusion.data.conditioning import Conditioning, condition_of
from medmnist_diffusion.data.dataset import Split
from medmnist_diffusion.data.images import Seen, decoded
from medmnist_diffusion.data.reading import Reading
from medmnist_diffusion.data.tables import folder_parts, seen_in
from medmnist_diffusion.errors import UserError


def load_labelled_folder(path: Path, dataset: str, conditioning: Conditioning, shape: tuple[int, ...]) -> Split:
    """All images of a folder, labelled as in a data set: its subfolders bear class names, ids, or ids with names.

    Nothing is resized, converted or left out: a figure must be of the images as they are.

    Raises:
        UserError: if a subfolder fits no class, an image has another size or other channels than the data set, or the folder
            holds several splits.
    """
    parts, notes, content = folder_parts(path, tables=False)
    if missing := next((note for note in notes if "left out" in note), None):
        raise UserError(f"{path}: {missing} All images of the folder are to be judged: move what is none away.")
    reading = Reading(size=(shape[-3], shape[-2]))
    if len(parts) > 1:
        raise UserError(f"{path} holds the splits {', '.join(parts)}. Give the folder of one of them.")
    members = next(iter(parts.values()))
    ids, channels = dict[Any, int](), shape[-1]
    for label in {_key(label) for part in members for label in part.labels}:
        if isinstance(label, tuple) and conditioning.multi_label and set(label) <= set(conditioning.names):
            ids[label] = condition_of(conditioning.names.index(name) for name in label)  # of parquet
            continue
        if not isinstance(label, str):
            raise UserError(
                f"{path}: no column of class labels was found. Give a folder that `sample` wrote, or one subfolder a class."
            )
        if (number := conditioning.label_of_folder(label)) is None:
            raise UserError(f"{path}: {label!r} is no class of {dataset}; its classes are {conditioning.id2label}.")
        ids[label] = number
    seen = seen_in(parts, content, str(path))
    _check_alike(seen, path, dataset, shape)
    seen = seen.model_copy(update={"coloured": seen.images if channels == 3 else 0})
    images = [block for part in members for block in decoded(part.table, reading, seen, str(path))]
    labels = np.array([ids[_key(label)] for part in members for label in part.labels], np.int64)
    return Split("generated", np.concatenate(images), labels)


def _key(label: Any) -> Any:
    """A label, or a list of them, as a key."""
    return tuple(sorted(label)) if isinstance(label, list) else label


def _check_alike(seen: Seen, path: Path, dataset: str, shape: tuple[int, ...]) -> None:
    """The images are as large and as colourful as those of a data set, and there is one way to see them."""
    channels = shape[-1]
    if seen.deep:
        raise UserError(
            f"{path} holds images of more than 8 bits ({seen.first['deep']}). Save them as they are to be judged."
        )
    if seen.channels > channels:
        raise UserError(
            f"{path} holds colour images ({seen.first['coloured']}), {dataset} grey ones. Convert them, or choose the right set."
        )
    if channels == 3 and seen.stored_in_colour == 0:
        raise UserError(f"{path} holds grey images, {dataset} colour ones. Convert them, or choose the right set.")
    for what, count in (
        ("transparent parts", seen.transparent), ("several pages or frames", seen.several),
        ("an orientation in their EXIF, by which viewers turn them", seen.turned),
    ):  # fmt: skip
        if count:
            raise UserError(
                f"{path}: {count} images have {what}. Save them as plain pictures, as they are to be judged."
            )
    wanted = "×".join(map(str, reversed(shape[:-1])))
    for sizes, file in seen.sizes.items():
        if sizes != wanted:
            raise UserError(
                f"{file} in {path} has {sizes} pixels, {dataset} {wanted}. Resize the images, or give --size."
            )
