"""Figures of labels that are more than a share of hits: AUC of several labels, labels seen together, distance between grades."""

import numpy as np
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from medmnist_diffusion.metrics.intervals import Estimate, delete_half_jackknife


def mean_auc(values: np.ndarray) -> Estimate:
    """The mean over labels of the area under the ROC curve, of those that some images have and some do not; with the standard
    error of DeLong et al. 1988 over images, which holds that the labels are of the same ones.

    Args:
        values: float N×2K, the chance of each label, and whether it is there (1) or not (0).
    """
    scores, there = np.split(values, 2, axis=1)
    judged = [label for label in range(there.shape[1]) if 0 < there[:, label].sum() < len(there)]
    if not judged:
        return Estimate(float("nan"))
    influence, areas = np.zeros(len(values)), []
    for label in judged:
        has, score = there[:, label] == 1, scores[:, label]
        area = float(roc_auc_score(has, score))
        order_of_others, order_of_own = np.sort(score[~has]), np.sort(score[has])
        below = _share_below(order_of_others, score[has])  # of the images without it
        above = 1 - _share_below(order_of_own, score[~has])  # of those with it
        influence[has] += (below - area) / has.mean()
        influence[~has] += (above - area) / (~has).mean()
        areas.append(area)
    error = float(influence.std(ddof=1) / len(judged) / np.sqrt(len(values)))
    note = (
        ""
        if len(judged) == there.shape[1]
        else f"{len(judged)} of {there.shape[1]} labels: of the others, all images or none"
    )
    return Estimate(float(np.mean(areas)), error, note=note)


def _share_below(order: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Which part of the sorted numbers lies below each value, equal ones counting half."""
    return np.asarray(
        (np.searchsorted(order, values, "left") + np.searchsorted(order, values, "right")) / (2 * len(order))
    )


def cooccurrence_distance(reference: np.ndarray, chances: np.ndarray, seed: int = 0) -> Estimate:
    """Root mean square, over pairs of labels, of how much more or less often both are seen in an image than in the reference.

    Args:
        reference, chances: float N×K, a classifier's chance of each label; their products stand for "both".
    """
    pairs = np.triu_indices(chances.shape[1], 1)
    wanted = (reference.T @ reference / len(reference))[pairs]

    def distance(rows: np.ndarray) -> float:
        seen = (chances[rows].T @ chances[rows] / len(rows))[pairs]
        return float(np.sqrt(np.mean((seen - wanted) ** 2))) if len(wanted) else 0.0

    return Estimate(distance(np.arange(len(chances))), delete_half_jackknife(distance, len(chances), seed))


def grade_error(grades: np.ndarray) -> Estimate:
    """The mean distance between two grades, int N×2."""
    distance = np.abs(grades[:, 0] - grades[:, 1]).astype(float)
    return Estimate(float(distance.mean()), float(distance.std(ddof=1) / np.sqrt(len(distance))))


def grade_agreement(grades: np.ndarray, seed: int = 0) -> Estimate:
    """Cohen's kappa with quadratic weights (Cohen 1968) of two grades, int N×2: 1 is the same, 0 no better than chance."""

    def kappa(rows: np.ndarray) -> float:
        one, other = grades[rows].T
        return float(cohen_kappa_score(one, other, weights="quadratic")) if len(np.unique(grades[rows])) > 1 else 1.0

    return Estimate(kappa(np.arange(len(grades))), delete_half_jackknife(kappa, len(grades), seed))
