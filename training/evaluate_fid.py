"""Fréchet distances (FID) of generated images to a data set, each beside its real-vs-real floor.

    python training/evaluate_fid.py runs/x/pipeline --dataset pneumoniamnist --inception_weights weights.pth
    python training/evaluate_fid.py runs/x/pipeline --dataset pneumoniamnist --features classifier texture

Only the official Inception weights give what is called FID. Distances at 64, 192, 768 and 2048 features live on different
scales and do not compare with each other; a distance compares with its own floor.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medmnist_diffusion.data import ImageDataset, Split, load_dataset
from medmnist_diffusion.data.audit import add_dataset_arguments, describe
from medmnist_diffusion.data.npz import read_npz
from medmnist_diffusion.data.sources import load_labelled_folder
from medmnist_diffusion.errors import UserError, run_command
from medmnist_diffusion.files import file_hash
from medmnist_diffusion.metrics.evaluation import (
    frechet_records,
    label_accuracy_records,
    memorization_record,
    plan_comparison,
)
from medmnist_diffusion.metrics.extractors import EXTRACTORS, INCEPTION_DIMENSIONS, make_extractor
from medmnist_diffusion.metrics.records import MetricRecord, Metrics
from medmnist_diffusion.sample import add_sampling_arguments, sampling_record

NUM_IMAGES = 1000


def evaluate(args: argparse.Namespace) -> Metrics:
    """Everything asked for, as one Metrics object."""
    dataset = load_dataset(args.dataset, args.root, args.size)
    # Before any sampling: a missing weights file should be known at once.
    extractors = [make_extractor(name, dataset, args.inception_weights) for name in args.features]
    generated, pipeline, sampling = _generated(args, dataset)
    if generated.images.shape[1:] != dataset.train.images.shape[1:]:
        raise UserError(
            f"{args.generated} has images of shape {generated.images.shape[1:]} (H×W×C), {dataset.name} of "
            f"{dataset.train.images.shape[1:]}. Evaluate against the data set it was made for, or give --size."
        )
    comparison = plan_comparison(dataset, generated, args.num_real, args.seed)
    records: list[MetricRecord] = []
    for extractor in extractors:
        records += frechet_records(extractor, dataset, generated, comparison, args.dimensions, args.seed)
    records += label_accuracy_records(dataset, generated, args.seed)
    records.append(memorization_record(dataset, generated, args.seed))
    return Metrics(dataset=describe(dataset), pipeline=pipeline, sampling=sampling, metrics=records)


def _generated(args: argparse.Namespace, dataset: ImageDataset) -> tuple[Split, dict[str, Any], dict[str, Any]]:
    """The generated images with their labels, what made them, and how."""
    path = args.generated
    if (path / "model_index.json").is_file():
        from medmnist_diffusion.diffusion.sampling import generate, load_pipeline

        pipe = load_pipeline(path, args.sampler)
        if len(pipe.id2label) != dataset.num_classes:
            raise UserError(
                f"{path} makes {len(pipe.id2label)} classes, {dataset.name} has {dataset.num_classes}. Evaluate against the "
                "data set that it was trained on."
            )
        counts = np.ceil(np.bincount(dataset.train.labels) / len(dataset.train) * args.num_images).astype(int)
        labels = np.repeat(np.arange(dataset.num_classes), counts)
        images = generate(pipe, labels, args.num_inference_steps, args.guidance_scale, args.seed, args.batch_size)
        weights = file_hash(path / "unet" / "diffusion_pytorch_model.safetensors")
        return Split("generated", images, labels), {"weights_sha256": weights}, sampling_record(args)
    if path.suffix == ".npz":
        split = read_npz(path, ("train",))["train"]
    elif path.is_dir():
        split = load_labelled_folder(path, dataset)
    else:
        raise UserError(f"{path} is no pipeline folder, image folder or npz. Give the path of one.")
    unknown = split.labels[(split.labels < 0) | (split.labels >= dataset.num_classes)]
    if len(unknown):
        raise UserError(f"{path} has label {unknown[0]}, outside the {dataset.num_classes} classes of {dataset.name}.")
    return split, {"images": path.name}, {}


def print_metrics(metrics: Metrics) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{metrics.dataset['name']}: generated against train", box=box.SIMPLE_HEAD)
    for heading in ("figure", "class", "value", "95 % interval", "floor"):
        table.add_column(heading, justify="left" if heading == "figure" else "right", no_wrap=heading == "figure")
    for record in metrics.metrics:
        interval = "–" if record.interval is None else f"{record.interval[0]:.3g} … {record.interval[1]:.3g}"
        table.add_row(
            record.label.replace("Fréchet distance", "FD"),
            "all" if record.class_ is None else metrics.dataset["id2label"][str(record.class_)],
            f"{record.value:.3g}",
            interval,
            f"{record.floor:.3g}",
        )
    console = Console(highlight=False)
    console.print(table)
    for record in metrics.metrics:
        if record.class_ is None:
            note = f" {record.note}." if record.note else ""
            console.print(
                f"- {record.label}: {record.n_generated} generated and {record.n_real} training images; floor: "
                f"{record.floor_source}.{note}",
                soft_wrap=True,
            )
    if metrics.sampling:
        console.print(
            f"Sampled with {metrics.sampling['sampler']}, {metrics.sampling['num_inference_steps']} steps, guidance "
            f"{metrics.sampling['guidance_scale']:g}, seed {metrics.sampling['seed']}.",
            soft_wrap=True,
        )
    console.print(
        "Distances of different features or dimensions do not compare; compare each with its own floor.",
        soft_wrap=True,
    )


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="medmnist-diffusion evaluate", description=__doc__.split("\n", 1)[0])
    parser.add_argument("generated", type=Path, help="a pipeline folder, an image folder, or an npz (its train split)")
    add_dataset_arguments(parser)
    parser.add_argument("--features", nargs="+", choices=EXTRACTORS, default=["inception"], help="feature spaces")
    parser.add_argument(
        "--dimensions",
        nargs="+",
        type=int,
        choices=INCEPTION_DIMENSIONS,
        help="Inception's (default: all four)",
    )
    parser.add_argument("--inception_weights", type=Path, help="the official weights file")
    parser.add_argument(
        "--num_images", type=int, default=NUM_IMAGES, help="images to sample from a pipeline (default 1000)"
    )
    parser.add_argument("--num_real", type=int, help="at most so many training images as reference (default: all)")
    parser.add_argument("--output", type=Path, help="default: metrics.json in the pipeline folder, else here")
    add_sampling_arguments(parser)
    args = parser.parse_args(sys.argv[1:] if argv is None else argv)
    for name in ("num_images", "num_real"):
        if getattr(args, name) is not None and getattr(args, name) < 2:
            raise UserError(f"--{name} is {getattr(args, name)}; at least 2 are needed.")
    metrics = evaluate(args)
    folder = args.generated if (args.generated / "model_index.json").is_file() else Path()
    output = args.output or folder / "metrics.json"
    metrics.write(output)
    print_metrics(metrics)
    print(f"Written to {output}")


if __name__ == "__main__":
    sys.exit(run_command(main))
