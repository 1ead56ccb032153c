"""The optimizers: Muon for the hidden convolution kernels and AdamW for the rest, or AdamW alone."""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from diffusers import UNet2DModel

ENDS = ("conv_in.", "conv_out.", "class_embedding.")  # what meets pixels and classes
MOMENTUM = 0.95
# The polynomial a x + b x³ + c x⁵ whose iteration takes singular values near 1 (Jordan et al. 2024).
A, B, C, ITERATIONS = 3.4445, -4.775, 2.0315, 5


class KernelMuon(torch.optim.Optimizer):
    """Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/) for convolution kernels.

    The momentum of each kernel out×in×k×k, as the matrix out×(in·k·k), is orthogonalized before it is applied. As
    torch.optim.Muon with its defaults, which takes matrices only and computes in bfloat16: a CPU without such instructions
    emulates these, and the step took as long there as the network itself. Here it is float32, kernels of one shape at once.
    """

    def __init__(self, kernels: Iterable[torch.nn.Parameter], lr: float, weight_decay: float) -> None:
        super().__init__(kernels, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            by_shape = defaultdict(list)
            for kernel in group["params"]:
                if kernel.grad is not None:
                    by_shape[kernel.flatten(1).shape].append(kernel)
            for (rows, columns), kernels in by_shape.items():
                updates = orthogonalized(torch.stack([self._momentum(kernel) for kernel in kernels]))
                rate = group["lr"] * math.sqrt(max(1.0, rows / columns))
                for kernel, update in zip(kernels, updates, strict=True):
                    kernel.mul_(1 - group["lr"] * group["weight_decay"])
                    kernel.add_(update.reshape(kernel.shape), alpha=-rate)
        return loss

    def _momentum(self, kernel: torch.nn.Parameter) -> torch.Tensor:
        """Nesterov's momentum of the kernel's gradient, as a matrix."""
        assert kernel.grad is not None
        gradient = kernel.grad.flatten(1)
        state = self.state[kernel]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(gradient)
        state["momentum_buffer"].lerp_(gradient, 1 - MOMENTUM)
        return gradient.lerp(state["momentum_buffer"], MOMENTUM)


def orthogonalized(matrices: torch.Tensor) -> torch.Tensor:
    """U·S·Vᵀ → U·S'·Vᵀ for n matrices n×r×c, by Newton-Schulz steps: S' is 0.7 … 1.2, but for what is below 0.0015 of S's norm."""
    if matrices.shape[1] > matrices.shape[2]:
        return orthogonalized(matrices.mT).mT
    matrices = matrices / matrices.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = matrices @ matrices.mT
        polynomial = torch.baddbmm(gram, gram, gram, beta=B, alpha=C)
        matrices = torch.baddbmm(matrices, polynomial, matrices, beta=A)
    return matrices


def build_optimizers(
    unet: UNet2DModel,
    optimizer: str,
    learning_rate: float,
    muon_learning_rate: float,
    weight_decay: float,
    inner: float = 1.0,
) -> list[torch.optim.Optimizer]:
    """AdamW for all parameters, or ("muon") for those that are no hidden kernel, beside Muon for these.

    The first and the last convolution stay with AdamW: they translate between pixels and features.

    Args:
        inner: at which share of the rates all learns but what meets pixels and classes (ENDS).
    """
    named = dict(unet.named_parameters())
    ends = [name for name in named if name.startswith(ENDS)]
    hidden = [name for name in named if optimizer == "muon" and named[name].ndim == 4 and name not in ends]
    others = [name for name in named if name not in hidden]
    groups: list[dict[str, Any]] = [{"params": [named[name] for name in others]}]
    if inner != 1:
        within = [named[name] for name in others if name not in ends]
        groups = [{"params": [named[name] for name in ends]}, {"params": within, "lr": inner * learning_rate}]
    adamw = torch.optim.AdamW(groups, lr=learning_rate, weight_decay=weight_decay, fused=True)
    if not hidden:
        return [adamw]
    return [adamw, KernelMuon([named[name] for name in hidden], inner * muon_learning_rate, weight_decay)]
