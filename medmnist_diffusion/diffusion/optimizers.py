"""The optimizers: Muon for the hidden convolution kernels and AdamW for the rest, or AdamW alone."""

from collections.abc import Iterable
from typing import Any

import torch
from diffusers import UNet2DModel


class KernelMuon(torch.optim.Muon):
    """torch's Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) for convolution kernels.

    Muon orthogonalizes the momentum of a matrix, and torch's takes matrices only: each kernel out×in×k×k is shown to it as
    the matrix out×(in·k·k), which shares its memory. Anew at each step: distributed training moves the kernels elsewhere.
    """

    def __init__(self, kernels: Iterable[torch.nn.Parameter], lr: float, weight_decay: float) -> None:
        self.kernels = list(kernels)
        matrices = [torch.nn.Parameter(kernel.detach().flatten(1)) for kernel in self.kernels]
        super().__init__(matrices, lr=lr, weight_decay=weight_decay)

    def step(self, closure: Any = None) -> Any:
        for kernel, matrix in zip(self.kernels, self.param_groups[0]["params"], strict=True):
            matrix.grad = None
            matrix.data = kernel.data.view(len(kernel), -1)
            matrix.grad = None if kernel.grad is None else kernel.grad.flatten(1)
        return super().step(closure)

    def zero_grad(self, set_to_none: bool = True) -> None:
        for kernel, matrix in zip(self.kernels, self.param_groups[0]["params"], strict=True):
            kernel.grad = matrix.grad = None


def build_optimizers(
    unet: UNet2DModel, optimizer: str, learning_rate: float, muon_learning_rate: float, weight_decay: float
) -> list[torch.optim.Optimizer]:
    """AdamW for all parameters, or ("muon") for those that are no hidden kernel, beside Muon for these.

    The first and the last convolution stay with AdamW: they translate between pixels and features.
    """
    hidden = [
        parameter
        for name, parameter in unet.named_parameters()
        if optimizer == "muon" and parameter.ndim == 4 and not name.startswith(("conv_in.", "conv_out."))
    ]
    taken = set(map(id, hidden))
    rest = [parameter for parameter in unet.parameters() if id(parameter) not in taken]
    adamw = torch.optim.AdamW(rest, lr=learning_rate, weight_decay=weight_decay, fused=True)
    return [adamw, KernelMuon(hidden, muon_learning_rate, weight_decay)] if hidden else [adamw]
