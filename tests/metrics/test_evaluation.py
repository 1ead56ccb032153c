"""evaluate_images: floors, refusals, labels; real images score as their floor."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from medmnist_diffusion.artifacts import MetricRecord
from medmnist_diffusion.data import phantom
from medmnist_diffusion.data.dataset import ImageDataset, Split
from medmnist_diffusion.metrics.classifier import predict, real_data_classifier
from medmnist_diffusion.metrics.evaluation import evaluate_images
from medmnist_diffusion.metrics.extractors import make_extractor
from medmnist_diffusion.metrics.plan import plan_comparison
from medmnist_diffusion.metrics.table import record_label
from tests.conftest import grey_splits

from .helpers import fresh


@pytest.mark.usefixtures("whole_classifiers")
def test_floor_in_a_fitted_space_comes_from_images_that_it_never_saw(small: Any) -> None:
    """The classifier has memorized its 240 training images: fresh real images would look bad beside a floor made of those."""
    plan = plan_comparison(small, small.splits["val"], fresh(400), None, seed=0, only_held_out=True)
    assert plan.floor_split is small.splits["val"]
    assert 50 <= len(plan.generated) <= 80
    evaluated = evaluate_images(small, fresh(400), [make_extractor("classifier", small)], parts=["features"])
    precision = next(record for record in evaluated.records if record.name == "precision")
    assert precision.value == pytest.approx(precision.floor, abs=0.15)


def test_a_missing_class_is_a_loss_not_an_error(small: Any) -> None:
    generated = fresh(400)
    without = generated.subset(np.flatnonzero(generated.labels != 2))
    plan = plan_comparison(small, small.splits["val"], without, None, seed=0)
    assert len(plan.generated) == len(plan.floor)
    assert 2 not in without.labels[plan.generated]
    assert 2 in plan.floor_split.labels[plan.floor]
    evaluation = evaluate_images(small, without, [make_extractor("texture", small)], parts=["features"])
    assert any("no generated image of this class (class: 2)" in line for line in evaluation.refused)
    assert {None, 0, 1} <= {record.class_ for record in evaluation.records} <= {None, 0, 1, 3}


def test_a_class_that_val_hardly_has_does_not_silence_the_others(small: Any) -> None:
    """Overall figures of labels and copies are then those of the other classes, and say so."""
    val = small.splits["val"]
    rows = np.concatenate([np.flatnonzero(val.labels != 3), np.flatnonzero(val.labels == 3)[:1]])
    few = replace(small, splits={**small.splits, "val": val.subset(rows)})
    evaluation = evaluate_images(few, fresh(200), [], parts=["labels", "copies"])
    overall = {record.name: record for record in evaluation.records if record.class_ is None}
    assert {"label_accuracy", "memorized_share"} <= set(overall)
    others = fresh(200).labels != 3
    assert overall["memorized_share"].n_generated <= others.sum()
    assert any("too few val images (class: 3)" in line for line in evaluation.refused)


def test_a_fitted_space_without_enough_fresh_images_is_refused(small: Any) -> None:
    """55 val images make fewer than 50 in the right shares: then no figure, rather than a floor made of training images."""
    few = replace(small, splits={**small.splits, "val": small.splits["val"].subset(np.arange(40))})
    spaces = [make_extractor("classifier", few), make_extractor("texture", few)]
    evaluation = evaluate_images(few, fresh(200), spaces, parts=["features"])
    assert {record.extractor for record in evaluation.records} == {"texture"}
    assert any("fitted to train" in line for line in evaluation.refused)


@pytest.mark.usefixtures("whole_classifiers")
def test_label_accuracy_counts_swapped_labels(small: Any) -> Any:
    def accuracies(split: Split) -> list[MetricRecord]:
        return evaluate_images(small, split, [], parts=["labels"]).records

    right = accuracies(small.train)
    swapped = Split("swapped", small.train.images, (small.train.labels + 1) % 4)
    assert right[0].value > 0.9
    assert accuracies(swapped)[0].value < 0.1
    assert [record.class_ for record in right] == [None, 0, 1, 2, 3]
    accuracy = (predict(real_data_classifier(small), small.train) == small.train.labels).mean()
    assert right[0].value == pytest.approx(accuracy)
    assert right[0].interval[0] < right[0].value <= right[0].interval[1]


def test_fresh_real_images_score_as_their_floor() -> None:
    """Two draws of the phantom: ratios cover 1, the unbiased distances' differences cover 0, the neighbour figures agree."""
    arrays = phantom.make_phantom(seed=1, counts={"train": 800, "val": 200, "test": 50})
    splits = grey_splits(arrays)
    fresh = phantom.make_phantom(seed=2, counts={"train": 420})
    generated = Split("fresh", fresh["train_images"][..., None], fresh["train_labels"][:, 0].astype(np.int64))
    dataset = ImageDataset("p", splits, dict(enumerate("abcd")))
    evaluated = evaluate_images(dataset, generated, [make_extractor("texture", dataset)], parts=["features"])
    records = [record for record in evaluated.records if record.class_ is None]
    assert {"frechet_distance", "kernel_distance", "precision", "memorized_share"} <= {r.name for r in records}
    for record in records:
        if record.ratio_interval:
            assert record.ratio_interval[0] <= 1 <= record.ratio_interval[1], record_label(record)
        if record.name == "kernel_distance":
            width = np.hypot(np.ptp(record.interval), np.ptp(record.floor_interval)) / 2
            assert abs(record.value - record.floor) < 1.5 * width
        if record.name in ("precision", "recall", "coverage"):
            assert record.value == pytest.approx(record.floor, abs=0.08)
        if record.p_value is not None:
            assert record.p_value > 0.01, record_label(record)


def test_a_distance_with_too_few_images_is_refused_aloud(small: Any) -> None:
    few = phantom.make_phantom(seed=3, counts={"train": 90})
    split = Split("few", few["train_images"][..., None], few["train_labels"][:, 0].astype(np.int64))
    evaluation = evaluate_images(small, split, [make_extractor("texture", small)], parts=["features"])
    assert "frechet_distance" not in {record.name for record in evaluation.records}
    assert any(
        "more than 81 images on either side are needed; the real ones are too few (class: all" in line
        for line in evaluation.refused
    )


def test_shapes_with_greys_are_judged_black_and_white_too() -> None:
    """A grey haze is seen in the space as it is and gone after thresholding; what is black and white already is judged once."""
    arrays = phantom.make_phantom(size=12, form="volume", counts={"train": 120, "val": 120, "test": 240})
    splits = grey_splits(arrays)
    shapes = ImageDataset("shapes", splits, dict(phantom.SHAPES), synthetic=True)
    haze = Split("haze", np.clip(splits["test"].images[:], 40, 215), splits["test"].labels)
    texture = [make_extractor("texture", shapes)]

    def distances(generated: Split) -> dict[str, float]:
        records = evaluate_images(shapes, generated, texture, parts=["features"], per_class=False).records
        return {record.extractor: record.value for record in records if record.name == "kernel_distance"}

    plain, hazy = distances(splits["test"]), distances(haze)
    assert set(plain) == {"texture"}
    assert hazy["texture-thresholded"] == pytest.approx(plain["texture"])
    assert hazy["texture"] > plain["texture"]
