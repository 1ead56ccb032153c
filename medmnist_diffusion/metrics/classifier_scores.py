"""What a classifier's test scores say: MedMNIST's AUC and ACC, balance, recall, calibration; the same over resampled test sets."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from medmnist.evaluator import getACC, getAUC
from scipy.special import expit, log_expit
from sklearn.metrics import average_precision_score, balanced_accuracy_score, recall_score
from torchmetrics.functional.classification import binary_calibration_error, multiclass_calibration_error

from medmnist_diffusion.data.conditioning import rows_of

FIGURES = ("auc", "acc", "balanced_accuracy", "ece")
ECE_BINS = 15
BLOCK = 50  # resamplings at once: bounded memory for large test sets


def scores_of(logits: torch.Tensor, several: bool = False) -> np.ndarray:
    """float16 N×K log-odds of each class (of the second alone where there are two), or of `several` labels an image of each label:
    all that the figures need, in little space."""
    logits = logits.double()
    if several:
        odds = logits
    elif logits.shape[1] == 2:
        odds = logits[:, 1:] - logits[:, :1]
    else:
        others = [torch.cat([logits[:, :k], logits[:, k + 1 :]], 1).logsumexp(1) for k in range(logits.shape[1])]
        odds = logits - torch.stack(others, 1)
    return odds.clamp(-60_000, 60_000).half().numpy()


def kept_scores(scores: np.ndarray) -> list[list[float]]:
    """float16 N×K as a list a column, of the shortest numbers that are read as the same."""
    return [[float(str(value)) for value in column] for column in scores.T]


def probabilities(scores: np.ndarray, several: bool = False) -> np.ndarray:
    """float64 N×K, rows that sum to 1; of `several` labels an image the chance of each."""
    odds = scores.astype(np.float64)
    if several:
        return expit(odds)
    if odds.shape[1] == 1:
        return np.concatenate([expit(-odds), expit(odds)], 1)
    values = np.exp(log_expit(odds))
    return values / values.sum(1, keepdims=True)


def figures_of(scores: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    """`auc` and `acc` as MedMNIST's evaluator computes them, `balanced_accuracy`, `recall` a class, and the expected calibration
    error `ece` over 15 bins (Guo et al. 2017, arXiv 1706.04599).

    Args:
        truth: class ids N; or of several labels an image zeros and ones N×K: every figure is then the mean over the labels, a
            chance above one half counts as found, and a label that all images have, or none, is left out of `auc`.
    """
    if truth.ndim == 2:
        return _figures_of_labels(probabilities(scores, several=True), truth)
    values, labels = probabilities(scores), truth
    classes = values.shape[1]
    task = "binary-class" if classes == 2 else "multi-class"
    predicted = values.argmax(1)
    return {
        "auc": float(getAUC(labels[:, None], values, task)),
        "acc": float(getACC(labels[:, None], values, task)),
        "balanced_accuracy": float(balanced_accuracy_score(labels, predicted)),
        "recall": recall_score(labels, predicted, labels=range(classes), average=None, zero_division=0).tolist(),
        "ece": float(
            multiclass_calibration_error(torch.from_numpy(values), torch.from_numpy(labels), classes, n_bins=ECE_BINS)
        ),
    }


def _figures_of_labels(values: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    task = "multi-label, binary-class"
    both = np.flatnonzero(truth.any(0) & ~truth.all(0))
    columns = [(values[:, label], truth[:, label]) for label in range(truth.shape[1])]
    errors = [
        binary_calibration_error(torch.tensor(chance), torch.tensor(has).int(), n_bins=ECE_BINS)
        for chance, has in columns
    ]
    found = values > 0.5
    return {
        "auc": float(getAUC(truth[:, both], values[:, both], task)),
        "acc": float(getACC(truth, values, task)),
        "balanced_accuracy": float(np.mean([balanced_accuracy_score(truth[:, k], found[:, k]) for k in both])),
        "recall": recall_score(truth, found, average=None, zero_division=0).tolist(),
        "ece": float(np.mean(errors)),
    }


def average_precisions(scores: np.ndarray, truth: np.ndarray) -> list[float]:
    """Of each class, or label, against the rest; what `figures_of` takes. Without an image of the class it is 0."""
    several = truth.ndim == 2
    values = probabilities(scores, several)
    has = truth.astype(bool) if several else np.eye(values.shape[1], dtype=bool)[truth]
    return [
        float(average_precision_score(of, value)) if of.any() else 0.0
        for of, value in zip(has.T, values.T, strict=True)
    ]


def resampled_test_sets(
    labels: np.ndarray, times: int, seed: int = 0, groups: Sequence[str] | None = None
) -> np.ndarray:
    """uint8 T×N: how often each test image is in each of `times` bootstrapped test sets, drawn within each class (or stratum).

    Args:
        groups: which person each image shows, N. Persons are drawn then, each with all its images, within the rarest class that
            they show: images of one person are no independent ones (a cluster bootstrap). Every class is in every test set.
    """
    rng = np.random.default_rng(seed)
    if groups is None:
        persons, strata = np.arange(len(labels)), labels
    else:
        _, persons = np.unique(groups, return_inverse=True)
        _, ids, frequency = np.unique(labels, return_inverse=True, return_counts=True)
        by_rarity = np.lexsort((frequency[ids], persons))  # the rarest of each person first
        _, first = np.unique(persons[by_rarity], return_index=True)
        strata = labels[by_rarity][first]
    members = [rows_of(strata, stratum) for stratum in np.unique(strata)]
    everything, counts = set(np.unique(labels).tolist()), np.zeros((times, len(labels)), dtype=np.uint8)
    drawn = np.zeros(len(strata), np.uint8)
    for row in counts:
        while not row.any() or (groups is not None and set(labels[row > 0].tolist()) != everything):
            for rows in members:
                drawn[rows] = np.bincount(rng.integers(len(rows), size=len(rows)), minlength=len(rows))
            row[:] = drawn[persons]
    return counts


def resampled_figures(scores: np.ndarray, truth: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """What `figures_of` gives, over resampled test sets T×N: each figure T, `recall` T×K.

    The AUC of several classes is the mean of one against the rest, as in MedMNIST's evaluator.
    """
    several = truth.ndim == 2
    figures = _weighted_labels(scores, truth) if several else _weighted_classes(scores, truth)
    blocks = [figures(counts[start : start + BLOCK].astype(np.float64)) for start in range(0, len(counts), BLOCK)]
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def resampled_average_precision(scores: np.ndarray, truth: np.ndarray, counts: np.ndarray, label: int) -> np.ndarray:
    """The average precision of one class, or label, against the rest over resampled test sets T×N: T. 0 without an image of it."""
    several = truth.ndim == 2
    chances = probabilities(scores, several)[:, label]
    has = truth[:, label].astype(bool) if several else truth == label
    order, starts = _tied(chances)
    blocks = [counts[start : start + BLOCK].astype(np.float64) for start in range(0, len(counts), BLOCK)]
    return np.concatenate([_weighted_average_precision(block, order, starts, has) for block in blocks])


Weighted = Callable[[np.ndarray], dict[str, np.ndarray]]  # weights B×N of the images → figures B, `recall` B×K


def _weighted_classes(scores: np.ndarray, labels: np.ndarray) -> Weighted:
    values = probabilities(scores)
    classes, right = values.shape[1], values.argmax(1) == labels
    of_auc = range(1, 2) if classes == 2 else range(classes)
    orders = [(*_tied(values[:, label]), labels == label) for label in of_auc]
    bins = np.searchsorted(np.linspace(0, 1, ECE_BINS + 1), values.max(1), side="right") - 1
    excess = np.eye(ECE_BINS + 1)[bins] * (values.max(1) - right)[:, None]  # confidence beyond accuracy, N×bins
    members, present = np.eye(classes)[labels], np.unique(labels)

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        recall = (weights @ (members * right[:, None])) / np.maximum(weights @ members, 1)
        return {
            "auc": np.mean([_weighted_auc(weights, *order) for order in orders], 0),
            "acc": weights @ right / weights.sum(1),
            "balanced_accuracy": recall[:, present].mean(1),
            "ece": np.abs(weights @ excess).sum(1) / weights.sum(1),
            "recall": recall,
        }

    return figures


def _weighted_labels(scores: np.ndarray, truth: np.ndarray) -> Weighted:
    values, has = probabilities(scores, several=True), truth.astype(bool)
    labels, found = range(truth.shape[1]), values > 0.5
    orders = [(*_tied(values[:, label]), has[:, label]) for label in labels]
    bins = np.searchsorted(np.linspace(0, 1, ECE_BINS + 1), values, side="right") - 1
    excess = [np.eye(ECE_BINS + 1)[bins[:, label]] * (values - has)[:, label, None] for label in labels]

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        total, positive = weights.sum(1, keepdims=True), weights @ has
        both = (positive > 0) & (positive < total)  # of a label that all images have, or none, there is no AUC
        recall = (weights @ (has & found)) / np.maximum(positive, 1)
        specificity = (weights @ ~(has | found)) / np.maximum(total - positive, 1)
        areas = np.stack([_weighted_auc(weights, *order) for order in orders], 1)
        return {
            "auc": np.mean(areas, 1, where=both),
            "acc": (weights @ (found == has) / total).mean(1),
            "balanced_accuracy": np.mean((recall + specificity) / 2, 1, where=both),
            "ece": np.mean([np.abs(weights @ one).sum(1) for one in excess], 0) / total[:, 0],
            "recall": recall,
        }

    return figures


def _tied(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order of rising scores, and where each group of equal ones starts in it."""
    order = np.argsort(score, kind="stable")
    rising = score[order]
    return order, np.flatnonzero(np.r_[True, rising[1:] != rising[:-1]])


def _weighted_average_precision(
    weights: np.ndarray, order: np.ndarray, starts: np.ndarray, positive: np.ndarray
) -> np.ndarray:
    """The precision of all that score as high as a positive or higher, in the mean over the positives; for each row of weights."""
    of_positive = np.add.reduceat((weights * positive)[:, order], starts, 1)
    of_all = np.add.reduceat(weights[:, order], starts, 1)
    found, seen = (one[:, ::-1].cumsum(1)[:, ::-1] for one in (of_positive, of_all))
    return (of_positive * found / np.maximum(seen, 1)).sum(1) / np.maximum(of_positive.sum(1), 1)


def _weighted_auc(weights: np.ndarray, order: np.ndarray, starts: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """The chance that a positive scores above a negative, ties counting half, for each row of weights B×N."""
    of_positive = np.add.reduceat((weights * positive)[:, order], starts, 1)
    of_negative = np.add.reduceat((weights * ~positive)[:, order], starts, 1)
    below = of_negative.cumsum(1) - of_negative / 2
    return (of_positive * below).sum(1) / np.maximum(of_positive.sum(1) * of_negative.sum(1), 1)
