"""Effects of arms and verdicts on them: simulated studies with known truths."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medmnist_diffusion.metrics.classifier_scores import resampled_figures, resampled_test_sets
from medmnist_diffusion.studies.augmentation.arms import ARMS, BY_NAME, CLASSICAL, MAIN_ARM, OVERSAMPLED
from medmnist_diffusion.studies.statistics import ArmFigures, Judgement, effect, judge


def resampled(scores: np.ndarray, labels: np.ndarray, times: int) -> np.ndarray:
    return resampled_figures(scores, labels, resampled_test_sets(labels, times))["auc"]


def simulated(rng: np.random.Generator, arms: dict[str, float], draws: int = 8) -> ArmFigures:
    """AUCs with a spread of draws that the arms share, one of their own, and a test set that all share."""
    shared, test = rng.normal(0, 0.02, draws), {arm: rng.normal(0, 0.004) for arm in arms}
    values, resampled = {}, {}
    for arm, gain in arms.items():
        values[arm] = {d: 0.9 + gain + shared[d] + test[arm] + rng.normal(0, 0.01) for d in range(draws)}
        noise = rng.normal(0, 0.004, 200)
        resampled[arm] = {d: values[arm][d] + noise for d in range(draws)}
    return ArmFigures(values, resampled)


CANDIDATES = [arm.name for arm in ARMS if arm.candidate]
NAMES = [arm.name for arm in ARMS]
TWINS = {arm: [CLASSICAL.name, BY_NAME[arm].twin or ""] for arm in CANDIDATES}


def judged(results: ArmFigures) -> Judgement:
    return judge(results, TWINS, MAIN_ARM.name)


def verdict_of(results: ArmFigures) -> str:
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
        one = effect(ArmFigures(values, again), "a", "b")
        assert one is not None
        return one.difference, one.error

    found = np.array([study() for _ in range(80)])
    assert np.sqrt((found[:, 1] ** 2).mean()) == pytest.approx(found[:, 0].std(ddof=1), rel=0.25)
