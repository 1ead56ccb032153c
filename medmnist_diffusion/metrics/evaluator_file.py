"""A classifier's scores as `medmnist.Evaluator` writes and reads them: the official tool confirms our AUC and ACC."""

import csv
from pathlib import Path

import numpy as np
from medmnist.evaluator import getACC, getAUC

from medmnist_diffusion.data.dataset import ImageDataset
from medmnist_diffusion.data.medmnist_files import medmnist_info
from medmnist_diffusion.files import atomic_file


def write_evaluator_file(
    folder: Path, dataset: ImageDataset, probabilities: np.ndarray, run: str, split: str = "test"
) -> Path:
    """One line an image: its row, and the chance of each class or label. `medmnist.Evaluator.parse_and_evaluate` reads it.

    Args:
        folder: where it lies; its name holds flag, size, split, AUC and ACC as the official tool writes them.
        dataset: one of MedMNIST.
        probabilities: float N×K, in the order of the split's images.
        run: ends the file's name, to tell several classifiers apart.

    Raises:
        ValueError: for a data set that is none of MedMNIST, or another number of images.
    """
    if dataset.source != "medmnist" or len(probabilities) != len(dataset.splits[split]):
        raise ValueError(f"scores of the {split} images of a MedMNIST set are needed")
    labels, conditioning = dataset.splits[split].labels, dataset.conditioning
    truth = conditioning.matrix(labels) if conditioning.multi_label else labels[:, None]
    task = medmnist_info()[dataset.name]["task"]
    auc, acc = getAUC(truth, probabilities, task), getACC(truth, probabilities, task)
    size = "" if dataset.image_size == 28 else f"_{dataset.image_size}"
    start = f"{dataset.name}{size}_{split}_"
    for older in folder.glob(f"{start}*@{run}.csv"):  # its name holds its figures
        older.unlink()
    path = folder / f"{start}[AUC]{auc:.3f}_[ACC]{acc:.3f}@{run}.csv"
    with atomic_file(path) as temporary, temporary.open("w", newline="") as file:
        csv.writer(file).writerows([row, *map(float, chances)] for row, chances in enumerate(probabilities))
    return path
