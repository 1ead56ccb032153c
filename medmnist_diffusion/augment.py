"""`medmnist-diffusion augment`: a data set with generated images beside the real training images, marked as what they are."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medmnist_diffusion.arguments import CommandParser
from medmnist_diffusion.data import ImageDataset, Split, load_dataset
from medmnist_diffusion.data.audit import add_dataset_arguments
from medmnist_diffusion.diffusion.machine import start_processes
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import atomic_folder, write_json
from medmnist_diffusion.metrics.mixed_training import Mixture, Recipe, fit
from medmnist_diffusion.metrics.selection import KEPT_SHARE, SELECTIONS
from medmnist_diffusion.publish.card import read_summary
from medmnist_diffusion.sample import (
    add_sampling_arguments,
    check_images_memory,
    check_new,
    check_sampling_arguments,
    image_table,
    pipeline_record,
    sampling_record,
)

SHARE = 0.25  # what the augmentation study calls synthetic-25
RECORD = "augmentation.json"  # in a folder; beside an npz it has the npz's name
HUB_SPLITS = {"train": "train", "val": "validation", "test": "test"}


def augmented_split(train: Split, generated: Split) -> tuple[Split, np.ndarray]:
    """The real images, then the generated ones, and a mask of the latter."""
    images = np.concatenate([train.images[:], generated.images])
    labels = np.concatenate([train.labels, generated.labels])
    return Split("train", images, labels), np.arange(len(labels)) >= len(train)


def generate_beside(dataset: ImageDataset, args: argparse.Namespace) -> Split:
    """As many generated images as give the share that was asked for, each class equally often; with `strength` variants of real
    ones."""
    from medmnist_diffusion.diffusion.sampling import generate, load_pipeline

    pipe = load_pipeline(args.pipeline, args.sampler)
    pipe.to(start_processes().device)
    pipe.set_progress_bar_config(desc="sampling")
    wanted = max(1, round(len(dataset.train) * args.share / (1 - args.share)))
    wanted *= 1 if args.selection is None else round(1 / KEPT_SHARE)
    check_images_memory(pipe, wanted + len(dataset.train), "Give a smaller --share.")
    labels = dataset.balanced_labels(wanted)
    options: dict[str, Any] = {}
    if args.strength is not None:
        options = {"image": dataset.train.images_of(labels, args.seed), "strength": args.strength}
    images = generate(
        pipe, labels, args.num_inference_steps, args.guidance_scale, args.seed, args.batch_size, **options
    )
    generated = Split("generated", images, labels)
    return generated if args.selection is None else selected(generated, dataset, args.selection, args.seed)


def selected(generated: Split, dataset: ImageDataset, selection: str, seed: int) -> Split:
    """What a selection of the augmentation study keeps, through the eyes of a classifier of the real training images."""
    print(f"Training a classifier of the real images, to select by {selection}.")
    model = fit(Recipe(), Mixture(dataset.train), dataset.splits["val"], dataset.num_classes, seed).model
    kept = generated.subset(SELECTIONS[selection](generated, dataset, model))
    print(f"{len(kept)} of {len(generated)} generated images were selected.")
    return kept


def check_origin(folder: Path, dataset: ImageDataset) -> None:
    """Raises:
    UserError: unless the pipeline was trained on this very data set. A generator that saw other images, perhaps those that
        the classifier is to be tested on, makes every gain worthless.
    """
    trained_on = read_summary(folder)["dataset"]
    if trained_on["content_hash"] != dataset.content_hash:
        raise UserError(
            f"{folder} was trained on {trained_on['name']}, with other images than {dataset.name} holds. Give the data set "
            "that it was trained on: a generator that saw more than the classifier may see is a leak."
        )


def write_npz_set(
    output: Path, dataset: ImageDataset, train: Split, synthetic: np.ndarray, made: dict[str, Any]
) -> None:
    """MedMNIST's six arrays, and `train_synthetic` N×1: 1 for a generated image; beside it how they were made, as JSON."""
    from medmnist_diffusion.data.npz import SYNTHETIC, npz_arrays, write_npz

    arrays = npz_arrays({**dataset.splits, "train": train}, dataset.num_classes)
    write_npz(output, {**arrays, SYNTHETIC: synthetic.astype(np.uint8)[:, None]}, made)


def write_datasets_folder(
    output: Path, dataset: ImageDataset, train: Split, synthetic: np.ndarray, made: dict[str, Any]
) -> None:
    """A folder that `datasets.load_dataset` reads: image, label, and the column `synthetic`, in every split; and how they were
    made, as JSON."""
    with atomic_folder(output) as temporary:
        (temporary / "data").mkdir()
        for name, split in {**dataset.splits, "train": train}.items():
            mask = synthetic if name == "train" else np.zeros(len(split), bool)
            table = image_table(split.images[:], split.labels.tolist(), dataset.id2label, synthetic=mask.tolist())
            table.to_parquet(str(temporary / "data" / f"{HUB_SPLITS[name]}-00000-of-00001.parquet"))
        write_json(temporary / RECORD, made)


def main(argv: Sequence[str]) -> None:
    parser = CommandParser(prog="medmnist-diffusion augment", description=__doc__.split(": ", 1)[1])
    parser.add_argument("pipeline", type=Path, help="a pipeline folder, trained on this data set")
    add_dataset_arguments(parser)
    parser.add_argument("--output", type=Path, required=True, help="a new .npz file, or a new folder for `datasets`")
    parser.add_argument(
        "--share", type=float, default=SHARE, help=f"of the training images that is generated (default {SHARE:g})"
    )
    parser.add_argument(
        "--strength", type=float, help="variants of real images instead, by so much of the noise, in 0 … 1 (0.6, say)"
    )
    parser.add_argument(
        "--selection",
        choices=list(SELECTIONS),
        help="generate twice as many and keep these, at most half of each class (see docs/augmentation.md)",
    )
    add_sampling_arguments(parser)
    args = parser.parse_args(argv)
    check_sampling_arguments(args)
    if not 0 < args.share < 1:
        raise UserError(f"--share is {args.share:g}; a share between 0 and 1 is needed.")
    if args.strength is not None and not (0 < args.strength <= 1 and round(args.strength * args.num_inference_steps)):
        raise UserError(
            f"--strength is {args.strength:g}; with {args.num_inference_steps} steps {1 / args.num_inference_steps:g} … 1 is "
            "possible."
        )
    check_new(args.output)
    if start_processes().num_processes > 1:
        raise UserError("augment runs in one process: start it without a launcher.")
    dataset = load_dataset(args.dataset, args.root, args.size)
    check_origin(args.pipeline, dataset)
    if args.selection and set(dataset.splits["val"].labels) != set(dataset.id2label):
        raise UserError(f"--selection needs validation images of every class; {dataset.name} has none of some.")
    generated = generate_beside(dataset, args)
    train, synthetic = augmented_split(dataset.train, generated)
    made = {
        "dataset": dataset.name,
        "id2label": {str(label): name for label, name in dataset.id2label.items()},
        "real_images": len(dataset.train),
        "generated_images": len(generated),
        "strength": args.strength,
        "selection": args.selection,
        **pipeline_record(args.pipeline),
        **sampling_record(args),
    }
    write = write_npz_set if args.output.suffix == ".npz" else write_datasets_folder
    write(args.output, dataset, train, synthetic, made)
    print(
        f"{len(dataset.train)} real and {len(generated)} generated training images written to {args.output}; the column "
        "that marks the generated ones is "
        + ("train_synthetic." if args.output.suffix == ".npz" else "synthetic.")
        + " Whether they help: medmnist-diffusion study augmentation."
    )
