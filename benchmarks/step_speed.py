"""What makes a training step fast on this machine: width, precision, memory format, compilation, optimizer.

    python benchmarks/step_speed.py          # about 4 minutes

Forward and backward pass of the default network at its batch size, the fastest of a few rounds of seconds; beside the rate
of square matrix products in the same precision, the most that this machine gives. Each variant changes one thing of the default.
Beside them the optimizers' steps for that network, torch's own Muon too, which orthogonalizes in bfloat16.
"""

import argparse
import json
import os
import sys
import tempfile
import time
import timeit
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DModel
from judging import RESULTS
from time_to_quality import matmul_gflops

from medmnist_diffusion.data.conditioning import Conditioning
from medmnist_diffusion.diffusion.batches import Batch
from medmnist_diffusion.diffusion.encoder import choose_encoder
from medmnist_diffusion.diffusion.loss import Objective, diffusion_loss
from medmnist_diffusion.diffusion.machine import describe_machine, kind_of_machine, training_cost
from medmnist_diffusion.diffusion.optimizers import build_optimizers
from medmnist_diffusion.diffusion.unet import build_noise_scheduler, build_unet
from medmnist_diffusion.errors import run_command
from medmnist_diffusion.files import write_json
from medmnist_diffusion.processes import start_processes
from medmnist_diffusion.training.config import TrainingConfig
from medmnist_diffusion.training.setup import NARROW

SECONDS, ROUNDS = 3.0, 3
DTYPES = {"no": None, "bf16": torch.bfloat16}
WIDTHS = ((32, 64), (48, 64), (64, 96), (64, 128))
CLASSES = Conditioning({0: "0", 1: "1"})


def problem_of(widths: Sequence[int]) -> tuple[UNet2DModel, Objective]:
    """The default network for 28×28 grey images and two classes, of these widths, and the default objective."""
    encoder = choose_encoder((1, 28, 28), blocks=len(widths))
    unet = build_unet(CLASSES, encoder, widths, TrainingConfig().layers_per_block)
    return unet, Objective(build_noise_scheduler(), encoder, CLASSES)


def measure(
    widths: Sequence[int], precision: str, channels_last: bool = False, compiled: bool = False
) -> dict[str, Any]:
    torch.manual_seed(0)
    unet, objective = problem_of(widths)
    gflop, _ = training_cost(unet, objective)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    unet.to(memory_format=memory_format)
    network: Any = torch.compile(unet) if compiled else unet
    count = TrainingConfig().train_batch_size
    images = torch.randn(count, 1, 28, 28).contiguous(memory_format=memory_format)
    batch = Batch(images, torch.zeros(count, dtype=torch.long), torch.randn_like(images), torch.arange(count))

    def step() -> float:
        began = time.monotonic()
        with torch.autocast("cpu", DTYPES[precision], enabled=precision != "no"):
            losses = diffusion_loss(network, batch, objective)
        losses.weighted.mean().backward()
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


def optimizer_milliseconds() -> dict[str, float]:
    """The fastest step of each optimizer for its share of the default network's parameters."""
    unet, _ = problem_of(NARROW)
    adamw, muon = build_optimizers(unet, "muon", 1e-3, 1e-3, 0.0)
    matrices = [torch.nn.Parameter(kernel.detach().flatten(1)) for kernel in muon.param_groups[0]["params"]]
    fastest = {}
    for name, optimizer in {"AdamW": adamw, "Muon": muon, "torch.optim.Muon": torch.optim.Muon(matrices)}.items():
        for parameter in optimizer.param_groups[0]["params"]:
            parameter.grad = torch.randn_like(parameter)
        fastest[name] = round(1000 * min(timeit.repeat(optimizer.step, number=1, repeat=20)), 1)
    return fastest


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--output", type=Path, default=RESULTS / "step_speed.json")
    args = parser.parse_args(argv)
    start_processes()
    precisions = list(DTYPES) if "bf16" in kind_of_machine() else ["no"]  # elsewhere emulated, and many times slower
    peaks = dict.fromkeys(precisions, 0.0)
    default = NARROW
    variants: list[tuple[tuple[int, ...], str, bool, bool]]
    variants = [(widths, precision, False, False) for widths in WIDTHS for precision in precisions]
    variants += [(tuple(default), precisions[-1], True, False), (tuple(default), precisions[-1], False, True)]
    fastest: dict[Any, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as compiled:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = compiled  # nothing that was compiled before helps
        for _ in range(ROUNDS):  # all in turn, as a machine's speed drifts
            peaks = {name: max(best, matmul_gflops(DTYPES[name] or torch.float32)) for name, best in peaks.items()}
            for variant in variants:
                row = measure(*variant)
                before = fastest.setdefault(variant, row)
                if row["images_per_second"] > before["images_per_second"]:
                    fastest[variant] = {**row, "first_step_seconds": before["first_step_seconds"]}
                print(row, flush=True)
    peaks = {name: round(best, 1) for name, best in peaks.items()}
    rows = [{**row, "matmul_share": round(row["gflops"] / peaks[row["precision"]], 3)} for row in fastest.values()]
    result = {
        "command": f"python benchmarks/step_speed.py --output {args.output.name}",
        "machine": describe_machine(),
        "matmul_gflops": peaks,
        "default": {"block_out_channels": default},
        "steps": rows,
        "optimizer_milliseconds": optimizer_milliseconds(),
    }
    write_json(args.output, result)
    print(json.dumps({"matmul_gflops": peaks}))


if __name__ == "__main__":
    sys.exit(run_command(main))
