"""The augmentation study: its statistics against other libraries and known truths, its honesty, its interruptions, its report."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from medmnist.evaluator import getACC, getAUC
from sklearn.metrics import roc_auc_score

from medmnist_diffusion import cli
from medmnist_diffusion.data import ImageDataset, Split, load_dataset, phantom
from medmnist_diffusion.errors import StoppedError, TrainingDivergedError, UserError
from medmnist_diffusion.studies import budget
from medmnist_diffusion.studies.augmentation import generators, selection
from medmnist_diffusion.studies.augmentation.arms import (
    ARMS,
    BY_NAME,
    CLASSICAL,
    LEAKY,
    OVERSAMPLED,
    PRIMARY,
    Arm,
    with_controls,
)
from medmnist_diffusion.studies.augmentation.classifiers import (
    ImageClassifier,
    MixedBatches,
    Mixture,
    Recipe,
    classical_augmentation,
    fit,
    predicted_logits,
)
from medmnist_diffusion.studies.augmentation.effects import Judgement, Results, effect, judge
from medmnist_diffusion.studies.augmentation.generators import DiffusionSource, Pool
from medmnist_diffusion.studies.augmentation.insights import correlations, leak, real_images_worth
from medmnist_diffusion.studies.augmentation.regimes import LEAST, Regime, RegimeData, draw_regime
from medmnist_diffusion.studies.augmentation.report import write_report
from medmnist_diffusion.studies.augmentation.scores import (
    FIGURES,
    figures_of,
    probabilities,
    resampled_figures,
    resampled_test_sets,
    scores_of,
)
from medmnist_diffusion.studies.augmentation.selection import SELECTIONS
from medmnist_diffusion.studies.augmentation.study import planned_effect
from medmnist_diffusion.studies.augmentation.units import Cell, Study, UnitResult, measure_unit, pool_metrics, run_unit
from medmnist_diffusion.studies.augmentation.verdicts import RegimeResult, judge_regime

QUICK = Recipe(steps=60, batch_size=64, learning_rates=(3e-3,))


@pytest.fixture(scope="module")
def small(small_npz: Path) -> ImageDataset:
    return load_dataset(str(small_npz))


# Regimes


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


# Figures


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
    found = resampled_figures(scores, labels, counts)
    assert set(found) == {*FIGURES, "recall"}
    for at, count in enumerate(counts):
        rows = np.repeat(np.arange(200), count)
        truth = figures_of(scores[rows], labels[rows])
        for name, values in found.items():
            np.testing.assert_allclose(values[at], truth[name], atol=1e-6, err_msg=name)


def test_test_sets_are_drawn_within_each_class_with_replacement() -> None:
    labels = np.repeat([0, 1, 2], [5, 40, 300])
    counts = resampled_test_sets(labels, 400)
    for label in range(3):
        of_class = counts[:, labels == label]
        assert (of_class.sum(1) == of_class.shape[1]).all()
        assert of_class.mean(0) == pytest.approx(1, abs=0.25)
    assert (counts == 0).mean() == pytest.approx((1 - 1 / 300) ** 300, abs=0.02)


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


# Effects and verdicts


def simulated(rng: np.random.Generator, arms: dict[str, float], draws: int = 8) -> Results:
    """AUCs with a spread of draws that the arms share, one of their own, and a test set that all share."""
    shared, test = rng.normal(0, 0.02, draws), {arm: rng.normal(0, 0.004) for arm in arms}
    values, resampled = {}, {}
    for arm, gain in arms.items():
        values[arm] = {d: 0.9 + gain + shared[d] + test[arm] + rng.normal(0, 0.01) for d in range(draws)}
        noise = rng.normal(0, 0.004, 200)
        resampled[arm] = {d: values[arm][d] + noise for d in range(draws)}
    return Results(values, resampled)


CANDIDATES = [arm.name for arm in ARMS if arm.candidate]
NAMES = [arm.name for arm in ARMS]
TWINS = {arm: [CLASSICAL.name, BY_NAME[arm].twin or ""] for arm in CANDIDATES}


def judged(results: Results) -> Judgement:
    return judge(results, TWINS, PRIMARY.name)


def verdict_of(results: Results) -> str:
    return judged(results).verdict


def test_equal_arms_are_no_evidence_in_at_least_95_percent() -> None:
    rng = np.random.default_rng(0)
    verdicts = [verdict_of(simulated(rng, dict.fromkeys(NAMES, 0.0))) for _ in range(400)]
    assert verdicts.count("no evidence") >= 0.95 * 400


def test_planted_effects_are_found() -> None:
    rng = np.random.default_rng(1)
    helping = dict.fromkeys(NAMES, 0.0) | {"diverse-25": 0.06}
    found = [judged(simulated(rng, helping)) for _ in range(40)]
    assert sum(one.verdict == "helps" and one.recommended == "diverse-25" for one in found) >= 38
    harming = dict.fromkeys(NAMES, 0.0) | dict.fromkeys(CANDIDATES, -0.06)
    assert [verdict_of(simulated(rng, harming)) for _ in range(40)].count("harms") >= 38


def test_beating_one_control_alone_is_not_enough() -> None:
    rng = np.random.default_rng(2)
    arms = {arm: 0.06 if arm in CANDIDATES or arm.startswith("oversampled") else 0.0 for arm in NAMES}
    assert [verdict_of(simulated(rng, arms)) for _ in range(100)].count("helps") <= 5


def test_where_nothing_helps_the_first_control_is_recommended_unless_another_is_better() -> None:
    rng = np.random.default_rng(6)
    found = [judged(simulated(rng, dict.fromkeys(NAMES, 0.0))) for _ in range(60)]
    assert sum(one.recommended == CLASSICAL.name for one in found) >= 55
    better = dict.fromkeys(NAMES, 0.0) | {OVERSAMPLED.name: 0.06}
    assert sum(judged(simulated(rng, better)).recommended == OVERSAMPLED.name for _ in range(20)) >= 19


def test_interval_covers_the_truth_for_new_draws_and_new_test_images() -> None:
    rng = np.random.default_rng(3)
    covered = []
    for _ in range(300):
        one = effect(simulated(rng, {"a": 0.02, "b": 0.0}), "a", "b")
        assert one is not None
        covered.append(one.interval[0] < 0.02 < one.interval[1])
    assert np.mean(covered) >= 0.93


def test_p_value_and_interval_agree() -> None:
    rng = np.random.default_rng(4)
    for gain in (0.0, 0.01, 0.03):
        for _ in range(50):
            one = judged(simulated(rng, dict.fromkeys(NAMES, 0.0) | dict.fromkeys(CANDIDATES, gain)))
            assert one.effect is not None
            if one.verdict == "no evidence":
                assert (one.p_value < 0.05) == (one.effect.interval[0] > 0 or one.effect.interval[1] < 0)


def test_test_set_error_is_that_of_new_test_sets() -> None:
    """Scores of two classifiers in several draws: the reported error is the spread of the difference over whole new studies."""
    rng, n, draws = np.random.default_rng(5), 200, 4
    labels = np.arange(n) % 2

    def study() -> tuple[float, float]:
        difficulty = rng.normal(size=n)  # of the test images, shared by all draws
        values: dict[str, dict[int, float]] = {"a": {}, "b": {}}
        again: dict[str, dict[int, np.ndarray]] = {"a": {}, "b": {}}
        for draw in range(draws):
            for arm, gain in (("a", 1.2), ("b", 1.0)):
                scores = (gain * labels + difficulty * (0.5 if arm == "a" else 1) + rng.normal(0, 0.5, n))[:, None]
                values[arm][draw] = roc_auc_score(labels, scores[:, 0])
                again[arm][draw] = resampled(scores.astype(np.float16), labels, 100)
        one = effect(Results(values, again), "a", "b")
        assert one is not None
        return one.difference, one.error

    found = np.array([study() for _ in range(80)])
    assert np.sqrt((found[:, 1] ** 2).mean()) == pytest.approx(found[:, 0].std(ddof=1), rel=0.25)


def curve_of(auc: dict[int, tuple[float, float]], spread: float = 0.0) -> list[RegimeResult]:
    """Regimes with a count of real images, and the AUC without and with generated ones; `leaky` is 0.05 above the latter."""
    rng, results = np.random.default_rng(0), []
    for count, (without, gain) in auc.items():
        arms = {CLASSICAL.name: 0.0, OVERSAMPLED.name: 0.0, PRIMARY.name: gain, LEAKY.name: gain + 0.05}
        values = {arm: {d: without + more + rng.normal(0, spread) for d in range(8)} for arm, more in arms.items()}
        again = {
            arm: {d: np.array([value - 0.001, value + 0.001]) for d, value in of.items()} for arm, of in values.items()
        }
        units = [
            UnitResult(
                fingerprint="", share=count / 1000, rare_share=1, seed=d, n_real=count, n_real_per_class=[count], n_val=9,
                cells=[stub_cell(arm, d, values[arm][d]) for arm in arms],
            )
            for d in range(8)
        ]  # fmt: skip
        auc_results = Results(values, again)
        judgement = judge(auc_results, {PRIMARY.name: [CLASSICAL.name, OVERSAMPLED.name]}, PRIMARY.name)
        results.append(RegimeResult(Regime(count / 1000), units, {"auc": auc_results}, judgement))
    return results


def stub_cell(arm: str, seed: int, auc: float) -> Cell:
    figures = {"auc": auc, "acc": 0.5, "balanced_accuracy": 0.5, "recall": [0.5, 0.5], "ece": 0.0, "seconds": 0.0}
    counts = {"n_real": 9, "n_val": 9, "n_synthetic": 0, "learning_rate": 0.1, "step": 1, "val_loss": 1.0}
    hashes = {"real_index_hash": "", "generator_index_hash": None, "leaky": False}
    names = {"regime": "", "arm": arm, "settings": {}, "seed": seed, "classifier": ""}
    return Cell(**names, **hashes, **counts, **figures)


def test_generated_images_are_worth_what_the_curve_of_real_ones_says() -> None:
    rising = curve_of({10: (0.7, 0.1), 100: (0.8, 0.05), 1000: (0.9, -0.1)})
    found = {row["n_real"]: row["worth"] for row in real_images_worth(rising)}
    assert found[10] == pytest.approx(100)
    assert found[100] == pytest.approx(10**2.5)
    assert found[1000] == pytest.approx(100)
    beyond = curve_of({10: (0.7, -0.1), 100: (0.8, 0.3), 1000: (0.9, 0.0)})
    assert [row["worth"] for row in real_images_worth(beyond)] == [0, np.inf, 1000]


def test_no_gain_is_worth_no_images_where_the_curve_is_level_or_falls() -> None:
    for curve in ((0.9, 0.9, 0.9), (0.8, 0.9, 0.88)):
        results = curve_of({count: (auc, 0.0) for count, auc in zip((10, 100, 1000), curve, strict=True)})
        assert [row["worth"] for row in real_images_worth(results)] == pytest.approx([10, 100, 1000])


def test_what_a_noisy_study_says_of_worth_is_uncertain() -> None:
    rows = real_images_worth(curve_of({10: (0.9, 0.0), 100: (0.9, 0.0), 1000: (0.9, 0.0)}, spread=0.02))
    low, high = rows[1]["interval"]
    assert low < 10
    assert high > 1000


def test_a_leak_is_named_with_the_verdict_that_it_would_have_had() -> None:
    results = curve_of({10: (0.8, 0.0), 1000: (0.9, 0.0)}, spread=0.005)
    (row,) = leak(results)  # with all images there is nothing to leak
    assert row["verdict_of_the_leak"] == "helps"
    assert results[0].judgement.verdict == "no evidence"
    assert row["inflated_by"].difference == pytest.approx(0.05, abs=0.02)


def test_a_metric_that_goes_with_the_gain_within_regimes_alone_is_found() -> None:
    rng = np.random.default_rng(0)
    gains = rng.normal(size=(2, 12))
    pools = [
        (f"regime {at}", {"tells": gain + 100 * at, "fixed": 1.0}, gain - 100 * at)
        for at, of_regime in enumerate(gains)
        for gain in of_regime
    ]
    found = {row["metric"]: row for row in correlations(pools)}
    assert found["tells"]["within_regimes"] == pytest.approx(1)
    assert found["tells"]["all"] < 0
    assert found["fixed"]["all"] is found["fixed"]["within_regimes"] is None


def test_planned_effect_falls_with_seeds_and_test_images() -> None:
    few = np.repeat([0, 1], 50)
    assert planned_effect(few, 8) < planned_effect(few, 3)
    assert planned_effect(np.repeat([0, 1], 5000), 8) < planned_effect(few, 8)


# Classifiers


def test_real_images_of_a_batch_do_not_depend_on_the_extra_ones(small: ImageDataset) -> None:
    extra = Split("extra", np.zeros((40, 28, 28, 1), np.uint8), np.arange(40) % 4)
    alone = MixedBatches(Mixture(small.train), 32, 4, 5)
    mixed = MixedBatches(Mixture(small.train, extra, 0.25), 32, 4, 5)
    for _ in range(3):
        (images, labels), (with_extra, their_labels) = alone.draw(), mixed.draw()
        assert torch.equal(images[:24], with_extra[:24])
        assert torch.equal(labels[:24], their_labels[:24])
        assert (with_extra[24:] == 0).all()
    assert (mixed.draw(extra=False)[0] != 0).flatten(1).any(1).all()


def test_classical_augmentation_moves_little_and_never_mirrors() -> None:
    image = torch.zeros(1, 1, 28, 28, dtype=torch.uint8)
    image[..., 10:18, 4:10] = 200  # on the left
    augment = classical_augmentation(28)
    torch.manual_seed(0)
    for _ in range(50):
        moved = augment(image)
        assert moved.shape == image.shape
        columns = moved.float().sum((0, 1, 2))
        assert abs(float((columns * torch.arange(28)).sum() / columns.sum()) - 6.5) < 4


def test_the_same_seed_gives_the_same_classifier(small: ImageDataset) -> None:
    mixture = Mixture(small.train, small.splits["val"], 0.25)
    first, second = (fit(replace(QUICK, steps=6), mixture, small.splits["val"], 4, 1) for _ in range(2))
    test = small.splits["test"]
    assert torch.equal(predicted_logits(first.model, test), predicted_logits(second.model, test))


def test_classifiers_are_saved_and_loaded(small: ImageDataset, tmp_path: Path) -> None:
    for network in ("small-cnn", "resnet18"):
        model = ImageClassifier(network, 1, 4).eval()
        model.save_pretrained(tmp_path / network, model_card_kwargs={"facts": "Trained on phantoms."})
        again = ImageClassifier.from_pretrained(tmp_path / network).eval()
        few = small.train.subset(np.arange(3))
        assert torch.equal(predicted_logits(model, few), predicted_logits(again, few))
        card = (tmp_path / network / "README.md").read_text(encoding="utf-8")
        assert "Research only, not for diagnosis. Trained on phantoms." in card
        assert yaml.safe_load(card.split("---")[1])["library_name"] == "medmnist-diffusion"
        assert model.features(torch.zeros(2, 1, 28, 28)).shape == (2, 64 if network == "small-cnn" else 512)


# Selection


def test_selections_find_what_was_planted(small: ImageDataset) -> None:
    model = fit(QUICK, Mixture(small.train), small.splits["val"], 4, 0).model
    real, rng = small.splits["test"], np.random.default_rng(0)
    noise = Split("noise", rng.integers(0, 256, (20, 28, 28, 1), np.uint8), np.arange(20) % 4)
    copies = small.train.subset(np.concatenate([np.flatnonzero(small.train.labels == k)[:5] for k in range(4)]))
    wrong = Split("wrong", real.images[:20], (real.labels[:20] + 1) % 4)
    parts = [real, noise, copies, wrong]
    pool = Split("pool", np.concatenate([p.images for p in parts]), np.concatenate([p.labels for p in parts]))
    starts = np.cumsum([0, *map(len, parts)])
    of = {name: np.arange(*starts[i : i + 2]) for i, name in enumerate(("real", "noise", "copies", "wrong"))}
    kept = {name: set(choose(pool, small, model)) for name, choose in SELECTIONS.items()}

    def share(name: str, what: str) -> float:
        return len(kept[name] & set(of[what])) / len(of[what])

    assert share("confident", "wrong") < 0.2 < share("confident", "real")
    assert share("in-distribution", "noise") < 0.2 < share("in-distribution", "real")
    assert share("not-memorized", "copies") < 0.2 < share("not-memorized", "real")
    assert share("diverse", "copies") < share("diverse", "real")
    for rows in kept.values():
        assert set(pool.labels[sorted(rows)]) == {0, 1, 2, 3}


# Honesty, and planted truths. Sources stand in the generator's place; everything else is the real thing.


@dataclass(frozen=True)
class Oracle:
    """Fresh images of the true distribution, or with shuffled labels; as honest as a generator could be."""

    shuffled: bool = False

    @property
    def identity(self) -> str:
        return f"oracle, shuffled {self.shuffled}"

    def summary(self, regime: Regime, seed: int) -> None:
        return None

    def draw(self, pool: str, regime: RegimeData) -> Pool:
        arrays = phantom.make_phantom(size=regime.dataset.image_size, seed=1000 + regime.seed, counts={"train": 1000})
        labels = arrays["train_labels"][:, 0].astype(np.int64)
        if self.shuffled:
            labels = np.random.default_rng(regime.seed).permutation(labels)
        return Pool(Split(pool, arrays["train_images"][..., None], labels), regime.index_hash)


def planted(tmp_path: Path, source: Oracle, share: float, seeds: int = 6) -> str:
    """The verdict on a small phantom set (16 pixels, 400 training images)."""
    arrays = phantom.make_phantom(size=16, seed=7, counts={"train": 400, "val": 120, "test": 400})
    splits = {
        name: Split(name, arrays[f"{name}_images"][..., None], arrays[f"{name}_labels"][:, 0].astype(np.int64))
        for name in ("train", "val", "test")
    }
    dataset = ImageDataset("planted", splits, dict(phantom.CLASSES), synthetic=True)
    study, regime = Study(tmp_path, dataset, source, QUICK, with_controls([])), Regime(share)
    units = [run_unit(study, regime, seed) for seed in range(seeds)]
    return judge_regime(study, regime, units).judgement.verdict


def test_an_oracle_helps_and_shuffled_labels_harm(tmp_path: Path) -> None:
    assert planted(tmp_path / "oracle", Oracle(), 0.1) == "helps"
    assert planted(tmp_path / "shuffled", Oracle(shuffled=True), 0.5) == "harms"


def test_a_generator_of_other_images_is_refused(small: ImageDataset, tmp_path: Path) -> None:
    class Leaking(Oracle):
        def draw(self, pool: str, regime: RegimeData) -> Pool:
            return replace(super().draw(pool, regime), index_hash=draw_regime(small, Regime(1.0), 0).index_hash)

    study = Study(tmp_path, small, Leaking(), QUICK, (PRIMARY,))
    with pytest.raises(RuntimeError, match="other real images"):
        run_unit(study, Regime(0.1), 0)


def test_a_generator_that_diverges_ends_its_draw_and_a_leaky_one_only_its_arm(
    small: ImageDataset, tmp_path: Path
) -> None:
    class Diverging(Oracle):
        def draw(self, pool: str, regime: RegimeData) -> Pool:
            if pool == diverging:
                raise TrainingDivergedError("the loss exploded")
            return super().draw(pool, regime)

    quick = replace(QUICK, steps=2)
    for diverging, lost in (("leaky", False), ("plain", True)):
        study = Study(tmp_path / diverging, small, Diverging(), quick, (CLASSICAL, PRIMARY, LEAKY))
        unit = run_unit(study, Regime(0.3), 0)
        assert bool(unit.failed) == lost
        assert unit.skipped == ({} if lost else {LEAKY.name: "the loss exploded"})
        measure_unit(study, Regime(0.3), 0)
        assert study.finished(Regime(0.3), 0)
        assert {cell.arm for cell in unit.cells} == {CLASSICAL.name} | (set() if lost else {PRIMARY.name})


def test_a_pipeline_trained_on_other_images_is_refused(small: ImageDataset, trained_run: Path, tmp_path: Path) -> None:
    source = DiffusionSource(tmp_path, small, {"max_train_steps": 20, "mixed_precision": "no"}, 16)
    regime = draw_regime(small, Regime(0.1), 0)
    run = shutil.copytree(trained_run, tmp_path / "generators" / source._key(regime))  # of all images of the set
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
    study = Study(tmp_path, small, source, Recipe(), ARMS)
    before = study.fingerprint(Regime(0.1), 0)
    monkeypatch.setattr(generators, "checked_config", lambda config: replace(config, ema_decay=0.5))
    recipe = study.fingerprint(Regime(0.1), 0)
    monkeypatch.undo()
    monkeypatch.setattr(selection, "SETTINGS", [0.4])
    assert len({before, recipe, study.fingerprint(Regime(0.1), 0)}) == 3


def test_arms_that_were_not_asked_for_are_not_judged(
    finished: Path, small_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "fewer"
    shutil.copytree(finished, folder)
    arguments = study_command(small_npz, folder)
    arguments.remove("diverse-25")
    assert cli.main(arguments) == 0
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert "diverse-25" not in {cell["arm"] for cell in results["cells"]}
    assert all("diverse-25" not in regime["beats_controls"] for regime in results["regimes"])


def test_a_study_goes_on_on_a_machine_of_another_precision(
    finished: Path, small_npz: Path, small: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its finished draws count as they are; others are made in what is fast there."""
    folder = tmp_path / "moved"
    shutil.copytree(finished, folder)
    first = json.loads((folder / "precision.json").read_text())["choices"][0]["mixed_precision"]
    other = {"no": "bf16", "bf16": "no"}[first]
    monkeypatch.setattr(budget, "kind_of_machine", lambda: "another machine")
    monkeypatch.setattr(budget, "probe_precision", lambda *_: (other, {}))
    before = {path.name: path.read_bytes() for path in (folder / "units").iterdir()}
    assert cli.main(study_command(small_npz, folder)) == 0
    assert {path.name: path.read_bytes() for path in (folder / "units").iterdir()} == before
    assert figures(folder) == figures(finished)
    assert {cell["precision"] for cell in figures(folder)} == {first}
    assert budget.precisions(folder, small) == (other, [first])
    assert budget.first_precision(folder, small) == first


def test_a_report_on_draws_of_two_precisions(small: ImageDataset, tmp_path: Path) -> None:
    """A draw that lacks an arm in the other one is made again in this one; all arms of a draw have one precision."""
    regime, arms = Regime(0.3), with_controls([])
    there = Study(tmp_path, small, Oracle(), replace(QUICK, steps=2, precision="bf16"), arms)
    here = replace(there, recipe=replace(there.recipe, precision="no"), earlier=(there,))
    run_unit(there, regime, 0)
    run_unit(replace(there, arms=arms[:1]), regime, 1)
    assert [here.of(regime, seed) is here for seed in (0, 1, 2)] == [False, True, True]
    units = [run_unit(here.of(regime, seed), regime, seed) for seed in (0, 1)]
    write_report(here, [regime], units, [], "command")
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    cells = {(cell["seed"], cell["precision"]) for cell in results["cells"]}
    assert cells == {(0, "bf16"), (1, "no")}
    assert results["sources"] == {"oracle, shuffled False": 2}


def test_a_choice_of_precision_as_it_once_was_kept(small: ImageDataset, tmp_path: Path) -> None:
    (tmp_path / "precision.json").write_text('{"mixed_precision": "fp16", "images_per_second": {"no": 1.0}}')
    assert budget.first_precision(tmp_path, small) == "fp16"
    assert "fp16" in budget.precisions(tmp_path, small)[1]
    (tmp_path / "precision.json").write_text('{"precision": "bf16"}')
    with pytest.raises(UserError, match="no valid choice of a precision"):
        budget.precisions(tmp_path, small)


@pytest.mark.slow
def test_metrics_of_real_images_are_like_their_floors(small: ImageDataset) -> None:
    arrays = phantom.make_phantom(seed=9, counts={"train": 600})
    fresh = Split("fresh", arrays["train_images"][..., None], arrays["train_labels"][:, 0].astype(np.int64))
    figures = pool_metrics(small, draw_regime(small, Regime(0.2), 0), fresh)
    assert figures["memorized_share"] < 0.1
    assert figures["label_accuracy"] > 0.8
    assert 0.3 < figures["frechet_distance, texture"] < 3
    assert 0.8 < figures["precision, texture"] < 1.2
    copies = pool_metrics(small, draw_regime(small, Regime(1.0), 0), small.train)
    assert copies["memorized_share"] > 0.9


# The command


SMALL = [
    "--shares", "0.2", "1", "--imbalance", "0", "--seeds", "2", "--max_train_steps", "20", "--classifier_steps", "6",
    "--num_images", "64", "--arms", "diverse-25", "variants-25", "--processes", "1", "--leaky",
]  # fmt: skip


def study_command(data: Path, folder: Path) -> list[str]:
    return ["study", "augmentation", str(data), "--output", str(folder), *SMALL]


def figures(folder: Path) -> list[dict[str, object]]:
    cells = json.loads((folder / "results.json").read_text(encoding="utf-8"))["cells"]
    return [{name: value for name, value in cell.items() if name != "seconds"} for cell in cells]


@pytest.fixture(scope="module")
def finished(small_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "whole"
    assert cli.main(study_command(small_npz, folder)) == 0
    return folder


def test_results_name_every_cell_and_every_verdict(finished: Path, small: ImageDataset) -> None:
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    assert len(results["cells"]) == 2 * (6 + 5)  # no leak is possible with all images
    for cell in results["cells"]:
        assert 0 <= cell["auc"] <= 1
        honest = cell["generator_index_hash"] in (None, cell["real_index_hash"])
        assert honest == (not cell["leaky"])
        assert not (cell["leaky"] and cell["n_real"] == len(small.train))
        assert (cell["generator_index_hash"] is None) == (cell["arm"] in (CLASSICAL.name, OVERSAMPLED.name))
    assert {regime["verdict"] for regime in results["regimes"]} <= {"helps", "harms", "no evidence"}
    assert all(regime["recommended"] in BY_NAME for regime in results["regimes"])
    assert {pool["pool"] for pool in results["pools"]} == {"plain", "variants", "leaky"}
    text = (finished / "report.md").read_text(encoding="utf-8")
    assert "a leak: not comparable" in text
    assert "Synthetic phantoms" not in text  # an npz does not say so
    for picture in re.findall(r"\]\((\w[^)]*\.png)\)", text):
        assert (finished / picture).is_file()


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_interrupted_it_ends_with_the_same_results(
    number: signal.Signals, finished: Path, small_npz: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "interrupted"
    command = [sys.executable, "-m", "medmnist_diffusion.cli", *study_command(small_npz, folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    waited = time.monotonic()
    while not list(folder.glob("units/*.json")):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() - waited < 300
        time.sleep(0.2)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (StoppedError.exit_code if number == signal.SIGTERM else -number)
    if number == signal.SIGTERM:
        assert "The same command goes on" in errors
        assert "Traceback" not in errors
    deadline = time.monotonic() + 20
    while workers_of(folder) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not workers_of(folder)
    assert not (folder / "results.json").exists()
    assert cli.main(study_command(small_npz, folder)) == 0
    assert figures(folder) == figures(finished)


def workers_of(folder: Path) -> list[str]:
    """Processes that have this study's log open."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(entry) == str(folder / "log.txt"):
                found.append(str(entry))
        except OSError:
            continue
    return found


def test_a_finished_study_is_not_trained_again(
    finished: Path, small_npz: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.glob("units/*")}
    assert cli.main(study_command(small_npz, finished)) == 0
    assert {path: path.stat().st_mtime_ns for path in finished.glob("units/*")} == before
    assert "0 classifier trainings" in capsys.readouterr().out


def test_a_budget_drops_what_does_not_fit_and_says_so(
    small_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["study", "augmentation", str(small_npz), "--output", str(tmp_path / "s"), "--budget", "1s"]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert "5 of 8 seeds" in out
    assert "all of 100 %" in out


def test_arms_of_any_share_have_their_control() -> None:
    arms = {arm.name: arm for arm in with_controls(["synthetic-40"])}
    assert arms["synthetic-40"] == Arm("synthetic-40", share=0.4)
    assert arms["synthetic-40"].candidate
    assert arms["oversampled-40"] == Arm("oversampled-40", share=0.4, pool="real")
    assert set(arms) == {CLASSICAL.name, OVERSAMPLED.name, PRIMARY.name, "synthetic-40", "oversampled-40"}


def test_mistakes_are_named(small_npz: Path, cli_error: Callable[..., str], tmp_path: Path) -> None:
    start = ("study", "augmentation", str(small_npz), "--output", str(tmp_path))
    assert "--shares has 2" in cli_error(*start, "--shares", "2")
    assert "at least 2" in cli_error(*start, "--seeds", "1")
    assert "--budget" in cli_error(*start, "--budget", "soon")
    assert "--imbalance" in cli_error(*start, "--imbalance", "1.5")
    assert "Did you mean diverse-25?" in cli_error(*start, "--arms", "real", "divers-25")
    assert "'synthetic-100' is no arm" in cli_error(*start, "--arms", "synthetic-100")


CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt install chromium)")
def test_the_report_stands_alone_in_a_browser(finished: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    # A copy far from its pictures, with a probe that tells what a phone would see.
    probe = (
        "<script>window.onerror=e=>document.title='ERROR '+e;window.onload=()=>{const i=[...document.images];"
        "document.title=JSON.stringify({images:i.length,broken:i.filter(x=>!x.naturalWidth).length,"
        "wide:document.documentElement.scrollWidth-window.innerWidth})}</script></body>"
    )
    page.write_text((finished / "report.html").read_text(encoding="utf-8").replace("</body>", probe), encoding="utf-8")
    assert "http" not in re.sub(
        r"https://doi\S+", "", " ".join(re.findall(r'(?:src|href)="([^"]{0,80})', page.read_text()))
    )
    result = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}", "--window-size=500,900", "--virtual-time-budget=5000", "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", result.stdout)
    assert title is not None, result.stderr[-500:]
    seen = json.loads(title[1])
    assert seen["images"] >= 2
    assert seen["broken"] == 0
    assert seen["wide"] <= 0
    assert "CONSOLE" not in result.stderr
