"""What a preset gives: trained once on a data set for its own budget, and judged beside as many real images.

    python benchmarks/presets.py fast --dataset pneumoniamnist
    python benchmarks/presets.py fast --dataset phantom-rgb
    python benchmarks/presets.py fast --dataset phantom --size 64
    python benchmarks/presets.py best --run runs/best    # judges a run of the preset that is there already

As many images as there are held-out ones, at most 1,000, by the default sampler. Results gather in results/presets.json, a row for
each preset and data set; to measure one anew, remove its row.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml
from dataset_arguments import add_dataset_arguments
from judging import RESULTS, dataset_options, drawn_labels, floor, judge, peak_memory_gib, train_quietly
from trainings import Row, run_missing

from medmnist_diffusion.data import load_dataset
from medmnist_diffusion.data.duplicates import clean_held_out
from medmnist_diffusion.diffusion.sampling import generate_images, load_pipeline
from medmnist_diffusion.errors import run_command
from medmnist_diffusion.processes import available_cores, start_processes
from medmnist_diffusion.training.config import preset

PRESETS = ("fast", "default", "best")
MOST = 1000


def run(args: argparse.Namespace, cell: Row) -> Iterator[Row]:
    """Train a preset, or take its finished run, and judge it; with all cores, in this process."""
    dataset = load_dataset(args.dataset, args.root, args.size)
    measured = {}
    with tempfile.TemporaryDirectory() as folder:
        pipeline = (args.run or Path(folder) / "run") / "pipeline"
        if args.run is None:
            config = Path(folder) / "preset.yaml"
            config.write_text(yaml.safe_dump(preset(args.preset)))
            began = time.monotonic()
            options = ["--config", str(config), *dataset_options(args.root, args.size)]
            train_quietly(args.dataset, pipeline.parent, options)
            measured = {
                "minutes_with_start_and_saving": round((time.monotonic() - began) / 60, 2),
                "peak_memory_gib": round(peak_memory_gib(), 2),
            }
        summary = json.loads((pipeline / "training_summary.json").read_text(encoding="utf-8"))
        pipe = load_pipeline(pipeline)
    count = min(MOST, len(clean_held_out(dataset)))
    labels = drawn_labels(dataset.train.labels, count)
    began = time.monotonic()
    images = generate_images(pipe, labels)
    sampling = count / (time.monotonic() - began)
    size = f" --size {args.size}" if args.size else ""
    of_run = f" --run {args.run}" if args.run else ""
    yield {
        "command": f"python benchmarks/presets.py {args.preset}{of_run} --dataset {args.dataset}{size}",
        "cores": len(available_cores()),
        "minutes": round(summary["seconds"] / 60, 1),
        **measured,
        "steps": summary["step"],
        "training_images_per_second": round(summary["images_seen"] / summary["seconds"], 1),
        "sampling_images_per_second": round(sampling, 1),
        "parameters": summary["parameters"],
        "judged_images": count,
        **judge(dataset, images, labels),
        "floor": floor(dataset, count),
    }


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("preset", choices=PRESETS)
    add_dataset_arguments(parser)
    parser.add_argument("--run", type=Path, help="a finished run of this preset, instead of a training")
    parser.add_argument("--output", type=Path, default=RESULTS / "presets.json")
    args = parser.parse_args(argv)
    start_processes()
    dataset = load_dataset(args.dataset, args.root, args.size)
    cell = {"preset": args.preset, "dataset": dataset.name, "image_size": dataset.image_size}
    head = {"command": "python benchmarks/presets.py PRESET --dataset DATASET"}
    (row,) = [row for row in run_missing(args.output, head, args, [cell], run) if cell.items() <= row.items()]
    print("as many real images:", ", ".join(f"{space} {value:.3g}" for space, value in row["floor"].items()))


if __name__ == "__main__":
    sys.exit(run_command(main))
