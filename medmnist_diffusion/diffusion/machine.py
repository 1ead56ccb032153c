"""What this machine does best: threads, precision, and what a step will cost."""

import os
import time

import torch
import torch.nn.functional as F
from diffusers import UNet2DModel
from torch.utils.flop_counter import FlopCounterMode

PROBE_SECONDS = 1.0


def set_threads(num_processes: int = 1) -> int:
    """Share this machine's cores among the processes on it; returns the threads of this one.

    Launchers set OMP_NUM_THREADS to 1 in places (accelerate issues 562, 3575), which halves a laptop's speed.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = max(1, cores // num_processes)
    torch.set_num_threads(threads)
    return threads


def _step_seconds(unet: UNet2DModel, batch_size: int, dtype: torch.dtype | None, seconds: float) -> float:
    """The fastest forward and backward pass seen within `seconds`, on the CPU."""
    config = unet.config
    images = torch.zeros(batch_size, config.in_channels, config.sample_size, config.sample_size)
    timesteps, labels = torch.zeros(batch_size, dtype=torch.long), torch.zeros(batch_size, dtype=torch.long)
    fastest, began = float("inf"), time.monotonic()
    warm = False
    while time.monotonic() - began < seconds or fastest == float("inf"):
        start = time.monotonic()
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            prediction = unet(images, timesteps, class_labels=labels).sample
        F.mse_loss(prediction.float(), images).backward()
        unet.zero_grad()
        if warm:
            fastest = min(fastest, time.monotonic() - start)
        warm = True
    return fastest


def probe_precision(unet: UNet2DModel, batch_size: int) -> tuple[str, dict[str, float]]:
    """Which of float32 and bfloat16 autocast trains this very model faster here, by about a second of trying.

    On CUDA the answer is known (bf16 where it is supported); on a CPU it depends on its instructions and on the model.

    Returns:
        "no" or "bf16", and images a second of each that was tried.
    """
    if torch.cuda.is_available():
        return ("bf16" if torch.cuda.is_bf16_supported() else "no"), {}
    if torch.backends.mps.is_available():
        return "no", {}
    speeds = {
        name: round(batch_size / _step_seconds(unet, batch_size, dtype, PROBE_SECONDS), 1)
        for name, dtype in (("no", None), ("bf16", torch.bfloat16))
    }
    return max(speeds, key=lambda name: speeds[name]), speeds


def training_gflop(unet: UNet2DModel) -> float:
    """GFLOP of one forward and backward pass of one image (multiply and add count as two)."""
    config = unet.config
    image = torch.zeros(1, config.in_channels, config.sample_size, config.sample_size)
    with FlopCounterMode(display=False) as counter:
        unet(image, torch.zeros(1), class_labels=torch.zeros(1, dtype=torch.long)).sample.mean().backward()
    unet.zero_grad()
    return counter.get_total_flops() / 1e9
