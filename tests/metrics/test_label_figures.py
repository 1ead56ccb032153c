"""Figures of several labels and of grades, against scikit-learn, the bootstrap and closed forms."""

import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score, roc_auc_score

from medmnist_diffusion.metrics.label_figures import cooccurrence_distance, grade_agreement, grade_error, mean_auc


def scored(n: int, labels: int = 3, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    there = (rng.random((n, labels)) < [0.5, 0.2, 0.1][:labels]).astype(float)
    scores = (there + rng.normal(0, 1, (n, labels))).round(1)  # with ties
    return np.concatenate([scores, there], 1)


def test_mean_auc_is_scikit_learns() -> None:
    values = scored(400)
    assert mean_auc(values).value == pytest.approx(roc_auc_score(values[:, 3:], values[:, :3], average="macro"))


def test_its_error_is_that_of_the_bootstrap() -> None:
    values, rng = scored(300), np.random.default_rng(1)
    again = [mean_auc(values[rng.integers(len(values), size=len(values))]).value for _ in range(400)]
    assert mean_auc(values).error == pytest.approx(np.std(again), rel=0.2)


def test_labels_that_all_images_have_are_left_out_and_said() -> None:
    values = scored(100)
    values[:, 5] = 1
    assert mean_auc(values).value == pytest.approx(roc_auc_score(values[:, 3:5], values[:, :2], average="macro"))
    assert mean_auc(values).note.startswith("2 of 3 labels")


def test_labels_seen_together() -> None:
    rng = np.random.default_rng(0)
    one = (rng.random((4000, 2)) < 0.5).astype(float)
    together = np.repeat(one[:, :1], 2, 1)
    assert cooccurrence_distance(one, one).value == 0
    found = cooccurrence_distance(one, together)
    assert found.value == pytest.approx(0.25, abs=0.02)  # both in a half of the images, instead of a quarter
    assert found.error == pytest.approx(0.5 / np.sqrt(4000), rel=0.4)


def test_grades() -> None:
    rng = np.random.default_rng(0)
    grades = rng.integers(0, 5, (500, 2))
    assert grade_error(grades).value == pytest.approx(np.abs(grades[:, 0] - grades[:, 1]).mean())
    assert grade_agreement(grades).value == pytest.approx(cohen_kappa_score(*grades.T, weights="quadratic"))
    same = np.repeat(grades[:, :1], 2, 1)
    assert (grade_error(same).value, grade_agreement(same).value) == (0, 1)
