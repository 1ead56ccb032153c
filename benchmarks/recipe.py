"""The default recipe and its neighbours, one change at a time, several seeds each, for the same training time.

    python benchmarks/recipe.py --seconds 120 --seeds 3              # PneumoniaMNIST from $MEDMNIST_ROOT

Each run has one core to itself, as many run at once as there are cores, and all of a seed's arms run before the next seed's. It is
judged by 1,000 images with the default sampler: Fréchet distance to train in both spaces, label accuracy,
memorized share. Runs that stand in the result file already are not done again, so that an interrupted
benchmark goes on, and a longer list of arms adds to it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from threading import Lock
from typing import Any

import numpy as np
from dataset_arguments import add_dataset_arguments
from judging import RESULTS, SPACES, dataset_options, drawn_labels, judge, summary_line, train_quietly

from medmnist_diffusion.data import load_dataset
from medmnist_diffusion.diffusion.sampling import generate, load_pipeline
from medmnist_diffusion.errors import UserError, run_command
from medmnist_diffusion.files import write_json
from medmnist_diffusion.metrics.classifier import real_data_classifier

ARMS: dict[str, list[str]] = {
    "default": [],
    "wider (48, 64)": ["--block_out_channels", "48", "64"],
    "wider (64, 96)": ["--block_out_channels", "64", "96"],
    "two layers": ["--layers_per_block", "2"],
    "attention": ["--attention"],
    "adamw": ["--optimizer", "adamw"],
    "uniform timesteps": ["--timestep_sampling", "uniform"],
    "no label dropout": ["--label_dropout", "0"],
    "no average": ["--use_ema", "False"],
    "short average": ["--ema_decay", "0.95"],
    "linear decay": ["--lr_scheduler", "linear"],
    "batch 32": ["--train_batch_size", "32"],
    "batch 128": ["--train_batch_size", "128"],
    "half the rates": ["--learning_rate", "2e-3", "--muon_learning_rate", "0.01"],
    "min-SNR": ["--snr_gamma", "5"],
    "epsilon": ["--prediction_type", "epsilon"],
    "huber": ["--loss_type", "huber", "--huber_delta", "0.1"],
    "no unshuffle": ["--pixel_unshuffle", "1"],
}
IMAGES = 1000


def run(args: argparse.Namespace) -> None:
    """One arm with one seed, in this process; the result goes to --output."""
    dataset = load_dataset(args.dataset, args.root, args.size)
    with tempfile.TemporaryDirectory() as folder:
        budget = ["--max_train_minutes", str(args.seconds / 60)]
        options = [*budget, "--seed", str(args.seed), *dataset_options(args), *ARMS[args.run]]
        pipeline, summary = train_quietly(args.dataset, Path(folder), options)
        labels = drawn_labels(dataset.train.labels, IMAGES, args.seed)
        images = generate(load_pipeline(pipeline), labels, seed=args.seed)
    result = {
        "seed": args.seed,
        "images_per_second": summary["images_seen"] / summary["seconds"],
        **judge(dataset, images, labels),
    }
    write_json(args.output, result)


def run_apart(args: argparse.Namespace, arm: str, seed: int, core: int) -> dict[str, Any]:
    """`run` in a process of its own on one core."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.json"
        command = [
            sys.executable, __file__, "--run", arm, "--seed", str(seed), "--output", str(output),
            "--dataset", args.dataset, "--seconds", str(args.seconds), *dataset_options(args),
        ]  # fmt: skip
        # Pinned before Python starts: threads that libraries make on import obey it, too.
        if hasattr(os, "sched_setaffinity"):
            command = ["taskset", "-c", str(core), *command]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{arm}, seed {seed} failed: {done.stderr[-500:]}")
        return json.loads(output.read_text(encoding="utf-8"))


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add_dataset_arguments(parser, default="pneumoniamnist")
    parser.add_argument(
        "--seconds", type=float, default=120, help="training time of each run on one core (default 120)"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="default: all")
    parser.add_argument("--output", type=Path, help="default: recipe_DATASET.json in benchmarks/results")
    for name, kind in (("run", str), ("seed", int)):
        parser.add_argument(f"--{name}", type=kind, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.run is not None:
        run(args)
        return
    dataset = load_dataset(args.dataset, args.root, args.size)
    real_data_classifier(dataset)  # once, not in every run
    path = args.output or RESULTS / f"recipe_{dataset.name}.json"
    size = f" --size {args.size}" if args.size else ""
    command = f"python benchmarks/recipe.py --dataset {args.dataset}{size} --seconds {args.seconds:g}"
    result: dict[str, Any] = {"command": command, "judged_images": IMAGES, "arms": {}}
    if path.is_file():
        result = json.loads(path.read_text(encoding="utf-8"))
        if result["command"] != command:
            raise UserError(f"{path} holds the results of `{result['command']}`. Give another --output, or remove it.")
    cores: SimpleQueue[int] = SimpleQueue()
    for core in sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]:
        cores.put(core)
    lock = Lock()

    def work(arm: str, seed: int) -> None:
        core = cores.get()
        try:
            done = run_apart(args, arm, seed, core)
        finally:
            cores.put(core)
        with lock:
            result["arms"].setdefault(arm, {"options": ARMS[arm], "runs": []})["runs"].append(done)
            write_json(path, result)
            print(f"{arm}, seed {seed}: {done['images_per_second']:.0f} images/s, {summary_line(done)}", flush=True)

    with ThreadPoolExecutor(cores.qsize()) as pool:
        waiting = [
            pool.submit(work, arm, seed)
            for seed in range(args.seeds)
            for arm in args.arms
            if all(done["seed"] != seed for done in result["arms"].get(arm, {"runs": []})["runs"])
        ]
        try:
            for future in waiting:
                future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)  # else every run that waits would still be done
            raise
    for name, arm in result["arms"].items():
        figures = []
        for space in SPACES:
            values = [done[space]["frechet_distance"] for done in arm["runs"]]
            spread = np.std(values, ddof=1) if len(values) > 1 else 0
            figures.append(f"{space} {np.mean(values):.3g} ± {spread:.2g}")
        print(f"{name}: Fréchet distance {', '.join(figures)}")


if __name__ == "__main__":
    sys.exit(run_command(main))
