"""What a preset gives: trained once on a data set for its own budget, and judged beside as many real images.

    python benchmarks/presets.py fast --dataset pneumoniamnist
    python benchmarks/presets.py fast --dataset phantom-rgb
    python benchmarks/presets.py fast --dataset phantom --size 64
    python benchmarks/presets.py best --run runs/best    # judges a run of the preset that is there already

As many images as there are held-out ones, at most 1,000, by the default sampler; results gather in results/presets.json, one for
each preset and data set.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import yaml
from dataset_arguments import add_dataset_arguments
from judging import RESULTS, dataset_options, drawn_labels, floor, judge, peak_memory_gib, summary_line, train_quietly

from medmnist_diffusion.data import load_dataset
from medmnist_diffusion.diffusion.sampling import generate, load_pipeline
from medmnist_diffusion.errors import run_command
from medmnist_diffusion.files import write_json
from medmnist_diffusion.metrics import memorization
from medmnist_diffusion.processes import available_cores, start_processes
from medmnist_diffusion.training.config import preset

PRESETS = ("fast", "default", "best")
MOST = 1000


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("preset", choices=PRESETS)
    add_dataset_arguments(parser)
    parser.add_argument("--run", type=Path, help="a finished run of this preset, instead of a training")
    parser.add_argument("--output", type=Path, default=RESULTS / "presets.json")
    args = parser.parse_args(argv)
    start_processes()
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
        count = min(MOST, len(memorization.clean_held_out(dataset)))
        labels = drawn_labels(dataset.train.labels, count)
        began = time.monotonic()
        images = generate(pipe, labels)
        sampling = count / (time.monotonic() - began)
    judged, real = judge(dataset, images, labels), floor(dataset, count)
    name = f"{args.preset}, {dataset.name}, {dataset.image_size} px"
    results = json.loads(args.output.read_text(encoding="utf-8")) if args.output.is_file() else {}
    size = f" --size {args.size}" if args.size else ""
    results[name] = {
        "command": f"python benchmarks/presets.py {args.preset} --dataset {args.dataset}{size}",
        "cores": len(available_cores()),
        "minutes": round(summary["seconds"] / 60, 1),
        **measured,
        "steps": summary["step"],
        "training_images_per_second": round(summary["images_seen"] / summary["seconds"], 1),
        "sampling_images_per_second": round(sampling, 1),
        "parameters": summary["parameters"],
        "judged_images": count,
        **judged,
        "floor": real,
    }
    write_json(args.output, results)
    print(f"{name}: {summary_line(judged)} (real: {', '.join(f'{value:.3g}' for value in real.values())})")


if __name__ == "__main__":
    sys.exit(run_command(main))
