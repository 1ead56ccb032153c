"""A start from a trained pipeline: where it lies, what it decides, and what the new one's card must say of it."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import huggingface_hub
from diffusers import UNet2DModel
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from medmnist_diffusion.artifacts import TRAINING_SUMMARY, BaseRecord, TrainingSummary
from medmnist_diffusion.data import ImageDataset
from medmnist_diffusion.diffusion.checkpoints import newest_checkpoint
from medmnist_diffusion.diffusion.encoder import MOST_CHANNELS, MOST_CHANNELS_OF_VOLUMES
from medmnist_diffusion.diffusion.folder_check import NEEDED, WEIGHTS
from medmnist_diffusion.diffusion.loss import Objective
from medmnist_diffusion.diffusion.sampling import conditioning_of, in_steps, load_pipeline
from medmnist_diffusion.diffusion.transfer import Ends, take_over
from medmnist_diffusion.errors import UserError, one_line
from medmnist_diffusion.files import file_hash, is_hub_id
from medmnist_diffusion.manifest import MANIFEST
from medmnist_diffusion.shipped import or_a_name, pipeline_folder
from medmnist_diffusion.training.config import TrainingConfig, where_left_open

logger = logging.getLogger(__name__)

SCHEDULE = ("beta_schedule", "num_train_timesteps")


@dataclass(frozen=True)
class Base:
    """A pipeline that a training starts from.

    Attributes:
        ends: its network, its encoder, and what it can be asked for.
        schedule: its scheduler's configuration.
        record: what it is called and was trained on; and the same of the bases that it started from itself.
    """

    ends: Ends
    schedule: dict[str, Any]
    record: BaseRecord
    earlier: list[BaseRecord]


def base_of(config: TrainingConfig, run: Path) -> Base | None:
    """What a training starts from; None if from nothing, or if the run has begun and its start is not here (any more).

    Raises:
        UserError: if there is none, or it is no pipeline of ours.
    """
    name = config.pretrained_model_name_or_path
    if name and newest_checkpoint(run / "checkpoints") and not pipeline_folder(name).is_dir():
        logger.info("%s is no folder here. The run has begun, and does not need it again.", name)
        return None
    return load_base(name) if name else None


def inner_rate(config: TrainingConfig, bases: Sequence[BaseRecord]) -> float:
    """At which share of the rates all learns that was taken over.

    Raises:
        UserError: if nothing was.
    """
    if config.pretrained_learning_rate_factor and not bases:
        raise UserError(
            "--pretrained_learning_rate_factor is for what is taken over: give --pretrained_model_name_or_path, too."
        )
    return config.pretrained_learning_rate_factor or 1.0


def load_base(name: str) -> Base:
    """A pipeline folder, one that comes with the package by its name, or a Hub id whose pipeline is downloaded. No code of it is
    run.

    Raises:
        UserError: if there is none, or it is no pipeline of ours.
    """
    folder = pipeline_folder(name)
    here = folder.is_dir()
    if not here:
        folder = _downloaded(name)
    pipe, summary = load_pipeline(folder), TrainingSummary.of(folder)
    if summary.distilled:
        raise UserError(
            f"{name} was distilled for {in_steps(summary.distilled.num_inference_steps)}, and knows no others. Start from what it "
            f"was made of, {summary.distilled.teacher}."
        )
    record = BaseRecord(
        name=_called(folder.resolve()) if here else name,
        weights_sha256=file_hash(folder / WEIGHTS),
        trained_on=summary.dataset.name,
        content_hash=summary.dataset.content_hash,
        license=summary.dataset.license,
        citation=summary.dataset.citation,
        synthetic=summary.dataset.synthetic,
        unlabeled=summary.unlabeled,
        changes=summary.changes,
        adapted=[],
    )
    ends = Ends(pipe.unet, pipe.image_encoder, conditioning_of(pipe))
    return Base(ends, dict(pipe.scheduler.config), record, summary.bases)


def _called(folder: Path) -> str:
    """Of a run's own pipeline the run's name."""
    return folder.parent.name if folder.name in ("pipeline", "pipeline_best") else folder.name


def _downloaded(name: str) -> Path:
    if not is_hub_id(name):
        raise UserError(
            f"--pretrained_model_name_or_path {name} is no pipeline folder, and no Hub id (namespace/name).{or_a_name()}"
        )
    try:
        return Path(
            huggingface_hub.snapshot_download(
                name, allow_patterns=[*NEEDED, MANIFEST, TRAINING_SUMMARY, "*.py", "*.yaml"]
            )
        )
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"--pretrained_model_name_or_path {name} is no folder here, and the Hub gave none ({one_line(error, 120)})."
        ) from None


def with_base(config: TrainingConfig, dataset: ImageDataset, base: Base) -> TrainingConfig:
    """The configuration with what the base decides where it is left open: its layers, its target, and an encoder that keeps the
    network's grid, or a finer one where it would make more channels of an image than the base's layers can tell noise apart in
    (see `with_choices`).

    Raises:
        UserError: for another noise schedule or target than the base's.
    """
    network = base.ends.network.config
    for setting in SCHEDULE:
        if getattr(config, setting) != base.schedule[setting]:
            raise UserError(
                f"the base was trained with --{setting} {base.schedule[setting]}, and this training has "
                f"{getattr(config, setting)}. Give the base's."
            )
    target = base.schedule["prediction_type"]
    if config.prediction_type not in (None, target):
        raise UserError(
            f"the base predicts {target}, and --prediction_type asks for {config.prediction_type}. Leave it out."
        )
    of_base = {"layers_per_block": network.layers_per_block, "attention": network.add_attention}
    return replace(
        config,
        block_out_channels=config.block_out_channels or list(network.block_out_channels),
        pixel_unshuffle=config.pixel_unshuffle or _factor(base, dataset),
        prediction_type=target,
        **where_left_open(config, of_base),
    )


def _factor(base: Base, dataset: ImageDataset) -> int:
    """By how much images are unshuffled for the base's network."""
    encoder = base.ends.encoder
    most = max(encoder.encoded_shape[0], base.ends.network.config.block_out_channels[0])
    if base.schedule["prediction_type"] == "sample":
        most = max(most, MOST_CHANNELS_OF_VOLUMES if len(encoder.image_shape) > 3 else MOST_CHANNELS)
    *channels, height, width = dataset.model_shape
    factor = max(1, round(min(height, width) / min(encoder.encoded_shape[1:])))
    while factor > 1 and math.prod(channels) * factor**2 > most:
        factor -= 1
    return factor


def start_from(base: Base, network: UNet2DModel, objective: Objective, dataset: ImageDataset) -> list[BaseRecord]:
    """Put the base's weights into the network; returns what the summary says of it and of the bases before it.

    Raises:
        UserError: if the networks do not fit each other.
    """
    adapted = take_over(Ends(network, objective.encoder, dataset.conditioning), base.ends)
    return [base.record.model_copy(update={"adapted": adapted}), *base.earlier]
