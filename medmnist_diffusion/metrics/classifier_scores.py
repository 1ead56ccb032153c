"""What a classifier's test scores say: MedMNIST's AUC and ACC, balance, recall, calibration; the same over resampled test sets."""

from typing import Any

import numpy as np
import torch
from medmnist.evaluator import getACC, getAUC
from scipy.special import expit, log_expit
from sklearn.metrics import balanced_accuracy_score, recall_score
from torchmetrics.functional.classification import multiclass_calibration_error

from medmnist_diffusion.data.conditioning import rows_of

FIGURES = ("auc", "acc", "balanced_accuracy", "ece")
ECE_BINS = 15
BLOCK = 50  # resamplings at once: bounded memory for large test sets


def scores_of(logits: torch.Tensor) -> np.ndarray:
    """float16 N×K log-odds of each class (of the second alone where there are two): all that the figures need, in little space."""
    logits = logits.double()
    if logits.shape[1] == 2:
        odds = logits[:, 1:] - logits[:, :1]
    else:
        others = [torch.cat([logits[:, :k], logits[:, k + 1 :]], 1).logsumexp(1) for k in range(logits.shape[1])]
        odds = logits - torch.stack(others, 1)
    return odds.clamp(-60_000, 60_000).half().numpy()


def kept_scores(scores: np.ndarray) -> list[list[float]]:
    """float16 N×K as a list a column, of the shortest numbers that are read as the same."""
    return [[float(str(value)) for value in column] for column in scores.T]


def probabilities(scores: np.ndarray) -> np.ndarray:
    """float64 N×K, rows that sum to 1."""
    odds = scores.astype(np.float64)
    if odds.shape[1] == 1:
        return np.concatenate([expit(-odds), expit(odds)], 1)
    values = np.exp(log_expit(odds))
    return values / values.sum(1, keepdims=True)


def figures_of(scores: np.ndarray, labels: np.ndarray) -> dict[str, Any]:
    """`auc` and `acc` as MedMNIST's evaluator computes them, `balanced_accuracy`, `recall` a class, and the expected calibration
    error `ece` over 15 bins (Guo et al. 2017, arXiv 1706.04599)."""
    values = probabilities(scores)
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


def resampled_test_sets(labels: np.ndarray, times: int, seed: int = 0) -> np.ndarray:
    """uint8 T×N: how often each test image is in each of `times` bootstrapped test sets, drawn within each class."""
    rng, members = np.random.default_rng(seed), [rows_of(labels, label) for label in np.unique(labels)]
    counts = np.zeros((times, len(labels)), dtype=np.uint8)
    for row in counts:
        for rows in members:
            row[rows] = np.bincount(rng.integers(len(rows), size=len(rows)), minlength=len(rows))
    return counts


def resampled_figures(scores: np.ndarray, labels: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """What `figures_of` gives, over resampled test sets T×N: each figure T, `recall` T×K.

    The AUC of several classes is the mean of one against the rest, as in MedMNIST's evaluator.
    """
    values = probabilities(scores)
    classes, right = values.shape[1], values.argmax(1) == labels
    of_auc = range(1, 2) if classes == 2 else range(classes)
    orders = [(*_tied(values[:, label]), labels == label) for label in of_auc]
    bins = np.searchsorted(np.linspace(0, 1, ECE_BINS + 1), values.max(1), side="right") - 1
    excess = np.eye(ECE_BINS + 1)[bins] * (values.max(1) - right)[:, None]  # confidence beyond accuracy, N×bins
    members = np.eye(classes)[labels]
    blocks = []
    for start in range(0, len(counts), BLOCK):
        weights = counts[start : start + BLOCK].astype(np.float64)
        recall = (weights @ (members * right[:, None])) / np.maximum(weights @ members, 1)
        blocks.append(
            {
                "auc": np.mean([_weighted_auc(weights, *order) for order in orders], 0),
                "acc": weights @ right / weights.sum(1),
                "balanced_accuracy": recall[:, np.unique(labels)].mean(1),
                "ece": np.abs(weights @ excess).sum(1) / weights.sum(1),
                "recall": recall,
            }
        )
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def _tied(score: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order of rising scores, and where each group of equal ones starts in it."""
    order = np.argsort(score, kind="stable")
    rising = score[order]
    return order, np.flatnonzero(np.r_[True, rising[1:] != rising[:-1]])


def _weighted_auc(weights: np.ndarray, order: np.ndarray, starts: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """The chance that a positive scores above a negative, ties counting half, for each row of weights B×N."""
    of_positive = np.add.reduceat((weights * positive)[:, order], starts, 1)
    of_negative = np.add.reduceat((weights * ~positive)[:, order], starts, 1)
    below = of_negative.cumsum(1) - of_negative / 2
    return (of_positive * below).sum(1) / (of_positive.sum(1) * of_negative.sum(1))
