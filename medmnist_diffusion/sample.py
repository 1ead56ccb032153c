"""`medmnist-diffusion sample`: labelled images from a pipeline, as PNG folders, one npz, or a parquet data set."""

import argparse
import csv
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medmnist_diffusion.arguments import CommandParser
from medmnist_diffusion.data.dataset import Split, without_grey_axis
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import atomic_folder, file_hash, write_json
from medmnist_diffusion.resources import check_memory

RECORDED = ("sampler", "num_inference_steps", "guidance_scale", "seed")
FORMATS = ("folder", "npz", "parquet")


def add_sampling_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments that say how images are drawn, the same in every command."""
    from medmnist_diffusion.diffusion.sampling import DEFAULT_SAMPLER, DEFAULT_STEPS, SAMPLERS

    steps = ", ".join(f"{name} {default}" for name, default in DEFAULT_STEPS.items())
    parser.add_argument("--sampler", choices=SAMPLERS, default=DEFAULT_SAMPLER, help=f"default {DEFAULT_SAMPLER}")
    parser.add_argument("--num_inference_steps", type=int, help=f"default: {steps}")
    parser.add_argument("--guidance_scale", type=float, default=1.0, help="1 (default) is no guidance")
    parser.add_argument("--batch_size", type=int, default=128, help="images through the network at once")
    parser.add_argument("--seed", type=int, default=0)


def check_sampling_arguments(args: argparse.Namespace) -> None:
    """Fill in the sampler's own number of steps; a UserError for what no sampler can do."""
    from medmnist_diffusion.diffusion.sampling import DEFAULT_STEPS

    args.num_inference_steps = (
        DEFAULT_STEPS[args.sampler] if args.num_inference_steps is None else args.num_inference_steps
    )
    for name in ("num_inference_steps", "batch_size"):
        if getattr(args, name) < 1:
            raise UserError(f"--{name} is {getattr(args, name)}; at least 1 is needed.")
    if args.seed < 0:
        raise UserError(f"--seed is {args.seed}; 0 or more is needed.")
    if not math.isfinite(args.guidance_scale):
        raise UserError(f"--guidance_scale is {args.guidance_scale}; a finite number is needed.")


def sampling_record(args: argparse.Namespace) -> dict[str, Any]:
    """How the images were drawn, for result files."""
    return {name: getattr(args, name) for name in RECORDED}


def read_sampling_record(path: Path) -> dict[str, Any]:
    """How the images of an npz or a folder that `sample` wrote were drawn; empty for images from elsewhere."""
    return read_export_record(path, {"sampler": str, "num_inference_steps": int, "guidance_scale": float, "seed": int})


def read_export_record(path: Path, types: dict[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """What `sample` noted beside its npz, PNG folders or parquet, as the given types; empty unless all of it is there."""
    try:
        if path.suffix == ".npz":
            record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        elif (path / "sampling.json").is_file():
            record = json.loads((path / "sampling.json").read_text(encoding="utf-8"))
        else:
            with (path / "metadata.csv").open(newline="") as file:
                record = next(csv.DictReader(file))
        return {name: of_type(record[name]) for name, of_type in types.items()}
    except (OSError, ValueError, KeyError, TypeError, StopIteration, RecursionError):
        return {}


def sample(args: argparse.Namespace) -> None:
    """Draw `num_per_class` images of every class, shared among the processes, and write them in the asked form."""
    from medmnist_diffusion.diffusion.machine import start_processes
    from medmnist_diffusion.diffusion.sampling import generate_in_shares, load_pipeline

    check_new(args.output)
    state = start_processes()
    pipe = load_pipeline(args.pipeline, args.sampler)
    pipe.to(state.device)
    pipe.set_progress_bar_config(disable=not state.is_main_process, desc="sampling")

    count = args.num_per_class * len(pipe.id2label)
    check_images_memory(pipe, count, "Make fewer at once, with another --seed each time.")
    rows = [(label, index) for label in pipe.id2label for index in range(args.num_per_class)]
    images = generate_in_shares(pipe, rows, args.num_inference_steps, args.guidance_scale, args.seed, args.batch_size)
    if state.is_main_process:
        made = Split("train", images, np.array([label for label, _ in rows]))
        record = {
            **pipeline_record(args.pipeline),
            **sampling_record(args),
            "images_sha256": made.content_hash,  # of images and labels together
        }
        write = {"folder": _write_folder, "npz": _write_npz, "parquet": _write_parquet}[args.format]
        write(args.output, made, pipe.id2label, record)
        if record["synthetic"]:
            print("Trained on the synthetic phantom set: computed shapes, no patients.")
        print(f"{len(rows)} images by {state.num_processes} process(es) written to {args.output} ({args.format}).")
    state.wait_for_everyone()


def check_new(output: Path) -> None:
    """Raises:
    UserError: if the output exists, or the record that is written beside an npz.
    """
    for path in (output, *([output.with_suffix(".json")] if output.suffix == ".npz" else [])):
        if path.exists():
            raise UserError(f"{path} exists already. Choose another --output, or remove it.")


def check_images_memory(pipe: Any, count: int, remedy: str) -> None:
    """Raises:
    UserError: if so many images of a pipeline do not fit into memory, before the first one is made.
    """
    config = pipe.unet.config
    pixels = config.in_channels * config.sample_size**2
    check_memory(count * (4 * pixels + 200), f"making {count:,} images", remedy)


def pipeline_record(folder: Path) -> dict[str, Any]:
    """Which pipeline made the images: its weights' hash, the data set that it was trained on, and whether that is synthetic."""
    from medmnist_diffusion.diffusion.folder_check import WEIGHTS
    from medmnist_diffusion.publish.card import SUMMARY, read_summary

    dataset = read_summary(folder)["dataset"] if (folder / SUMMARY).is_file() else {}
    return {
        "pipeline_weights_sha256": file_hash(folder / WEIGHTS),
        "trained_on": dataset.get("name", "unknown"),
        "synthetic": dataset.get("synthetic", False),
    }


def class_folder(label: int, name: str, num_classes: int) -> str:
    """A folder name that sorts as the ids do and holds no odd characters: `0_normal`."""
    digits = len(str(num_classes - 1))
    return f"{label:0{digits}d}_{re.sub(r'[^0-9A-Za-z]+', '_', name).strip('_')}"


def _write_folder(output: Path, made: Split, id2label: dict[int, str], record: dict[str, Any]) -> None:
    """PNGs in class folders, with metadata.csv: file_name, label, label_name, index and how they were drawn."""
    from PIL import Image

    with atomic_folder(output) as temporary:
        lines, counts = [], dict.fromkeys(id2label, 0)
        for label, image in zip(made.labels.tolist(), made.images[:], strict=True):
            index, counts[label] = counts[label], counts[label] + 1
            name = f"{class_folder(label, id2label[label], len(id2label))}/{index:06d}.png"
            (temporary / name).parent.mkdir(exist_ok=True)
            Image.fromarray(without_grey_axis(image)).save(temporary / name)
            lines.append({"file_name": name, "label": label, "label_name": id2label[label], "index": index, **record})
        with (temporary / "metadata.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]))
            writer.writeheader()
            writer.writerows(lines)


def image_table(images: np.ndarray, labels: Sequence[int], id2label: dict[int, str], **columns: Sequence[Any]) -> Any:
    """A `datasets.Dataset` with an Image column, a ClassLabel column, and others."""
    import datasets
    from PIL import Image

    pictures = [Image.fromarray(without_grey_axis(image)) for image in images]
    names = [id2label[label] for label in sorted(id2label)]
    table = datasets.Dataset.from_dict({"image": pictures, "label": list(labels), **columns})
    return table.cast_column("image", datasets.Image()).cast_column("label", datasets.ClassLabel(names=names))


def _write_npz(output: Path, made: Split, id2label: dict[int, str], record: dict[str, Any]) -> None:
    """MedMNIST's six arrays, the images as train, val and test without rows; how they were drawn goes beside it as JSON."""
    from medmnist_diffusion.data.npz import npz_arrays, write_npz

    empty = made.subset(np.arange(0))
    names = {str(label): name for label, name in id2label.items()}
    arrays = npz_arrays({"train": made, "val": empty, "test": empty}, len(id2label))
    write_npz(output, arrays, {"id2label": names, **record})


def _write_parquet(output: Path, made: Split, id2label: dict[int, str], record: dict[str, Any]) -> None:
    """A folder that `datasets.load_dataset` reads: an Image column, a ClassLabel column, and how they were drawn."""
    table = image_table(made.images[:], made.labels.tolist(), id2label)
    with atomic_folder(output) as temporary:
        (temporary / "data").mkdir()
        table.to_parquet(str(temporary / "data" / "train-00000-of-00001.parquet"))
        write_json(temporary / "sampling.json", record)


def main(argv: Sequence[str]) -> None:
    parser = CommandParser(prog="medmnist-diffusion sample", description=__doc__.split(": ", 1)[1])
    parser.add_argument("pipeline", type=Path, help="a pipeline folder")
    parser.add_argument("--num_per_class", type=int, required=True)
    parser.add_argument("--output", type=Path, required=True, help="a new folder, or a new .npz file")
    parser.add_argument("--format", choices=FORMATS, help="default: npz for a .npz output, else folder")
    add_sampling_arguments(parser)
    args = parser.parse_args(argv)
    args.format = args.format or ("npz" if args.output.suffix == ".npz" else "folder")
    if args.format == "npz" and args.output.suffix != ".npz":
        raise UserError(f"--output {args.output} does not end with .npz, as --format npz needs.")
    if args.num_per_class < 1:
        raise UserError(f"--num_per_class is {args.num_per_class}; at least 1 is needed.")
    check_sampling_arguments(args)
    sample(args)
