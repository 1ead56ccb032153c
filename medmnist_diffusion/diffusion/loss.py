"""The loss: what the network is asked to predict, and how its error is counted. Target × error × weight.

Notation of Ho et al. 2020 (arXiv 2006.11239): x_t = √ᾱ_t · x_0 + √(1 − ᾱ_t) · ε, signal-to-noise ratio ᾱ_t / (1 − ᾱ_t).
Training, held-out rows, the machine's trial and the benchmarks all call `diffusion_loss`.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

from medmnist_diffusion.data.conditioning import Conditioning
from medmnist_diffusion.diffusion.batches import Batch
from medmnist_diffusion.diffusion.encoder import network_labels
from medmnist_diffusion.pipelines import PixelUnshuffle

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
LOSS_TYPES = ("l2", "l1", "huber")


@dataclass(frozen=True)
class Objective:
    """What is learned: the noise schedule and the target (the scheduler's), what the network sees of images and of conditions, how
    errors are counted."""

    scheduler: DDPMScheduler
    encoder: PixelUnshuffle
    conditioning: Conditioning
    loss_type: str = "l2"
    huber_delta: float = 1.0
    snr_gamma: float | None = None  # Min-SNR weighting; None for none
    label_width: int = 0  # of labels as vectors: four times the network's first block


@dataclass(frozen=True)
class Losses:
    """Of n images: the losses as they are trained but for their weights, n; weights n (None: all 1); prediction and target."""

    per_image: torch.Tensor
    weights: torch.Tensor | None
    prediction: torch.Tensor
    target: torch.Tensor

    @property
    def weighted(self) -> torch.Tensor:
        """What is trained, n."""
        return self.per_image if self.weights is None else self.per_image * self.weights

    @property
    def squared(self) -> torch.Tensor:
        """The squared errors, n: they compare between runs with different losses."""
        return loss_per_image(self.prediction, self.target, "l2")


def diffusion_loss(network: Any, batch: Batch, objective: Objective) -> Losses:
    """Mix the images with their noise, let the network undo it, and count its errors.

    Args:
        network: a `UNet2DModel`, or what Accelerate makes of one.
        batch: images float n×C×H×W (volumes n×C×D×H×W), noise of the encoder's padded shape, conditions and timesteps n.
        objective: see there.
    """
    scheduler = objective.scheduler
    clean, noise = objective.encoder.encode(batch.images), objective.encoder.encode(batch.noise)
    noisy = scheduler.add_noise(clean, noise, batch.timesteps)
    labels = network_labels(objective.conditioning, batch.labels, objective.label_width)
    prediction = network(noisy, batch.timesteps, class_labels=labels).sample.float()
    target = prediction_target(scheduler, clean, noise, batch.timesteps)
    losses = loss_per_image(prediction, target, objective.loss_type, objective.huber_delta)
    gamma = objective.snr_gamma
    weights = None if gamma is None else min_snr_weights(scheduler, batch.timesteps, gamma)
    return Losses(losses, weights, prediction, target)


def log_snr(scheduler: DDPMScheduler) -> torch.Tensor:
    """log(ᾱ_t / (1 − ᾱ_t)) of every timestep: falling, T."""
    return torch.logit(scheduler.alphas_cumprod.double()).float()


def prediction_target(
    scheduler: DDPMScheduler, clean: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor
) -> torch.Tensor:
    """The target of the scheduler's prediction type, shaped as the images N×C×H×W.

    epsilon: ε. sample: x_0. v_prediction: √ᾱ_t · ε − √(1 − ᾱ_t) · x_0 (Salimans & Ho 2022, arXiv 2202.00512).
    """
    prediction_type = scheduler.config.prediction_type
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "sample":
        return clean
    if prediction_type == "v_prediction":
        return scheduler.get_velocity(clean, noise, timesteps)
    raise ValueError(f"prediction_type {prediction_type!r} is none of {PREDICTION_TYPES}")


def loss_per_image(
    prediction: torch.Tensor, target: torch.Tensor, loss_type: str = "l2", huber_delta: float = 1.0
) -> torch.Tensor:
    """The mean loss of each image, N. Huber is d²/2 up to delta and delta·(|d| − delta/2) beyond."""
    if loss_type == "l2":
        loss = F.mse_loss(prediction, target, reduction="none")
    elif loss_type == "l1":
        loss = F.l1_loss(prediction, target, reduction="none")
    elif loss_type == "huber":
        loss = F.huber_loss(prediction, target, reduction="none", delta=huber_delta)
    else:
        raise ValueError(f"loss_type {loss_type!r} is none of {LOSS_TYPES}")
    return loss.flatten(1).mean(1)


def min_snr_weights(scheduler: DDPMScheduler, timesteps: torch.Tensor, snr_gamma: float) -> torch.Tensor:
    """Min-SNR-γ weights, N (Hang et al. 2023, arXiv 2303.09556): min(SNR, γ) on x_0, carried over to the target."""
    snr = compute_snr(scheduler, timesteps)
    clipped = snr.clamp(max=snr_gamma)
    if scheduler.config.prediction_type == "epsilon":
        return clipped / snr
    if scheduler.config.prediction_type == "v_prediction":
        return clipped / (snr + 1)
    return clipped
