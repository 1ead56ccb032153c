"""The pipeline folder: what `save_pretrained` writes, and what a reader needs to know about it, as one whole."""

import json
from pathlib import Path
from typing import Any

import yaml
from diffusers import UNet2DModel

from medmnist_diffusion.artifacts import TRAINING_SUMMARY, TrainingSummary
from medmnist_diffusion.data.dataset import ImageDataset
from medmnist_diffusion.diffusion.folder_check import write_manifest
from medmnist_diffusion.diffusion.loss import Objective
from medmnist_diffusion.diffusion.sampling import generate_images, set_sampler
from medmnist_diffusion.files import atomic_folder, write_json, write_text
from medmnist_diffusion.pipelines import ClassConditionalDDPMPipeline
from medmnist_diffusion.publish.card import write_card
from medmnist_diffusion.publish.plots import MOST_CLASSES, plot_loss, save_grid

# A little guidance helps in the classifier's features and hurts in neither space (benchmarks/guidance.py, docs/speed.md).
OWN_GUIDANCE = 1.2
GRID_COLUMNS, COLUMNS_OF_VOLUMES = 10, 4


def build_pipeline(network: UNet2DModel, objective: Objective, dataset: ImageDataset) -> ClassConditionalDDPMPipeline:
    """The pipeline around a network trained on the data set."""
    return ClassConditionalDDPMPipeline(
        network,
        objective.scheduler,
        dataset.id2label,
        pixel_unshuffle=objective.encoder.factor,
        null_label=dataset.num_classes,
        encoder=objective.encoder.name,
        image_shape=dataset.model_shape,
        black_and_white=dataset.is_binary,
        default_guidance_scale=OWN_GUIDANCE if objective.label_dropout else 1.0,  # else "unknown" was never trained
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
        build_pipeline(network, objective, dataset).save_pretrained(temporary)
        write_text(temporary / "training_config.yaml", yaml.safe_dump(settings, sort_keys=False))
        write_json(temporary / TRAINING_SUMMARY, summary.model_dump())
        if loss_rows:
            plot_loss(loss_rows, temporary / "loss.png")
        save_sample_grid(network, objective, dataset, settings["seed"], temporary / "samples.png")
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


def save_sample_grid(network: UNet2DModel, objective: Objective, dataset: ImageDataset, seed: int, path: Path) -> None:
    """A grid of samples, one row a class, from the same noise every time; of at most MOST_CLASSES classes.

    Of volumes, each place shows the middle slice across each axis and a maximum projection.
    """
    was_training = network.training
    network.eval()
    pipe = build_pipeline(network, objective, dataset)
    set_sampler(pipe)
    pipe.set_progress_bar_config(disable=True)
    columns = GRID_COLUMNS if not dataset.is_volume else COLUMNS_OF_VOLUMES
    labels = dataset.conditioning.each(columns)[: columns * MOST_CLASSES]
    save_grid(generate_images(pipe, labels, seed=seed), path, columns)
    network.train(was_training)
