"""A trained and evaluated pipeline becomes one that comes with the package: half the bytes, no other figures, no copies.

    python benchmarks/ship.py runs/pneumonia/pipeline --dataset pneumoniamnist --name pneumoniamnist-28
    python benchmarks/ship.py --refresh     # after a change of pipelines/ or of the card: those that are shipped get it, too
    python benchmarks/ship.py --again pneumoniamnist-28 --dataset pneumoniamnist
    python benchmarks/ship.py --controls pneumoniamnist-28 --dataset pneumoniamnist

Its weights are rounded to float16 (they are computed with in float32), it is evaluated anew over as many sampling seeds as before,
and every figure is compared: results/half_precision.json says which ones left the interval that they had. It is shipped only if it
could be published. Its card and its figures are those of the rounded weights.

`--again` evaluates a shipped pipeline as its card says, and writes to results/shipped_again.json whether every figure comes again:
the very same on the machine that measured it, within its interval on another. With `--take` the new figures take the card's place,
as after a change of what is measured; unless one lies outside, or speaks against publication.

`--controls` completes the records of copies with what they say of real images alone, where an older version measured them: how
near independent ones lie, how many copies made on purpose would be seen, and from which share on. No image is generated.
"""

import argparse
import inspect
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from judging import RESULTS
from safetensors.torch import load_file, save_file
from sets import picture, with_fewer_colours

from medmnist_diffusion.artifacts import TRAINING_SUMMARY, Metrics, TrainingSummary, same_images
from medmnist_diffusion.data import ImageDataset, load_dataset
from medmnist_diffusion.data.audit import describe
from medmnist_diffusion.diffusion.folder_check import WEIGHTS, write_manifest
from medmnist_diffusion.errors import UserError, run_command
from medmnist_diffusion.files import atomic_folder, write_json
from medmnist_diffusion.metrics.evidence import Candidate
from medmnist_diffusion.metrics.memorization import Threshold
from medmnist_diffusion.metrics.real_side import RealSide
from medmnist_diffusion.metrics.table import METRICS
from medmnist_diffusion.pipelines import ClassConditionalDDPMPipeline
from medmnist_diffusion.publish.card import write_card
from medmnist_diffusion.publish.copies import copy_tests
from medmnist_diffusion.publish.publish import CODE, SAMPLES, reasons_against_publishing
from medmnist_diffusion.shipped import MODEL_CARDS, shipped_names
from medmnist_diffusion.training.evaluate_fid import evaluate

RESULT, AGAIN = RESULTS / "half_precision.json", RESULTS / "shipped_again.json"
MOST_MB = 25


def ship(pipeline: Path, name: str, data: str) -> None:
    """Round, evaluate, compare, check, and put it into model_cards."""
    summary, full = TrainingSummary.of(pipeline), Metrics.read(pipeline / "metrics.json")
    dataset = own_data(pipeline, data)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / name
        shutil.copytree(pipeline, folder, ignore=shutil.ignore_patterns(*SAMPLES, "metrics.json"))
        rounded = {key: value.half() for key, value in load_file(folder / WEIGHTS).items()}
        if not all(bool(torch.isfinite(value).all()) for value in rounded.values()):
            raise UserError(f"{pipeline}: a weight is too large for float16.")
        save_file(rounded, folder / WEIGHTS, metadata={"format": "pt"})
        write_json(folder / TRAINING_SUMMARY, summary.model_copy(update={"dataset": describe(dataset)}).model_dump())
        refresh(folder, name)
        half = evaluate(folder, dataset, sampling_seeds=seeds_of(full))
        picture(dataset, folder, folder / "real_beside_generated.png")
        with_fewer_colours(folder / "samples.png")
        write_card(folder, f"model_cards/{name}")
        with atomic_folder(MODEL_CARDS / name) as target:
            shutil.copytree(folder, target, ignore=shutil.ignore_patterns(*SAMPLES), dirs_exist_ok=True)
            if reasons := reasons_against_publishing(target, f"somebody/{name}"):
                raise UserError(f"{name} is not shipped: {'; '.join(reasons)}.")
    keep(RESULT, name, compared(full, half, ("float32", "float16")))
    megabytes = sum(path.stat().st_size for path in MODEL_CARDS.rglob("*") if path.is_file()) / 1e6
    print(f"{name} is shipped; all together {megabytes:.1f} MB of {MOST_MB}.")


def own_data(pipeline: Path, data: str) -> ImageDataset:
    """The data set, if the pipeline was trained on it."""
    dataset, trained_on = load_dataset(data), TrainingSummary.of(pipeline).dataset
    if not same_images(trained_on, describe(dataset)):
        raise UserError(f"{pipeline} was trained on {trained_on.name}, not on {data}.")
    return dataset


def seeds_of(metrics: Metrics) -> int:
    """Over how many draws figures are means."""
    return int(metrics.sampling.get("sampling_seeds", 1))


def again(name: str, data: str, take: bool) -> None:
    """Evaluate a shipped pipeline as it was, and compare; `take` the new figures.

    Raises:
        UserError: if they cannot be taken.
    """
    known, dataset = Metrics.read(MODEL_CARDS / name / "metrics.json"), own_data(MODEL_CARDS / name, data)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(shutil.copytree(MODEL_CARDS / name, Path(temporary) / name))
        new = evaluate(folder, dataset, sampling_seeds=seeds_of(known))
        found = compared(known, new, ("card", "again"))
        keep(AGAIN, name, found)
        if take:
            if found["outside"] or (reasons := reasons_against_publishing(folder, f"somebody/{name}")):
                why = f"{found['outside']} figures lie outside" if found["outside"] else "; ".join(reasons)
                raise UserError(f"{name}: the new figures are not taken: {why}.")
            for path in (folder / "metrics.json", *folder.glob("*.png")):
                shutil.copy(path, MODEL_CARDS / name)
            refresh(MODEL_CARDS / name, name)
    same = sum(row["card"] == row["again"] for row in found["figures"])
    print(
        f"{name}: {len(found['figures'])} figures, {same} the very same, {found['outside']} outside their intervals."
    )


def controls(name: str, data: str) -> None:
    """Complete the copied shares by pixels of a shipped pipeline.

    Raises:
        UserError: if the threshold is another than the record's: then its images must be looked at again.
    """
    folder = MODEL_CARDS / name
    metrics, real = Metrics.read(folder / "metrics.json"), RealSide(own_data(folder, data))
    alone = real.relative_of_alone if len(real.alone) else None
    for at, record in enumerate(metrics.metrics):
        if (record.name, record.extractor) != ("copied_share", "pixels"):
            continue
        fresh = real.independent(real.relative_of_held_out, alone, record.class_)
        kinds = real.relative_of_redrawn(record.class_)
        images = Candidate(fresh.values, fresh.labels, fresh, None, record.seed, "of the local spacing", kinds)
        found, threshold = METRICS["copied_share"].compute(images), Threshold.of(fresh.values)
        if f"threshold {threshold.value:.3g} of" not in record.note:
            raise UserError(f"{name}: {record.note}, and now the threshold is {threshold.value:.3g}: --again --take.")
        known = {"near_fresh": found.near_fresh, "seen_copies": found.seen_copies}
        detectable = threshold.detectable(record.n_generated)
        metrics.metrics[at] = record.model_copy(update={**known, "detectable": detectable})
    metrics.write(folder / "metrics.json")
    refresh(folder, name)
    for judge in copy_tests(metrics).judges:
        print(
            f"{name}: near {judge.near_fresh:.1%}, copies seen {judge.seen_copies:.0%}, detectable {judge.detectable}"
        )
    if reasons := reasons_against_publishing(folder, f"somebody/{name}"):
        raise UserError(f"{name}: {'; '.join(reasons)}.")


def keep(path: Path, name: str, found: dict[str, Any]) -> None:
    """Put what was found of a pipeline into a result file."""
    result = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    write_json(path, {**result, name: found})


def compared(known: Metrics, new: Metrics, names: tuple[str, str]) -> dict[str, Any]:
    """Every figure of all classes together, known and new, by these names; and whether its interval holds the new one."""
    after = {
        (record.name, record.extractor, record.dimension): record for record in new.metrics if record.class_ is None
    }
    rows = []
    for record in known.metrics:
        other = after.get((record.name, record.extractor, record.dimension))
        if record.class_ is not None or record.interval is None or other is None:
            continue
        low, high = record.interval
        values = dict(zip(names, (record.value, other.value), strict=True))
        row = {"figure": record.name, "space": record.extractor, **values}
        rows.append({**row, "interval": [low, high], "inside": low <= other.value <= high})
    return {"figures": rows, "outside": sum(not row["inside"] for row in rows)}


def refresh(folder: Path, name: str) -> None:
    """The present pipeline.py, a manifest that knows it, and the present card."""
    shutil.copy(inspect.getfile(ClassConditionalDDPMPipeline), folder / CODE)
    write_manifest(folder)
    write_card(folder, f"model_cards/{name}")


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("pipeline", type=Path, nargs="?")
    parser.add_argument("--dataset")
    parser.add_argument("--name")
    parser.add_argument("--refresh", action="store_true")
    parser.add_argument("--again", choices=shipped_names(), metavar="NAME")
    parser.add_argument("--take", action="store_true")
    parser.add_argument("--controls", choices=shipped_names(), metavar="NAME")
    args = parser.parse_args(argv)
    if args.refresh:
        for name in shipped_names():
            refresh(MODEL_CARDS / name, name)
    elif args.again and args.dataset:
        again(args.again, args.dataset, args.take)
    elif args.controls and args.dataset:
        controls(args.controls, args.dataset)
    elif args.pipeline and args.dataset and args.name:
        ship(args.pipeline, args.name, args.dataset)
    else:
        raise UserError("give a pipeline, --dataset and --name; --again or --controls, and --dataset; or --refresh.")


if __name__ == "__main__":
    sys.exit(run_command(main))
