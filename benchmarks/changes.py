"""Changes to the method that are no option of `train`, for benchmarks/recipe.py: published ideas, each in a few lines.

A change takes the place of the batches or of the loss in the loop of training/train.py, which stays as it is.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from diffusers.models.unets.unet_2d import UNet2DOutput
from scipy.optimize import linear_sum_assignment

from medmnist_diffusion.diffusion.batches import Batch, TrainingBatches, derived_seed
from medmnist_diffusion.diffusion.loss import (
    Losses,
    Objective,
    diffusion_loss,
    loss_per_image,
    prediction_target,
)

CANDIDATES = 4  # draws of noise for each image, of which the nearest is taken
APART = 0.05  # weight of the contrastive term, as in its paper
_NEAREST = 4  # the random stream of the candidates, after those of diffusion/batches.py


class NearestNoise(TrainingBatches):
    """Of a few draws of noise each image gets the one that lies nearest to it ("immiscible", Li et al. 2025, arXiv 2505.18521)."""

    def __getitem__(self, number: int) -> Batch:
        batch = super().__getitem__(number)
        generator = torch.Generator().manual_seed(derived_seed(self.seed, _NEAREST, number))
        draws = torch.randn((CANDIDATES, *batch.noise.shape), generator=generator)
        nearest = (draws - batch.images).flatten(2).square().sum(2).argmin(0)
        return replace(batch, noise=draws[nearest, torch.arange(len(nearest))])


class CoupledNoise(TrainingBatches):
    """The noise of a batch goes to its images so that they are near on the whole: a matching of least squared distance (Li et al.
    2024, "Immiscible diffusion", arXiv 2406.12303)."""

    def __getitem__(self, number: int) -> Batch:
        batch = super().__getitem__(number)
        noise = batch.noise.clone()
        for rows in self.groups(batch):
            distances = torch.cdist(batch.images[rows].flatten(1), batch.noise[rows].flatten(1)).square()
            noise[rows] = batch.noise[rows[torch.from_numpy(linear_sum_assignment(distances.numpy())[1])]]
        return replace(batch, noise=noise)

    def groups(self, batch: Batch) -> list[torch.Tensor]:
        """Rows that are matched among each other."""
        return [torch.arange(len(batch.labels))]


class CoupledByClass(CoupledNoise):
    """The same within each class, so that no class gets noise of its own that sampling would not give it (C2OT, Cheng & Schwing
    2025, arXiv 2503.10636)."""

    def groups(self, batch: Batch) -> list[torch.Tensor]:
        return [torch.nonzero(batch.labels == label)[:, 0] for label in batch.labels.unique()]


def contrastive_loss(network: Any, batch: Batch, objective: Objective) -> Losses:
    """Near to the image's own target, and away from that of another image of the batch at the same noise level (contrastive flow
    matching, Stoica et al. 2025, arXiv 2506.05350)."""
    losses = diffusion_loss(network, batch, objective)
    images, noise = (objective.encoder.encode(one.roll(1, 0)) for one in (batch.images, batch.noise))
    others = prediction_target(objective.scheduler, images, noise, batch.timesteps)
    return replace(losses, per_image=losses.per_image - APART * loss_per_image(losses.prediction, others))


@dataclass(frozen=True)
class Change:
    """What stands in the place of the loop's own batches and loss, and how much less noise is drawn (in log SNR)."""

    batches: type[TrainingBatches] = TrainingBatches
    loss: Any = diffusion_loss
    log_snr_shift: float = 0.0

    @contextlib.contextmanager
    def made(self) -> Iterator[None]:
        """Trainings within it have the change."""
        from medmnist_diffusion.diffusion import batches

        loop = "medmnist_diffusion.training.train"
        mean = batches.LOG_SNR_MEAN + self.log_snr_shift
        with (
            mock.patch(f"{loop}.TrainingBatches", self.batches),
            mock.patch(f"{loop}.diffusion_loss", self.loss),
            mock.patch.object(batches, "LOG_SNR_MEAN", mean),
        ):
            yield


def guide_by(pipe: Any, weaker: Any, scale: float) -> None:
    """From now on the pipeline goes `scale` times as far from a weaker pipeline's prediction as its own network does
    (autoguidance, Karras et al. 2024, arXiv 2406.02507). 1 is no guidance."""
    own = type(pipe.unet).forward

    def guided(*args: Any, **options: Any) -> UNet2DOutput:
        strong, weak = (own(unet, *args, **options).sample for unet in (pipe.unet, weaker.unet))
        return UNet2DOutput(sample=weak + scale * (strong - weak))

    pipe.unet.forward = guided
