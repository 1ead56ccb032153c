"""What the network is asked to predict, and how its error is counted: target × loss × weighting.

Notation of Ho et al. 2020 (arXiv 2006.11239): x_t = √ᾱ_t · x_0 + √(1 − ᾱ_t) · ε, signal-to-noise ratio ᾱ_t / (1 − ᾱ_t).
"""

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler
from diffusers.training_utils import compute_snr

PREDICTION_TYPES = ("epsilon", "v_prediction", "sample")
LOSS_TYPES = ("l2", "l1", "huber")


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
