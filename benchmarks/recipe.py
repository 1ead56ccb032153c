"""The default recipe and its neighbours, one change at a time, several seeds each, for the same training time.

    python benchmarks/recipe.py --seconds 120 --seeds 3              # PneumoniaMNIST from $MEDMNIST_ROOT

Each run has one core to itself, as many run at once as there are cores, and all of a seed's arms run before the next seed's. It is
judged by 1,000 images with the default sampler: Fréchet distance to train in both spaces, label accuracy,
memorized share. Runs that stand in the result file already are not done again, so that an interrupted
benchmark goes on, and a longer list of arms adds to it.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from dataset_arguments import add_dataset_arguments
from judging import RESULTS, SPACES, dataset_options, drawn_labels, judge, kept_result, summary_line, train_quietly
from tqdm import tqdm

from medmnist_diffusion.data import load_dataset
from medmnist_diffusion.diffusion.sampling import generate, load_pipeline
from medmnist_diffusion.errors import run_command
from medmnist_diffusion.files import write_json
from medmnist_diffusion.metrics.classifier import real_data_classifier
from medmnist_diffusion.processes import available_cores
from medmnist_diffusion.studies.workers import Workers, absolute_source, run_tasks

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


def run(dataset: str, root: str | None, size: int | None, seconds: float, arm: str, seed: int) -> dict[str, Any]:
    """One arm with one seed, in this process."""
    loaded = load_dataset(dataset, root, size)
    with tempfile.TemporaryDirectory() as folder:
        budget = ["--max_train_minutes", str(seconds / 60)]
        options = [*budget, "--seed", str(seed), *dataset_options(root, size), *ARMS[arm]]
        pipeline, summary = train_quietly(dataset, Path(folder), options)
        labels = drawn_labels(loaded.train.labels, IMAGES, seed)
        images = generate(load_pipeline(pipeline), labels, seed=seed)
    speed = summary["images_seen"] / summary["seconds"]
    return {"arm": arm, "seed": seed, "images_per_second": speed, **judge(loaded, images, labels)}


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add_dataset_arguments(parser, default="pneumoniamnist")
    parser.add_argument(
        "--seconds", type=float, default=120, help="training time of each run on one core (default 120)"
    )
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="default: all")
    parser.add_argument("--output", type=Path, help="default: recipe_DATASET.json in benchmarks/results")
    args = parser.parse_args(argv)
    dataset = load_dataset(args.dataset, args.root, args.size)
    real_data_classifier(dataset)  # once, not in every run
    path = args.output or RESULTS / f"recipe_{dataset.name}.json"
    size = f" --size {args.size}" if args.size else ""
    command = f"python benchmarks/recipe.py --dataset {args.dataset}{size} --seconds {args.seconds:g}"
    result = kept_result(path, command, {"judged_images": IMAGES, "arms": {}})
    made = {(arm, done["seed"]) for arm, kept in result["arms"].items() for done in kept["runs"]}
    source = (absolute_source(args.dataset), args.root, args.size, args.seconds)
    waiting = [(*source, arm, seed) for seed in range(args.seeds) for arm in args.arms if (arm, seed) not in made]
    workers = Workers(path.with_suffix(".log"), len(available_cores()))
    with tqdm(total=len(waiting), unit="run") as bar:
        for done in run_tasks(run, waiting, workers, bar):
            arm = done.pop("arm")
            result["arms"].setdefault(arm, {"options": ARMS[arm], "runs": []})["runs"].append(done)
            write_json(path, result)
            bar.write(f"{arm}, seed {done['seed']}: {done['images_per_second']:.0f} images/s, {summary_line(done)}")
    path.with_suffix(".log").unlink(missing_ok=True)
    for name, arm in result["arms"].items():
        figures = []
        for space in SPACES:
            values = [done[space]["frechet_distance"] for done in arm["runs"]]
            spread = np.std(values, ddof=1) if len(values) > 1 else 0
            figures.append(f"{space} {np.mean(values):.3g} ± {spread:.2g}")
        print(f"{name}: Fréchet distance {', '.join(figures)}")


if __name__ == "__main__":
    sys.exit(run_command(main))
