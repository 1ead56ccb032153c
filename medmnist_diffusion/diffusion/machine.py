"""What this machine does best: processes, threads, precision, and what a step will cost."""

import time
from typing import Any

import torch
from accelerate import PartialState
from diffusers import UNet2DModel
from torch.utils.flop_counter import FlopCounterMode

from medmnist_diffusion.diffusion.batches import Batch
from medmnist_diffusion.diffusion.loss import Objective, diffusion_loss
from medmnist_diffusion.diffusion.unet import build_unet
from medmnist_diffusion.resources import check_memory

PROBE_SECONDS = 1.0
WEIGHT_COPIES = 6  # weights, gradients, two moments, two copies of the average


def kind_of_machine() -> str:
    """The GPU's name, or what the CPU can compute with: `AVX512 with bf16`."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    if torch.accelerator.is_available():
        return PartialState().device.type
    kind = torch.backends.cpu.get_cpu_capability()
    has = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}  # torch 2.9 has none
    return f"{kind} with bf16" if has.get("avx512_bf16") or has.get("amx_bf16") else kind


def describe_machine() -> str:
    """What figures and speeds here depend on beside the code: `AVX512, 2 threads, torch 2.14.1`."""
    return f"{kind_of_machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}"


def _empty_batch(objective: Objective, count: int) -> Batch:
    """Black images at the first noise level: what a step takes does not depend on what they show."""
    images, zeros = torch.zeros(count, *objective.encoder.image_shape), torch.zeros(count, dtype=torch.long)
    return Batch(images, zeros, torch.zeros(count, *objective.encoder.padded_shape), zeros)


def _step_seconds(
    unet: UNet2DModel,
    objective: Objective,
    batch_size: int,
    dtype: torch.dtype | None,
    seconds: float,
    hopeless: float = float("inf"),
) -> float:
    """The fastest forward and backward pass seen within `seconds`, on the CPU. The first, which warms up, does not count, unless
    it took longer than `hopeless` and is the only one."""
    batch = _empty_batch(objective, batch_size)
    fastest, began = float("inf"), time.monotonic()
    warm = False
    random_state = torch.get_rng_state()  # dropout in the trial must not change what is trained
    while time.monotonic() - began < seconds or fastest == float("inf"):
        start = time.monotonic()
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            losses = diffusion_loss(unet, batch, objective)
        losses.weighted.mean().backward()
        unet.zero_grad()
        took = time.monotonic() - start
        if warm or took > hopeless:
            fastest = min(fastest, took)
        warm = True
    torch.set_rng_state(random_state)
    return fastest


def probe_precision(
    unet: UNet2DModel, objective: Objective, batch_size: int, wanted: str | None = None
) -> tuple[str, dict[str, float]]:
    """Which of float32 and bfloat16 autocast trains this very model faster here, by about a second of trying.

    On CUDA the answer is known (bf16 where it is supported); on a CPU it depends on its instructions and on the model.

    Args:
        wanted: the precision that was asked for; only its speed is tried then.

    Returns:
        the precision, and images a second of each that was tried (forward and backward pass alone).
    """
    if torch.cuda.is_available():
        return wanted or ("bf16" if torch.cuda.is_bf16_supported() else "no"), {}
    if torch.backends.mps.is_available() or wanted == "fp16":
        return wanted or "no", {}
    took: dict[str, float] = {}
    for name, dtype in (("no", None), ("bf16", torch.bfloat16)):
        if wanted in (None, name):
            hopeless = 4 * min(took.values(), default=float("inf"))  # bf16 where it is emulated: one step tells
            took[name] = _step_seconds(unet, objective, batch_size, dtype, PROBE_SECONDS, hopeless)
    return min(took, key=lambda name: took[name]), {name: round(batch_size / one, 1) for name, one in took.items()}


def training_cost(unet: UNet2DModel, objective: Objective) -> tuple[float, int]:
    """What training on one image takes: GFLOP of a forward and backward pass (multiply and add count as two), and the bytes that
    float32 activations need until the backward pass."""
    batch = _empty_batch(objective, 1)
    kept: dict[int, int] = {}  # tensors that several layers keep count once

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with (
        FlopCounterMode(display=False) as counter,
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
    ):
        diffusion_loss(unet, batch, objective).weighted.mean().backward()
    unet.zero_grad()
    weights = {parameter.data_ptr() for parameter in unet.parameters()}
    activations = sum(size for pointer, size in kept.items() if pointer not in weights)
    return counter.get_total_flops() / 1e9, activations


def check_weights_memory(network: dict[str, Any]) -> None:
    """Refuse a network that is too large, before it is built; `network` are build_unet's arguments."""
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in build_unet(**network).parameters())
    if not torch.accelerator.is_available():
        check_memory(WEIGHT_COPIES * 4 * parameters, f"a network of {parameters:,} parameters", "Use a smaller one.")


def check_training_memory(unet: UNet2DModel, activations: int, batch_size: int, precision: str) -> None:
    """Refuse a training that cannot fit into this machine's memory.

    All copies of the weights, float32, and the activations of a batch; `auto` counts as float32, which its trial runs, too.

    Raises:
        UserError: with the estimate and what to change.
    """
    if torch.accelerator.is_available():  # the network lives in another memory
        return
    weights = WEIGHT_COPIES * 4 * sum(parameter.numel() for parameter in unet.parameters())
    batch = activations * batch_size * (0.5 if precision in ("bf16", "fp16") else 1.0)
    check_memory(
        weights + batch,
        f"training with {batch_size} images a batch",
        "Use a smaller --train_batch_size (with --gradient_accumulation_steps for the same batch in all) or a smaller network.",
    )
