"""The pipeline folder: what `save_pretrained` writes, and what a reader needs to know about it, as one whole."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from diffusers import DDPMScheduler, UNet2DModel

from medmnist_diffusion.data.dataset import ImageDataset
from medmnist_diffusion.diffusion.folder_check import write_manifest
from medmnist_diffusion.diffusion.sampling import generate, set_sampler
from medmnist_diffusion.files import atomic_folder, write_json
from medmnist_diffusion.pipelines import ClassConditionalDDPMPipeline
from medmnist_diffusion.publish.card import SUMMARY, write_card
from medmnist_diffusion.publish.plots import plot_loss, save_grid
from medmnist_diffusion.training.config import TrainingConfig, write_config

GRID_COLUMNS = 10


def build_pipeline(unet: UNet2DModel, scheduler: DDPMScheduler, dataset: ImageDataset) -> ClassConditionalDDPMPipeline:
    """The pipeline around a network trained on the data set; the null class is the id after the last."""
    factor = dataset.image_size // unet.config.sample_size
    return ClassConditionalDDPMPipeline(unet, scheduler, dataset.id2label, factor, dataset.num_classes)


def save_pipeline_folder(
    folder: Path,
    unet: UNet2DModel,
    scheduler: DDPMScheduler,
    dataset: ImageDataset,
    config: TrainingConfig,
    loss_rows: list[dict[str, float]],
    summary: dict[str, Any],
) -> Path:
    """Write weights, configuration, summary, loss curve and card; the folder appears complete or not at all."""
    with atomic_folder(folder) as temporary:
        build_pipeline(unet, scheduler, dataset).save_pretrained(temporary)
        write_config(config, temporary / "training_config.yaml")
        write_json(temporary / SUMMARY, summary)
        if loss_rows:
            plot_loss(loss_rows, temporary / "loss.png")
        save_sample_grid(unet, scheduler, dataset, config, temporary / "samples.png")
        write_manifest(temporary)
        write_card(temporary)
    return folder


def saved_step(folder: Path) -> int | None:
    """The training step of the pipeline in a folder; None where there is none."""
    try:
        return json.loads((folder / SUMMARY).read_text(encoding="utf-8"))["step"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None


def save_sample_grid(
    unet: UNet2DModel, scheduler: DDPMScheduler, dataset: ImageDataset, config: TrainingConfig, path: Path
) -> None:
    """A grid of samples, one row a class, from the same noise every time."""
    was_training = unet.training
    unet.eval()
    pipe = build_pipeline(unet, scheduler, dataset)
    set_sampler(pipe)
    pipe.set_progress_bar_config(disable=True)
    labels = np.repeat(np.arange(dataset.num_classes), GRID_COLUMNS)
    save_grid(generate(pipe, labels, seed=config.seed), path, GRID_COLUMNS)
    unet.train(was_training)
