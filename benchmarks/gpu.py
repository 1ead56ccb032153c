"""What a GPU makes of the default recipe: speed and memory by image size, with and without torch.compile; and that all parts work.

    python benchmarks/gpu.py --output gpu.json     # at most 8 minutes on a GPU; default: results/gpu_NAME.json
    python benchmarks/gpu.py --tiny                # the same parts on a CPU: that they run, not how fast. Nothing is written

Speed is that of forward and backward pass, as `train` makes them, in bfloat16, the median over seconds, beside the rate of square
matrix products, the most that the device gives. The parts: a training by the command and by the launch file, its pipeline on the
device and offloaded against the same on the CPU, sampling, evaluation. The file is written after every part, and what failed is
named in it: a run that is cut leaves what it has. After six minutes no further size is begun.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
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
LAST_BEGIN = 360.0  # seconds after the start
LONGEST = 150.0  # seconds of a part
OFF_BY = 4  # grey levels between devices, at most, of an image in ten steps


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--tiny", action="store_true", help="on whatever is there, without writing a result")
    parser.add_argument("--output", type=Path, help="a file (default: gpu_NAME.json in benchmarks/results)")
    args = parser.parse_args(argv)
    if not args.tiny and not torch.cuda.is_available():
        raise UserError("there is no CUDA device here. --tiny tries the parts on the CPU.")
    start_processes()
    began = time.monotonic()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    result: dict[str, Any] = {"command": "python benchmarks/gpu.py", "machine": describe_machine()}
    name = re.sub(r"\W+", "_", kind_of_machine()).lower()
    path = args.output or RESULTS / f"gpu_{name}.json"

    def keep() -> None:
        result["seconds"] = round(time.monotonic() - began, 1)
        if not args.tiny:
            write_json(path, result)

    result["matmul_tflops"] = matmul_gflops(torch.bfloat16, 256 if args.tiny else 8192, device=device.type) / 1000
    result["steps"], result["parts"] = [], {}
    with tempfile.TemporaryDirectory() as folder:  # the parts first: they are what must work
        for part, value in parts(Path(folder), device, args.tiny):
            result["parts"][part] = value
            print(part, value, flush=True)
            keep()
    for size in (28,) if args.tiny else SIZES:
        for compiled in (False, True):
            if time.monotonic() - began > LAST_BEGIN:
                result["left_out"] = [*result.get("left_out", []), f"{size} pixels, compiled: {compiled}"]
                continue
            row = speed(device, size, 4 if args.tiny else BATCHES[size], compiled, 0.5 if args.tiny else 6.0)
            row["matmul_share"] = round(row["tflops"] / result["matmul_tflops"], 3)
            result["steps"].append(row)
            print(row, flush=True)
            keep()
    if failed := [part for part, value in result["parts"].items() if isinstance(value, str)]:
        raise UserError(f"these parts failed: {', '.join(failed)}. What they said stands above.")


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
    torch._dynamo.reset()  # else the second size is compiled for any size
    network: Any = torch.compile(unet, dynamic=False) if compiled else unet
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
    first, taken, began = step(), [step()], time.monotonic()
    while time.monotonic() - began < seconds:
        taken.append(step())
    median = float(np.median(taken))
    return {
        "size": size,
        "batch": count,
        "compiled": compiled,
        "parameters": unet.num_parameters(),
        "first_step_seconds": round(first, 2),
        "images_per_second": round(count / median, 1),
        "tflops": round(count / median * gflop / 1000, 3),
        "peak_memory_gib": round(peak_gib(device), 2),
    }


def parts(folder: Path, device: torch.device, tiny: bool) -> Iterator[tuple[str, float | str]]:
    """Every step of a user's, on this device: its name, and its seconds or another figure; or what went wrong."""
    tool = [sys.executable, "-m", "medmnist_diffusion.cli"]
    budget = ["--max_train_steps", "6"] if tiny else ["--max_train_minutes", "1"]
    training = ["--dataset", "phantom", "--output_dir", str(folder / "run"), "--report_to", "none", *budget]
    yield "train", timed([*tool, "train", *training])
    yield "images_per_second_in_training", tried(lambda: speed_of_training(folder / "run" / "pipeline"))

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
    yield launch, timed([*begin, "train", *few])

    pipeline = folder / "run" / "pipeline"
    yield "device_off_by", tried(lambda: off_by(pipeline, lambda pipe: pipe.to(device)))
    if device.type == "cuda":
        yield "offloaded_off_by", tried(lambda: off_by(pipeline, lambda pipe: pipe.enable_model_cpu_offload()))
    count = "4" if tiny else "1000"
    sample = [*tool, "sample", str(pipeline), "--num_images", count, "--output", str(folder / "images.npz")]
    yield "sample", timed(sample)
    evaluation = [*tool, "evaluate", str(pipeline), "--dataset", "phantom", "--num_images", "120" if tiny else "1000"]
    yield "evaluate", timed(evaluation)


def speed_of_training(pipeline: Path) -> float:
    """Images a second."""
    summary = json.loads((pipeline / "training_summary.json").read_text(encoding="utf-8"))
    return round(summary["images_seen"] / summary["seconds"], 1)


def images_on(folder: Path, place: Callable[[Any], Any]) -> np.ndarray:
    """Grey levels of a few images of the pipeline, after it was placed."""
    pipe: Any = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    place(pipe)
    generators = [torch.Generator().manual_seed(seed) for seed in range(8)]
    made = pipe([0] * 8, generator=generators, timesteps=pipe.fast_timesteps(10), output_type="np").images
    return np.asarray(made * 255, np.float64)


def off_by(pipeline: Path, place: Callable[[Any], Any]) -> float:
    """The largest difference to images of the CPU, in grey levels; convolutions in whole float32, as there.

    Raises:
        UserError: if it is more than rounding.
    """
    torch.backends.cudnn.allow_tf32 = False
    largest = float(np.abs(images_on(pipeline, lambda pipe: None) - images_on(pipeline, place)).max())
    if largest > OFF_BY:
        raise UserError(f"images of this device differ from the CPU's by {largest:.1f} grey levels.")
    return round(largest, 3)


def tried(work: Callable[[], float]) -> float | str:
    """What it gives, or what went wrong."""
    try:
        return work()
    except Exception as error:  # whatever a device does, the other parts go on
        return f"{type(error).__name__}: {error}"


def timed(command: Sequence[str]) -> float | str:
    """Seconds that a command took, or its last words if it failed."""
    start, environment = time.monotonic(), {**os.environ, "HF_HUB_OFFLINE": "1"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=LONGEST)
    except subprocess.TimeoutExpired:
        return f"stopped after {LONGEST:.0f} s"
    if done.returncode:
        return f"ended with {done.returncode}: {done.stderr[-500:]}"
    return round(time.monotonic() - start, 1)


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def peak_gib(device: torch.device) -> float:
    return torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0


if __name__ == "__main__":
    sys.exit(run_command(main))
