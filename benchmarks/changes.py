"""Changes to the method that are no option of `train`, for benchmarks/recipe.py: published ideas, each in a few lines.

A change takes the place of the batches or of the loss in the loop of training/train.py, which stays as it is.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.models.unets.unet_2d import UNet2DOutput
from diffusers.training_utils import compute_snr
from scipy.optimize import linear_sum_assignment

from medmnist_diffusion.diffusion.batches import Batch, TrainingBatches, derived_seed
from medmnist_diffusion.diffusion.loss import (
    Losses,
    Objective,
    diffusion_loss,
    loss_per_image,
)

CANDIDATES = 4  # draws of noise for each image, of which the nearest is taken
POOL = 5  # batches that are coupled by class at once, as in its paper: else a class has a handful of images to choose among
APART = 0.05  # weight of the contrastive term, as in its paper
_NEAREST = 4  # the random stream of the candidates, beside those of diffusion/batches.py
MOST_WEIGHT = 5.0  # of an image's error at low noise


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
        return replace(batch, noise=matched(batch.images, batch.noise))


class CoupledByClass(TrainingBatches):
    """The same within each class, over five batches at once, so that no class gets noise that sampling would not give it
    (C2OT, Cheng & Schwing 2025, arXiv 2503.10636). Images without a label are a class of their own."""

    _pool: tuple[int, torch.Tensor] | None = None

    def __getitem__(self, number: int) -> Batch:
        batch, pool = super().__getitem__(number), number // POOL
        if self._pool is None or self._pool[0] != pool:
            batches = [super(CoupledByClass, self).__getitem__(pool * POOL + place) for place in range(POOL)]
            images, noise = (torch.cat([getattr(one, name) for one in batches]) for name in ("images", "noise"))
            labels = torch.cat([one.labels for one in batches])
            for label in labels.unique():
                rows = torch.nonzero(labels == label)[:, 0]
                noise[rows] = matched(images[rows], noise[rows])
            self._pool = pool, noise
        start = number % POOL * len(batch.labels)
        return replace(batch, noise=self._pool[1][start : start + len(batch.labels)])


def matched(images: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """The noise N×…, in the order in which the sum of squared distances to the images is least."""
    distances = torch.cdist(images.flatten(1), noise.flatten(1)).square()
    return noise[torch.from_numpy(linear_sum_assignment(distances.numpy())[1])]


@dataclass(frozen=True)
class Contrasted(Losses):
    """Losses, and how far each prediction lies from another image's target, n. What is logged is the loss without that."""

    apart: torch.Tensor

    @property
    def weighted(self) -> torch.Tensor:
        return self.per_image - APART * self.apart


def contrastive_loss(network: Any, batch: Batch, objective: Objective) -> Losses:
    """Near to the image's own velocity, and away from that of another image of the batch at the same noise level (contrastive flow
    matching, Stoica et al. 2025, arXiv 2506.05350).

    A network that says the image itself says a velocity, too: with x_t = √ᾱ x_0 + σ ε that is v = (√ᾱ x_t − x_0) / σ. Its errors
    are those in x_0 ÷ σ, so the other image's velocity u stands for the image √ᾱ x_t − σ u.
    """
    losses, scheduler = diffusion_loss(network, batch, objective), objective.scheduler
    clean, noise, images, others = (
        objective.encoder.encode(one)
        for one in (batch.images, batch.noise, batch.images.roll(1, 0), batch.noise.roll(1, 0))
    )
    away = scheduler.get_velocity(images, others, batch.timesteps)
    if scheduler.config.prediction_type == "sample":
        noisy = scheduler.add_noise(clean, noise, batch.timesteps)
        away = image_of_velocity(scheduler, away, noisy, batch.timesteps)
    apart = loss_per_image(losses.prediction, away)
    return Contrasted(losses.per_image, losses.weights, losses.prediction, losses.target, apart)


def errors_in_velocity(network: Any, batch: Batch, objective: Objective) -> Losses:
    """Of a network that says the image itself: its errors counted in velocity, 1 + SNR times as much, up to a limit (Li & He 2025,
    arXiv 2511.13720)."""
    losses = diffusion_loss(network, batch, objective)
    return replace(losses, weights=(1 + compute_snr(objective.scheduler, batch.timesteps)).clamp(max=MOST_WEIGHT))


@contextlib.contextmanager
def with_room() -> Iterator[None]:
    """Networks within it have a first layer of twice as many channels, for an image that they said before (self-conditioning, Chen
    et al. 2022, arXiv 2208.04202). Where they get none they see zeros, and with new weights they do not heed it."""
    init, forward = UNet2DModel.__init__, UNet2DModel.forward

    @functools.wraps(init)
    def with_twice_the_channels(unet: UNet2DModel, *args: Any, **options: Any) -> None:
        init(unet, *args, **options)
        first = unet.conv_in
        channels = first.in_channels
        unet.conv_in = torch.nn.utils.skip_init(  # which draws no random numbers
            torch.nn.Conv2d, 2 * channels, first.out_channels, first.kernel_size, padding=first.padding, device=first.weight.device
        )  # fmt: skip
        with torch.no_grad():
            unet.conv_in.weight[:, :channels], unet.conv_in.weight[:, channels:] = first.weight, 0
            unet.conv_in.bias.copy_(first.bias)

    def seeing_nothing(unet: UNet2DModel, sample: torch.Tensor, *args: Any, **options: Any) -> Any:
        if sample.shape[1] == unet.config.in_channels:
            sample = torch.cat([sample, torch.zeros_like(sample)], 1)
        return forward(unet, sample, *args, **options)

    with (
        mock.patch.object(UNet2DModel, "__init__", with_twice_the_channels),
        mock.patch.object(UNet2DModel, "forward", seeing_nothing),
    ):
        yield


def seeing_what_it_said(network: Any, batch: Batch, objective: Objective) -> Losses:
    """In half of the batches, by chance, the network first says the image, without learning from that, and then sees it."""
    if batch.noise.flatten()[0] < 0:  # a coin of the batch's own
        return diffusion_loss(network, batch, objective)
    scheduler = objective.scheduler
    with torch.no_grad():
        prediction = diffusion_loss(network, batch, objective).prediction
    noisy = scheduler.add_noise(*map(objective.encoder.encode, (batch.images, batch.noise)), batch.timesteps)
    said = image_of(scheduler, prediction, noisy, batch.timesteps)

    def again(sample: torch.Tensor, *args: Any, **options: Any) -> Any:
        return network(torch.cat([sample, said], 1), *args, **options)

    return diffusion_loss(again, batch, objective)


def see_what_it_said(pipe: Any) -> None:
    """From now on every step of sampling sees the image that the step before it said, the first one none."""
    own, last_time, said = type(pipe.unet).forward, -1, torch.empty(0)

    def seeing(sample: torch.Tensor, timestep: Any, *args: Any, **options: Any) -> Any:
        nonlocal last_time, said
        goes_on = int(timestep) < last_time and said.shape == sample.shape
        seen = torch.cat([sample, said], 1) if goes_on else sample
        output = own(pipe.unet, seen, timestep, *args, **options)
        last_time, timesteps = int(timestep), torch.full((len(sample),), int(timestep))
        said = image_of(pipe.scheduler, output.sample.float(), sample, timesteps)
        return output

    pipe.unet.forward = seeing


def image_of(
    scheduler: DDPMScheduler, prediction: torch.Tensor, noisy: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """The clean image n×… that a network means, which says it or its velocity."""
    says_it = scheduler.config.prediction_type == "sample"
    return prediction if says_it else image_of_velocity(scheduler, prediction, noisy, timesteps)


def image_of_velocity(
    scheduler: DDPMScheduler, velocity: torch.Tensor, noisy: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """√ᾱ x_t − σ v, n×…"""
    of_image = scheduler.alphas_cumprod[timesteps].sqrt().view(-1, *[1] * (noisy.ndim - 1)).to(noisy)
    return of_image * noisy - (1 - of_image**2).sqrt() * velocity


@dataclass(frozen=True)
class Change:
    """What stands in the place of the loop's own batches, loss and network, how much less noise is drawn (in log SNR), and what is
    done to the pipeline that comes out."""

    batches: type[TrainingBatches] = TrainingBatches
    loss: Any = diffusion_loss
    log_snr_shift: float = 0.0
    network: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext
    pipe: Callable[[Any], None] = lambda _: None

    @contextlib.contextmanager
    def made(self) -> Iterator[None]:
        """Trainings within it have the change."""
        from medmnist_diffusion.diffusion import batches

        loop = "medmnist_diffusion.training.train"
        mean = batches.LOG_SNR_MEAN + self.log_snr_shift
        with (
            self.network(),
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
