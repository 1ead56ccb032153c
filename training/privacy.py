"""What a run with --target_epsilon promises of its training images, and what it cannot be combined with."""

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from medmnist_diffusion.artifacts import BaseRecord, PrivacyRecord
from medmnist_diffusion.data import ImageDataset
from medmnist_diffusion.data.unlabeled import Unlabeled
from medmnist_diffusion.diffusion.dp_sgd import privacy_of
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.training.budget import budget_in_steps
from medmnist_diffusion.training.config import TrainingConfig
from medmnist_diffusion.training.history import History

logger = logging.getLogger(__name__)
FEWEST_IMAGES = 32  # of a batch on average: one without any image then comes once in 10¹⁴
# Settings with which the accounting would not hold: an image would come more often than it is paid for, or would change what
# others do (by the masks of dropout, which are drawn by the place in a batch).
UNFIT: dict[str, Any] = {
    "gradient_accumulation_steps": 1,
    "dropout": 0.0,
    "class_balanced": False,
    "random_shift": 0,
    "random_flip": False,
    "varied_share": 0.0,
}


def with_privacy(config: TrainingConfig, unlabeled: Unlabeled | None = None) -> TrainingConfig:
    """The configuration, where it is private in full precision.

    Args:
        unlabeled: images without labels that are given beside it.

    Raises:
        UserError: for settings that a private training cannot have.
    """
    if config.target_epsilon is None:
        if config.target_delta is not None:
            raise UserError("--target_delta belongs to a private training: give --target_epsilon, too.")
        return config
    if config.max_train_minutes is not None:
        raise UserError(
            "--target_epsilon needs to know how many steps there will be: give --max_train_steps or --num_train_epochs."
        )
    unfit = [name for name, value in UNFIT.items() if getattr(config, name) not in (value, None)]
    if config.unlabeled or unlabeled is not None:
        unfit.append("unlabeled")
    if unfit:
        raise UserError(f"--target_epsilon does not go with --{unfit[0]}: leave that out.")
    if config.drop_leaks == "twins":
        raise UserError(
            "--target_epsilon does not go with --drop_leaks twins: which are twins depends on all images. Give --drop_leaks exact."
        )
    if config.mixed_precision not in ("auto", "no"):
        raise UserError(
            "--target_epsilon is for --mixed_precision no: rounded gradients can be longer than they are clipped to."
        )
    if config.train_batch_size < FEWEST_IMAGES:
        raise UserError(
            f"--target_epsilon needs a --train_batch_size of {FEWEST_IMAGES} or more: smaller ones may come out empty."
        )
    return replace(config, mixed_precision="no")


def promised(
    config: TrainingConfig,
    dataset: ImageDataset,
    history: History,
    bases: Sequence[BaseRecord] = (),
) -> PrivacyRecord | None:
    """What the run's weights are to give away of each training image at most; None where nothing is promised.

    Args:
        bases: what the run starts from.

    Raises:
        UserError: for a promise that cannot be kept, or a run that was begun otherwise.
    """
    if config.target_epsilon is None:
        return None
    _check_bases(bases, dataset)
    if history.saved and history.saved.config.get("target_epsilon") != config.target_epsilon:
        raise UserError("the run was begun without this --target_epsilon. Begin a new one: another --output_dir.")
    if other := [*history.changes, *history.extensions]:
        raise UserError(
            f"a private run must end as it was begun ({'; '.join(other)}). Begin a new one: another --output_dir."
        )
    images, batch_size = len(dataset.train), config.train_batch_size
    steps = budget_in_steps(config, images, batch_size)
    assert steps is not None
    return privacy_of(config.target_epsilon, config.target_delta, config.max_grad_norm, images, batch_size, steps)


def _check_bases(bases: Sequence[BaseRecord], dataset: ImageDataset) -> None:
    """Raises:
    UserError: for a base that has seen these images, as far as that shows.
    """
    for base in bases:
        names = {base.trained_on, *([base.unlabeled.name] if base.unlabeled else [])}
        if base.content_hash == dataset.content_hash or dataset.name in names:
            raise UserError(
                f"{base.name} was trained on {dataset.name} without a promise: none can be made after it. Start from another "
                "pipeline, or from nothing."
            )
    if bases:
        logger.warning(
            "the promise is this training's alone. If %s has seen the same pictures or patients, it does not hold.",
            bases[0].name,
        )
