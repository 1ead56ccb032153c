"""`medmnist-diffusion sample`: labelled images from a pipeline, as PNG folders, one npz, or a parquet data set."""

import argparse
import csv
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import atomic_folder, write_json

FORMATS = ("folder", "npz", "parquet")


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that say how images are drawn, the same in every command."""
    from medmnist_diffusion.diffusion.sampling import DEFAULT_SAMPLER, DEFAULT_STEPS, SAMPLERS

    parser.add_argument("--sampler", choices=SAMPLERS, default=DEFAULT_SAMPLER, help=f"default {DEFAULT_SAMPLER}")
    parser.add_argument("--num_inference_steps", type=int, default=DEFAULT_STEPS, help=f"default {DEFAULT_STEPS}")
    parser.add_argument("--guidance_scale", type=float, default=1.0, help="1 (default) is no guidance")
    parser.add_argument("--batch_size", type=int, default=128, help="images through the network at once")
    parser.add_argument("--seed", type=int, default=0)


def sampling_record(args: argparse.Namespace) -> dict[str, Any]:
    """How the images were drawn, for result files."""
    return {name: getattr(args, name) for name in ("sampler", "num_inference_steps", "guidance_scale", "seed")}


def sample(args: argparse.Namespace) -> None:
    """Draw `num_per_class` images of every class, shared among the processes, and write them in the asked form."""
    from medmnist_diffusion.diffusion.machine import in_shares, start_processes
    from medmnist_diffusion.diffusion.sampling import generate_rows, load_pipeline

    if args.output.exists():
        raise UserError(f"{args.output} exists already. Choose another --output, or remove it.")
    state = start_processes()
    pipe = load_pipeline(args.pipeline, args.sampler)
    pipe.to(state.device)
    pipe.set_progress_bar_config(disable=not state.is_main_process, desc="sampling")

    rows = [(label, index) for label in pipe.id2label for index in range(args.num_per_class)]
    images = in_shares(
        len(rows),
        lambda mine: generate_rows(
            pipe,
            [rows[i] for i in mine],
            args.num_inference_steps,
            args.guidance_scale,
            args.seed,
            args.batch_size,
        ),
    )
    if state.is_main_process:
        record = {"pipeline": args.pipeline.name, **sampling_record(args)}
        write = {"folder": _write_folder, "npz": _write_npz, "parquet": _write_parquet}[args.format]
        write(args.output, rows, images, pipe.id2label, record)
        print(f"{len(rows)} images by {state.num_processes} process(es) written to {args.output} ({args.format}).")
    state.wait_for_everyone()


def class_folder(label: int, name: str, num_classes: int) -> str:
    """A folder name that sorts as the ids do and holds no odd characters: `0_normal`."""
    digits = len(str(num_classes - 1))
    return f"{label:0{digits}d}_{re.sub(r'[^0-9A-Za-z]+', '_', name).strip('_')}"


def _write_folder(
    output: Path,
    rows: list[tuple[int, int]],
    images: np.ndarray,
    id2label: dict[int, str],
    record: dict[str, Any],
) -> None:
    """PNGs in class folders, with metadata.csv: file_name, label, label_name, index and how they were drawn."""
    from PIL import Image

    with atomic_folder(output) as temporary:
        lines = []
        for (label, index), image in zip(rows, images, strict=True):
            name = f"{class_folder(label, id2label[label], len(id2label))}/{index:06d}.png"
            (temporary / name).parent.mkdir(exist_ok=True)
            Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(temporary / name)
            lines.append({"file_name": name, "label": label, "label_name": id2label[label], "index": index, **record})
        with (temporary / "metadata.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)


def _write_npz(
    output: Path,
    rows: list[tuple[int, int]],
    images: np.ndarray,
    id2label: dict[int, str],
    record: dict[str, Any],
) -> None:
    """MedMNIST's six arrays, the images as train, val and test without rows; how they were drawn goes beside it as JSON."""
    from medmnist_diffusion.data.npz import write_npz

    images = images.squeeze(-1) if images.shape[-1] == 1 else images
    labels = np.array([label for label, _ in rows], np.uint8)[:, None]
    arrays = {"train_images": images, "train_labels": labels}
    for split in ("val", "test"):
        arrays |= {f"{split}_images": images[:0], f"{split}_labels": labels[:0]}
    write_npz(output, arrays)
    names = {str(label): name for label, name in id2label.items()}
    write_json(output.with_suffix(".json"), {"id2label": names, **record})


def _write_parquet(
    output: Path,
    rows: list[tuple[int, int]],
    images: np.ndarray,
    id2label: dict[int, str],
    record: dict[str, Any],
) -> None:
    """A folder that `datasets.load_dataset` reads: an Image column, a ClassLabel column, and how they were drawn."""
    import datasets
    from PIL import Image

    pictures = [Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image) for image in images]
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=[id2label[i] for i in sorted(id2label)]),
        }
    )
    table = datasets.Dataset.from_dict({"image": pictures, "label": [label for label, _ in rows]}, features=features)
    with atomic_folder(output) as temporary:
        (temporary / "data").mkdir()
        table.to_parquet(str(temporary / "data" / "train-00000-of-00001.parquet"))
        write_json(temporary / "sampling.json", record)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="medmnist-diffusion sample", description=__doc__.split(": ", 1)[1])
    parser.add_argument("pipeline", type=Path, help="a pipeline folder")
    parser.add_argument("--num_per_class", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True, help="a new folder, or a new .npz file")
    parser.add_argument("--format", choices=FORMATS, help="default: npz for a .npz output, else folder")
    add_sampling_arguments(parser)
    args = parser.parse_args(sys.argv[1:] if argv is None else argv)
    args.format = args.format or ("npz" if args.output.suffix == ".npz" else "folder")
    for name in ("num_per_class", "num_inference_steps", "batch_size"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}; at least 1 is needed.")
    sample(args)
