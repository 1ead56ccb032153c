"""What makes a training step fast on this machine: width, precision, memory format, compilation.

    python benchmarks/step_speed.py          # about 3 minutes

Forward and backward pass of the default recipe's network at its batch size, the fastest seen in a few seconds; beside the rate of
square matrix products in the same precision, the most that this machine gives. Each variant changes one thing of the default.
"""

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from judging import RESULTS
from time_to_quality import matmul_gflops

from medmnist_diffusion.diffusion.machine import start_processes, training_cost
from medmnist_diffusion.diffusion.unet import build_unet, unshuffle_factor
from medmnist_diffusion.errors import run_command
from medmnist_diffusion.files import write_json
from medmnist_diffusion.training.config import TrainingConfig

SECONDS = 5.0
DTYPES = {"no": None, "bf16": torch.bfloat16}
WIDTHS = ((32, 64), (48, 64), (64, 96), (64, 128))


def measure(
    widths: Sequence[int], precision: str, channels_last: bool = False, compiled: bool = False
) -> dict[str, Any]:
    torch.manual_seed(0)
    config = TrainingConfig()
    unet = build_unet(28, 1, 2, widths, config.layers_per_block, unshuffle_factor(28, 1, widths))
    gflop, _ = training_cost(unet)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    unet.to(memory_format=memory_format)
    network: Any = torch.compile(unet) if compiled else unet
    shape = (config.train_batch_size, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    images = torch.randn(shape).contiguous(memory_format=memory_format)
    timesteps = torch.arange(len(images))
    labels = torch.zeros(len(images), dtype=torch.long)

    def step() -> float:
        began = time.monotonic()
        with torch.autocast("cpu", DTYPES[precision], enabled=precision != "no"):
            prediction = network(images, timesteps, class_labels=labels).sample
        F.mse_loss(prediction.float(), images).backward()
        unet.zero_grad()
        return time.monotonic() - began

    first, began, fastest = step(), time.monotonic(), float("inf")
    while time.monotonic() - began < SECONDS:
        fastest = min(fastest, step())
    return {
        "block_out_channels": list(widths),
        "precision": precision,
        "channels_last": channels_last,
        "compiled": compiled,
        "first_step_seconds": round(first, 2),
        "images_per_second": round(len(images) / fastest, 1),
        "gflops": round(len(images) / fastest * gflop, 1),
    }


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--output", type=Path, default=RESULTS / "step_speed.json")
    args = parser.parse_args(argv)
    start_processes()
    peaks = {name: round(matmul_gflops(dtype or torch.float32), 1) for name, dtype in DTYPES.items()}
    default = TrainingConfig().block_out_channels
    variants = [(widths, precision, False, False) for widths in WIDTHS for precision in DTYPES]
    variants += [(tuple(default), "bf16", True, False), (tuple(default), "bf16", False, True)]
    rows = []
    for variant in variants:
        row = measure(*variant)
        rows.append({**row, "matmul_share": round(row["gflops"] / peaks[row["precision"]], 3)})
        print(rows[-1], flush=True)
    result = {
        "command": "python benchmarks/step_speed.py",
        "cores": len(os.sched_getaffinity(0)),
        "matmul_gflops": peaks,
        "default": {"block_out_channels": default},
        "steps": rows,
    }
    write_json(args.output, result)
    print(json.dumps({"matmul_gflops": peaks}))


if __name__ == "__main__":
    sys.exit(run_command(main))
