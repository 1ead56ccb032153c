"""How good generated images are, whether they are copies, and what they teach: each figure beside its real-vs-real floor.

    python training/evaluate_fid.py runs/x/pipeline --dataset pneumoniamnist
    python training/evaluate_fid.py runs/x/pipeline --dataset pneumoniamnist --features inception --inception_weights weights.pth

Without --features: the offline pair, classifier and texture (docs/metrics.md says why these two), and Inception where its
official weights are at hand. Only these weights give what is called FID. Distances at 64, 192, 768 and 2048 features live on
different scales and do not compare with each other; a distance compares with its own floor.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from medmnist_diffusion.arguments import CommandParser
from medmnist_diffusion.artifacts import Metrics
from medmnist_diffusion.data import ImageDataset, Split, load_dataset
from medmnist_diffusion.data.audit import add_dataset_arguments, describe
from medmnist_diffusion.data.npz import read_npz
from medmnist_diffusion.data.sources import load_labelled_folder
from medmnist_diffusion.diffusion.machine import start_processes
from medmnist_diffusion.errors import UserError, run_command
from medmnist_diffusion.files import file_hash
from medmnist_diffusion.metrics.evaluation import Evaluated, evaluate_images
from medmnist_diffusion.metrics.extractors import EXTRACTORS, OFFLINE_PAIR, make_extractor
from medmnist_diffusion.metrics.inception import INCEPTION_DIMENSIONS, weights_at_hand
from medmnist_diffusion.metrics.memorization import NearestImages
from medmnist_diffusion.metrics.real_side import RealSide
from medmnist_diffusion.metrics.records import over_seeds
from medmnist_diffusion.publish.card import OPEN_LICENSES, overall_rows
from medmnist_diffusion.publish.plots import plot_closest, plot_ratios
from medmnist_diffusion.sample import (
    add_sampling_arguments,
    check_images_memory,
    check_sampling_arguments,
    read_sampling_record,
    sampling_record,
)

NUM_IMAGES, PAIRS = 1000, 10


def evaluate(args: argparse.Namespace) -> tuple[Metrics, ImageDataset, Split, NearestImages]:
    """Everything asked for; with the images on both sides and who is whose nearest, for the pictures."""
    dataset = load_dataset(args.dataset, args.root, args.size)
    # Before any sampling: a missing weights file should be known at once.
    extractors = [make_extractor(name, dataset, args.inception_weights) for name in args.features]
    generated, pipeline, sampling = _generated(args, dataset)
    if generated.images.shape[1:] != dataset.train.images.shape[1:]:
        raise UserError(
            f"{args.generated} has images of shape {generated.images.shape[1:]} (H×W×C), {dataset.name} of "
            f"{dataset.train.images.shape[1:]}. Evaluate against the data set it was made for, or give --size."
        )
    real_side = RealSide(dataset, args.num_real, args.seed)  # the same for every draw

    def measured(images: Split) -> Evaluated:
        return evaluate_images(
            dataset, images, extractors, num_real=args.num_real, dimensions=args.dimensions, seed=args.seed, real_side=real_side
        )  # fmt: skip

    evaluated = measured(generated)
    draws = [evaluated.records]
    for seed in range(args.seed + 1, args.seed + args.sampling_seeds):
        again = _generated(argparse.Namespace(**{**vars(args), "seed": seed}), dataset)[0]
        draws.append(measured(again).records)
    if args.sampling_seeds > 1:
        sampling["sampling_seeds"] = args.sampling_seeds
    metrics = Metrics(
        dataset=describe(dataset),
        pipeline=pipeline,
        sampling=sampling,
        metrics=over_seeds(draws),
        refused=evaluated.refused,
    )
    assert evaluated.nearest is not None
    return metrics, dataset, generated, evaluated.nearest


def _generated(args: argparse.Namespace, dataset: ImageDataset) -> tuple[Split, dict[str, Any], dict[str, Any]]:
    """The generated images with their labels, what made them, and how."""
    path = args.generated
    if (path / "model_index.json").is_file():
        from medmnist_diffusion.diffusion.folder_check import WEIGHTS
        from medmnist_diffusion.diffusion.sampling import generate_in_shares, load_pipeline

        pipe = load_pipeline(path, args.sampler)
        if pipe.id2label != dataset.id2label:
            raise UserError(
                f"{path} makes the classes {pipe.id2label}, {dataset.name} has {dataset.id2label}. Evaluate against the data set "
                "that it was trained on."
            )
        check_images_memory(pipe, args.num_images, "Give a smaller --num_images.")
        pipe.to(PartialState().device)
        labels = dataset.labels_in_shares(args.num_images)
        rows = [(label, index) for label, count in enumerate(np.bincount(labels)) for index in range(count)]
        pipe.set_progress_bar_config(desc="sampling", disable=not PartialState().is_main_process)
        options = (args.num_inference_steps, args.guidance_scale, args.seed, args.batch_size)
        images = generate_in_shares(pipe, rows, *options)
        weights = file_hash(path / WEIGHTS)
        return Split("generated", images, labels), {"weights_sha256": weights}, sampling_record(args)
    if path.suffix == ".npz":
        split = read_npz(path, ("train",))["train"]
    elif path.is_dir():
        split = load_labelled_folder(path, dataset.name, dataset.id2label, dataset.image_size, dataset.channels)
    else:
        raise UserError(f"{path} is no pipeline folder, image folder or npz. Give the path of one.")
    unknown = split.labels[(split.labels < 0) | (split.labels >= dataset.num_classes)]
    if len(unknown):
        raise UserError(f"{path} has label {unknown[0]}, outside the {dataset.num_classes} classes of {dataset.name}.")
    return split, {"images": path.name}, read_sampling_record(path)


def print_metrics(metrics: Metrics) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    name = f"{metrics.dataset['name']}{' (synthetic)' if metrics.dataset.get('synthetic') else ''}"
    table = Table(title=f"{name}: generated against train", box=box.SIMPLE_HEAD)
    for heading in ("figure", "value", "95 % interval", "floor", "to floor"):
        table.add_column(heading, justify="left" if heading == "figure" else "right", no_wrap=heading != "figure")
    for row in overall_rows(metrics):
        against = row["against_floor"].partition(" (")[0]  # its interval, which the card shows, does not fit
        table.add_row(row["label"], row["value"], row["interval"], row["floor"], against)
    console = Console(highlight=False, markup=False)
    console.print(table)
    sizes = dict.fromkeys(
        f"{record.n_generated} generated and {record.n_real} {record.reference_split} images; floor: "
        f"{record.floor_source}"
        for record in metrics.metrics
        if record.class_ is None
    )
    for line in sizes:
        console.print(f"- {line}.", soft_wrap=True)
    for line in metrics.refused:
        console.print(f"- not measured: {line}.", soft_wrap=True)
    if metrics.sampling:
        console.print(
            f"Sampled with {metrics.sampling['sampler']}, {metrics.sampling['num_inference_steps']} steps, guidance "
            f"{metrics.sampling['guidance_scale']:g}, seed {metrics.sampling['seed']}"
            f"{_seeds(metrics)}.",
            soft_wrap=True,
        )
    console.print(
        "Distances of different features or dimensions do not compare; compare each with its own floor.",
        soft_wrap=True,
    )


def _seeds(metrics: Metrics) -> str:
    count = metrics.sampling.get("sampling_seeds", 1)
    return f" and {count - 1} more; figures are their means" if count > 1 else ""


def main(argv: Sequence[str]) -> None:
    parser = CommandParser(prog="medmnist-diffusion evaluate", description=__doc__.split("\n", 1)[0])
    parser.add_argument("generated", type=Path, help="a pipeline folder, an image folder, or an npz (its train split)")
    add_dataset_arguments(parser)
    parser.add_argument(
        "--features",
        nargs="+",
        help=f"feature spaces: {', '.join(EXTRACTORS)}, or the Hub id or folder of a vision backbone (default "
        "classifier, texture, and inception where its official weights are at hand)",
    )
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
    parser.add_argument(
        "--sampling_seeds",
        type=int,
        default=1,
        help="draw a pipeline's images anew with so many seeds, --seed and those after it: figures are means (default 1)",
    )
    parser.add_argument("--num_real", type=int, help="at most so many training images as reference (default: all)")
    parser.add_argument("--output", type=Path, help="default: metrics.json in the pipeline folder, else here")
    add_sampling_arguments(parser)
    args = parser.parse_args(argv)
    for name in ("num_images", "num_real"):
        if getattr(args, name) is not None and getattr(args, name) < 2:
            raise UserError(f"--{name} is {getattr(args, name)}; at least 2 are needed.")
    if args.sampling_seeds < 1:
        raise UserError(f"--sampling_seeds is {args.sampling_seeds}; at least 1 is needed.")
    is_pipeline = (args.generated / "model_index.json").is_file()
    if args.sampling_seeds > 1 and args.generated.exists() and not is_pipeline:
        raise UserError(f"--sampling_seeds needs a pipeline; {args.generated} holds images that are drawn already.")
    check_sampling_arguments(args)
    if args.features is None:
        args.features = [*OFFLINE_PAIR, *(["inception"] if weights_at_hand(args.inception_weights) else [])]
    output = args.output or (args.generated if is_pipeline else Path()) / "metrics.json"
    if output.suffix != ".json":
        raise UserError(f"--output {output} does not end with .json.")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=output.parent):  # before minutes of work: may we write there?
        pass
    state = start_processes()
    metrics, dataset, generated, nearest = evaluate(args)
    if not state.is_main_process:
        return
    # A pipeline folder gets published: training images go into it only where everybody has them anyway.
    publishable = dataset.license in OPEN_LICENSES
    to_publish = (output.parent / "model_index.json").is_file()
    pairs = (output.parent if publishable or not to_publish else output.parent.parent) / "closest_pairs.png"
    closest = np.argsort(nearest.distances)[:PAIRS]
    shown = (nearest.distances[closest], nearest.rows[closest])
    title = "Generated images nearest to a training image, mirrored or shifted (grey levels, RMS)"
    ours = generated.images[closest]
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".evaluation-") as folder:
        made = Path(folder)  # what was there before stays until all of it is drawn
        plot_ratios(metrics, made / "ratios.png")
        plot_closest(ours, None, *shown, made / "closest_generated.png", title)
        metrics.write(made / "metrics.json")
        plot_closest(
            ours, dataset.train.images[nearest.rows[closest]], *shown, pairs, title
        )  # may lie on another disk
        output.unlink(missing_ok=True)  # where it lies, the pictures are its own
        for name in ("ratios.png", "closest_generated.png"):
            (made / name).replace(output.with_name(name))
        (made / "metrics.json").replace(output)
    print_metrics(metrics)
    warning = "" if publishable else ": do not publish it"
    print(
        f"Written to {output}, with ratios.png and closest_generated.png. {pairs} shows training images "
        f"(licence {dataset.license}){warning}."
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
