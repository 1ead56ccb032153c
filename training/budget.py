"""How long a run may train, in steps, epochs or minutes, and how the learning rate falls over that."""

import math
import time

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from medmnist_diffusion.training.config import TrainingConfig


class Budget:
    """The run's clock. In a budget of minutes all processes take the first one's.

    Args:
        images: in the training split.
        batch_size: of one backward pass over all processes, without unlabeled images.
        seconds_before: spent before this process went on with the run.
    """

    def __init__(
        self, config: TrainingConfig, accelerator: Accelerator, images: int, batch_size: int, seconds_before: float
    ) -> None:
        self.config, self.accelerator = config, accelerator
        self.max_steps = budget_in_steps(config, images, batch_size)
        self._began = time.monotonic() - seconds_before

    def seconds(self) -> float:
        """Since the run began, without the time in which it lay stopped."""
        return time.monotonic() - self._began

    def spent(self, step: int) -> float:
        """How much of the budget is spent, 0 … 1 and above."""
        if self.max_steps is not None:
            return step / self.max_steps
        assert self.config.max_train_minutes is not None
        spent = self.seconds() / (60 * self.config.max_train_minutes)
        return broadcast_object_list([spent])[0] if self.accelerator.num_processes > 1 else spent


def budget_in_steps(config: TrainingConfig, images: int, batch_size: int) -> int | None:
    """The budget in optimizer steps; None where it is in minutes."""
    if config.num_train_epochs is not None:
        return math.ceil(config.num_train_epochs * images / (batch_size * config.gradient_accumulation_steps))
    return config.max_train_steps


def learning_rate_factor(config: TrainingConfig, step: int, spent: float) -> float:
    """By which part of the highest rate a training learns at a step."""
    return warmed_and_decayed(config.lr_scheduler, config.lr_warmup_steps, step, spent)


def warmed_and_decayed(lr_scheduler: str, lr_warmup_steps: int, step: int, spent: float) -> float:
    """Linear warm-up by steps, then decay by the share of the budget that is spent: so it fits minutes as well as steps."""
    warmup = min(1.0, (step + 1) / max(1, lr_warmup_steps))
    if lr_scheduler == "cosine":
        return warmup * 0.5 * (1 + math.cos(math.pi * spent))
    return warmup * (1 - spent if lr_scheduler == "linear" else 1.0)
