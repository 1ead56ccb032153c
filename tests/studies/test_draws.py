"""Honesty and planted truths. Sources stand in the generator's place; everything else is the real thing."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medmnist_diffusion.data import ImageDataset, Split, phantom
from medmnist_diffusion.data.regimes import Regime, RegimeData, draw_regime
from medmnist_diffusion.errors import TrainingDivergedError, UserError
from medmnist_diffusion.metrics import selection
from medmnist_diffusion.metrics.mixed_training import Recipe
from medmnist_diffusion.studies import budget, steps
from medmnist_diffusion.studies.augmentation.arms import CLASSICAL, LEAKY, MAIN_ARM, ClassifierArm
from medmnist_diffusion.studies.augmentation.draws import measure_draw, pool_metrics, train_draw
from medmnist_diffusion.studies.augmentation.generators import DiffusionSource, Lesson, Pool
from medmnist_diffusion.studies.augmentation.protocol import AugmentationProtocol
from medmnist_diffusion.studies.augmentation.report import write_report
from medmnist_diffusion.studies.augmentation.situations import Situation, few_images
from medmnist_diffusion.training.config import training_config
from tests.studies.planting import QUICK, Oracle, verdict_on

FEW = few_images([MAIN_ARM.name])


def of_arms(*arms: ClassifierArm) -> Situation:
    return replace(FEW, arms=arms)


def test_an_oracle_helps_and_shuffled_labels_harm(tmp_path: Path) -> None:
    assert verdict_on(tmp_path / "oracle", Oracle(), FEW, Regime(0.1)).verdict == "helps"
    assert verdict_on(tmp_path / "shuffled", Oracle(shuffled=True), FEW, Regime(0.5)).verdict == "harms"


def test_a_generator_of_other_images_is_refused(small: ImageDataset, tmp_path: Path) -> None:
    class Leaking(Oracle):
        def draw(self, pool: str, regime: RegimeData, beside: Split | None = None) -> Pool:
            return replace(super().draw(pool, regime), index_hash=draw_regime(small, Regime(1.0), 0).index_hash)

    study = AugmentationProtocol(tmp_path, small, Leaking(), QUICK, of_arms(MAIN_ARM))
    with pytest.raises(RuntimeError, match="other real images"):
        train_draw(study, Regime(0.1), 0)


def test_a_generator_that_diverges_ends_its_draw_and_a_leaky_one_only_its_arm(
    small: ImageDataset, tmp_path: Path
) -> None:
    class Diverging(Oracle):
        def draw(self, pool: str, regime: RegimeData, beside: Split | None = None) -> Pool:
            if pool == diverging:
                raise TrainingDivergedError("the loss exploded")
            return super().draw(pool, regime)

    quick = replace(QUICK, steps=2)
    for diverging, lost in (("leaky", False), ("plain", True)):
        study = AugmentationProtocol(
            tmp_path / diverging, small, Diverging(), quick, of_arms(CLASSICAL, MAIN_ARM, LEAKY)
        )
        unit = train_draw(study, Regime(0.3), 0)
        assert bool(unit.failed) == lost
        assert unit.skipped == ({} if lost else {LEAKY.name: "the loss exploded"})
        measure_draw(study, Regime(0.3), 0)
        assert study.finished(Regime(0.3), 0)
        assert {cell.arm for cell in unit.cells} == {CLASSICAL.name} | (set() if lost else {MAIN_ARM.name})


def test_a_pipeline_trained_on_other_images_is_refused(small: ImageDataset, trained_run: Path, tmp_path: Path) -> None:
    source = DiffusionSource(tmp_path, small, {"max_train_steps": 20, "mixed_precision": "no"}, 16)
    regime = draw_regime(small, Regime(0.1), 0)
    run = shutil.copytree(
        trained_run, tmp_path / "generators" / source._key(Lesson(regime))
    )  # of all images of the set
    (run / "index_hash.txt").write_text(regime.index_hash)
    with pytest.raises(RuntimeError, match="a leak"):
        source.draw("plain", regime)


def test_generators_train_on_the_regime_alone(small: ImageDataset, tmp_path: Path) -> None:
    options = {"max_train_steps": 20, "mixed_precision": "no", "block_out_channels": [16, 32], "train_batch_size": 16}
    source, regime = DiffusionSource(tmp_path, small, options, 8), draw_regime(small, Regime(0.1), 0)
    pools = {name: source.draw(name, regime) for name in ("plain", "variants", "leaky")}
    assert pools["plain"].index_hash == pools["variants"].index_hash == regime.index_hash
    assert pools["leaky"].index_hash == draw_regime(small, Regime(1.0), 0).index_hash
    assert pools["plain"].split.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    summaries = [
        json.loads(path.read_text()) for path in tmp_path.glob("generators/*/pipeline_best/training_summary.json")
    ]
    assert sorted(summary["training_images"] for summary in summaries) == [len(regime.dataset.train), len(small.train)]


def test_units_know_the_whole_recipe(small: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another default of the training, or of a selection, makes other units."""
    source = DiffusionSource(tmp_path, small, {"max_train_steps": 20}, 8)
    study = AugmentationProtocol(tmp_path, small, source, Recipe(), few_images())
    before = study.fingerprint(Regime(0.1), 0)
    monkeypatch.setattr(steps, "training_config", lambda **given: training_config(**{**given, "ema_decay": 0.5}))
    recipe = study.fingerprint(Regime(0.1), 0)
    monkeypatch.undo()
    monkeypatch.setattr(selection, "SETTINGS", [0.4])
    assert len({before, recipe, study.fingerprint(Regime(0.1), 0)}) == 3


def test_a_report_on_draws_of_two_precisions(small: ImageDataset, tmp_path: Path) -> None:
    """A draw that lacks an arm in the other one is made again in this one; all arms of a draw have one precision."""
    regime = Regime(0.3)
    there = AugmentationProtocol(tmp_path, small, Oracle(), replace(QUICK, steps=2, precision="bf16"), FEW)
    here = replace(there, recipe=replace(there.recipe, precision="no"), earlier=(there,))
    train_draw(there, regime, 0)
    train_draw(replace(there, situation=of_arms(CLASSICAL)), regime, 1)
    assert [here.of(regime, seed) is here for seed in (0, 1, 2)] == [False, True, True]
    units = [train_draw(here.of(regime, seed), regime, seed) for seed in (0, 1)]
    write_report(here, [regime], units, [], "command")
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    cells = {(cell["seed"], cell["precision"]) for cell in results["cells"]}
    assert cells == {(0, "bf16"), (1, "no")}
    assert results["sources"] == {"oracle, shuffled False": 2}


def test_a_choice_of_precision_as_it_once_was_kept(small: ImageDataset, tmp_path: Path) -> None:
    (tmp_path / "precision.json").write_text('{"mixed_precision": "fp16", "images_per_second": {"no": 1.0}}')
    assert budget.first_precision(tmp_path, small) == "fp16"
    assert "fp16" in budget.precisions(tmp_path, small)
    (tmp_path / "precision.json").write_text('{"precision": "bf16"}')
    with pytest.raises(UserError, match="no valid choice of a precision"):
        budget.precisions(tmp_path, small)


@pytest.mark.slow
@pytest.mark.usefixtures("whole_classifiers")
def test_metrics_of_real_images_are_like_their_floors(small: ImageDataset) -> None:
    arrays = phantom.make_phantom(seed=9, counts={"train": 600})
    fresh = Split("fresh", arrays["train_images"][..., None], arrays["train_labels"][:, 0].astype(np.int64))
    figures = pool_metrics(small, draw_regime(small, Regime(0.2), 0), fresh)
    assert figures["memorized_share"] < 0.1
    assert figures["copied_share"] < 0.1
    assert figures["label_accuracy"] > 0.8
    assert 0.3 < figures["frechet_distance, texture"] < 3
    assert 0.8 < figures["precision, texture"] < 1.2
    copies = pool_metrics(small, draw_regime(small, Regime(1.0), 0), small.train)
    assert copies["memorized_share"] > 0.9
    assert copies["copied_share"] > 0.9
