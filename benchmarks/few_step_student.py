"""Can four steps do what ten do? A student is distilled from a trained pipeline and judged beside it.

    python benchmarks/few_step_student.py runs/pneumonia/pipeline --minutes 10

The student is the teacher's network, trained on so that one DDIM step goes where several of the teacher's DPM-Solver++ steps
go, for the few noise levels at which it will be used (the last round of progressive distillation, Salimans & Ho 2022, arXiv
2202.00512, in one go, on the teacher's own paths). It stays a stock UNet2DModel with a stock DDIMScheduler in the same pipeline
class. It would become a part of the package if it kept the Fréchet distances within 10 % of the teacher's. What the result file
says of this very teacher already is not measured again.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from dataset_arguments import add_dataset_arguments
from diffusers import DDIMScheduler
from judging import RESULTS, drawn_labels, judge
from tqdm import tqdm
from trainings import Row, run_missing

from medmnist_diffusion.data import load_dataset
from medmnist_diffusion.diffusion.folder_check import WEIGHTS
from medmnist_diffusion.diffusion.optimizers import build_optimizers
from medmnist_diffusion.diffusion.samplers import DEFAULT_SAMPLER, DEFAULT_STEPS
from medmnist_diffusion.diffusion.sampling import generate_images, load_pipeline, set_sampler
from medmnist_diffusion.errors import run_command
from medmnist_diffusion.files import file_hash
from medmnist_diffusion.processes import start_processes

STUDENT_STEPS, TEACHER_STEPS = 4, 20
BATCH, LEARNING_RATE, MUON_LEARNING_RATE = 64, 1e-3, 0.005
JUDGED = 1000
STUDENT = "student, DDIM"


@torch.no_grad()
def teacher_paths(pipe: Any, labels: np.ndarray, times: list[int], seed: int) -> list[torch.Tensor]:
    """The states of the teacher's paths at `times`, and at their end: each N×C×H×W."""
    solver = pipe.scheduler
    grid = sorted({*pipe.fast_timesteps(TEACHER_STEPS), *times}, reverse=True)
    states: list[list[torch.Tensor]] = [[] for _ in range(len(times) + 1)]
    config, generator = pipe.unet.config, torch.Generator().manual_seed(seed)
    for start in tqdm(range(0, len(labels), 128), desc="teacher's paths", unit="batch"):
        batch = torch.from_numpy(labels[start : start + 128])
        x = torch.randn(len(batch), config.in_channels, config.sample_size, config.sample_size, generator=generator)
        solver.set_timesteps(timesteps=grid)
        for time_now in solver.timesteps:
            if int(time_now) in times:
                states[times.index(int(time_now))].append(x)
            prediction = pipe.unet(x, time_now, class_labels=batch).sample
            x = solver.step(prediction, time_now, x).prev_sample
        states[-1].append(x)
    return [torch.cat(state) for state in states]


def v_targets(states: list[torch.Tensor], times: list[int], alphas_cumprod: torch.Tensor) -> list[torch.Tensor]:
    """The v with which one DDIM step leads from each state to the next."""
    alphas = [float(alphas_cumprod[t].sqrt()) for t in times] + [1.0]
    sigmas = [float((1 - alphas_cumprod[t]).sqrt()) for t in times] + [0.0]
    targets = []
    for k in range(len(times)):
        ratio = sigmas[k + 1] / sigmas[k]
        clean = (states[k + 1] - ratio * states[k]) / (alphas[k + 1] - alphas[k] * ratio)
        targets.append((alphas[k] * states[k] - clean) / sigmas[k])
    return targets


def distil(unet: Any, states: list[torch.Tensor], targets: list[torch.Tensor], labels: np.ndarray, times: list[int],
           minutes: float) -> int:  # fmt: skip
    """Train `unet` in place; returns the number of steps."""
    optimizers = build_optimizers(unet, "muon", LEARNING_RATE, MUON_LEARNING_RATE, 0.0)
    full_rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    rng, began, steps = np.random.default_rng(0), time.monotonic(), 0
    all_labels, levels = torch.from_numpy(labels), torch.tensor(times)
    unet.train()
    while (spent := (time.monotonic() - began) / (60 * minutes)) < 1:
        groups = [group for optimizer in optimizers for group in optimizer.param_groups]
        for group, full in zip(groups, full_rates, strict=True):
            group["lr"] = full * (0.5 + 0.5 * np.cos(np.pi * spent)) * min(1.0, (steps + 1) / 100)
        rows, which = rng.integers(len(labels), size=BATCH), np.arange(BATCH) % len(times)
        inputs = torch.stack([states[k][row] for k, row in zip(which, rows, strict=True)])
        wanted = torch.stack([targets[k][row] for k, row in zip(which, rows, strict=True)])
        with torch.autocast("cpu", torch.bfloat16):
            prediction = unet(inputs, levels[which], class_labels=all_labels[rows]).sample
        F.mse_loss(prediction.float(), wanted).backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        steps += 1
    unet.eval()
    return steps


def make_student(pipe: Any, all_labels: np.ndarray, num_paths: int, minutes: float) -> int:
    """Teach the pipeline's network, in place, to do with `STUDENT_STEPS` DDIM steps; returns the number of optimizer steps.

    Args:
        all_labels: of the training images; the paths' labels have their shares.
    """
    labels = np.random.default_rng(1).choice(all_labels, num_paths)
    times = [round(1000 * (1 - k / STUDENT_STEPS)) - 1 for k in range(STUDENT_STEPS)]  # as DDIMScheduler, trailing
    states = teacher_paths(pipe, labels, times, seed=1)
    set_sampler(pipe, "ddim")
    targets = v_targets(states, times, pipe.scheduler.alphas_cumprod)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config, clip_sample=False)  # as the targets are
    return distil(pipe.unet, states, targets, labels, times, minutes)


def run(args: argparse.Namespace, cell: Row) -> Iterator[Row]:
    """The teacher with one sampler, or the student, which is trained first."""
    dataset = load_dataset(args.dataset, args.root, args.size)
    pipe = load_pipeline(args.pipeline)
    pipe.set_progress_bar_config(disable=True)
    facts = {}
    if cell["sampler"] == STUDENT:
        facts["optimizer_steps"] = make_student(pipe, dataset.train.labels, args.num_paths, args.minutes)
    elif cell["sampler"] == "teacher, DDIM":
        set_sampler(pipe, "ddim")
    labels = drawn_labels(dataset.train.labels, JUDGED)
    began = time.monotonic()
    images = generate_images(pipe, labels, cell["steps"])
    yield {**facts, "images_per_second": JUDGED / (time.monotonic() - began), **judge(dataset, images)}


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("pipeline", type=Path)
    add_dataset_arguments(parser, default="pneumoniamnist")
    parser.add_argument("--minutes", type=float, default=10, help="of the student's training (default 10)")
    parser.add_argument("--num_paths", type=int, default=20_000)
    parser.add_argument(
        "--output", type=Path, help="a file (default: few_step_student_DATASET.json in benchmarks/results)"
    )
    args = parser.parse_args(argv)
    start_processes()
    teacher = {"teacher": file_hash(args.pipeline / WEIGHTS)[:16]}
    cells = [
        {"sampler": "teacher, DPM-Solver++", "steps": DEFAULT_STEPS[DEFAULT_SAMPLER], **teacher},
        {"sampler": "teacher, DDIM", "steps": STUDENT_STEPS, **teacher},
        {"sampler": STUDENT, "steps": STUDENT_STEPS, "paths": args.num_paths, **teacher},
    ]
    name = load_dataset(args.dataset, args.root, args.size).name
    path = args.output or RESULTS / f"few_step_student_{name}.json"
    command = f"python benchmarks/few_step_student.py PIPELINE --dataset {args.dataset} --minutes {args.minutes:g}"
    run_missing(path, {"command": command, "judged_images": JUDGED}, args, cells, run)


if __name__ == "__main__":
    sys.exit(run_command(main))
