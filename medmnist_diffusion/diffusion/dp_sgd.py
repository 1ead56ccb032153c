"""Differentially private training (DP-SGD, Abadi et al. 2016, arXiv 1607.00133; of diffusion models Dockhorn et al. 2023, arXiv
2210.09929): batches, gradients and what they cost. The gradients of single images, their clipping and the accounting are opacus'.

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
from medmnist_diffusion.resources import check_memory

LARGEST = 1.5  # times as large as asked for a drawn batch may be
INSTALL = 'private training needs opacus: pip install "medmnist-diffusion[private]".'


class PrivateBatches(TrainingBatches):
    """Batches into which each training image comes by a chance of its own, however many others do (Poisson sampling, on which the
    accounting rests). They are as large as asked for on average.

    Whoever knows the draws could undo the noise. So they are numpy's, from 128 bits of the system's: no seed makes them again, and
    a resumed run, or the same command, gives other weights.
    """

    def __getitem__(self, number: int) -> Batch:
        rng = np.random.default_rng()
        rows = np.flatnonzero(rng.random(len(self.split)) < self.batch_size / len(self.split))
        images = to_model_range(self.split.images[rows]).to(self.device)
        drawn = (
            self.split.labels[rows],
            rng.standard_normal((len(rows), *(self.noise_shape or images.shape[1:])), np.float32),
            rng.random(len(rows), np.float32),
            rng.random(len(rows)) < self.label_dropout,
        )
        labels, noise, shares, dropped = (torch.from_numpy(part).to(self.device) for part in drawn)
        return Batch(images, self.conditioning.dropped(labels, dropped), noise, self.timesteps_at(shares))


class PrivateGradients:
    """In the place of the mean gradient of a batch: that of its images' gradients, each clipped to a norm, with noise added.

    Numpy makes the noise (PCG64, from 128 bits of the system's): torch's generator on a CPU has 32. Neither is cryptographic. A
    value is the sum of four draws in double precision, so that its last digits do not give it away (Holohan & Braghin 2021, arXiv
    2107.10138).

    Args:
        network: whose gradients of single images are asked for from now on, where it is trained.
        privacy: the noise, and the norm.
        batch_size: images of a batch on average.

    Raises:
        UserError: where opacus is missing, or memory for the gradients of single images.
    """

    def __init__(self, network: nn.Module, privacy: PrivacyRecord, batch_size: int) -> None:
        grad_sample, optimizers, _ = _opacus()
        self._parameters: list[Any] = list(network.parameters())
        needed = 4.0 * LARGEST * batch_size * sum(one.numel() for one in self._parameters)
        check_memory(needed, "the gradients of single images", "Give a smaller --train_batch_size.")
        # opacus takes what a convolution sees for contiguous; the encoder's images, and attention's, are not.
        for convolution in (one for one in network.modules() if isinstance(one, nn.Conv2d)):
            convolution.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
        warnings.filterwarnings("ignore", message="Full backward hook is firing")  # images need no gradient
        grad_sample.GradSampleHooks(network, loss_reduction="mean")
        unused = torch.optim.SGD(self._parameters)  # the optimizers of training take the gradients from here
        noise, norm = privacy.noise_multiplier, privacy.max_grad_norm
        self._clipping = optimizers.DPOptimizer(
            unused, noise_multiplier=noise, max_grad_norm=norm, expected_batch_size=batch_size
        )
        self._batch_size, self._noise = batch_size, noise * norm
        self._rng, self._unchecked = np.random.default_rng(), True

    def put_in_place(self) -> torch.Tensor:
        """After a backward pass of the mean loss: every parameter's gradient is the private one. Returns its norm.

        Raises:
            RuntimeError: if the gradients of single images are not those whose mean torch has found.
        """
        if self._unchecked:
            self._check()
        self._clipping.clip_and_accumulate()
        for one in self._parameters:
            noise = torch.from_numpy(self._rng.standard_normal((4, *one.shape)).sum(0) * (self._noise / 2))
            one.grad = ((one.summed_grad.double().cpu() + noise) / self._batch_size).to(one)
            one.grad_sample = one.summed_grad = None
        return nn.utils.get_total_norm([one.grad for one in self._parameters])

    def _check(self) -> None:
        whole = nn.utils.get_total_norm([one.grad for one in self._parameters])
        for one in self._parameters:
            off = (one.grad_sample.mean(0) - one.grad).norm()
            if not off <= 0.02 * one.grad.norm() + 1e-5 * whole:
                raise RuntimeError("opacus finds other gradients than torch: nothing would be private.")
        self._unchecked = False


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
