"""The copied share: redrawn copies are found although val holds twins, and where it cannot be known nobody says "no sign"."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from scipy.stats import betabinom

from medmnist_diffusion import cli
from medmnist_diffusion.artifacts import Metrics, TrainingSummary
from medmnist_diffusion.data import load_dataset, phantom
from medmnist_diffusion.data.audit import describe
from medmnist_diffusion.data.dataset import ImageDataset, Split
from medmnist_diffusion.data.npz import write_npz
from medmnist_diffusion.metrics import memorization
from medmnist_diffusion.metrics.evaluation import evaluate_images
from medmnist_diffusion.metrics.memorization import SURE, Threshold
from medmnist_diffusion.publish.copies import copy_tests, copying_sentences
from medmnist_diffusion.publish.verdict import verdict
from tests.conftest import grey_splits

from .helpers import fresh


def redrawn(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Softer, brighter or darker, and noised: 10 grey levels (RMS) from the original."""
    originals = images.astype(float)
    changed = gaussian_filter(originals, (0, 0.7, 0.7, 0)) + rng.uniform(-6, 6, (len(images), 1, 1, 1))
    lacking = np.sqrt(np.maximum(10**2 - ((changed - originals) ** 2).mean((1, 2, 3), keepdims=True), 0))
    return (changed + lacking * rng.normal(size=images.shape)).round().clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def twins_in_val(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    """500 training images, and 80 val images of which 32 are noised training images."""
    arrays, rng = phantom.make_phantom(seed=11, counts={"train": 500, "val": 80, "test": 50}), np.random.default_rng(0)
    again = arrays["train_images"][:32] + rng.normal(0, 3, (32, 28, 28))
    arrays["val_images"][:32] = again.clip(0, 255).astype(np.uint8)
    path = tmp_path_factory.mktemp("data") / "twins.npz"
    write_npz(path, arrays)
    return load_dataset(str(path))


def measured(dataset: ImageDataset, images: Split) -> Metrics:
    found = evaluate_images(dataset, images, [], parts=["copies"])
    description = describe(dataset).model_dump()
    return Metrics(dataset=description, pipeline={}, sampling={}, metrics=found.records, refused=found.refused)


def test_redrawn_copies_are_found_although_val_holds_twins(twins_in_val: ImageDataset) -> None:
    split, rng = fresh(400), np.random.default_rng(1)
    images = split.images[:].copy()
    images[:40] = redrawn(twins_in_val.train.images[:40], rng)
    metrics = measured(
        twins_in_val, Split("redrawn", images, np.r_[twins_in_val.train.labels[:40], split.labels[40:]])
    )
    (judge,) = copy_tests(metrics).judges
    assert judge is not None
    assert judge.p_value < 1e-6
    assert "32 left out: they stand in train, or have a twin there" in judge.floor_source
    assert "do not publish" in " ".join(verdict(metrics))


def test_fresh_images_show_no_sign(twins_in_val: ImageDataset) -> None:
    metrics = measured(twins_in_val, fresh(400))
    assert copy_tests(metrics).unjudged is None
    assert not copy_tests(metrics).flagged
    assert "Are they copies of training images? No sign of it." in verdict(metrics)


def test_soft_images_are_not_called_copies_outright() -> None:
    """Fresh images without noise and of less contrast lie nearer to every training image; only the plain distances say so."""
    splits = grey_splits(phantom.make_phantom(seed=11, counts={"train": 400, "val": 300, "test": 24}))
    dataset, split = ImageDataset("many held out", splits, dict(phantom.CLASSES)), fresh(400)
    washed_out = 0.3 * gaussian_filter(split.images[:].astype(float), (0, 0.5, 0.5, 0))
    soft = washed_out + 0.7 * dataset.train.images[:].mean(0)
    metrics = measured(dataset, Split("soft", soft.round().astype(np.uint8), split.labels))
    tests = copy_tests(metrics)
    assert tests.flagged
    assert {record.name for record in tests.flagged} == {"memorized_share"}
    assert tests.may_be_soft
    assert "Perhaps" in " ".join(verdict(metrics))
    assert "so soft that they lie nearer to everything" in copying_sentences(metrics)


def test_too_few_images_cannot_be_judged() -> None:
    arrays = phantom.make_phantom(counts={"train": 130, "val": 24, "test": 24})
    splits = grey_splits(arrays)
    tiny = ImageDataset("tiny", splits, dict(phantom.CLASSES))
    many = fresh(200)
    metrics = measured(
        tiny, many.subset(tiny.conditioning.draw(many.labels, [19, 16, 12, 9], np.random.default_rng(0)))
    )
    assert not copy_tests(metrics).flagged
    said = verdict(metrics)
    assert "Are they copies of training images? That cannot be judged." in said
    assert "would go unseen" in said[-1]


def test_a_copy_could_pass_for_the_next_picture_of_a_person(twins_in_val: ImageDataset) -> None:
    """Many val images look like one training image each, some more and some less: no valley tells them from others."""
    train, val, rng = twins_in_val.train, fresh(440), np.random.default_rng(3)
    weights = np.r_[rng.uniform(0.4, 0.9, 180), np.zeros(260)]
    mixed = weights[:, None, None, None] * train.images[:440] + (1 - weights[:, None, None, None]) * val.images[:]
    again = Split("val", mixed.astype(np.uint8), np.where(weights > 0, train.labels[:440], val.labels))
    dataset = replace(twins_in_val, splits={**twins_in_val.splits, "val": again})
    tests = copy_tests(measured(dataset, fresh(300)))
    assert not tests.flagged
    assert tests.judges[0].near_fresh > 0.05
    assert "A person's next picture does so" in tests.unjudged
    assert copy_tests(measured(twins_in_val, fresh(300))).judges[0].near_fresh < 0.01
    # Where it is known who is in an image, those of persons in train are left out, and what is left can be judged.
    people = [f"p{row}" if weights[row] else f"other {row}" for row in range(440)]
    known = replace(train, groups=[f"p{row}" for row in range(len(train))])
    splits = {**dataset.splits, "train": known, "val": replace(again, groups=people)}
    assert copy_tests(measured(replace(dataset, splits=splits), fresh(300))).unjudged is None


def test_where_copies_made_on_purpose_go_unseen_nobody_says_no_sign(twins_in_val: ImageDataset) -> None:
    """One val image lies very near to a training image, and whom the images are of is known, so that few set the threshold; and:
    sixty frames of each of a few scenes, so that a copy has many more as near."""
    train, rng = twins_in_val.train, np.random.default_rng(5)
    val = fresh(151).images[:].copy()
    val[0] = np.clip(0.9 * train.images[:1][0].astype(float) + 0.1 * val[0], 0, 255).astype(np.uint8)
    split = Split("val", val, fresh(151).labels, [f"v{row}" for row in range(151)])
    known = replace(train, groups=[f"t{row}" for row in range(len(train))])
    one_near = replace(twins_in_val, splits={**twins_in_val.splits, "train": known, "val": split})
    scenes = np.repeat(train.images[:6], 60, 0) + rng.normal(0, 1, (360, 28, 28, 1))
    images = np.concatenate([scenes.clip(0, 255).astype(np.uint8), train.images[:300]])
    frames = Split("train", images, np.concatenate([np.repeat(train.labels[:6], 60), train.labels[:300]]))
    many_frames = replace(twins_in_val, splits={**twins_in_val.splits, "train": frames})
    for dataset in (one_near, many_frames):
        tests = copy_tests(measured(dataset, fresh(400)))
        assert not tests.flagged
        assert tests.unjudged
        assert "copied on purpose" in tests.unjudged or "lie nearer to a training image than half" in tests.unjudged


def test_the_controls_of_usual_data_are_seen(twins_in_val: ImageDataset) -> None:
    (judge,) = copy_tests(measured(twins_in_val, fresh(400))).judges
    assert judge.seen_copies > 0.95
    redrawn_here = redrawn(twins_in_val.train.images[:200], np.random.default_rng(9)).astype(float)
    ours = memorization.redrawn(twins_in_val.train.images[:200].astype(float), np.random.default_rng(9))
    off = [np.sqrt(((one - twins_in_val.train.images[:200]) ** 2).mean((1, 2, 3))) for one in (redrawn_here, ours)]
    np.testing.assert_allclose(off[1], 10, atol=1)
    np.testing.assert_allclose(off[0], off[1], atol=1.5)


def test_what_is_detectable_is_where_the_p_value_falls_below_the_level() -> None:
    threshold = Threshold(0.5, rank=3, held_out=300)
    share = threshold.detectable(400)
    assert share is not None
    count = round(share * 400)
    assert threshold.p_value(count, 400) < SURE <= threshold.p_value(count - 1, 400)
    assert threshold.p_value(count, 400) == pytest.approx(1 - betabinom.cdf(count - 1, 400, 3, 298))
    assert Threshold(0.5, rank=1, held_out=2).detectable(10) is None


@pytest.mark.slow
def test_a_long_training_is_flagged_and_what_the_default_keeps_is_not(
    real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """560 real X-rays, 80 val images of which 30 are training images saved again: the case in which copies once went unseen."""
    whole, rng = load_dataset("pneumoniamnist", root=real_data).train, np.random.default_rng(5)
    rows = rng.permutation(len(whole))[:720]
    arrays: dict[str, Any] = {}
    for name, start, end in (("train", 0, 560), ("val", 560, 640), ("test", 640, 720)):
        arrays[f"{name}_images"] = whole.images[rows[start:end]][..., 0]
        arrays[f"{name}_labels"] = whole.labels[rows[start:end], None]
    again = arrays["train_images"][:30] + rng.normal(0, 2, (30, 28, 28))
    arrays["val_images"][:30], arrays["val_labels"][:30] = (
        again.clip(0, 255).astype(np.uint8),
        arrays["train_labels"][:30],
    )
    data, run = tmp_path / "few.npz", tmp_path / "run"
    write_npz(data, arrays)
    training = [
        "train", "--dataset", str(data), "--output_dir", str(run), "--max_train_steps", "3500", "--validation_steps", "125",
        "--sample_steps", "100000", "--checkpointing_steps", "1000", "--report_to", "none", "--mixed_precision", "no",
    ]  # fmt: skip
    evaluation = ["evaluate", str(run / "pipeline"), "--dataset", str(data), "--num_images", "1000"]
    assert cli.main(training) == 0
    kept = TrainingSummary.of(run / "pipeline")
    assert kept.stopped_early
    assert kept.last_step is not None
    assert kept.step < kept.last_step < 3500
    assert cli.main(evaluation) == 0
    tests = copy_tests(Metrics.read(run / "pipeline" / "metrics.json"))
    assert tests.unjudged is None
    assert not tests.flagged

    assert cli.main([*training, "--keep", "latest"]) == 0
    assert TrainingSummary.of(run / "pipeline").weights == "latest"
    capsys.readouterr()
    assert cli.main(evaluation) == 0
    assert copy_tests(Metrics.read(run / "pipeline" / "metrics.json")).flagged
