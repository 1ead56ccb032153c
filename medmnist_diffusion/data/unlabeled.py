"""Images without labels, beside a labelled data set: which are read, and which of them may be trained on."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medmnist_diffusion.artifacts import UnlabeledRecord
from medmnist_diffusion.data.dataset import ImageDataset, Split
from medmnist_diffusion.data.duplicates import drop_leaks
from medmnist_diffusion.data.parquet import PARQUET_SUFFIXES
from medmnist_diffusion.data.sources import DataSource
from medmnist_diffusion.data.tables import folder_images
from medmnist_diffusion.errors import UserError


@dataclass(frozen=True)
class Unlabeled:
    """Images that are trained on under the unknown condition.

    Attributes:
        split: the images; each has the null label.
        record: what the summary says of them.
        notes: what a user should know about how they were read.
    """

    split: Split
    record: UnlabeledRecord
    notes: list[str]


def load_unlabeled(name: str, dataset: ImageDataset, source: DataSource) -> Unlabeled:
    """The images of a folder, whatever lies deeper in it, or the training images of anything that `load_dataset` takes; without
    those that stand in the data set's val or test, or have a twin there.

    Args:
        name: the folder, npz, flag or Hub id.
        dataset: the labelled data set; the images must have its shape.
        source: how that one was read: fit and window.

    Raises:
        UserError: if there are none, or they do not fit.
    """
    path = Path(name).expanduser()
    folder = path.is_dir() and not any(one.suffix.lower() in PARQUET_SUFFIXES for one in path.iterdir())
    source = source._replace(dataset=name, size=dataset.shape[-3:-1])
    if folder:
        images, notes = folder_images(path, source.reading)
        title, license_name, citation = path.resolve().name, "unknown", ""
    else:
        other = source.load()
        images, notes = (
            other.train.images,
            ["Of the unlabeled set the training images were taken, without their labels."],
        )
        title, license_name, citation = other.name, other.license, other.citation
    if images.shape[-1] == 1 and dataset.channels == 3:
        images, notes = (
            np.repeat(images[:], 3, axis=-1),
            [*notes, "Grey unlabeled images became RGB ones with equal colours."],
        )
    if images.shape[1:] != dataset.train.images.shape[1:]:
        raise UserError(
            f"--unlabeled {name} has images of shape {tuple(images.shape[1:])} (H×W×C), {dataset.name} of {dataset.shape}. "
            "They must be alike."
        )
    return unlabeled_images(images, dataset, title, license_name, notes, citation)


def unlabeled_images(
    images: np.ndarray, dataset: ImageDataset, name: str, license_name: str, notes: list[str], citation: str = ""
) -> Unlabeled:
    """The same of uint8 images N×H×W×C that were read already."""
    everything = Split("train", images, np.zeros(len(images), np.int64))
    kept, left_out = drop_leaks(replace(dataset, splits={**dataset.splits, "train": everything}, notes=[]), twins=True)
    if not len(kept.train):
        raise UserError(
            f"--unlabeled: all images of {name} stand in {dataset.name}'s val or test, or have a twin there."
        )
    if left_out:
        notes = [*notes, f"{left_out} unlabeled images stand in val or test, or have a twin there, and were left out."]
    record = UnlabeledRecord(
        name=name,
        images=len(kept.train),
        content_hash=kept.train.content_hash,
        license=license_name,
        citation=citation,
        left_out=left_out,
    )
    null = np.full(len(kept.train), dataset.conditioning.null_label)
    return Unlabeled(Split("unlabeled", kept.train.images, null), record, notes)
