"""Real images of another set beside a study's own: made like these, and checked for what would be a leak."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torchvision.transforms.v2 import functional as F

from medmnist_diffusion.artifacts import TrainingSummary, same_images
from medmnist_diffusion.data import ImageDataset
from medmnist_diffusion.data.audit import describe
from medmnist_diffusion.data.dataset import joined, size_in_words
from medmnist_diffusion.data.duplicates import drop_leaks
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.shipped import pipeline_folder


def outside_for(dataset: ImageDataset, other: ImageDataset) -> ImageDataset:
    """Another set with the study's number of channels.

    Raises:
        UserError: if its images are of another size, or some stand in the study's splits, or have a twin there.
    """
    if other.shape[:-1] != dataset.shape[:-1]:
        sizes = f"{size_in_words(other.shape)}, {dataset.name} of {size_in_words(dataset.shape)}"
        raise UserError(
            f"--outside {other.name} has images of {sizes}: they must be as large. Give another set, or --size."
        )
    splits = {
        name: replace(split, images=_with_channels(split.images[:], dataset.channels))
        for name, split in other.splits.items()
    }
    seen = joined("train", [splits["train"], splits["val"]])  # val chooses the weights
    ours = {
        "train": seen,
        "val": joined("val", [dataset.train, dataset.splits["val"]]),
        "test": dataset.splits["test"],
    }
    _, leaks = drop_leaks(replace(dataset, splits=ours, notes=[]), twins=True)
    if leaks:
        raise UserError(
            f"{leaks} images of --outside {other.name} also stand in {dataset.name}, or have a twin there: a leak. Give another "
            "set."
        )
    return replace(other, splits=splits)


def check_start(pipeline: str, other: ImageDataset) -> Path:
    """The folder of a pipeline that generators start from.

    Args:
        other: the other set as it was loaded.

    Raises:
        UserError: unless it was trained on this very set: what classifiers may start from is what generators may.
    """
    folder = pipeline_folder(Path(pipeline)).resolve()
    summary = TrainingSummary.of(folder)
    if not same_images(summary.dataset, describe(other)):
        raise UserError(
            f"{pipeline} was trained on {summary.dataset.name}, with other images than --outside {other.name} holds. Give a "
            "pipeline that was trained on that set."
        )
    if summary.bases or summary.unlabeled:
        raise UserError(f"{pipeline} saw more than the images of {other.name}. Give a pipeline that saw these alone.")
    return folder


def _with_channels(images: np.ndarray, channels: int) -> np.ndarray:
    """uint8 N×H×W×C, grey or RGB, as the other."""
    if images.shape[-1] == channels:
        return images
    if channels == 3:
        return np.repeat(images, 3, axis=-1)
    moved = torch.from_numpy(images).permute(0, 3, 1, 2)
    return F.rgb_to_grayscale(moved).permute(0, 2, 3, 1).contiguous().numpy()
