"""How much guidance should a new pipeline have of its own? Images of trained pipelines at several scales, judged.

    python benchmarks/guidance.py PIPELINE=DATASET [PIPELINE=DATASET …]
    python benchmarks/guidance.py --table                # the table of docs/speed.md

Each pipeline is one that `train` made of the data set. Rows gather in results/guidance.json by the pipeline's weights; the scales
that are there already are not drawn again.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from judging import RESULTS

from medmnist_diffusion.artifacts import TrainingSummary, same_images
from medmnist_diffusion.data import Split, load_dataset
from medmnist_diffusion.data.audit import describe
from medmnist_diffusion.diffusion.folder_check import WEIGHTS
from medmnist_diffusion.diffusion.machine import describe_machine
from medmnist_diffusion.diffusion.sampling import generate_images, load_pipeline
from medmnist_diffusion.errors import UserError, run_command
from medmnist_diffusion.files import file_hash, write_json
from medmnist_diffusion.metrics.evaluation import Part, evaluate_images
from medmnist_diffusion.metrics.extractors import OFFLINE_PAIR, make_extractor
from medmnist_diffusion.metrics.real_side import RealSide
from medmnist_diffusion.processes import start_processes

RESULT = RESULTS / "guidance.json"
SCALES = (1.0, 1.1, 1.2, 1.3, 1.5, 2.0)
NUM_IMAGES = 1000
PARTS: tuple[Part, ...] = ("features", "labels", "copies")
KEPT = ("frechet_distance", "precision", "recall", "coverage", "label_accuracy", "label_auc", "copied_share")


def judged(pipeline: Path, data: str, scales: Sequence[float]) -> Iterator[dict[str, Any]]:
    """A row a scale."""
    dataset, summary = load_dataset(data), TrainingSummary.of(pipeline)
    if not same_images(summary.dataset, describe(dataset)):
        raise UserError(f"{pipeline} was trained on {summary.dataset.name}, not on {data}.")
    spaces, real = [make_extractor(name, dataset) for name in OFFLINE_PAIR], RealSide(dataset)
    labels = dataset.labels_in_shares(NUM_IMAGES)
    pipe = load_pipeline(pipeline)
    for scale in scales:
        images = Split("generated", generate_images(pipe, labels, guidance_scale=scale), labels)
        found = evaluate_images(dataset, images, spaces, per_class=False, parts=PARTS, real_side=real)
        figures = {
            f"{record.name} {record.extractor}": {"value": record.value, "error": record.error, "floor": record.floor}
            for record in found.records
            if record.name in KEPT
        }
        yield {
            "set": dataset.name,
            "weights_sha256": file_hash(pipeline / WEIGHTS),
            "images_seen": summary.images_seen,
            "minutes": round(summary.seconds / 60, 1),
            "guidance_scale": scale,
            **figures,
        }


def markdown(rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    heads = "classifier ÷ floor | texture ÷ floor | labels ÷ real | recall in texture ÷ real | copied share"
    yield f"| set | trained for | guidance | {heads} |"
    yield "| --- " * 8 + "|"
    for row in sorted(rows, key=lambda one: (one["set"], one["guidance_scale"])):
        labels = next(row[name] for name in ("label_accuracy classifier", "label_auc classifier") if name in row)
        ratios = [row[f"frechet_distance {space}"] for space in OFFLINE_PAIR] + [labels, row["recall texture"]]
        listed = " | ".join(f"{one['value'] / one['floor']:.2f}" for one in ratios)
        copied = row["copied_share pixels"]["value"]
        yield f"| {row['set']} | {row['minutes']:g} min | {row['guidance_scale']:g} | {listed} | {copied:.1%} |"


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("pairs", nargs="*", metavar="PIPELINE=DATASET")
    parser.add_argument("--scales", type=float, nargs="+", default=list(SCALES))
    parser.add_argument("--table", action="store_true", help="print the table of the results that are there")
    args = parser.parse_args(argv)
    result: dict[str, Any] = {
        "command": "python benchmarks/guidance.py PIPELINE=DATASET",
        "machine": describe_machine(),
        "rows": [],
    }
    if RESULT.is_file():
        result = json.loads(RESULT.read_text(encoding="utf-8"))
    if args.table:
        print("\n".join(markdown(result["rows"])))
        return
    start_processes()
    for pair in args.pairs:
        pipeline, _, data = pair.partition("=")
        weights = file_hash(Path(pipeline) / WEIGHTS)
        known = {row["guidance_scale"] for row in result["rows"] if row["weights_sha256"] == weights}
        for row in judged(Path(pipeline), data, [scale for scale in args.scales if scale not in known]):
            result["rows"].append(row)
            write_json(RESULT, result)


if __name__ == "__main__":
    sys.exit(run_command(main))
