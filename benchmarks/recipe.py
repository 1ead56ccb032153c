"""The default recipe and its neighbours, one change at a time, several seeds each, for the same training time.

    python benchmarks/recipe.py --seconds 120 --seeds 3              # PneumoniaMNIST from $MEDMNIST_ROOT

Each run has one core to itself, as many run at once as there are cores, and all of a seed's arms run before the next seed's. It is
judged by 1,000 images with the default sampler: Fréchet distance to train in both spaces, label accuracy, memorized share. Runs
that stand in the result file already are not done again, so that an interrupted benchmark goes on, and a longer list of arms adds
to it.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence

import numpy as np
from judging import SPACES
from trainings import Row, judge_pipeline, run_trainings, train_cell, trainings_parser

from medmnist_diffusion.diffusion.sampling import load_pipeline
from medmnist_diffusion.errors import run_command

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


def run(args: argparse.Namespace, cell: Row) -> Iterator[Row]:
    """One arm with one seed."""
    budget = ["--max_train_minutes", str(args.seconds / 60)]
    with tempfile.TemporaryDirectory() as folder:
        pipeline, summary = train_cell(args, cell["seed"], folder, [*budget, *cell["options"]])
        speed = summary["images_seen"] / summary["seconds"]
        yield {"images_per_second": speed, **judge_pipeline(args, load_pipeline(pipeline), cell["seed"])}


def main(argv: Sequence[str]) -> None:
    parser = trainings_parser(__doc__)
    parser.add_argument(
        "--seconds", type=float, default=120, help="training time of each run on one core (default 120)"
    )
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="default: all")
    args = parser.parse_args(argv)
    cells = [{"arm": arm, "options": ARMS[arm], "seed": seed} for seed in range(args.seeds) for arm in args.arms]
    rows = run_trainings("recipe", f"--seconds {args.seconds:g}", args, cells, run)
    for arm in dict.fromkeys(row["arm"] for row in rows):
        figures = []
        for space in SPACES:
            values = [row[space]["frechet_distance"] for row in rows if row["arm"] == arm]
            spread = np.std(values, ddof=1) if len(values) > 1 else 0
            figures.append(f"{space} {np.mean(values):.3g} ± {spread:.2g}")
        print(f"{arm}: Fréchet distance {', '.join(figures)}")


if __name__ == "__main__":
    sys.exit(run_command(main))
