"""Are two steps as good as ten? Students are distilled from a trained pipeline, and judged beside it over several draws.

    python benchmarks/few_step_student.py pneumoniamnist-28 --dataset pneumoniamnist
    python benchmarks/few_step_student.py pbc-blood-28 --dataset ../shared/data/own/pbc_blood_28.npz
    python benchmarks/few_step_student.py --table    # of all results/few_step_student_*.json, as Markdown, for docs/speed.md

A student is what `medmnist-diffusion distill` writes, after so many minutes and with so many images of its teacher. Each way of
making images is judged by 1,000 of them for each of five sampling seeds: Fréchet distance to train in both spaces, beside that of
as many real images, kernel distance in texture, label accuracy, memorized share. Speeds are of one process in the same run. What
the result file says already is not measured again. results/few_step_student_first.json is of an older way: each step was trained
for itself.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from dataset_arguments import add_dataset_arguments
from judging import RESULTS, SPACES, drawn_labels, floor, judge
from trainings import Row, floors_shown, kept_results, run_missing, table_head, with_spread

from medmnist_diffusion.artifacts import TrainingSummary
from medmnist_diffusion.data import load_dataset
from medmnist_diffusion.diffusion.folder_check import WEIGHTS
from medmnist_diffusion.diffusion.machine import describe_machine
from medmnist_diffusion.diffusion.sampling import generate_images, load_pipeline
from medmnist_diffusion.errors import UserError, run_command
from medmnist_diffusion.files import file_hash
from medmnist_diffusion.processes import start_processes
from medmnist_diffusion.shipped import pipeline_folder
from medmnist_diffusion.training.distill import distill

JUDGED, SEEDS, TIMED = 1000, 5, 64
TEACHER, TEACHER_DDIM, ANCESTRAL = "teacher", "teacher, DDIM", "teacher, DDPM"


def run(args: argparse.Namespace, cell: Row) -> Iterator[Row]:
    """One way of making images: a row a sampling seed. Of the 1,000 ancestral steps the speed alone."""
    dataset, folder, facts = load_dataset(args.dataset, args.root, args.size), pipeline_folder(args.pipeline), {}
    with tempfile.TemporaryDirectory() as temporary:
        if cell["sampler"] == "student":
            folder = distill(
                folder, Path(temporary) / "student", num_inference_steps=cell["steps"], max_train_minutes=cell["minutes"],
                num_pairs=cell["pairs"],
            )  # fmt: skip
            distilled = TrainingSummary.of(folder).distilled
            assert distilled is not None
            facts = {"optimizer_steps": distilled.steps, "difference": distilled.difference}
        pipe = load_pipeline(folder, {TEACHER_DDIM: "ddim", ANCESTRAL: "ddpm"}.get(cell["sampler"]))
    if cell["sampler"] == TEACHER_DDIM:
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, timestep_spacing="trailing")
    pipe.set_progress_bar_config(disable=True)
    if cell["sampler"] == ANCESTRAL:
        began = time.monotonic()
        generate_images(pipe, drawn_labels(dataset.train.labels, TIMED), cell["steps"])
        yield {"images_per_second": TIMED / (time.monotonic() - began)}
        return
    for seed in range(SEEDS):
        labels = drawn_labels(dataset.train.labels, JUDGED, seed)
        began = time.monotonic()
        images = generate_images(pipe, labels, cell["steps"], seed=seed)
        speed = JUDGED / (time.monotonic() - began)
        yield {**facts, "sampling_seed": seed, "images_per_second": speed, **judge(dataset, images, labels)}


def table(results: Mapping[str, Row]) -> Iterator[str]:
    """Of every way the mean over draws ± their standard deviation, and how many images a second it makes for one of DDPM."""
    head = (
        "set", "made by", "steps", "classifier", "texture", "÷ teacher's", "kernel, texture", "right label", "memorized",
        "speed ÷ DDPM",
    )  # fmt: skip
    yield from table_head(*head)
    for name, result in results.items():
        rows, floors = result["runs"], floors_shown(result["floors"], SPACES)
        yield f"| {name} | real images | | {' | '.join(floors)} | | | | | |"
        ancestral = [row["images_per_second"] for row in rows if row["sampler"] == ANCESTRAL]
        of_teacher = [row for row in rows if row["sampler"] == TEACHER]
        for sampler, steps in dict.fromkeys((row["sampler"], row["steps"]) for row in rows if "texture" in row):
            those = [row for row in rows if (row["sampler"], row["steps"]) == (sampler, steps)]
            distances = [[row[space]["frechet_distance"] for row in those] for space in SPACES]
            ratios = [
                float(np.mean(found) / np.mean([row[space]["frechet_distance"] for row in of_teacher]))
                for space, found in zip(SPACES, distances, strict=True)
            ]
            shown = [
                *map(with_spread, distances),
                " and ".join(f"{one:.2f}" for one in ratios),
                with_spread([row["texture"]["kernel_distance"] for row in those]),
                with_spread([row["label_accuracy"] for row in those]),
                with_spread([row["memorized_share"] for row in those]),
                f"{np.mean([row['images_per_second'] for row in those]) / ancestral[0]:.0f}" if ancestral else "",
            ]
            yield f"| {name} | {sampler} | {steps} | {' | '.join(shown)} |"


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("pipeline", nargs="?", help="a folder, or a name of `medmnist-diffusion models`")
    add_dataset_arguments(parser, default="pneumoniamnist")
    parser.add_argument("--steps", type=int, nargs="+", default=[2], help="of the students (default 2)")
    parser.add_argument("--minutes", type=float, default=10, help="of a student's training (default 10)")
    parser.add_argument("--num_pairs", type=int, default=20_000)
    parser.add_argument("--output", type=Path, help="a file (default: few_step_student_DATASET.json in results)")
    parser.add_argument("--table", action="store_true", help="print the table of the results that are there")
    args = parser.parse_args(argv)
    if not args.table:
        if not args.pipeline:
            raise UserError("give a PIPELINE, or --table.")
        start_processes()
        teacher = {"teacher": file_hash(pipeline_folder(args.pipeline) / WEIGHTS)[:16]}
        cells = [{"sampler": TEACHER, "steps": 10, **teacher}, {"sampler": ANCESTRAL, "steps": 1000, **teacher}]
        for steps in args.steps:
            student = {"sampler": "student", "steps": steps, "minutes": args.minutes, "pairs": args.num_pairs}
            cells += [{**student, **teacher}, {"sampler": TEACHER_DDIM, "steps": steps, **teacher}]
        dataset = load_dataset(args.dataset, args.root, args.size)
        head = {
            "command": f"python benchmarks/few_step_student.py {args.pipeline} --dataset {Path(args.dataset).name}",
            "machine": describe_machine(),
            "judged_images": JUDGED,
            "floors": floor(dataset, JUDGED),
        }
        run_missing(args.output or RESULTS / f"few_step_student_{dataset.name}.json", head, args, cells, run)
    print("\n".join(table(kept_results("few_step_student"))))


if __name__ == "__main__":
    sys.exit(run_command(main))
