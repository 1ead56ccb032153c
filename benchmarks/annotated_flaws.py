"""What two settings of the annotated recipe do to medical images: random flips, and a schedule that never reaches noise.

    python benchmarks/annotated_flaws.py runs/loss --dataset pneumoniamnist

Reads the pipelines of a finished `study loss` (its part waterfall, where each setting is changed alone) and samples them anew.
Flips: a classifier that was taught to tell real images from mirrored ones says how many generated images are mirrored; floor: real
held-out images. Noise: the spread of the images' mean brightness ÷ that of real images. A network that has only seen x_T with a
third of the image's amplitude left in it takes the brightness from there, and pure noise holds none.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from dataset_arguments import add_dataset_arguments
from judging import RESULTS

from medmnist_diffusion.data import Conditioning, ImageDataset, Split, load_dataset
from medmnist_diffusion.data.duplicates import clean_held_out
from medmnist_diffusion.errors import UserError, run_command
from medmnist_diffusion.files import write_json
from medmnist_diffusion.metrics.classifier import SmallCNN, fitted_classifier, predict
from medmnist_diffusion.processes import start_processes
from medmnist_diffusion.studies.loss.analysis import PartResult
from medmnist_diffusion.studies.loss.cells import TrainingProtocol, generate_cell

ARMS = ("+ small network on unshuffled images", "+ no flips", "+ v-prediction", "+ T = 1000")
NUM_IMAGES = 250


def orientation_classifier(train: Split) -> SmallCNN:
    """Tells images (0) from mirrored ones (1)."""
    images = np.concatenate([train.images[:], train.images[:][:, :, ::-1]])
    return fitted_classifier(Split("sides", images, np.repeat([0, 1], len(train))), Conditioning({0: "0", 1: "1"}))


def figures(model: SmallCNN, images: np.ndarray, real: Split) -> dict[str, float]:
    """`mirrored`: share that looks mirrored; `brightness_spread`: standard deviation of mean brightness ÷ that of real images."""
    split = Split("judged", images, np.zeros(len(images), np.int64))
    spread = images.mean((1, 2, 3)).std(ddof=1) / real.images[:].mean((1, 2, 3)).std(ddof=1)
    return {"mirrored": float(predict(model, split).mean()), "brightness_spread": float(spread)}


def waterfall_of(folder: Path, dataset: ImageDataset) -> tuple[TrainingProtocol, PartResult]:
    """The finished part of a study.

    Raises:
        UserError: if there is none.
    """
    try:
        values = json.loads((folder / "results.json").read_text(encoding="utf-8"))["parts"]["waterfall"]
    except (OSError, ValueError, KeyError):
        raise UserError(f"{folder} holds no finished waterfall. Run `medmnist-diffusion study loss` first.") from None
    part = PartResult.model_validate({name: values[name] for name in PartResult.model_fields})
    return TrainingProtocol(folder, dataset, part.base, (), (), NUM_IMAGES), part


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("study", type=Path, help="the folder of a finished loss study")
    add_dataset_arguments(parser)
    parser.add_argument("--output", type=Path, default=RESULTS, help="a folder")
    args = parser.parse_args(argv)
    start_processes()
    dataset = load_dataset(args.dataset, args.root, args.size)
    bench, part = waterfall_of(args.study, dataset)
    model, labels, held_out = (
        orientation_classifier(dataset.train),
        dataset.labels_in_shares(NUM_IMAGES),
        clean_held_out(dataset),
    )
    mirrored = Split("mirrored", held_out.images[:][:, :, ::-1], held_out.labels)
    result: dict[str, Any] = {
        "command": f"python benchmarks/annotated_flaws.py STUDY --dataset {dataset.name}",
        "dataset": dataset.name,
        "images": len(labels),
        "real": figures(model, held_out.images[:], held_out),
        "real_mirrored": figures(model, mirrored.images[:], held_out),
        "arms": {},
    }
    for name in ARMS:
        of_arm = []
        for cell in part.of(name):
            pipeline = bench.run_folder(cell.arm, cell.seed) / "pipeline"
            images = generate_cell(pipeline, labels, cell.arm, cell.seed)
            of_arm.append({"seed": cell.seed, **figures(model, images, held_out)})
            print(name, of_arm[-1], flush=True)
        result["arms"][name] = of_arm
    write_json(args.output / f"annotated_flaws_{dataset.name}.json", result)


if __name__ == "__main__":
    sys.exit(run_command(main))
