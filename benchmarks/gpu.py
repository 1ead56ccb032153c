"""What a GPU makes of the default recipe: speed and memory by image size, with and without torch.compile; and that all parts work.

    python benchmarks/gpu.py           # at most 8 minutes on a GPU; results/gpu_NAME.json
    python benchmarks/gpu.py --tiny    # the same parts in two minutes on a CPU: that they run, not how fast. Nothing is written

Speed is that of forward and backward pass, as `train` makes them, in bfloat16, beside the rate of square matrix products, the
most that the device gives. The parts: a training by the command and by the launch file, its pipeline on the device and offloaded
against the same on the CPU, sampling, evaluation.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler
from judging import RESULTS
from time_to_quality import matmul_gflops

from medmnist_diffusion.data import load_dataset, phantom
from medmnist_diffusion.data.npz import write_npz
from medmnist_diffusion.diffusion.batches import Batch
from medmnist_diffusion.diffusion.loss import diffusion_loss
from medmnist_diffusion.diffusion.machine import describe_machine, kind_of_machine, training_cost
from medmnist_diffusion.errors import UserError, run_command
from medmnist_diffusion.files import write_json
from medmnist_diffusion.processes import start_processes
from medmnist_diffusion.training.config import training_config
from medmnist_diffusion.training.setup import build_network, build_objective, with_choices

LAUNCH = Path(__file__).resolve().parent.parent / "training" / "configs" / "accelerate"
SIZES, BATCHES = (28, 64, 128, 224), {28: 1024, 64: 512, 128: 128, 224: 32}
OFF_BY = 4  # grey levels between devices, at most, of an image in ten steps


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--tiny", action="store_true", help="on whatever is there, without writing a result")
    args = parser.parse_args(argv)
    if not args.tiny and not torch.cuda.is_available():
        raise UserError("there is no CUDA device here. --tiny tries the parts on the CPU.")
    start_processes()
    began = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result: dict[str, Any] = {"command": "python benchmarks/gpu.py", "machine": describe_machine()}
    result["matmul_tflops"] = round(
        matmul_gflops(torch.bfloat16, 256 if args.tiny else 8192, device=device.type) / 1000, 2
    )
    result["steps"] = []
    for size in (28, 64) if args.tiny else SIZES:
        for compiled in (False, True):
            row = speed(device, size, 4 if args.tiny else BATCHES[size], compiled, 0.5 if args.tiny else 6.0)
            row["matmul_share"] = round(row["tflops"] / result["matmul_tflops"], 3)
            result["steps"].append(row)
            print(row, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        result["parts"] = parts(Path(folder), device, args.tiny)
    result["seconds"] = round(time.monotonic() - began, 1)
    print(json.dumps({name: value for name, value in result.items() if name != "steps"}, indent=2))
    if not args.tiny:
        name = re.sub(r"\W+", "_", kind_of_machine()).lower()
        write_json(RESULTS / f"gpu_{name}.json", result)


def speed(device: torch.device, size: int, count: int, compiled: bool, seconds: float) -> dict[str, Any]:
    """Images a second, and the most memory, of the network that the recipe chooses for grey images of this size."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "phantom.npz"
        write_npz(path, phantom.make_phantom(size=size, counts={"train": 16, "val": 8, "test": 8}))
        dataset = load_dataset(str(path))
    config = with_choices(training_config(dataset="phantom", output_dir="unused"), dataset)
    unet, objective = build_network(config, dataset), build_objective(config, dataset)
    gflop, _ = training_cost(unet, objective)
    unet.to(device)
    network: Any = torch.compile(unet) if compiled else unet
    images = torch.randn(count, *dataset.model_shape, device=device)
    labels = torch.zeros(count, dtype=torch.long, device=device)
    noise = torch.randn(count, *objective.encoder.padded_shape, device=device)
    batch = Batch(images, labels, noise, torch.arange(count, device=device) % config.num_train_timesteps)

    def step() -> float:
        start = time.monotonic()
        with torch.autocast(device.type, torch.bfloat16):
            losses = diffusion_loss(network, batch, objective)
        losses.weighted.mean().backward()
        unet.zero_grad()
        wait_for(device)
        return time.monotonic() - start

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    first, fastest, began = step(), step(), time.monotonic()
    while time.monotonic() - began < seconds:
        fastest = min(fastest, step())
    return {
        "size": size,
        "batch": count,
        "compiled": compiled,
        "parameters": unet.num_parameters(),
        "first_step_seconds": round(first, 2),
        "images_per_second": round(count / fastest, 1),
        "tflops": round(count / fastest * gflop / 1000, 3),
        "peak_memory_gib": round(peak_gib(device), 2),
    }


def parts(folder: Path, device: torch.device, tiny: bool) -> dict[str, Any]:
    """Every step of a user's, on this device."""
    done: dict[str, Any] = {}
    tool = [sys.executable, "-m", "medmnist_diffusion.cli"]
    budget = ["--max_train_steps", "6"] if tiny else ["--max_train_minutes", "1"]
    training = ["--dataset", "phantom", "--output_dir", str(folder / "run"), "--report_to", "none", *budget]
    done["train"] = timed(lambda: run([*tool, "train", *training]))
    summary = json.loads((folder / "run/pipeline/training_summary.json").read_text(encoding="utf-8"))
    done["images_per_second_in_training"] = round(summary["images_seen"] / summary["seconds"], 1)

    processes = max(1, torch.cuda.device_count()) if device.type == "cuda" else 2
    launch = "multi_gpu.yaml" if device.type == "cuda" else "two_cpu_processes.yaml"
    launched = [
        "--config_file",
        str(LAUNCH / launch),
        "--num_processes",
        str(processes),
        "-m",
        "medmnist_diffusion.cli",
    ]
    few = [*training[:2], "--output_dir", str(folder / "launched"), "--report_to", "none", "--max_train_steps", "6"]
    begin = [sys.executable, "-m", "accelerate.commands.launch", *launched]
    done[launch] = timed(lambda: run([*begin, "train", *few]))

    pipeline = folder / "run" / "pipeline"
    reference = images_on(pipeline, lambda pipe: None)
    done["device_off_by"] = off_by(reference, images_on(pipeline, lambda pipe: pipe.to(device)))
    if device.type == "cuda":
        done["offloaded_off_by"] = off_by(reference, images_on(pipeline, lambda pipe: pipe.enable_model_cpu_offload()))
    count = "4" if tiny else "1000"
    sample = [*tool, "sample", str(pipeline), "--num_images", count, "--output", str(folder / "images.npz")]
    done["sample"] = timed(lambda: run(sample))
    evaluation = [*tool, "evaluate", str(pipeline), "--dataset", "phantom", "--num_images", "40" if tiny else "1000"]
    done["evaluate"] = timed(lambda: run(evaluation))
    return done


def images_on(folder: Path, place: Callable[[Any], Any]) -> np.ndarray:
    """Grey levels of a few images of the pipeline, after it was placed."""
    pipe: Any = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    place(pipe)
    generators = [torch.Generator().manual_seed(seed) for seed in range(8)]
    made = pipe([0] * 8, generator=generators, timesteps=pipe.fast_timesteps(10), output_type="np").images
    return np.asarray(made * 255, np.float64)


def off_by(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference.

    Raises:
        UserError: if it is more than rounding.
    """
    largest = float(np.abs(one - other).max())
    if largest > OFF_BY:
        raise UserError(f"images of this device differ from the CPU's by {largest:.1f} grey levels.")
    return round(largest, 3)


def run(command: Sequence[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        raise UserError(f"{' '.join(command[1:])} ended with {done.returncode}: {done.stderr[-500:]}")


def timed(work: Callable[[], None]) -> float:
    """Seconds that it took."""
    start = time.monotonic()
    work()
    return round(time.monotonic() - start, 1)


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_gib(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0


if __name__ == "__main__":
    sys.exit(run_command(main))
