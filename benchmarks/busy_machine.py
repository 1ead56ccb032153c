"""Beside busy neighbours: what training, sampling and evaluation lose, with threads that wait awake and with threads that sleep.

    python benchmarks/busy_machine.py        # 25 minutes of a machine that does nothing else

Neighbours are processes that compute without end, as many as 0, 1 and 2. Each figure is the median time of a piece of work in a
process of its own (a training step of the default recipe; a step of its network on 64 images that are sampled; a step of the
evaluation's classifier), over rounds in which the two ways of waiting take turns: three times as many on the idle machine, where
the difference is small. The fair share of one of n + 1 processes is 1 / (n + 1) of the cores, so that n + 1 times the idle
machine's time is fair. What the sleeping costs an idle machine is the median, over rounds, of one time of the pair ÷ the other.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medmnist_diffusion.errors import run_command
from medmnist_diffusion.files import write_json

RESULT = Path(__file__).parent / "results" / "busy_machine.json"
WAYS = {
    "before": {},
    "after": {"GOMP_SPINCOUNT": "6000"},
}  # medmnist_diffusion/waiting.py, which is not imported: it would set it
NEIGHBOURS, STEPS, MOST_SECONDS, IDLE = (0, 1, 2), 25, 40.0, 3  # IDLE: times as many rounds


def training_steps() -> list[float]:
    """Seconds of each step: the default recipe on phantom images."""
    from medmnist_diffusion.data import load_dataset
    from medmnist_diffusion.diffusion.batches import TrainingBatches
    from medmnist_diffusion.diffusion.loss import diffusion_loss
    from medmnist_diffusion.training.config import training_config
    from medmnist_diffusion.training.setup import build_network, build_objective

    dataset, config = load_dataset("phantom"), training_config(dataset="phantom", output_dir="unused")
    network, objective = build_network(config, dataset), build_objective(config, dataset)
    batches = TrainingBatches(
        dataset.train, config.train_batch_size, 0, config.num_train_timesteps, dataset.conditioning
    )

    def step(number: int) -> None:
        diffusion_loss(network, batches[number], objective).weighted.mean().backward()
        network.zero_grad()

    return _timed(step)


def sampling_steps() -> list[float]:
    """Seconds of each step of a sampler: the default network, 64 images."""
    import torch

    from medmnist_diffusion.data import load_dataset
    from medmnist_diffusion.training.config import training_config
    from medmnist_diffusion.training.setup import build_network, build_objective

    dataset, config = load_dataset("phantom"), training_config(dataset="phantom", output_dir="unused")
    network, objective = build_network(config, dataset).eval(), build_objective(config, dataset)
    latents = torch.randn(64, *objective.encoder.padded_shape)
    latents, labels = objective.encoder.encode(latents), torch.zeros(64, dtype=torch.long)

    @torch.no_grad()
    def step(number: int) -> None:
        network(latents, 900, labels)

    return _timed(step)


def evaluation_steps() -> list[float]:
    """Seconds of each training step of the classifier that evaluation trains."""
    import torch
    import torch.nn.functional as F

    from medmnist_diffusion.metrics.classifier import SmallCNN

    network, images, labels = SmallCNN(1, 4), torch.rand(128, 1, 28, 28), torch.arange(128) % 4

    def step(number: int) -> None:
        F.cross_entropy(network(images), labels).backward()
        network.zero_grad()

    return _timed(step)


WORK = {"training": training_steps, "sampling": sampling_steps, "evaluation": evaluation_steps}


def _timed(step: Any) -> list[float]:
    took: list[float] = []
    began = time.monotonic()
    while len(took) < STEPS + 2 and (len(took) < 4 or time.monotonic() - began < MOST_SECONDS):
        start = time.monotonic()
        step(len(took))
        took.append(time.monotonic() - start)
    return took[2:]


def seconds_a_step(work: str, way: str) -> float:
    """The median, in a new process."""
    command = [sys.executable, __file__, "--work", work]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    done = subprocess.run(command, env=environment | WAYS[way], capture_output=True, text=True, check=True)
    return float(np.median(json.loads(done.stdout)))


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--work", choices=WORK, help="Do this work and print its times: for a process of its own.")
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args(argv)
    if args.work:
        from medmnist_diffusion.processes import start_processes

        start_processes()
        print(json.dumps(WORK[args.work]()))
        return
    from medmnist_diffusion.diffusion.machine import describe_machine

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    rows: list[dict[str, Any]] = []
    for count in NEIGHBOURS:
        busy = f"import os\nwhile os.getppid() == {os.getpid()}: sum(range(1000))"  # not longer than this process
        neighbours = [subprocess.Popen([sys.executable, "-c", busy]) for _ in range(count)]
        try:
            for work in WORK:
                times = args.rounds * (1 if count else IDLE)
                # Every other round begins with the other way: what comes first may find a cooler machine.
                rounds = [
                    {way: seconds_a_step(work, way) for way in list(WAYS)[:: (1, -1)[at % 2]]} for at in range(times)
                ]
                row: dict[str, Any] = {
                    "work": work,
                    "neighbours": count,
                    "seconds_a_step": {way: [one[way] for one in rounds] for way in WAYS},
                }
                rows.append(row)
                print(json.dumps(row), flush=True)
        finally:
            for neighbour in neighbours:
                neighbour.kill()
    for done in rows:
        idle = next(one for one in rows if one["work"] == done["work"] and one["neighbours"] == 0)
        fair = np.median(idle["seconds_a_step"]["before"]) * (done["neighbours"] + 1)
        before, after = (np.array(done["seconds_a_step"][way]) for way in WAYS)
        done["after_to_before"] = round(float(np.median(after / before)), 3)
        done["of_the_fair_time"] = {
            way: round(float(np.median(done["seconds_a_step"][way]) / fair), 3) for way in WAYS
        }
        print(
            f"{done['work']}, {done['neighbours']} neighbours: {done['of_the_fair_time']}, pairs {done['after_to_before']}"
        )
    write_json(
        RESULT,
        {"command": "python benchmarks/busy_machine.py", "machine": describe_machine(), "cores": cores, "rows": rows},
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
