"""All that changes while a run trains: the networks, the optimizers, the step, the best weights so far."""

import copy
import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel

from medmnist_diffusion.artifacts import CheckpointState
from medmnist_diffusion.diffusion.loss_log import LossMeter, diverged
from medmnist_diffusion.errors import TrainingDivergedError

EMA_POWER = 2 / 3  # the average's decay warms up as 1 − (1 + step)^(−2/3)


@dataclass
class Best:
    """The weights of the lowest held-out loss so far.

    Attributes:
        val_loss: their mean held-out loss.
        losses: N, those that it is the mean of.
        network: the weights; None once they were saved.
    """

    val_loss: float = math.inf
    losses: np.ndarray = field(default_factory=lambda: np.zeros(0))
    step: int = 0
    seconds: float = 0.0
    network: UNet2DModel | None = None


class TrainingState:
    """A run's state. It starts from nothing; `resume` puts a checkpoint's in place, `start_from` another pipeline's weights.

    Args:
        accelerator: it prepares network and optimizers for its devices and processes.
        network: the raw weights, which the optimizers change.
        average: a network of the same shape. It *is* the running average of the weights (EMA), and what gets published.
        optimizers: of the network's parameters.
        ema_decay: the average's largest decay; 0 for none.
        num_train_timesteps: noise levels.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        network: UNet2DModel,
        average: UNet2DModel,
        optimizers: list[torch.optim.Optimizer],
        ema_decay: float,
        num_train_timesteps: int,
    ) -> None:
        self.average = average.to(accelerator.device).eval().requires_grad_(False)
        self.average.load_state_dict(network.state_dict())
        self._ema = EMAModel(
            self.average.parameters(), decay=ema_decay, use_ema_warmup=True, power=EMA_POWER, foreach=True
        )
        self._ema.shadow_params = list(self.average.parameters())  # not a copy of them: nothing to synchronise
        self.network, *self.optimizers = accelerator.prepare(network, *optimizers)
        self.raw: UNet2DModel = accelerator.unwrap_model(self.network)
        self.full_rates = [group["lr"] for group in self._groups()]
        self.meter = LossMeter(num_train_timesteps, accelerator.device)
        self.grad_norm = torch.tensor(0.0)
        self.best = Best()
        self.step, self.seconds = 0, 0.0
        self.spent = 0.0  # of the budget, 0 … 1
        self.paused = 0.0  # seconds since the last row of the log in which nothing was trained
        self.stop = False  # whether every process was asked to
        self.overfitted = False  # whether the held-out loss has risen for so long that training ends

    def start_from(self, network: UNet2DModel) -> None:
        """Begin with the weights of another pipeline's network of the same shape.

        Raises:
            RuntimeError: torch's, for another shape.
        """
        for mine in (self.raw, self.average):
            mine.load_state_dict(network.state_dict())

    def set_learning_rate(self, factor: float) -> None:
        """Every optimizer's highest rate × factor."""
        for group, full_rate in zip(self._groups(), self.full_rates, strict=True):
            group["lr"] = full_rate * factor

    def finish_step(self) -> None:
        """Count a step and take the new weights into the average."""
        self.step += 1
        self._ema.step(self.raw.parameters())

    def keep_if_best(self, losses: np.ndarray) -> None:
        """Remember the averaged weights if none had lower held-out losses (N) in the mean."""
        if (val_loss := float(losses.mean())) < self.best.val_loss:
            self.best = Best(val_loss, losses, self.step, self.seconds, copy.deepcopy(self.average))

    def check_weights(self) -> None:
        """Raises:
        TrainingDivergedError: if a weight is not finite.
        """
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self.raw.parameters()):
            raise TrainingDivergedError(diverged(f"weights are not finite at step {self.step}"))

    def state_dict(self) -> dict[str, Any]:
        """What is no tensor, JSON-ready; a checkpoint keeps the tensors in files of their own."""
        best = self.best.val_loss
        return {
            "step": self.step,
            "seconds": self.seconds,
            "best_val_loss": best if math.isfinite(best) else None,
            "best_losses": self.best.losses.tolist(),
            "best_step": self.best.step,
            "best_seconds": self.best.seconds,
            "overfitted": self.overfitted,
            "ema_step": self._ema.optimization_step,
        }

    def load_state_dict(self, values: CheckpointState) -> None:
        """The counterpart of `state_dict`."""
        self.step, self.seconds = values.step, values.seconds
        self.best = Best(
            math.inf if values.best_val_loss is None else values.best_val_loss,
            np.array(values.best_losses),
            values.best_step or values.step,  # older checkpoints do not say: patience begins now
            values.best_seconds,
        )
        self.overfitted = values.overfitted
        self._ema.optimization_step = values.ema_step

    def _groups(self) -> list[dict[str, Any]]:
        return [group for optimizer in self.optimizers for group in optimizer.param_groups]
