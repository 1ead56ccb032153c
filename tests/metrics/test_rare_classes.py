"""A long tail: the rare classes, for which augmentation is wanted, get figures of their own; a lack of real images is said."""

from collections.abc import Callable

import numpy as np
import pytest

from medmnist_diffusion.data import ImageDataset, Split
from medmnist_diffusion.data.conditioning import Conditioning
from medmnist_diffusion.data.phantom import CLASSES, make_phantom
from medmnist_diffusion.metrics.evaluation import Evaluated, evaluate_images
from medmnist_diffusion.metrics.extractors import make_extractor

TRAIN, VAL = (700, 300, 100, 50), (140, 60, 20, 4)  # the last class: 4 % of train, and hardly any val image


@pytest.fixture(scope="module")
def pool() -> Callable[[str, tuple[int, ...]], Split]:
    made = make_phantom(counts={"train": 4000, "val": 1600, "test": 4000})
    images = {name: made[f"{name}_images"][..., None] for name in ("train", "val", "test")}
    labels = {name: made[f"{name}_labels"][:, 0].astype(np.int64) for name in images}

    def take(name: str, counts: tuple[int, ...]) -> Split:
        rows = np.concatenate([np.flatnonzero(labels[name] == label)[:count] for label, count in enumerate(counts)])
        return Split(name, images[name][rows], labels[name][rows])

    return take


@pytest.fixture(scope="module")
def long_tail(pool: Callable[[str, tuple[int, ...]], Split]) -> ImageDataset:
    return ImageDataset(
        "tail", {"train": pool("train", TRAIN), "val": pool("val", VAL), "test": pool("val", VAL)}, dict(CLASSES)
    )


def judged(dataset: ImageDataset, generated: Split) -> Evaluated:
    return evaluate_images(dataset, generated, [make_extractor("texture", dataset)], parts=["features"])


def test_a_rare_class_is_compared_with_enough_images(
    long_tail: ImageDataset, pool: Callable[[str, tuple[int, ...]], Split]
) -> None:
    """ "Generated" are fresh real ones: overall as many as before, and the rare class by itself as good as its floor."""
    in_shares = long_tail.labels_in_shares(224)
    labels = long_tail.conditioning.with_enough_of_each(in_shares, 50)
    before, after = (tuple(np.bincount(one)) for one in (in_shares, labels))
    assert before[3] < 20 <= after[3]
    assert after[:2] == before[:2]
    found, without = (judged(long_tail, pool("test", counts)) for counts in (after, before))
    kernel = {record.class_: record for record in found.records if record.name == "kernel_distance"}
    assert set(kernel) == {None, 0, 1, 2, 3}
    assert kernel[3].n_generated == 25  # half of train's: the other half is compared with
    assert kernel[3].n_real == 25
    assert "training images left out of the reference" in kernel[3].floor_source
    assert kernel[3].interval
    assert kernel[3].interval[0] < 3 * abs(kernel[3].floor)  # real images are no further off than real images are
    overall = [
        record.n_generated
        for evaluated in (found, without)
        for record in evaluated.records
        if record.name == "kernel_distance" and record.class_ is None
    ]
    assert overall[0] == overall[1]
    assert 3 not in {record.class_ for record in without.records}
    assert any("the generated ones are too few" in line and CLASSES[3] in line for line in without.refused)


def test_where_real_images_lack_that_is_said(pool: Callable[[str, tuple[int, ...]], Split]) -> None:
    splits = {"train": pool("train", (*TRAIN[:3], 30)), "val": pool("val", VAL), "test": pool("val", VAL)}
    found = judged(ImageDataset("tail", splits, dict(CLASSES)), pool("test", (*TRAIN[:3], 60)))
    assert 3 not in {record.class_ for record in found.records if record.name == "kernel_distance"}
    assert any("the real ones are too few" in line and CLASSES[3] in line for line in found.refused)


def test_labels_with_enough_of_each() -> None:
    conditioning = Conditioning({0: "a", 1: "b", 2: "c"})
    labels = conditioning.with_enough_of_each(np.repeat([0, 1, 2], [80, 18, 2]), 20)
    assert np.bincount(labels).tolist() == [80, 20, 20]
    assert np.bincount(conditioning.with_enough_of_each(labels, 1000)).tolist() == [
        80,
        40,
        40,
    ]  # no more than twice as many
