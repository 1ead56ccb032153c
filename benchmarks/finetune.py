"""Few images: from scratch, or from a trained pipeline? And from which?

    python benchmarks/finetune.py --data ../shared/data --bases runs/bases --seeds 3
    python benchmarks/finetune.py --data ../shared/data --bases runs/bases --counts 100 --arms "dropout 0.1" "varied images"
    python benchmarks/finetune.py --table               # of results/finetune.json, as Markdown; and results/finetune.png anew

For each target set, 25, 100, 250 or 1,000 of its training images are drawn, classes in their shares. On these alone a network
trains for --steps steps: from scratch, from the pipeline of one other set (TARGETS names it), or from a base trained on several
other sets (benchmarks/base_set.py), never on the target. All arms of a target have the same network: equal steps are equal time.
Early stopping (by the held-out loss, of a fifth as many val images) chooses the weights, as a user would have it. 1,000 images of
each are judged: distances to the whole training set, label accuracy, and how many are copies of the few; and the curves of the
held-out loss say when a start from elsewhere reaches the best of the one from scratch.

The arm "base, classes alike at first" starts every class as the base's "unknown"; in all others they start at random.

Further arms are recipes for few images: dropout, a lower rate for what was taken over from a base, and varied images
(`--varied_share 0.5`).
"""

import argparse
import contextlib
import json
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from judging import RESULTS, SPACES, drawn_labels, floor, judge
from matplotlib import pyplot as plt
from matplotlib.ticker import LogLocator, NullLocator
from sets import SETS, described
from trainings import Row, Run, floors_shown, run_missing, table_head, with_spread

from medmnist_diffusion.artifacts import TrainingSummary
from medmnist_diffusion.data import ImageDataset, Split, load_dataset
from medmnist_diffusion.diffusion.loss_log import read_loss_csv
from medmnist_diffusion.diffusion.machine import describe_machine
from medmnist_diffusion.diffusion.sampling import generate_images, load_pipeline
from medmnist_diffusion.errors import UserError, run_command
from medmnist_diffusion.metrics.memorization import Threshold, nearest_copies
from medmnist_diffusion.processes import available_cores, threads_kept
from medmnist_diffusion.publish.plots import save_figure
from medmnist_diffusion.training.base import start_from
from medmnist_diffusion.training.config import training_config
from medmnist_diffusion.training.train import train

# Target → the other set whose pipeline is one of its starts; a base is of all other sets here.
TARGETS = {"pneumoniamnist": "pbc_blood_28", "pbc_blood_28": "retinamnist", "retinamnist": "pbc_blood_28"}
SCRATCH, OTHER_SET, BASE = "scratch", "other set", "base"
COUNTS = (25, 100, 250, 1000)
IMAGES, SAMPLING_STEPS = 1000, 10
RESULT = RESULTS / "finetune.json"


class Arm(NamedTuple):
    """Where a training starts from, the settings that differ from the default, and whether all classes start as "unknown"."""

    start: str
    settings: Mapping[str, float] = MappingProxyType({})
    alike: bool = False


MAIN_ARMS = {start: Arm(start) for start in (SCRATCH, OTHER_SET, BASE)}
ARMS = {
    **MAIN_ARMS,
    "dropout 0.1": Arm(SCRATCH, {"dropout": 0.1}),
    "varied images": Arm(SCRATCH, {"varied_share": 0.5}),
    "base, a third of the rate": Arm(BASE, {"pretrained_learning_rate_factor": 1 / 3}),
    "base, varied images": Arm(BASE, {"varied_share": 0.5}),
    "base, classes alike at first": Arm(BASE, alike=True),
}


def drawn(dataset: ImageDataset, count: int, seed: int) -> ImageDataset:
    """So many of its training images and a fifth as many val images (20 or more), in the shares of the classes, each there."""
    rng, splits = np.random.default_rng([seed, count]), {}
    for name, wanted in (("train", count), ("val", max(20, count // 5))):
        split = dataset.splits[name]
        shares = dataset.conditioning.stratum_shares(dataset.train.labels)
        counts = np.maximum(1, np.floor(shares * wanted).astype(int))
        splits[name] = split.subset(dataset.conditioning.draw(split.labels, counts, rng))
    return replace(dataset, name=f"{dataset.name} ({count})", splits={**dataset.splits, **splits}, notes=[])


@contextlib.contextmanager
def alike_at_first() -> Iterator[None]:
    """Trainings within it start every class as "unknown", the last row of the class embedding."""

    def start(base: Any, network: Any, *others: Any) -> Any:
        said = start_from(base, network, *others)
        with torch.no_grad():
            network.class_embedding.weight[:-1] = network.class_embedding.weight[-1]
        return said

    with mock.patch("medmnist_diffusion.training.train.start_from", start):
        yield


def start_of(args: argparse.Namespace, start: str, target: str) -> str | None:
    """The pipeline folder of a start."""
    if start == SCRATCH:
        return None
    name = TARGETS[target] if start == OTHER_SET else f"base-without-{target}"
    folder = Path(args.bases) / name
    if not folder.is_dir():
        raise UserError(f"{folder} is not there: put the pipeline there that {start!r} starts from.")
    return str(folder)


def run(args: argparse.Namespace, cell: Row) -> Iterator[Row]:
    """One arm with one seed."""
    arm = ARMS[cell["arm"]]
    with tempfile.TemporaryDirectory() as folder:
        path = described(Path(args.data) / SETS[cell["target"]], Path(folder) / "data")
        whole = load_dataset(str(path))
        few = drawn(whole, cell["count"], cell["seed"])
        config = training_config(
            dataset=cell["target"], output_dir=f"{folder}/run", max_train_steps=args.steps, seed=cell["seed"], report_to="none",
            pretrained_model_name_or_path=start_of(args, arm.start, cell["target"]), validation_steps=25, mixed_precision="auto",
            sample_steps=10**9, checkpointing_steps=10**9, **{"varied_share": 0.0, **arm.settings},
        )  # fmt: skip
        with alike_at_first() if arm.alike else contextlib.nullcontext():
            pipeline = train(config, few)
        summary = TrainingSummary.of(pipeline)
        labels = drawn_labels(whole.train.labels, IMAGES, cell["seed"])
        images = generate_images(load_pipeline(pipeline), labels, SAMPLING_STEPS, seed=cell["seed"])
        curve = [
            (row["step"], row["val_loss"])
            for row in read_loss_csv(Path(folder) / "run" / "loss.csv")
            if "val_loss" in row
        ]
    yield {
        **judge(whole, images, labels),
        **copied(few, whole, images, labels),
        "step": summary.step,
        "last_step": summary.last_step or summary.step,
        "val_loss": summary.val_loss,
        "curve": curve,
        "parameters": summary.parameters,
    }


def copied(few: ImageDataset, whole: ImageDataset, images: np.ndarray, labels: np.ndarray) -> Row:
    """How many images lie nearer to one of the few training images than 99 % of the other real images do."""
    fresh = whole.splits["val"]
    threshold = Threshold.of(nearest_copies(fresh, few.train).distances)
    near = nearest_copies(Split("judged", images, labels), few.train).distances
    return {"copied_of_few": float((near < threshold.value).mean()), "copied_floor": threshold.expected}


def arguments(
    description: str, steps: int, counts: Sequence[int], way: str, ways: Sequence[str], usual: Sequence[str]
) -> argparse.ArgumentParser:
    """The arguments of a benchmark of few images, and its default steps and counts.

    Args:
        way: what a training's recipe is called there; `ways` are all, `usual` those that run if nothing is said.
    """
    parser = argparse.ArgumentParser(description=description.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, help="the folder with medmnist/ and own/")
    parser.add_argument("--bases", type=Path, help="the folder with the pipelines to start from, by their names")
    parser.add_argument("--steps", type=int, default=steps)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--counts", nargs="+", type=int, default=list(counts))
    parser.add_argument(f"--{way}s", nargs="+", choices=ways, default=list(usual))
    parser.add_argument("--table", action="store_true", help="print the table of the results that are there")
    return parser


def measure(args: argparse.Namespace, path: Path, command: str, way: str, run: Run) -> None:
    """Run the cells of every target, count, way and seed that have no row yet; or print the table of those that have one."""
    if args.table:
        print("\n".join(markdown(json.loads(path.read_text(encoding="utf-8")), way)))
        return
    if args.data is None or args.bases is None:
        raise UserError("--data and --bases are needed.")
    args.data, args.bases = args.data.resolve(), args.bases.resolve()
    cells = [
        {"target": target, "count": count, way: one, "seed": seed}
        for seed in range(args.seeds) for target in args.targets for count in args.counts for one in getattr(args, f"{way}s")
    ]  # fmt: skip
    with threads_kept(1):
        head = {"command": f"{command} --steps {args.steps}", "machine": describe_machine(), "judged_images": IMAGES}
    head["floors"] = {name: floor(load_dataset(str(args.data / SETS[name])), IMAGES) for name in TARGETS}
    run_missing(path, head, args, cells, run, len(available_cores()))


def markdown(result: Row, way: str) -> Iterator[str]:
    """Means over seeds, with the standard deviation."""
    rows = result["runs"]
    columns: dict[str, Callable[[Row], float]] = {
        "classifier": lambda row: row["classifier"]["frechet_distance"],
        "texture": lambda row: row["texture"]["frechet_distance"],
        "right label": lambda row: row["label_accuracy"],
        "copies of the few, %": lambda row: 100 * row["copied_of_few"],
        "held-out loss": lambda row: row["val_loss"],
        "best step": lambda row: row["step"],
        "as good as scratch's best at step": lambda row: as_good_as_scratch(row, rows, way),
    }
    heads = ["target", "images", way, "seeds", *columns]
    yield from table_head(*heads)
    for target, floors in result["floors"].items():
        found = " | ".join(floors_shown(floors, SPACES))
        yield f"| {target} | | real images | | {found} |{' |' * (len(columns) - 2)}"
    for key in dict.fromkeys((row["target"], row["count"], row[way]) for row in rows):
        those = [row for row in rows if (row["target"], row["count"], row[way]) == key]
        shown = [_with_spread([figure(row) for row in those]) for figure in columns.values()]
        yield f"| {key[0]} | {key[1]:,} | {key[2]} | {len(those)} | {' | '.join(shown)} |"


def _with_spread(values: Sequence[float]) -> str:
    known = np.array(values)[np.isfinite(values)]
    if not len(known):
        return "never"
    often = "" if len(known) == len(values) else f" ({len(known)} of {len(values)})"
    return with_spread(known.tolist()) + often


def as_good_as_scratch(row: Row, rows: Sequence[Row], way: str) -> float:
    """The first step of a training whose held-out loss is as low as the lowest of the one from scratch with the same images; NaN
    where there is none."""
    same = {name: row[name] for name in ("target", "count", "seed")} | {way: SCRATCH}
    curves = [one["curve"] for one in rows if same.items() <= one.items()]
    aim = min((loss for curve in curves for _, loss in curve), default=-np.inf)
    return next((step for step, loss in row["curve"] if loss <= aim), np.nan)


def plot(result: Row, path: Path) -> None:
    """Texture ÷ floor, right labels and the share of copies by the number of images: a column each target, a line each start."""
    rows, targets = result["runs"], list(dict.fromkeys(row["target"] for row in result["runs"]))
    panels: dict[str, Callable[[Row], float]] = {
        "texture ÷ floor": lambda row: row["texture"]["frechet_distance"] / result["floors"][row["target"]]["texture"],
        "right label": lambda row: row["label_accuracy"],
        "nearer than 99 % of real ones": lambda row: row["copied_of_few"],
    }
    figure, axes = plt.subplots(
        len(panels),
        len(targets),
        figsize=(3.2 * len(targets), 7.5),
        constrained_layout=True,
        squeeze=False,
        sharex=True,
    )
    for across, target in enumerate(targets):
        for down, (name, value) in enumerate(panels.items()):
            axis = axes[down, across]
            for start in MAIN_ARMS:
                those = [row for row in rows if (row["target"], row["arm"]) == (target, start)]
                counts = sorted({row["count"] for row in those})
                values = [[value(row) for row in those if row["count"] == count] for count in counts]
                spread = [np.std(one, ddof=1) if len(one) > 1 else 0.0 for one in values]
                axis.errorbar(
                    counts, [np.mean(one) for one in values], spread, marker="o", ms=4, label=start, capsize=2
                )
            axis.set(xscale="log", xticks=COUNTS, xticklabels=COUNTS, ylabel=name if across == 0 else "")
            axis.grid(alpha=0.3)
        axes[0, across].set(title=target, yscale="log")
        axes[0, across].yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes[0, across].yaxis.set_major_formatter("{x:g}")
        axes[0, across].yaxis.set_minor_locator(NullLocator())
        axes[-1, across].axhline(0.01, color="grey", linestyle="--", label="chance")
        axes[-1, across].set_ylim(0)
        axes[-1, across].set_xlabel("training images")
    axes[0, 0].legend(fontsize=8)
    axes[-1, -1].legend(handles=axes[-1, -1].lines[-1:], fontsize=8)
    save_figure(figure, path)


def main(argv: Sequence[str]) -> None:
    args = arguments(__doc__, 800, COUNTS, "arm", list(ARMS), list(MAIN_ARMS)).parse_args(argv)
    measure(args, RESULT, "python benchmarks/finetune.py", "arm", run)
    plot(json.loads(RESULT.read_text(encoding="utf-8")), RESULT.with_suffix(".png"))


if __name__ == "__main__":
    sys.exit(run_command(main))
