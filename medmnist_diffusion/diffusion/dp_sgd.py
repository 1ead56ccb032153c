"""Differentially private training (DP-SGD, Abadi et al. 2016, arXiv 1607.00133; of diffusion models Dockhorn et al. 2023, arXiv
2210.09929): batches, gradients and what they cost. The clipping, the noise and the accounting are opacus'.

The promise is on the weights: with any one training image more or less, no set of weights comes out by more than e^ε times as
often, but for a chance δ. So what is done to the gradients hides every single image, and whatever is made of the weights keeps it.
"""

import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import nn

from medmnist_diffusion.artifacts import PrivacyRecord
from medmnist_diffusion.data.dataset import to_model_range
from medmnist_diffusion.diffusion.batches import Batch, TrainingBatches
from medmnist_diffusion.errors import UserError

INSTALL = 'private training needs opacus: pip install "medmnist-diffusion[private]".'


class PrivateBatches(TrainingBatches):
    """Batches into which each training image comes by a chance of its own, however many others do (Poisson sampling, on which the
    accounting rests). They are as large as asked for on average.

    Whoever knows the draws could undo the noise. So they come from the system's random numbers: no seed makes them again, and a
    resumed run, or the same command, gives other weights.
    """

    def __getitem__(self, number: int) -> Batch:
        rng = np.random.default_rng()
        generator = torch.Generator(self.device)
        generator.seed()
        rows = np.flatnonzero(rng.random(len(self.split)) < self.batch_size / len(self.split))
        images = to_model_range(self.split.images[rows]).to(self.device)
        labels = torch.from_numpy(self.split.labels[rows]).to(self.device)
        options: dict[str, Any] = {"generator": generator, "device": self.device}
        noise = torch.randn((len(rows), *(self.noise_shape or images.shape[1:])), **options)
        timesteps = self.timesteps_at(torch.rand(len(rows), **options))
        dropped = torch.rand(len(rows), **options) < self.label_dropout
        return Batch(images, self.conditioning.dropped(labels, dropped), noise, timesteps)


class PrivateGradients:
    """In the place of the mean gradient of a batch: that of its images' gradients, each clipped to a norm, with noise added.

    Args:
        network: whose gradients of single images are asked for from now on, where it is trained.
        privacy: the noise, and the norm.
        batch_size: images of a batch on average.

    Raises:
        UserError: where opacus is missing.
    """

    def __init__(self, network: nn.Module, privacy: PrivacyRecord, batch_size: int) -> None:
        grad_sample, optimizers, _ = _opacus()
        # opacus takes what a convolution sees for contiguous; the encoder's images, and attention's, are not.
        for convolution in (one for one in network.modules() if isinstance(one, nn.Conv2d)):
            convolution.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
        warnings.filterwarnings("ignore", message="Full backward hook is firing")  # images need no gradient
        grad_sample.GradSampleHooks(network, loss_reduction="mean")
        generator = torch.Generator(next(network.parameters()).device)
        generator.seed()  # the system's: whoever has the seed could take the noise away again
        self._parameters: list[Any] = list(network.parameters())
        self._unchecked = True
        self._clipping = optimizers.DPOptimizer(
            torch.optim.SGD(
                self._parameters
            ),  # which never steps: the optimizers of training take the gradients from here
            noise_multiplier=privacy.noise_multiplier,
            max_grad_norm=privacy.max_grad_norm,
            expected_batch_size=batch_size,
            generator=generator,
        )

    def put_in_place(self) -> torch.Tensor:
        """After a backward pass of the mean loss: every parameter's gradient is the private one. Returns its norm.

        Raises:
            RuntimeError: if the gradients of single images are not those whose mean torch has found.
        """
        for parameter in self._parameters if self._unchecked else ():
            if not torch.allclose(parameter.grad_sample.mean(0), parameter.grad, rtol=0.01, atol=1e-5):
                raise RuntimeError("opacus finds other gradients than torch: nothing would be private.")
        self._unchecked = False
        self._clipping.pre_step()
        for parameter in self._parameters:
            parameter.grad_sample = parameter.summed_grad = None
        return nn.utils.get_total_norm([one.grad for one in self._parameters if one.grad is not None])


def privacy_of(
    target_epsilon: float, target_delta: float | None, max_grad_norm: float, images: int, batch_size: int, steps: int
) -> PrivacyRecord:
    """How much noise each step needs so that all steps together cost an image no more than ε.

    Args:
        target_delta: default a tenth of 1 ÷ images.
        images: in the training split.

    Raises:
        UserError: where opacus is missing, batches are too large for so few images, or ε cannot be had.
    """
    *_, accounting = _opacus()
    delta = target_delta or 1 / (10 * images)
    if delta >= 1 / images:
        raise UserError(
            f"--target_delta is {delta:g}: of {images} training images one could be given away whole. "
            f"Give less than {1 / images:.1g}."
        )
    if batch_size >= images:
        raise UserError(
            f"batches of {batch_size} are no draws from {images} training images. Give a smaller --train_batch_size."
        )
    asked = {
        "target_epsilon": target_epsilon,
        "target_delta": delta,
        "sample_rate": batch_size / images,
        "steps": steps,
    }
    try:
        with warnings.catch_warnings(action="ignore"):  # of looser bounds, which are tried first
            noise = accounting.get_noise_multiplier(**asked, accountant="prv")
    except ValueError as error:
        raise UserError(
            f"--target_epsilon {target_epsilon:g} cannot be had in {steps} steps ({error}). Give more."
        ) from None
    if not math.isfinite(noise):
        raise UserError(f"--target_epsilon {target_epsilon:g} cannot be had in {steps} steps. Give more.")
    return PrivacyRecord(
        epsilon=target_epsilon, delta=delta, noise_multiplier=noise, max_grad_norm=max_grad_norm,
        sample_rate=batch_size / images, steps=steps,
    )  # fmt: skip


def _opacus() -> tuple[Any, Any, Any]:
    try:
        from opacus import grad_sample, optimizers
        from opacus.accountants import utils
    except ImportError:
        raise UserError(INSTALL) from None
    return grad_sample, optimizers, utils
