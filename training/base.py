"""A start from a trained pipeline: where it lies, what it decides, and what the new one's card must say of it."""

import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import huggingface_hub
from diffusers import UNet2DModel
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from medmnist_diffusion.artifacts import TRAINING_SUMMARY, BaseRecord, TrainingSummary
from medmnist_diffusion.data import ImageDataset
from medmnist_diffusion.diffusion.folder_check import NEEDED, WEIGHTS
from medmnist_diffusion.diffusion.loss import Objective
from medmnist_diffusion.diffusion.sampling import conditioning_of, load_pipeline
from medmnist_diffusion.diffusion.transfer import Ends, take_over
from medmnist_diffusion.errors import UserError, one_line
from medmnist_diffusion.files import file_hash
from medmnist_diffusion.manifest import MANIFEST
from medmnist_diffusion.shipped import or_a_name, pipeline_folder
from medmnist_diffusion.training.config import SETTINGS, TrainingConfig

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
    record = BaseRecord(
        name=folder.resolve().name if here else name,
        weights_sha256=file_hash(folder / WEIGHTS),
        trained_on=summary.dataset.name,
        content_hash=summary.dataset.content_hash,
        license=summary.dataset.license,
        adapted=[],
    )
    ends = Ends(pipe.unet, pipe.image_encoder, conditioning_of(pipe))
    return Base(ends, dict(pipe.scheduler.config), record, summary.bases)


def _downloaded(name: str) -> Path:
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
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
    network's grid.

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
    grid = min(base.ends.encoder.encoded_shape[1:])
    factor = 2 ** max(0, round(math.log2(min(dataset.shape[-3:-1]) / grid)))
    left_open = {"layers_per_block": network.layers_per_block, "attention": network.add_attention}
    return replace(
        config,
        block_out_channels=config.block_out_channels or list(network.block_out_channels),
        pixel_unshuffle=config.pixel_unshuffle or factor,
        prediction_type=target,
        **{name: value for name, value in left_open.items() if getattr(config, name) == SETTINGS[name].default},
    )


def start_from(base: Base, network: UNet2DModel, objective: Objective, dataset: ImageDataset) -> list[BaseRecord]:
    """Put the base's weights into the network; returns what the summary says of it and of the bases before it.

    Raises:
        UserError: if the networks do not fit each other.
    """
    adapted = take_over(Ends(network, objective.encoder, dataset.conditioning), base.ends)
    return [base.record.model_copy(update={"adapted": adapted}), *base.earlier]
