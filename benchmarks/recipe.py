"""The default recipe and its neighbours, one change at a time, several seeds each, for the same training time.

    python benchmarks/recipe.py --seconds 240 --seeds 3              # PneumoniaMNIST from $MEDMNIST_ROOT
    python benchmarks/recipe.py --dataset ../shared/data/own/pbc_blood_28.npz --seconds 240 --arms default contrastive
    python benchmarks/recipe.py --table                              # of all results/recipe_*.json, as Markdown, for docs/speed.md

Each run has one core to itself, as many run at once as there are cores, and all of a seed's arms run before the next seed's. It is
judged by 1,000 images with the default sampler: Fréchet distance to train in both spaces, label accuracy, memorized share. Runs
that stand in the result file already are not done again, so that an interrupted benchmark goes on, and a longer list of arms adds
to it. The arm `guided` draws from the default's training with guidance of two kinds: by the unknown class, and by a weaker
network, a default of an eighth of the time, which is trained beside it.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from changes import Change, CoupledByClass, CoupledNoise, NearestNoise, contrastive_loss, guide_by
from judging import RESULTS
from trainings import Row, judge_pipeline, run_trainings, train_cell, trainings_parser

from medmnist_diffusion.diffusion.sampling import load_pipeline
from medmnist_diffusion.errors import run_command


class Arm(NamedTuple):
    """Words of `train`, and a change that no word makes."""

    options: Sequence[str] = ()
    change: Change = Change()


ARMS: dict[str, Arm] = {
    "default": Arm(),
    "wider (48, 64)": Arm(["--block_out_channels", "48", "64"]),
    "wider (64, 96)": Arm(["--block_out_channels", "64", "96"]),
    "wider (96, 128)": Arm(["--block_out_channels", "96", "128"]),
    "two layers": Arm(["--layers_per_block", "2"]),
    "three blocks": Arm(["--block_out_channels", "32", "64", "64"]),
    "attention": Arm(["--attention"]),
    "adamw": Arm(["--optimizer", "adamw"]),
    "uniform timesteps": Arm(["--timestep_sampling", "uniform"]),
    "no label dropout": Arm(["--label_dropout", "0"]),
    "no average": Arm(["--use_ema", "False"]),
    "short average": Arm(["--ema_decay", "0.95"]),
    "linear decay": Arm(["--lr_scheduler", "linear"]),
    "batch 32": Arm(["--train_batch_size", "32"]),
    "batch 128": Arm(["--train_batch_size", "128"]),
    "half the rates": Arm(["--learning_rate", "2e-3", "--muon_learning_rate", "0.01"]),
    "min-SNR": Arm(["--snr_gamma", "5"]),
    "epsilon": Arm(["--prediction_type", "epsilon"]),
    "velocity": Arm(["--prediction_type", "v_prediction"]),
    "image": Arm(["--prediction_type", "sample"]),
    "huber": Arm(["--loss_type", "huber", "--huber_delta", "0.1"]),
    "no unshuffle": Arm(["--pixel_unshuffle", "1"]),
    "unshuffle 2": Arm(["--pixel_unshuffle", "2"]),
    "unshuffle 4": Arm(["--pixel_unshuffle", "4"]),
    "dropout": Arm(["--dropout", "0.1"]),
    "contrastive": Arm(change=Change(loss=contrastive_loss)),
    "nearest noise": Arm(change=Change(batches=NearestNoise)),
    "coupled noise": Arm(change=Change(batches=CoupledNoise)),
    "coupled by class": Arm(change=Change(batches=CoupledByClass)),
    "more noise": Arm(change=Change(log_snr_shift=-1.0)),
    "less noise": Arm(change=Change(log_snr_shift=1.0)),
    "guided": Arm(),
}
WEAKER = 1 / 8  # of the time
GUIDED_BY_CLASS, GUIDED_BY_WEAKER = (1.1, 1.2, 1.5), (1.2, 1.5, 2.0)
FIGURES: dict[str, Callable[[Row], float]] = {
    "classifier": lambda row: row["classifier"]["frechet_distance"],
    "texture": lambda row: row["texture"]["frechet_distance"],
    "right label": lambda row: row.get("label_accuracy", np.nan),
    "memorized": lambda row: row["memorized_share"],
    "images/s": lambda row: row["images_per_second"],
}


def run(args: argparse.Namespace, cell: Row) -> Iterator[Row]:
    """One arm with one seed."""
    with tempfile.TemporaryDirectory() as folder:
        arm = ARMS[cell["arm"]]
        with arm.change.made():
            pipeline, speed = _trained(args, cell, f"{folder}/run", args.seconds)
        if cell["arm"] != "guided":
            yield {"images_per_second": speed, **judge_pipeline(args, load_pipeline(pipeline), cell["seed"])}
            return
        weaker = load_pipeline(_trained(args, cell, f"{folder}/weaker", WEAKER * args.seconds)[0])
        for how, pipe in _guided(pipeline, weaker):
            yield {"sampled": how, "images_per_second": speed, **judge_pipeline(args, pipe, cell["seed"])}


def _trained(args: argparse.Namespace, cell: Row, folder: str, seconds: float) -> tuple[Path, float]:
    budget = ["--max_train_minutes", str(seconds / 60)]
    pipeline, summary = train_cell(args, cell["seed"], folder, [*budget, *cell["options"]])
    return pipeline, summary["images_seen"] / summary["seconds"]


def _guided(pipeline: Path, weaker: Any) -> Iterator[tuple[str, Any]]:
    """The same pipeline drawn from in several ways; the first is its own."""
    yield "plain", load_pipeline(pipeline)
    for scale in GUIDED_BY_CLASS:
        pipe = load_pipeline(pipeline)
        pipe.register_to_config(default_guidance_scale=scale)
        yield f"guided by class, {scale}", pipe
    for scale in GUIDED_BY_WEAKER:
        pipe = load_pipeline(pipeline)
        guide_by(pipe, weaker, scale)
        yield f"guided by weaker, {scale}", pipe


def name_of(row: Row) -> str:
    return f"{row['arm']}: {row['sampled']}" if "sampled" in row else str(row["arm"])


def table(results: dict[str, list[Row]]) -> Iterator[str]:
    """Of every set and arm the mean over seeds, ± their standard deviation."""
    yield f"| set | arm | seeds | {' | '.join(FIGURES)} |"
    yield "| --- " * (3 + len(FIGURES)) + "|"
    for name, rows in results.items():
        for arm in dict.fromkeys(map(name_of, rows)):
            those = [row for row in rows if name_of(row) == arm]
            values = [[figure(row) for row in those] for figure in FIGURES.values()]
            shown = [f"{np.mean(one):.3g} ± {np.std(one, ddof=1) if len(one) > 1 else 0:.2g}" for one in values]
            yield f"| {name} | {arm} | {len(those)} | {' | '.join(shown)} |"


def kept_results() -> dict[str, list[Row]]:
    """The rows of every result file, by its set's name."""
    files = sorted(RESULTS.glob("recipe_*.json"))
    return {path.stem.removeprefix("recipe_"): json.loads(path.read_text(encoding="utf-8"))["runs"] for path in files}


def main(argv: Sequence[str]) -> None:
    parser = trainings_parser(__doc__)
    parser.add_argument(
        "--seconds", type=float, default=240, help="training time of each run on one core (default 240)"
    )
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="default: all")
    parser.add_argument("--table", action="store_true", help="print the table of the results that are there")
    args = parser.parse_args(argv)
    if not args.table:
        cells = [
            {"arm": arm, "options": list(ARMS[arm].options), "seed": seed}
            for seed in range(args.seeds)
            for arm in args.arms
        ]
        rows = run_trainings("recipe", f"--seconds {args.seconds:g}", args, cells, run)
    print("\n".join(table(kept_results() if args.table else {str(args.dataset): rows})))


if __name__ == "__main__":
    sys.exit(run_command(main))
