"""Real images of another set: what a classifier and a generator start from, and what is refused as a leak."""

import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from medmnist_diffusion import cli
from medmnist_diffusion.artifacts import TrainingSummary
from medmnist_diffusion.data import ImageDataset, Split, load_dataset, phantom
from medmnist_diffusion.data.npz import write_npz
from medmnist_diffusion.data.regimes import Regime, draw_regime
from medmnist_diffusion.data.sources import DataSource
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.metrics.mixed_training import NETWORKS, ImageClassifier, Mixture, Recipe, _start_from, fit
from medmnist_diffusion.studies.augmentation.arms import CLASSICAL
from medmnist_diffusion.studies.augmentation.draws import train_draw
from medmnist_diffusion.studies.augmentation.generators import DiffusionSource
from medmnist_diffusion.studies.augmentation.outside import check_start, outside_for
from medmnist_diffusion.studies.augmentation.protocol import AugmentationProtocol
from medmnist_diffusion.studies.augmentation.situations import SITUATIONS, situation_named
from medmnist_diffusion.studies.augmentation.study import AugmentationStudy, make_protocol
from tests.conftest import grey_splits, small_training
from tests.studies.planting import QUICK, Oracle, verdict_on


@pytest.fixture(scope="module")
def other_npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantom images of another seed in colour, of two classes."""
    path = tmp_path_factory.mktemp("other") / "other.npz"
    arrays = phantom.make_phantom(channels=3, seed=5, counts={"train": 240, "val": 80, "test": 80})
    for name in ("train", "val", "test"):
        arrays[f"{name}_labels"] = arrays[f"{name}_labels"] % 2
    write_npz(path, arrays)
    return path


@pytest.fixture
def other(other_npz: Path) -> ImageDataset:
    return load_dataset(str(other_npz))


@pytest.mark.parametrize("network", NETWORKS)
def test_all_but_the_last_layer_is_taken_over(network: str) -> None:
    ours, theirs = ImageClassifier(network, 1, 4).eval(), ImageClassifier(network, 1, 7).eval()
    images = torch.rand(2, 1, 28, 28) * 2 - 1
    before = ours(images)
    _start_from(ours, theirs)
    assert torch.equal(ours.features(images), theirs.features(images))
    assert ours(images).shape == before.shape


def test_another_set_of_the_same_images_teaches_what_few_images_do_not(small: ImageDataset) -> None:
    """The same task with its classes called differently: what was learned there is found again here."""
    many = phantom.make_phantom(seed=5, counts={"train": 1200, "val": 100, "test": 8})
    splits = {
        name: Split(name, many[f"{name}_images"][..., None], 3 - many[f"{name}_labels"][:, 0].astype(np.int64))
        for name in ("train", "val", "test")
    }
    outside = replace(small, splits=splits)
    few, recipe = draw_regime(small, Regime(0.05), 0).dataset, Recipe(steps=120, batch_size=64, learning_rates=(3e-3,))
    test = small.splits["test"]
    plain, started = (
        fit(recipe, Mixture(few.train, outside=one), test, few.conditioning, 0).val_loss for one in (None, outside)
    )
    assert started < plain


def test_colours_are_made_alike(small: ImageDataset, other: ImageDataset) -> None:
    grey, colour = outside_for(small, other), other.train.images[:]
    assert grey.train.images.shape == (*colour.shape[:3], 1)
    known = np.stack([np.asarray(Image.fromarray(picture).convert("L"), int) for picture in colour])
    assert np.abs(grey.train.images[:][..., 0] - known).max() <= 1
    assert np.array_equal(outside_for(other, small).train.images[:][..., 2], small.train.images[:][..., 0])


def test_leaks_and_what_does_not_fit_are_refused(small: ImageDataset, other: ImageDataset, trained_run: Path) -> None:
    leaking = replace(small, splits={**small.splits, "train": small.splits["test"]})
    with pytest.raises(UserError, match=r"also stand in .*, or have a twin there: a leak"):
        outside_for(small, leaking)
    for where in ("val", "train"):  # what chooses the weights; what a share leaves out
        with pytest.raises(UserError, match="a leak"):
            outside_for(small, replace(other, splits={**other.splits, "val": small.splits[where]}))
    larger = load_dataset("phantom", size=32)
    with pytest.raises(UserError, match=r"32×32 grey, .* 28×28 grey: they must be as large"):
        outside_for(small, larger)
    with pytest.raises(UserError, match="with other images than --outside"):
        check_start(str(trained_run / "pipeline"), other)
    assert check_start(str(trained_run / "pipeline"), small) == trained_run / "pipeline"


def test_generators_start_from_the_pipeline_and_every_arm_trains(
    small: ImageDataset, other: ImageDataset, trained_run: Path, tmp_path: Path
) -> None:
    """The pipeline of `small` stands in for another set's: what it was trained on is not asked here."""
    options = {"max_train_steps": 6, "mixed_precision": "no", "block_out_channels": [16, 32], "train_batch_size": 16}
    start, situation = trained_run / "pipeline", SITUATIONS["outside-data"]
    source = DiffusionSource(tmp_path, small, options, 24, start=start)
    study = AugmentationProtocol(
        tmp_path, small, source, replace(QUICK, steps=4), situation, outside=outside_for(small, other)
    )
    draw = train_draw(study, Regime(0.3), 0)
    assert draw is not None
    assert {cell.arm for cell in draw.cells} == {arm.name for arm in situation.arms}
    known = [TrainingSummary.of(path) for path in tmp_path.glob("generators/*/pipeline_best")]
    assert sorted(len(one.bases) for one in known) == [0, 1]
    assert study.fingerprint(Regime(0.3), 0) != replace(study, outside=None).fingerprint(Regime(0.3), 0)
    plain = DiffusionSource(tmp_path, small, options, 24)
    assert plain.identity != source.identity


def test_synthetic_first_must_beat_another_set_where_there_is_one() -> None:
    with_other = situation_named("synthetic-first", outside=True)
    assert with_other.easier == ("real-first", "oversampled-25", "outside-first")
    assert {arm.name for arm in with_other.arms} - {arm.name for arm in SITUATIONS["synthetic-first"].arms} == {
        "outside-first"
    }


def test_a_worker_makes_the_same_protocol(
    small_npz: Path, other_npz: Path, small: ImageDataset, tmp_path: Path
) -> None:
    """From what is sent to it: the arms, the other set in this one's colours, and the start."""
    source, other = DataSource(str(small_npz)), DataSource(str(other_npz))
    study = AugmentationStudy(
        source, tmp_path, ("no",), "synthetic-first", None, False, "small-cnn", 4, 6, 24, other, tmp_path / "start"
    )
    made = make_protocol(pickle.loads(pickle.dumps(study)), small)
    assert "outside-first" in {arm.name for arm in made.situation.arms}
    assert made.situation == study.compared
    assert made.outside is not None
    assert made.outside.channels == small.channels
    assert isinstance(made.source, DiffusionSource)
    assert made.source.start == tmp_path / "start"


@pytest.mark.slow
def test_a_study_of_it_ends_in_a_report(small_npz: Path, other_npz: Path, tmp_path: Path) -> None:
    assert cli.main(["train", *small_training(other_npz, tmp_path / "other"), "--max_train_steps", "6"]) == 0
    command = [
        "study", "augmentation", str(small_npz), "--output", str(tmp_path / "study"), "--situation", "outside-data", "--outside",
        str(other_npz), "--pretrained_model_name_or_path", str(tmp_path / "other" / "pipeline"), "--shares", "0.3", "--seeds", "2",
        "--max_train_steps", "4", "--classifier_steps", "4", "--num_images", "24", "--processes", "1",
    ]  # fmt: skip
    assert cli.main(command) == 0
    report = (tmp_path / "study" / "report.md").read_text(encoding="utf-8")
    assert "it starts from a pipeline that was trained on other" in report
    assert "tuned-25" in report


def test_mistakes_are_named(small_npz: Path, cli_error: Callable[..., str], tmp_path: Path) -> None:
    start = ("study", "augmentation", str(small_npz), "--output", str(tmp_path), "--situation")
    assert "give --outside DATASET" in cli_error(*start, "outside-data")
    assert "has no use for another set" in cli_error(*start, "sharing", "--outside", "phantom")
    assert "give --situation outside-data" in cli_error(*start, "few-images", "--outside", "phantom")
    assert "needs a pipeline of the other set" in cli_error(*start, "outside-data", "--outside", "phantom")
    assert "starts from no pipeline" in cli_error(*start, "sharing", "--pretrained_model_name_or_path", "x")


@pytest.mark.slow
def test_a_start_from_the_same_images_is_as_good_as_an_oracle(tmp_path: Path) -> None:
    """Many real images of the true distribution are the other set: images of an oracle do not help beyond these."""
    arrays = phantom.make_phantom(size=16, seed=9, counts={"train": 1200, "val": 100, "test": 8})
    splits = grey_splits(arrays)
    outside = ImageDataset("outside", splits, dict(phantom.CLASSES), synthetic=True)
    judgement = verdict_on(tmp_path, Oracle(), SITUATIONS["outside-data"], Regime(0.08), outside=outside)
    assert judgement.verdict in ("helps", "an easier thing is as good"), judgement
    assert judgement.recommended != CLASSICAL.name
