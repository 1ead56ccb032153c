"""How different the images of one class are from each other."""

import numpy as np

from medmnist_diffusion.metrics.intervals import Estimate, delete_half_jackknife


def intra_class_spread(features: np.ndarray, labels: np.ndarray, seed: int = 0) -> Estimate:
    """Root mean squared distance of two images of one class, from features N×D and class ids N.

    Below the floor, the images of a class are too alike.
    """

    def figure(rows: np.ndarray) -> float:
        total = 0.0
        for class_ in np.unique(labels):
            members = np.asarray(features[rows][labels[rows] == class_], np.float64)
            if len(members) > 1:  # E|x − y|² = 2 tr Σ
                total += 2 * members.var(0, ddof=1).sum() * len(members) / len(rows)
        return float(np.sqrt(total))

    return Estimate(figure(np.arange(len(labels))), delete_half_jackknife(figure, len(labels), seed))
