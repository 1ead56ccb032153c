"""A figure of your own: it is computed for every feature space, of generated images and, as the floor, of fresh real ones.

    python examples/own_metric.py

To keep it, write the entry into `medmnist_diffusion/metrics/table.py`: commands, cards and plots show it then.
"""

import numpy as np

import medmnist_diffusion as md
from medmnist_diffusion.metrics.evidence import Candidate
from medmnist_diffusion.metrics.extractors import make_extractor
from medmnist_diffusion.metrics.intervals import Estimate, delete_half_jackknife
from medmnist_diffusion.metrics.table import METRICS, Metric


def centre_distance(images: Candidate) -> Estimate:
    """How far the mean of the features lies from that of the training images, with its standard error."""
    centre = images.reference.values.mean(0)

    def distance(rows: np.ndarray) -> float:
        return float(np.linalg.norm(images.values[rows].mean(0) - centre))

    n = len(images)
    return Estimate(distance(np.arange(n)), delete_half_jackknife(distance, n, images.seed))


METRICS["centre_distance"] = Metric("centre_distance", "Distance of centres", "features", centre_distance, "lower")

dataset = md.load_dataset("phantom")
made = md.generate("phantom-28", np.arange(200) % dataset.num_classes, seed=0)
texture = make_extractor("texture", dataset)
found = md.evaluate_images(dataset, made.split, [texture], per_class=False, parts=["features"])
for record in found.records:
    if record.name == "centre_distance":
        print(
            f"{record.name}, {record.extractor}: {record.value:.3f}; of as many fresh real images: {record.floor:.3f}"
        )
