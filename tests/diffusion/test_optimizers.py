"""Muon: which kernels it takes, and what it does with them."""

import torch

from medmnist_diffusion.diffusion.optimizers import KernelMuon, build_optimizers
from tests.conftest import ROOT, small_unet

LAUNCHES = ROOT / "training" / "configs" / "accelerate"


def test_muon_takes_the_hidden_kernels_and_orthogonalizes_them() -> None:
    """One step from rest changes each kernel, as a matrix, by learning rate × a matrix with all singular values about 1."""
    torch.manual_seed(0)
    unet = small_unet()
    adamw, muon = build_optimizers(unet, "muon", 1e-3, 0.02, 0.0)
    before = {name: parameter.detach().clone() for name, parameter in unet.named_parameters()}
    images, labels = torch.randn(8, 4, 14, 14), torch.arange(8) % 4
    (unet(images, torch.arange(8) * 100, class_labels=labels).sample - images).square().mean().backward()
    for optimizer in (adamw, muon):
        optimizer.step()
        optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in unet.parameters())
    assert all(
        not torch.equal(parameter, before[name]) for name, parameter in unet.named_parameters() if parameter.ndim == 4
    )
    name = "down_blocks.0.resnets.0.conv1.weight"
    change = (dict(unet.named_parameters())[name] - before[name]).flatten(1) / 0.02
    values = torch.linalg.svdvals(change.float())
    assert values.min() > 0.5
    assert values.max() < 1.5
    (only,) = build_optimizers(unet, "adamw", 1e-3, 0.02, 0.0)
    assert len(only.param_groups[0]["params"]) == len(list(unet.parameters()))


def test_muon_does_what_torchs_does_but_for_its_rounding() -> None:
    """torch.optim.Muon takes matrices and orthogonalizes in bfloat16, which has a relative error of 2^-8."""
    torch.manual_seed(0)
    kernels = [torch.nn.Parameter(torch.randn(shape)) for shape in ((8, 4, 3, 3), (8, 4, 3, 3), (16, 8, 1, 1))]
    matrices = [torch.nn.Parameter(kernel.detach().flatten(1).clone()) for kernel in kernels]
    before = [kernel.detach().flatten(1).clone() for kernel in kernels]
    ours, theirs = KernelMuon(kernels, 0.1, 0.01), torch.optim.Muon(matrices, 0.1, 0.01)
    for _ in range(4):
        for kernel, matrix in zip(kernels, matrices, strict=True):
            kernel.grad = torch.randn_like(kernel)
            matrix.grad = kernel.grad.flatten(1)
        ours.step()
        theirs.step()
    for kernel, matrix, start in zip(kernels, matrices, before, strict=True):
        assert (kernel.flatten(1) - matrix).norm() < 0.02 * (matrix - start).norm()
