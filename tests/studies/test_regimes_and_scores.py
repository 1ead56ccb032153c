"""Draws of a regime, and MedMNIST's figures over resampled test sets."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from medmnist.evaluator import getACC, getAUC
from sklearn.metrics import balanced_accuracy_score

from medmnist_diffusion.data import ImageDataset, Split, load_dataset
from medmnist_diffusion.data.regimes import LEAST, Regime, draw_regime
from medmnist_diffusion.metrics.classifier_scores import (
    FIGURES,
    average_precisions,
    figures_of,
    probabilities,
    resampled_average_precision,
    resampled_figures,
    resampled_test_sets,
    scores_of,
)


def test_draws_are_stratified_nested_and_shrink_validation_too(small: ImageDataset) -> None:
    few, many = draw_regime(small, Regime(0.1), 3), draw_regime(small, Regime(0.5), 3)
    counts = np.bincount(small.train.labels)
    assert np.bincount(few.dataset.train.labels).tolist() == np.maximum(LEAST, np.round(counts * 0.1)).tolist()
    assert len(few.dataset.splits["val"]) < len(many.dataset.splits["val"]) < len(small.splits["val"])
    assert set(few.train_rows) < set(many.train_rows)
    assert few.dataset.splits["test"] is small.splits["test"]
    assert draw_regime(small, Regime(0.1), 4).index_hash != few.index_hash
    assert draw_regime(small, Regime(0.1), 3).index_hash == few.index_hash
    assert (small.train.images[few.train_rows] == few.dataset.train.images).all()


def test_all_images_are_the_whole_set_and_imbalance_cuts_the_rarest_class(small: ImageDataset) -> None:
    assert draw_regime(small, Regime(1.0), 0).dataset.train.content_hash == small.train.content_hash
    cut = draw_regime(small, Regime(1.0, 0.1), 0)
    before, after = (np.bincount(dataset.train.labels) for dataset in (small, cut.dataset))
    rarest = int(before.argmin())
    assert after[rarest] == max(LEAST, round(0.1 * before[rarest]))
    assert (np.delete(after, rarest) == np.delete(before, rarest)).all()


@pytest.mark.parametrize("classes", [2, 4])
def test_figures_are_medmnists(classes: int) -> None:
    rng = np.random.default_rng(classes)
    labels = rng.integers(classes, size=300)
    logits = torch.from_numpy(rng.normal(size=(300, classes)) + 1.5 * np.eye(classes)[labels])
    truth = torch.softmax(logits, 1).numpy()
    scores = scores_of(logits)
    np.testing.assert_allclose(probabilities(scores), truth, atol=2e-3)
    task = "binary-class" if classes == 2 else "multi-class"
    found = figures_of(scores, labels)
    assert found["auc"] == pytest.approx(getAUC(labels[:, None], truth, task), abs=1e-3)
    assert found["acc"] == pytest.approx(getACC(labels[:, None], truth, task), abs=4e-3)
    assert np.mean(found["recall"]) == pytest.approx(found["balanced_accuracy"])


def agree(scores: np.ndarray, truth: np.ndarray, counts: np.ndarray) -> None:
    """Resampled figures are those of the images that a resampling holds, counted out."""
    found = resampled_figures(scores, truth, counts)
    assert set(found) == {*FIGURES, "recall"}
    for at, count in enumerate(counts):
        rows = np.repeat(np.arange(len(truth)), count)
        alone = figures_of(scores[rows], truth[rows])
        for name, values in found.items():
            np.testing.assert_allclose(values[at], alone[name], atol=1e-6, err_msg=name)
    for label, _ in enumerate(average_precisions(scores, truth)):
        precise = resampled_average_precision(scores, truth, counts, label)
        expected = [
            average_precisions(scores[rows], truth[rows])[label]
            for rows in (np.repeat(np.arange(len(truth)), count) for count in counts)
        ]
        np.testing.assert_allclose(precise, expected, atol=1e-6)


def several_labels(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Zeros and ones N×3, the last label rare, and log-odds that know something of them."""
    rng = np.random.default_rng(seed)
    truth = (rng.random((count, 3)) < [0.5, 0.3, 0.05]).astype(np.uint8)
    return truth, np.round(rng.normal(size=truth.shape) + 2 * truth - 1.5, 1)


def test_figures_of_several_labels_are_medmnists_and_sklearns() -> None:
    truth, odds = several_labels(0, 300)
    scores = scores_of(torch.from_numpy(odds), several=True)
    chances = 1 / (1 + np.exp(-odds))
    np.testing.assert_allclose(probabilities(scores, several=True), chances, atol=2e-3)
    task, found = "multi-label, binary-class", figures_of(scores, truth)
    assert found["auc"] == pytest.approx(getAUC(truth, chances, task), abs=1e-3)
    assert found["acc"] == pytest.approx(getACC(truth, chances, task), abs=1e-3)
    balanced = [balanced_accuracy_score(truth[:, k], odds[:, k] > 0) for k in range(3)]
    assert found["balanced_accuracy"] == pytest.approx(np.mean(balanced))
    assert found["recall"] == pytest.approx([(odds[truth[:, k] == 1, k] > 0).mean() for k in range(3)])


def test_resampled_figures_of_several_labels_are_those_of_the_same_images() -> None:
    truth, odds = several_labels(1, 60)
    scores = scores_of(torch.from_numpy(odds), several=True)
    counts = resampled_test_sets(np.zeros(60, np.int64), 60)
    absent = [not truth[np.repeat(np.arange(60), count), 2].any() for count in counts]
    assert any(absent)  # a resampling without the rare label has the figures of the others
    agree(scores, truth, counts)


def test_draws_of_several_labels_keep_the_shares_of_combinations() -> None:
    dataset = load_dataset("phantom-multilabel")
    conditioning = dataset.conditioning
    half, cut = draw_regime(dataset, Regime(0.5), 0), draw_regime(dataset, Regime(1.0, 0.1), 0)
    counts = conditioning.stratum_counts(dataset.train.labels)
    drawn = conditioning.stratum_counts(half.dataset.train.labels)
    assert drawn.tolist() == np.maximum(np.minimum(LEAST, counts), np.round(counts * 0.5)).tolist()
    before, after = (conditioning.counts(one.train.labels) for one in (dataset, cut.dataset))
    rare = int(before.argmin())
    assert after[rare] < 0.2 * before[rare]
    shown = conditioning.shows(dataset.train.labels, rare)
    assert len(cut.dataset.train) == len(dataset.train) - (before[rare] - after[rare])
    assert set(np.flatnonzero(~shown)) <= set(cut.train_rows)


def test_figures_survive_a_classifier_that_is_quite_sure() -> None:
    logits = torch.tensor([[300.0, -300.0], [-300.0, 300.0], [5.0, -5.0]])
    assert figures_of(scores_of(logits), np.array([0, 1, 0]))["auc"] == 1.0
    many = torch.eye(3) * 500
    assert figures_of(scores_of(many), np.arange(3))["acc"] == 1.0


@pytest.mark.parametrize("classes", [2, 4])
def test_resampled_figures_are_those_of_the_same_images(classes: int) -> None:
    rng = np.random.default_rng(classes)
    labels = rng.integers(classes, size=200)
    logits = np.round(rng.normal(size=(200, classes)) + np.eye(classes)[labels], 1)  # with ties
    scores, counts = scores_of(torch.from_numpy(logits)), resampled_test_sets(labels, 60)
    agree(scores, labels, counts)


def test_test_sets_are_drawn_within_each_class_with_replacement() -> None:
    labels = np.repeat([0, 1, 2], [5, 40, 300])
    counts = resampled_test_sets(labels, 400)
    for label in range(3):
        of_class = counts[:, labels == label]
        assert (of_class.sum(1) == of_class.shape[1]).all()
        assert of_class.mean(0) == pytest.approx(1, abs=0.25)
    assert (counts == 0).mean() == pytest.approx((1 - 1 / 300) ** 300, abs=0.02)


def test_test_sets_of_persons_hold_all_images_of_each_and_every_class() -> None:
    """40 persons with ten images each, whose scores go together: the error of a mean is that of 40, not of 400."""
    rng = np.random.default_rng(0)
    persons = np.repeat(np.arange(40), 10)
    labels = (rng.random(400) < 0.3).astype(np.int64)
    counts = resampled_test_sets(labels, 2000, groups=[f"person {one}" for one in persons])
    assert (counts.reshape(2000, 40, 10) == counts.reshape(2000, 40, 10)[:, :, :1]).all()
    assert all({0, 1} <= set(labels[row > 0]) for row in counts)
    scores = rng.normal(size=40)[persons]
    means = (counts * scores).sum(1) / counts.sum(1)
    assert means.std() == pytest.approx(scores.std() / np.sqrt(40), rel=0.1)
    alone = resampled_test_sets(labels, 2000)
    assert ((alone * scores).sum(1) / alone.sum(1)).std() == pytest.approx(scores.std() / np.sqrt(400), rel=0.1)


def test_fresh_images_are_of_persons_who_were_not_drawn(small: ImageDataset) -> None:
    def of_persons(split: Split) -> Split:
        return replace(split, groups=[f"{split.name} {row // 4}" for row in range(len(split))])

    persons = {name: of_persons(split) for name, split in small.splits.items()}
    data = draw_regime(replace(small, splits=persons), Regime(0.1), 0)
    drawn = set(data.dataset.train.groups or ())
    assert len(data.fresh)
    assert data.fresh.groups is not None
    assert not drawn & set(data.fresh.groups)
    assert drawn & set(data.left_out("train").groups or ())  # some persons have images on both sides


def resampled(scores: np.ndarray, labels: np.ndarray, times: int) -> np.ndarray:
    return resampled_figures(scores, labels, resampled_test_sets(labels, times))["auc"]


def test_resampled_auc_of_several_classes_has_the_spread_of_new_test_sets() -> None:
    rng = np.random.default_rng(1)

    def draw() -> tuple[np.ndarray, np.ndarray]:
        labels = np.repeat(np.arange(3), 60)
        return scores_of(torch.from_numpy(rng.normal(size=(180, 3)) + np.eye(3)[labels])), labels

    fresh = [figures_of(*draw())["auc"] for _ in range(200)]
    spreads = [resampled(*draw(), 200).std(ddof=1) for _ in range(10)]
    assert np.mean(spreads) == pytest.approx(np.std(fresh, ddof=1), rel=0.2)
