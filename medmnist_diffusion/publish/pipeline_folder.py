"""The pipeline folder: what `save_pretrained` writes, and what a reader needs to know about it, as one whole."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from diffusers import UNet2DModel

from medmnist_diffusion.artifacts import TRAINING_SUMMARY, TrainingSummary
from medmnist_diffusion.data.conditioning import Conditioning
from medmnist_diffusion.data.dataset import ImageDataset
from medmnist_diffusion.diffusion.folder_check import write_manifest
from medmnist_diffusion.diffusion.loss import Objective
from medmnist_diffusion.diffusion.sampling import generate_images, set_sampler
from medmnist_diffusion.diffusion.unet import without_varied
from medmnist_diffusion.files import atomic_folder, write_json, write_text
from medmnist_diffusion.pipelines import ClassConditionalDDPMPipeline
from medmnist_diffusion.publish.card import write_card
from medmnist_diffusion.publish.plots import MOST_CLASSES, plot_loss, save_grid

GRID_COLUMNS, COLUMNS_OF_VOLUMES = 10, 4
# The level of white is found on so many images: the share of white of Adrenal's volumes is then known to about 4 %.
LEVEL_IMAGES = 96
LEVEL_MARGIN = 25  # of 255 grey levels at either end, which a network that makes nothing yet would ask for


def build_pipeline(network: UNet2DModel, objective: Objective, dataset: ImageDataset) -> ClassConditionalDDPMPipeline:
    """The pipeline around a network trained on the data set, without classes of its own that training had."""
    return ClassConditionalDDPMPipeline(
        without_varied(network, dataset.conditioning),
        objective.scheduler,
        dataset.id2label,
        pixel_unshuffle=objective.encoder.factor,
        null_label=dataset.num_classes,
        encoder=objective.encoder.name,
        image_shape=dataset.model_shape,
        black_and_white=dataset.is_binary,
    )


def save_pipeline_folder(
    folder: Path,
    network: UNet2DModel,
    objective: Objective,
    dataset: ImageDataset,
    settings: dict[str, Any],
    loss_rows: list[dict[str, float]],
    summary: TrainingSummary,
) -> Path:
    """Write weights, settings, summary, loss curve, grid and card; the folder appears complete or not at all."""
    with atomic_folder(folder) as temporary:
        pipe = build_pipeline(network, objective, dataset)
        if dataset.is_binary and not summary.privacy:  # who counts white pixels looks at the training images
            pipe.register_to_config(white_from=white_level(pipe, dataset, settings["seed"]))
        pipe.save_pretrained(temporary)
        write_text(temporary / "training_config.yaml", yaml.safe_dump(settings, sort_keys=False))
        write_json(temporary / TRAINING_SUMMARY, summary.model_dump())
        if loss_rows:
            plot_loss(loss_rows, temporary / "loss.png")
        save_sample_grid(pipe, dataset.conditioning, settings["seed"], temporary / "samples.png")
        write_manifest(temporary)
        write_card(temporary)
    return folder


def saved_step(folder: Path) -> int | None:
    """The step at which the training ended that left the pipeline in a folder; None where there is none."""
    try:
        summary = json.loads((folder / TRAINING_SUMMARY).read_text(encoding="utf-8"))
        step = summary["step"]
        return step if summary.get("last_step") is None else summary["last_step"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def white_level(pipe: ClassConditionalDDPMPipeline, dataset: ImageDataset, seed: int) -> float:
    """The level, of 0 … 1, above which as much of what a pipeline makes is white as in the training images, all classes together.

    The edges of what it makes are soft, and above the middle would be too little: shapes of few voxels get smaller still.
    """
    white = sum(int(np.count_nonzero(chunk)) for chunk in dataset.train.chunks())
    share = white / (len(dataset.train) * np.prod(dataset.shape, dtype=float))
    pipe.register_to_config(black_and_white=False)
    with _drawing(pipe):
        images = generate_images(pipe, dataset.labels_in_shares(LEVEL_IMAGES), seed=seed)
    pipe.register_to_config(black_and_white=True)
    levels = np.bincount(images.ravel(), minlength=256)
    above = 1 - np.cumsum(levels) / levels.sum()  # which part is brighter than each level
    level = int(np.argmin(np.abs(above - share)))
    return (min(max(level, LEVEL_MARGIN), 254 - LEVEL_MARGIN) + 0.5) / 255


def save_sample_grid(pipe: ClassConditionalDDPMPipeline, conditioning: Conditioning, seed: int, path: Path) -> None:
    """A grid of samples, one row a class, from the same noise every time; of at most MOST_CLASSES classes.

    Of volumes, each place shows the middle slice across each axis and a maximum projection.
    """
    columns = GRID_COLUMNS if len(pipe.image_shape) == 3 else COLUMNS_OF_VOLUMES
    labels = conditioning.each(columns)[: columns * MOST_CLASSES]
    with _drawing(pipe):
        save_grid(generate_images(pipe, labels, seed=seed), path, columns)


@contextlib.contextmanager
def _drawing(pipe: ClassConditionalDDPMPipeline) -> Iterator[None]:
    """A pipeline that may be in training draws images by the default sampler, without a bar; afterwards it is as before."""
    own, was_training = pipe.scheduler, pipe.unet.training
    pipe.unet.eval()
    set_sampler(pipe)
    pipe.set_progress_bar_config(disable=True)
    try:
        yield
    finally:
        pipe.scheduler = own
        pipe.unet.train(was_training)
