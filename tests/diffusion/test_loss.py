"""The loss against closed forms: noising, targets, errors and weights."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import huber

from medmnist_diffusion.diffusion.loss import loss_per_image, min_snr_weights, prediction_target
from medmnist_diffusion.diffusion.unet import build_noise_scheduler
from tests.conftest import ROOT

LAUNCHES = ROOT / "training" / "configs" / "accelerate"


def cosine_alpha_bar(timesteps: int = 1000) -> np.ndarray:
    """ᾱ_t of Nichol & Dhariwal 2021 (arXiv 2102.09672), equation 17, with betas clipped at 0.999."""
    f = np.cos((np.arange(timesteps + 1) / timesteps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999))


def linear_alpha_bar(timesteps: int = 1000) -> np.ndarray:
    return np.cumprod(1 - np.linspace(1e-4, 0.02, timesteps))


@pytest.mark.parametrize(
    ("schedule", "alpha_bar"), [("squaredcos_cap_v2", cosine_alpha_bar()), ("linear", linear_alpha_bar())]
)
def test_noising_and_targets(schedule: Any, alpha_bar: Any) -> None:
    rng = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 5, 4, 14, 14, generator=rng).double()
    timesteps = torch.tensor([0, 10, 250, 500, 998])
    a = torch.from_numpy(alpha_bar[timesteps]).sqrt().view(-1, 1, 1, 1)
    s = torch.from_numpy(1 - alpha_bar[timesteps]).sqrt().view(-1, 1, 1, 1)
    targets = {"epsilon": noise, "sample": clean, "v_prediction": a * noise - s * clean}
    for prediction_type, expected in targets.items():
        scheduler = build_noise_scheduler(schedule, prediction_type)
        torch.testing.assert_close(
            scheduler.add_noise(clean, noise, timesteps), a * clean + s * noise, atol=2e-5, rtol=1e-4
        )
        target = prediction_target(scheduler, clean, noise, timesteps)
        torch.testing.assert_close(target, expected, atol=2e-5, rtol=1e-4)


def test_at_the_last_timestep_only_noise_is_left() -> None:
    assert build_noise_scheduler().alphas_cumprod[-1] < 1e-6


def test_losses_against_numpy_and_scipy() -> None:
    prediction, target = torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0)).double()
    difference = (prediction - target).numpy()
    expected = {
        ("l2", 1.0): difference**2,
        ("l1", 1.0): np.abs(difference),
        ("huber", 1.0): huber(1.0, difference),
        ("huber", 0.1): huber(0.1, difference),
    }
    for (loss_type, delta), values in expected.items():
        loss = loss_per_image(prediction, target, loss_type, delta)
        np.testing.assert_allclose(loss, values.mean((1, 2, 3)), rtol=1e-6)


def test_min_snr_weights_agree_across_targets() -> None:
    """The same x_0 error must weigh the same whatever the target: ε error = SNR · x_0 error, v error = (SNR + 1) · it."""
    timesteps = torch.tensor([5, 100, 500, 900])
    alpha_bar = torch.from_numpy(cosine_alpha_bar()[timesteps])
    snr = alpha_bar / (1 - alpha_bar)
    on_clean = snr.clamp(max=5)
    for prediction_type, factor in (("sample", torch.ones(4)), ("epsilon", snr), ("v_prediction", snr + 1)):
        weights = min_snr_weights(build_noise_scheduler(prediction_type=prediction_type), timesteps, 5.0)
        torch.testing.assert_close(weights.double() * factor, on_clean, rtol=1e-3, atol=1e-6)
