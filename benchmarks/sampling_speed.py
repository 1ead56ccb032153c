"""What a sampler's steps buy: images a second, and the distance to the training images in both spaces.

    python benchmarks/sampling_speed.py runs/pneumonia/pipeline --dataset pneumoniamnist

As many images of the same random streams by each sampler, so that differences are the samplers'.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from dataset_arguments import add_dataset_arguments
from judging import RESULTS, drawn_labels, judge, summary_line

from medmnist_diffusion.data import load_dataset
from medmnist_diffusion.diffusion.folder_check import WEIGHTS
from medmnist_diffusion.diffusion.machine import describe_machine
from medmnist_diffusion.diffusion.sampling import generate_images, load_pipeline
from medmnist_diffusion.errors import run_command
from medmnist_diffusion.files import file_hash, write_json
from medmnist_diffusion.processes import start_processes

SAMPLERS = (
    ("dpmsolver++", 5), ("dpmsolver++", 8), ("dpmsolver++", 10), ("dpmsolver++", 15), ("dpmsolver++", 20), ("dpmsolver++", 50),
    ("dpmsolver++", 100), ("ddim", 20), ("ddpm", 1000),  # the last: what the network was trained for, 11 minutes of a core
)  # fmt: skip


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("pipeline", type=Path)
    add_dataset_arguments(parser, default="pneumoniamnist")
    parser.add_argument("--num_images", type=int, default=1000)
    args = parser.parse_args(argv)
    start_processes()
    dataset = load_dataset(args.dataset, args.root, args.size)
    labels = drawn_labels(dataset.train.labels, args.num_images)
    rows = []
    for sampler, steps in SAMPLERS:
        pipe = load_pipeline(args.pipeline, sampler)
        pipe.set_progress_bar_config(desc=f"{sampler}, {steps} steps")
        began = time.monotonic()
        images = generate_images(pipe, labels, steps)
        speed = len(images) / (time.monotonic() - began)
        rows.append({"sampler": sampler, "steps": steps, "images_per_second": speed, **judge(dataset, images)})
        print(f"{sampler}, {steps} steps: {speed:.1f} images/s, {summary_line(rows[-1])}", flush=True)
    command = f"python benchmarks/sampling_speed.py PIPELINE --dataset {args.dataset} --num_images {args.num_images}"
    weights = file_hash(args.pipeline / WEIGHTS)
    result = {"command": command, "machine": describe_machine(), "weights_sha256": weights, "samplers": rows}
    write_json(RESULTS / f"sampling_{dataset.name}.json", result)


if __name__ == "__main__":
    sys.exit(run_command(main))
