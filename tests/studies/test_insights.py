"""What a gain is worth, what a leak would have shown, which metric tells."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medmnist_diffusion.data import ImageDataset
from medmnist_diffusion.data.regimes import Regime
from medmnist_diffusion.studies.augmentation.arms import CLASSICAL, LEAKY, MAIN_ARM, OVERSAMPLED
from medmnist_diffusion.studies.augmentation.draws import measure_draw, train_draw
from medmnist_diffusion.studies.augmentation.insights import correlations, leak, real_images_worth
from medmnist_diffusion.studies.augmentation.protocol import AugmentationProtocol, ClassifierResult, DrawResult
from medmnist_diffusion.studies.augmentation.report import write_report
from medmnist_diffusion.studies.augmentation.situations import few_images
from medmnist_diffusion.studies.augmentation.study import planned_effect
from medmnist_diffusion.studies.augmentation.verdicts import RegimeResult
from medmnist_diffusion.studies.statistics import ArmFigures, judge
from tests.studies.planting import QUICK, Oracle


def curve_of(auc: dict[int, tuple[float, float]], spread: float = 0.0) -> list[RegimeResult]:
    """Regimes with a count of real images, and the AUC without and with generated ones; `leaky` is 0.05 above the latter."""
    rng, results = np.random.default_rng(0), []
    for count, (without, gain) in auc.items():
        arms = {CLASSICAL.name: 0.0, OVERSAMPLED.name: 0.0, MAIN_ARM.name: gain, LEAKY.name: gain + 0.05}
        values = {arm: {d: without + more + rng.normal(0, spread) for d in range(8)} for arm, more in arms.items()}
        again = {
            arm: {d: np.array([value - 0.001, value + 0.001]) for d, value in of.items()} for arm, of in values.items()
        }
        units = [
            DrawResult(
                fingerprint="", share=count / 1000, rare_share=1, seed=d, n_real=count, n_real_per_class=[count], n_val=9,
                cells=[stub_cell(arm, d, values[arm][d]) for arm in arms],
            )
            for d in range(8)
        ]  # fmt: skip
        auc_results = ArmFigures(values, again)
        judgement = judge(auc_results, {MAIN_ARM.name: [CLASSICAL.name, OVERSAMPLED.name]}, MAIN_ARM.name)
        results.append(RegimeResult(Regime(count / 1000), few_images(), units, {"auc": auc_results}, judgement))
    return results


def stub_cell(arm: str, seed: int, auc: float) -> ClassifierResult:
    figures: dict[str, Any] = {
        "auc": auc,
        "acc": 0.5,
        "balanced_accuracy": 0.5,
        "recall": [0.5, 0.5],
        "ece": 0.0,
        "seconds": 0.0,
    }
    counts: dict[str, Any] = {
        "n_real": 9,
        "n_val": 9,
        "n_synthetic": 0,
        "learning_rate": 0.1,
        "step": 1,
        "val_loss": 1.0,
    }
    hashes: dict[str, Any] = {"real_index_hash": "", "generator_index_hash": None, "leaky": False}
    names: dict[str, Any] = {"regime": "", "arm": arm, "settings": {}, "seed": seed, "classifier": ""}
    return ClassifierResult(**names, **hashes, **counts, **figures)


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


def test_a_report_has_a_place_for_everything_that_is_measured_of_a_pool(small: ImageDataset, tmp_path: Path) -> None:
    """A study of eight draws by the study's own steps: the correlations come to the report, whatever its pools have."""
    study = AugmentationProtocol(tmp_path, small, Oracle(), replace(QUICK, steps=4), few_images(["synthetic-25"]))
    regime, draws = Regime(0.5), []
    for seed in range(8):
        train_draw(study, regime, seed)
        draws.append(measure_draw(study, regime, seed))
    assert any("seen_copies" in draw.pools["plain"] for draw in draws)  # a figure that is no metric
    assert write_report(study, [regime], draws, [], "command")
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    told = report[report.index("Which metric tells usefulness?") :]
    assert "frechet_distance, texture" in told
    assert "seen_copies" not in told
    assert (tmp_path / "usefulness.png").is_file()


def test_planned_effect_falls_with_seeds_and_test_images() -> None:
    few = np.repeat([0, 1], 50)
    assert planned_effect(few, 8) < planned_effect(few, 3)
    assert planned_effect(np.repeat([0, 1], 5000), 8) < planned_effect(few, 8)
