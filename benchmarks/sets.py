"""The default recipe on every real set at hand: trained, evaluated over sampling seeds, one table and a picture a set.

    python benchmarks/sets.py --data ../shared/data                  # 20 minutes of all cores a set, and the evaluation
    python benchmarks/sets.py --data ../shared/data --minutes 5 --only retinamnist
    python benchmarks/sets.py --table                                # the table of results/sets.json as Markdown, for docs/sets.md

Each set is trained by `train` and measured by `evaluate` with default arguments, as a user would. A set that has a row for these
minutes in results/sets.json is not run again; to measure it anew, remove its row. The pictures lie in results/sets.
"""

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from judging import RESULTS, peak_memory_gib
from PIL import Image
from trainings import Row

from medmnist_diffusion.artifacts import Metrics, TrainingSummary
from medmnist_diffusion.data import ImageDataset, load_dataset
from medmnist_diffusion.data.dataset import size_in_words
from medmnist_diffusion.data.npz import read_npz
from medmnist_diffusion.data.pictures import VIEWS, pictures
from medmnist_diffusion.diffusion.machine import describe_machine
from medmnist_diffusion.errors import UserError, run_command
from medmnist_diffusion.files import write_json
from medmnist_diffusion.publish.models import KINDS, find
from medmnist_diffusion.publish.plots import real_beside_generated
from medmnist_diffusion.samples import samples_path
from medmnist_diffusion.training.config import training_config
from medmnist_diffusion.training.evaluate_fid import evaluate
from medmnist_diffusion.training.train import train

SETS = {
    "pneumoniamnist": "medmnist/pneumoniamnist.npz",
    "retinamnist": "medmnist/retinamnist.npz",
    "adrenalmnist3d": "medmnist/adrenalmnist3d.npz",
    "pbc_blood_28": "own/pbc_blood_28.npz",
    "pbc_blood_subset_64": "own/pbc_blood_subset_64.npz",
    "nih_chest_subset_28": "own/nih_chest_subset_28.npz",
    "nih_chest_subset_64": "own/nih_chest_subset_64.npz",
}
DESCRIPTIONS = Path(__file__).parent / "sets"  # names of classes and licences of those that have no others
RESULT = RESULTS / "sets.json"
# What the table shows: heading → the metrics that it can be, the first that was measured, and their space.
COLUMNS: dict[str, tuple[tuple[str, ...], str | None]] = {
    "classifier": (("frechet_distance",), "classifier"),
    "texture": (("frechet_distance",), "texture"),
    "labels": (("label_accuracy", "label_auc"), None),
    "classification": (("classification_accuracy", "classification_auc"), None),
    "copied": (("copied_share",), "pixels"),
}
IN_PICTURE, MOST_ROWS = 6, 8
MOST_BYTES = 200_000  # of a picture


def measured(name: str, path: Path, minutes: float, seeds: int, seed: int, keep: Path | None) -> Row:
    """Train and evaluate one set; a row of the table, and its picture. The run is left under `keep`, if that is given."""
    with contextlib.ExitStack() as stack:
        folder = keep / f"{name}-{seed}" if keep else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        path = described(path, folder / "data")
        dataset = load_dataset(str(path))
        config = training_config(
            dataset=str(path), output_dir=f"{folder}/run", max_train_minutes=minutes, seed=seed, report_to="none",
            mixed_precision="auto",
        )  # fmt: skip
        pipeline = train(config, dataset)
        summary = TrainingSummary.of(pipeline)
        memory = peak_memory_gib()
        metrics = evaluate(pipeline, dataset, sampling_seeds=seeds, tune_guidance=True)
        picture(dataset, pipeline, RESULTS / "sets" / f"{name}.png")
    return {
        "set": name,
        "images": size_in_words(dataset.shape),
        "task": dataset.task,
        "classes": dataset.num_classes,
        "training_images": len(dataset.train),
        "minutes": minutes,
        "seed": seed,
        "sampling_seeds": seeds,
        "step": summary.step,
        "last_step": summary.last_step or summary.step,
        "images_per_second": round(summary.images_seen / summary.seconds, 1),
        "peak_memory_gib": round(memory, 2),
        "parameters": summary.parameters,
        **{heading: figure(metrics, *what) for heading, what in COLUMNS.items()},
        "refused": metrics.refused,
    }


def described(path: Path, folder: Path) -> Path:
    """The set's file; where we have a description of it, a link to it in a folder with the description beside it."""
    description = DESCRIPTIONS / f"{path.stem}.json"
    if not description.is_file():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(description, folder)
    link = folder / path.name
    link.unlink(missing_ok=True)
    link.symlink_to(path.resolve())
    return link


def figure(metrics: Metrics, names: Sequence[str], extractor: str | None) -> dict[str, Any] | None:
    """A figure of all classes together with its floor, and how it compares; None where it could not be measured."""

    record = find(metrics.metrics, names, extractor)
    if record is None:
        return None
    kept = ("name", "value", "interval", "floor", "p_value", "n_generated")
    return {
        **{key: getattr(record, key) for key in kept},
        "ratio": record.value / record.floor if record.floor else None,
    }


def picture(dataset: ImageDataset, pipeline: Path, path: Path) -> None:
    """Held-out images beside those that were judged, a few of each class."""
    held_out = dataset.splits["val"]
    generated = read_npz(samples_path(pipeline, 0), ("train",), num_labels=dataset.conditioning.num_labels)["train"]
    columns = IN_PICTURE if not dataset.is_volume else IN_PICTURE // 2
    sides = []
    for split in (held_out, generated):
        members = dataset.conditioning.shown_members(split.labels)[:MOST_ROWS]
        rows = [np.resize(one, columns) for one in members]
        sides.append(pictures(split.images[np.concatenate(rows)]))
    names = dataset.conditioning.shown_names[:MOST_ROWS]
    path.parent.mkdir(exist_ok=True)
    views = f"\n{VIEWS}" if dataset.is_volume else ""
    title = f"{dataset.name}: held-out and generated {'volumes' if dataset.is_volume else 'images'}{views}"
    real_beside_generated(sides[0], sides[1], names, columns, path, title)
    with_fewer_colours(path)


def with_fewer_colours(path: Path) -> None:
    """Make a PNG so small that git can hold it: with as many colours as that leaves, rare ones among them."""
    with Image.open(path) as drawn:
        whole = drawn.convert("RGB")
    for colours in (256, 128, 96, 64, 48):
        if path.stat().st_size > MOST_BYTES:
            fewer = whole.quantize(colours, Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
            fewer.save(path, optimize=True)


def markdown(rows: Sequence[Row]) -> Iterator[str]:
    """The table of docs/sets.md."""
    yield (
        "| set | images | labels | training images | classifier ÷ floor | texture ÷ floor | labels ÷ real | "
        "classification ÷ real | copied share (p) | images/s | memory |"
    )
    yield "| --- " * 11 + "|"
    for row in sorted(rows, key=lambda one: (list(SETS).index(one["set"]), one["seed"])):
        ratios = [_ratio(row[heading]) for heading in ("classifier", "texture", "labels", "classification")]
        copied = row["copied"]
        share = "not measured" if copied is None else f"{copied['value']:.1%} ({copied['p_value']:.2g})"
        labels = f"{row['classes']} {KINDS[row['task']]}"
        yield (
            f"| {row['set']} | {row['images']} | {labels} | {row['training_images']:,} | {' | '.join(ratios)} | {share} | "
            f"{row['images_per_second']:.0f} | {row['peak_memory_gib']:.1f} GiB |"
        )


def _ratio(figure: dict[str, Any] | None) -> str:
    return "not measured" if figure is None or figure["ratio"] is None else f"{figure['ratio']:.2f}"


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--data", type=Path, help="the folder with medmnist/ and own/")
    parser.add_argument("--minutes", type=float, default=20.0)
    parser.add_argument("--sampling_seeds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="a folder that the trained pipelines stay in")
    parser.add_argument("--only", nargs="+", choices=SETS, default=list(SETS))
    parser.add_argument("--table", action="store_true", help="print the table of the results that are there")
    args = parser.parse_args(argv)
    result: dict[str, Any] = {"machine": describe_machine(), "rows": []}
    if RESULT.is_file():
        result = json.loads(RESULT.read_text(encoding="utf-8"))
    if args.table:
        print("\n".join(markdown(result["rows"])))
        return
    if args.data is None:
        raise UserError("--data is needed: the folder with medmnist/ and own/.")
    for name in args.only:
        known = ("set", "minutes", "seed"), (name, args.minutes, args.seed)
        if any(tuple(row[key] for key in known[0]) == known[1] for row in result["rows"]):
            continue
        if not (path := args.data / SETS[name]).is_file():
            print(f"{name}: {path} is not there, left out")
            continue
        result["command"] = f"python benchmarks/sets.py --data ../shared/data --minutes {args.minutes:g}"
        result["rows"].append(measured(name, path, args.minutes, args.sampling_seeds, args.seed, args.keep))
        write_json(RESULT, result)


if __name__ == "__main__":
    sys.exit(run_command(main))
