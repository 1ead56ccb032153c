"""What a sampler's steps buy: images a second, and the distance to the training images in both spaces.

    python benchmarks/sampling_speed.py runs/pneumonia/pipeline --dataset pneumoniamnist

As many images of the same random streams by each sampler, so that differences are the samplers'.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from judging import RESULTS, judge, summary_line

from medmnist_diffusion.data import load_dataset
from medmnist_diffusion.data.audit import add_dataset_arguments
from medmnist_diffusion.diffusion.machine import start_processes
from medmnist_diffusion.diffusion.sampling import generate, load_pipeline
from medmnist_diffusion.errors import run_command
from medmnist_diffusion.files import write_json

SAMPLERS = (
    ("dpmsolver++", 5), ("dpmsolver++", 8), ("dpmsolver++", 10), ("dpmsolver++", 15), ("dpmsolver++", 20), ("dpmsolver++", 50),
    ("dpmsolver++", 100), ("ddim", 20),
)  # fmt: skip
ANCESTRAL = ("ddpm", 1000)  # the sampler that the network was trained for; its speed alone, on few images
FEW_IMAGES = 32


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("pipeline", type=Path)
    add_dataset_arguments(parser, default="pneumoniamnist")
    parser.add_argument("--num_images", type=int, default=1000)
    args = parser.parse_args(argv)
    start_processes()
    dataset = load_dataset(args.dataset, args.root, args.size)
    labels = np.sort(np.random.default_rng(0).choice(dataset.train.labels, args.num_images))
    rows = []
    for sampler, steps in SAMPLERS:
        pipe = load_pipeline(args.pipeline, sampler)
        pipe.set_progress_bar_config(desc=f"{sampler}, {steps} steps")
        began = time.monotonic()
        images = generate(pipe, labels, steps)
        speed = len(images) / (time.monotonic() - began)
        rows.append({"sampler": sampler, "steps": steps, "images_per_second": speed, **judge(dataset, images)})
        print(f"{sampler}, {steps} steps: {speed:.1f} images/s, {summary_line(rows[-1])}", flush=True)
    sampler, steps = ANCESTRAL
    pipe = load_pipeline(args.pipeline, sampler)
    began = time.monotonic()
    generate(pipe, labels[:FEW_IMAGES], steps)
    rows.append({"sampler": sampler, "steps": steps, "images_per_second": FEW_IMAGES / (time.monotonic() - began)})
    print(f"{sampler}, {steps} steps: {rows[-1]['images_per_second']:.2f} images/s")
    command = f"python benchmarks/sampling_speed.py PIPELINE --dataset {args.dataset} --num_images {args.num_images}"
    write_json(RESULTS / f"sampling_{dataset.name}.json", {"command": command, "samplers": rows})


if __name__ == "__main__":
    sys.exit(run_command(main))
