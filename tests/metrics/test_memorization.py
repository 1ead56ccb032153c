"""Copies: planted ones are found (exact, noised, shifted, mirrored), fresh images are not, leaks hide nothing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import kstest

from medmnist_diffusion.data import load_dataset, phantom
from medmnist_diffusion.data.dataset import ImageDataset, Split
from medmnist_diffusion.data.duplicates import clean_held_out
from medmnist_diffusion.data.npz import write_npz
from medmnist_diffusion.metrics.evaluation import evaluate_images
from medmnist_diffusion.metrics.extractors import make_extractor
from medmnist_diffusion.metrics.memorization import (
    Threshold,
    authentic,
    distance_pairs,
    nearest_copies,
    nearest_features,
    nearness_to_train,
)

from .helpers import fresh, overall_records, planted


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("data") / "set.npz"
    write_npz(path, phantom.make_phantom(seed=11, counts={"train": 600, "val": 300, "test": 50}))
    return load_dataset(str(path))


def test_fresh_images_are_not_flagged(dataset: Any) -> None:
    found = overall_records(dataset, fresh(400))
    assert found["memorized_share"].p_value > 0.05
    assert found["nearness_to_train"].p_value > 0.01
    assert found["nearness_to_train"].interval[0] < 0.5 < found["nearness_to_train"].interval[1]
    assert found["authenticity"].value == pytest.approx(found["authenticity"].floor, abs=0.1)
    assert found["duplicate_share"].value < 0.05


@pytest.mark.parametrize("kind", ["exact", "noised", "shifted", "mirrored"])
def test_five_percent_of_copies_are_flagged(dataset: Any, kind: Any) -> None:
    record = overall_records(dataset, planted(dataset, 0.05, kind))["memorized_share"]
    assert record.p_value < 0.01
    assert 0.05 <= record.value < 0.09


def test_nothing_but_copies(dataset: Any) -> None:
    found = overall_records(dataset, planted(dataset, 1.0, "noised"))
    assert found["memorized_share"].value == 1
    assert found["nearness_to_train"].value == pytest.approx(1)
    assert found["nearness_to_train"].p_value < 1e-20
    assert found["authenticity"].value < 0.05


def test_repeated_samples_are_flagged(dataset: Any) -> None:
    split = fresh(200)
    twice = Split("twice", np.concatenate([split.images] * 2), np.concatenate([split.labels] * 2))
    record = overall_records(dataset, twice)["duplicate_share"]
    assert record.value > 0.5  # both of a pair must be among the compared ones
    assert record.floor < 0.02


def test_leaks_do_not_hide_copies(tmp_path: Path) -> None:
    """With training images in val, the 1 % quantile of val's distances would be 0 and nothing would be flagged."""
    arrays = phantom.make_phantom(counts={"train": 240, "val": 80, "test": 80})
    arrays["val_images"][:10] = arrays["train_images"][:10]
    write_npz(tmp_path / "leaky.npz", arrays)
    leaky = load_dataset(str(tmp_path / "leaky.npz"))
    record = overall_records(leaky, leaky.train)["memorized_share"]
    assert record.value == 1
    assert "10 left out" in record.floor_source


def test_val_that_is_train_cannot_judge_copies(tmp_path: Path) -> None:
    arrays = phantom.make_phantom(counts={"train": 240, "val": 240, "test": 60})
    for part in ("images", "labels"):
        arrays[f"val_{part}"] = arrays[f"train_{part}"]
    write_npz(tmp_path / "same.npz", arrays)
    same = load_dataset(str(tmp_path / "same.npz"))
    evaluation = evaluate_images(same, fresh(200), [make_extractor("texture", same)], parts=["features", "copies"])
    names = {record.name for record in evaluation.records}
    assert "memorized_share" not in names
    assert "kernel_distance" in names  # the rest is still measured
    assert any(line.startswith("Memorized share: only 0 val images") for line in evaluation.refused)
    assert "copied_share" in names  # training images, each left out once, stand in for fresh ones


@pytest.mark.parametrize("contrast", [1.0, 0.25, 0.1])
def test_low_contrast_does_not_turn_val_images_into_copies(contrast: Any) -> None:
    arrays = phantom.make_phantom(counts={"train": 240, "val": 80, "test": 20})
    splits = {
        name: Split(
            name,
            (128 + contrast * (arrays[f"{name}_images"][..., None] - 128.0)).round().astype(np.uint8),
            arrays[f"{name}_labels"][:, 0].astype(np.int64),
        )
        for name in ("train", "val", "test")
    }
    faint = ImageDataset("faint", splits, {label: str(label) for label in range(4)})
    assert len(clean_held_out(faint)) >= 75


def test_the_mix_of_classes_does_not_pass_for_copying(dataset: Any) -> None:
    """Fresh images in other class shares than val's are neither copies nor shy of train: the overall test has train's shares."""
    split = fresh(400)
    rng = np.random.default_rng(0)
    of_class = [rng.permutation(np.flatnonzero(split.labels == label)) for label in range(4)]
    skewed = split.subset(np.concatenate([of_class[0], of_class[1][:40], of_class[2][:40], of_class[3][:40]]))
    evaluation = evaluate_images(dataset, skewed, [make_extractor("texture", dataset)], parts=["features"])
    overall = [r for r in evaluation.records if r.name == "nearness_to_train" and r.class_ is None]
    assert all(0.01 < record.p_value < 0.99 for record in overall)


def test_nearest_copy_finds_the_disguised_original(dataset: Any) -> None:
    for kind in ("exact", "shifted", "mirrored"):
        found = nearest_copies(planted(dataset, 1.0, kind, 100), dataset.train)
        assert found.rows.tolist() == list(range(100)), kind
        np.testing.assert_allclose(found.distances, 0, atol=1e-3)


def test_nearest_features_against_brute_force() -> None:
    rng = np.random.default_rng(0)
    queries, references = rng.normal(size=(30, 5)), rng.normal(size=(40, 5))
    distances = np.linalg.norm(queries[:, None] - references[None], axis=-1)
    found = nearest_features(queries, references)
    np.testing.assert_allclose(found.distances, distances.min(1))
    assert found.rows.tolist() == distances.argmin(1).tolist()
    itself = nearest_features(references, references, exclude_self=True)
    assert (itself.distances > 0).all()
    assert (authentic(distance_pairs(nearest_features(references, references), itself)) == 0).all()


def test_threshold_p_values_are_exact_for_fresh_images() -> None:
    """Under exchangeability they are (super-)uniform: at most 5 % of them lie below 0.05, with the threshold's luck included."""
    rng = np.random.default_rng(0)
    p_values = []
    for _ in range(2000):
        threshold = Threshold.of(rng.exponential(size=300))
        p_values.append(threshold.p_value(int((rng.exponential(size=500) < threshold.value).sum()), 500))
    for level in (0.01, 0.05, 0.2):
        assert np.mean(np.array(p_values) <= level) <= level + 3 * np.sqrt(level / 2000)


def test_nearness_is_the_mann_whitney_statistic() -> None:
    rng = np.random.default_rng(0)
    generated, held_out = rng.normal(size=80).round(1), rng.normal(0.5, 1, 60).round(1)
    value = nearness_to_train(generated, held_out)
    pairs = (held_out[None] > generated[:, None]) + 0.5 * (held_out[None] == generated[:, None])
    assert value.value == pytest.approx(pairs.mean())
    p_values = [nearness_to_train(rng.normal(size=50), rng.normal(size=60)).p_value for _ in range(300)]
    assert kstest(p_values, "uniform").pvalue > 1e-3
