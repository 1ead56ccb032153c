"""The studies' statistics: contrasts of recipes over seeds, effects of arms over draws and test sets, and what gains are worth."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Literal

import numpy as np
from scipy.stats import spearmanr
from scipy.stats import t as student_t
from sklearn.isotonic import isotonic_regression

from medmnist_diffusion.metrics.intervals import holm

ALPHA, POWER = 0.05, 0.8
FEWEST = 4  # pairs, for a correlation
BOOTSTRAPS = 1000
Values = Mapping[str, Mapping[int, float]]  # recipe → seed → a figure above 0, the lower the better
Verdict = Literal[
    "helps",
    "harms",
    "no evidence",
    "an easier thing is as good",
    "can stand in",
    "can partly stand in",
    "cannot stand in",
]


# Student's t: of a difference with its standard error and the error's degrees of freedom


def two_sided_p(difference: float, error: float, freedom: float) -> float:
    return float(2 * student_t.sf(abs(difference) / error, freedom))


def half_width(error: float, freedom: float, comparisons: int = 1) -> float:
    """Of the 95 % interval; wider by Bonferroni's correction where it is one of several comparisons."""
    return float(student_t.ppf(1 - ALPHA / 2 / comparisons, freedom)) * error


def smallest_detectable(error: float, freedom: float, comparisons: int = 1) -> float:
    """The true difference that a two-sided test at 5 %, corrected for the number of comparisons, finds with a power of 80 %."""
    return half_width(error, freedom, comparisons) + float(student_t.ppf(POWER, freedom)) * error


# Contrasts: ratios of recipes over seeds


@dataclass(frozen=True)
class Contrast:
    """Two arms in one figure: how many times the first is the second, its 95 % interval, and p-values of a ratio of 1."""

    figure: str
    first: str
    second: str
    seeds: int  # that both have
    ratio: float
    interval: tuple[float, float] | None
    raw_p_value: float
    p_value: float  # corrected for the contrasts of this figure (Holm 1979)


def all_pairs(arms: Sequence[str]) -> list[tuple[str, str]]:
    return list(combinations(arms, 2))


def contrasts(figure: str, values: Values, pairs: Sequence[tuple[str, str]]) -> list[Contrast]:
    """The given pairs of arms in one figure, those that have a seed in common.

    Two tests have to agree. The first models the logarithm as arm + seed + chance, by least squares over all cells that there are,
    with one variance of chance for all arms: three seeds have hardly any power without what the other arms add to it. But where
    arms differ in how much they vary, it calls the most variable ones different too often, so that the second is the pair's own
    paired t-test. The p-value is the larger of the two, the first one after Holm's correction; the interval holds both intervals.
    (In simulations with this study's own spread of variances: 5 % of studies with a false finding; by the first alone 14 %.)
    """
    arms = [arm for arm in values if values[arm]]
    pairs = [(first, second) for first, second in pairs if set(values.get(first, ())) & set(values.get(second, ()))]
    shared = _common_variance(values, arms, pairs)
    paired = [_paired(values, *pair) for pair in pairs]
    corrected = holm([one.p_value for one in shared])
    found = []
    for (first, second), one, own, p in zip(pairs, shared, paired, corrected, strict=True):
        seeds = len(set(values[first]) & set(values[second]))
        interval = None
        if one.reach is not None and own.reach is not None:
            low = min(one.difference - one.reach, own.difference - own.reach)
            high = max(one.difference + one.reach, own.difference + own.reach)
            interval = (float(np.exp(low)), float(np.exp(high)))
        raw = max(one.p_value, own.p_value)
        found.append(
            Contrast(figure, first, second, seeds, float(np.exp(one.difference)), interval, raw, max(p, own.p_value))
        )
    return found


@dataclass(frozen=True)
class _Difference:
    """Of two arms' logarithms, with half of its 95 % interval (None: no degree of freedom) and the p-value of none."""

    difference: float
    reach: float | None
    p_value: float

    @classmethod
    def tested(cls, difference: float, error: float, freedom: int) -> "_Difference":
        if freedom < 1:
            return cls(difference, None, 1.0)
        if error < 1e-9:  # every seed the same difference, to rounding: either none, or no chance in it
            return cls(difference, 0.0, float(abs(difference) < 1e-9))
        return cls(difference, half_width(error, freedom), two_sided_p(difference, error, freedom))


def _common_variance(values: Values, arms: Sequence[str], pairs: Sequence[tuple[str, str]]) -> list[_Difference]:
    """By least squares, the logarithm as arm + seed + chance; every arm may lack seeds."""
    seeds = sorted({seed for arm in arms for seed in values[arm]})
    cells = [(arm, seed) for arm in arms for seed in values[arm]]
    logs = np.log([values[arm][seed] for arm, seed in cells])
    design = np.array([[arm == a for a in arms] + [seed == s for s in seeds] for arm, seed in cells], float)
    inverse = np.linalg.pinv(design.T @ design)
    solution = inverse @ design.T @ logs
    freedom = len(cells) - int(np.linalg.matrix_rank(design))
    variance = ((logs - design @ solution) ** 2).sum() / freedom if freedom else 0.0
    found = []
    for first, second in pairs:
        weights = np.zeros(design.shape[1])
        weights[[arms.index(first), arms.index(second)]] = 1, -1
        error = float(np.sqrt(weights @ inverse @ weights * variance))
        found.append(_Difference.tested(float(weights @ solution), error, freedom))
    return found


def _paired(values: Values, first: str, second: str) -> _Difference:
    """By the pair's own differences, over the seeds that both have."""
    seeds = sorted(set(values[first]) & set(values[second]))
    differences = np.log([values[first][seed] / values[second][seed] for seed in seeds])
    error = float(differences.std(ddof=1) / np.sqrt(len(seeds))) if len(seeds) > 1 else 0.0
    return _Difference.tested(float(differences.mean()), error, len(seeds) - 1)


# Effects: paired differences between arms, with the uncertainty of draws and test set in one interval


@dataclass(frozen=True)
class ArmFigures:
    """A figure of one regime's arms.

    Attributes:
        values: arm → draw → the figure.
        resampled: arm → draw → the figure over resampled test sets, the same ones in every arm.
    """

    values: dict[str, dict[int, float]] = field(default_factory=dict)
    resampled: dict[str, dict[int, np.ndarray]] = field(default_factory=dict)


@dataclass(frozen=True)
class Effect:
    """How much higher `arm` is than `control`: mean over paired draws, standard error with its degrees of freedom, 95 % interval,
    two-sided p-value."""

    arm: str
    control: str
    draws: int
    difference: float
    error: float
    freedom: float
    interval: tuple[float, float]
    p_value: float  # uncorrected
    corrected_p_value: float  # of a candidate: after Holm, for all candidates in a table

    def reach(self, comparisons: int = 1) -> float:
        return half_width(self.error, self.freedom, comparisons)

    def widened(self, comparisons: int) -> "Effect":
        """The same with the interval that one of so many comparisons has."""
        reach = self.reach(comparisons)
        return replace(self, interval=(self.difference - reach, self.difference + reach))

    def detectable(self, comparisons: int = 1) -> float:
        """The smallest difference that a study like this one finds in about four cases of five."""
        return smallest_detectable(self.error, self.freedom, comparisons)


def effect(results: ArmFigures, arm: str, control: str) -> Effect | None:
    """One arm against one control; None with fewer than two draws that both have. Student's t, with `uncertainty`."""
    ours, theirs = results.values.get(arm, {}), results.values.get(control, {})
    draws = sorted(set(ours) & set(theirs))
    n = len(draws)
    if n < 2:
        return None
    differences = np.array([ours[draw] - theirs[draw] for draw in draws])
    again = np.array([results.resampled[arm][draw] - results.resampled[control][draw] for draw in draws])
    error, freedom = uncertainty(differences, again)
    difference = float(differences.mean())
    if error < 1e-12:  # the same in every draw and every test set: a sign test is all that can be said
        error, freedom, p = 0.0, n - 1, 1.0 if abs(difference) < 1e-12 else 2.0 ** (1 - n)
    else:
        p = two_sided_p(difference, error, freedom)
    reach = half_width(error, freedom)
    return Effect(arm, control, n, difference, error, freedom, (difference - reach, difference + reach), p, p)


def uncertainty(values: np.ndarray, resampled: np.ndarray) -> tuple[float, float]:
    """Standard error of a figure's mean over n ≥ 2 draws, and its degrees of freedom.

    A draw is an own subset, generator and initialization, so that the spread over draws holds all of these, and what single test
    images do to single draws. What the test set does to all draws alike is not in that spread: it is added, as the covariance of
    two draws over resampled test sets. The degrees of freedom are Satterthwaite's (the covariance is taken as known).

    Args:
        values: n, of the draws.
        resampled: n×T, the same over resampled test sets.
    """
    n = len(values)
    of_draws = float(values.var(ddof=1)) / n
    of_test = max(0.0, (n**2 * resampled.mean(0).var(ddof=1) - resampled.var(1, ddof=1).sum()) / (n * (n - 1)))
    freedom = (n - 1) * (1 + of_test / of_draws) ** 2 if of_draws > 1e-18 else 1e6
    return float(np.sqrt(of_draws + of_test)), float(freedom)


def mean_interval(results: ArmFigures, arm: str) -> tuple[float, float, float]:
    """An arm's mean over its draws and the 95 % interval around it (`uncertainty`); not a number for fewer than two draws."""
    draws = sorted(results.values[arm])
    values = np.array([results.values[arm][draw] for draw in draws])
    if len(draws) < 2:
        return float(values.mean()), float("nan"), float("nan")
    error, freedom = uncertainty(values, np.array([results.resampled[arm][draw] for draw in draws]))
    mean, reach = float(values.mean()), half_width(error, freedom)
    return mean, mean - reach, mean + reach


def effects(results: ArmFigures, pairs: Sequence[tuple[str, str]], candidates: Collection[str]) -> list[Effect]:
    """Of every pair the first against the second; the candidates among the first corrected for their number (Holm 1979)."""
    found = [one for pair in pairs if (one := effect(results, *pair)) is not None]
    ours = [one for one in found if one.arm in candidates]
    corrected = dict(zip((one.arm for one in ours), holm([one.p_value for one in ours]), strict=True))
    return [replace(one, corrected_p_value=corrected.get(one.arm, one.p_value)) for one in found]


@dataclass(frozen=True)
class Judgement:
    """The verdict on one regime.

    Attributes:
        effect: of the arm that helps, else of the primary arm, against the control that is harder to beat. Its interval is as wide
            as choosing it among `comparisons` candidates asks for; that of the primary arm, named in advance, is a plain one.
        p_value: two-sided; of an arm that helps the largest over its controls, after Holm.
        recommended: an arm; where generated images do not help, what `best_plain` says.
        comparisons: how many candidates there are.
        beats_controls: of every candidate, the p-value of being better than each of its controls, after Holm.
    """

    verdict: Verdict
    effect: Effect | None
    p_value: float
    recommended: str
    comparisons: int
    beats_controls: Mapping[str, float]


def best_plain(results: ArmFigures, plain: Sequence[str], alpha: float = ALPHA) -> str:
    """The first, unless others are better than it after Holm's correction: then the best of these."""
    found = effects(results, [(arm, plain[0]) for arm in plain[1:]], plain[1:])
    better = [one for one in found if one.difference > 0 and one.corrected_p_value < alpha]
    return max(better, key=lambda one: one.difference).arm if better else plain[0]


def judge(
    results: ArmFigures,
    controls: Mapping[str, Sequence[str]],
    primary: str,
    plain: Sequence[str] = (),
    alpha: float = ALPHA,
) -> Judgement:
    """Do generated images help?

    They help if some candidate arm is better than each of its controls, after Holm's correction for the number of candidates.
    They harm if none does and the primary arm, named in advance, is worse than each of its controls. An arm that must beat all
    controls has the largest of its p-values (Berger 1982: no correction for their number is needed).

    Args:
        controls: of every candidate arm, the primary one among them.
        plain: arms without generated images, the first control first; the primary's controls where there are no others.
        alpha: below which a p-value counts.
    """
    against = {
        arm: [one for control in of_arm if (one := effect(results, arm, control)) is not None]
        for arm, of_arm in controls.items()
    }
    against = {arm: found for arm, found in against.items() if len(found) == len(controls[arm])}
    better = {arm: max(one.p_value if one.difference > 0 else 1.0 for one in found) for arm, found in against.items()}
    corrected = dict(zip(better, holm(list(better.values())), strict=True))
    m = max(1, len(corrected))
    helping = {arm: min(against[arm], key=lambda one: one.difference) for arm, p in corrected.items() if p < alpha}
    if helping:
        best = max(helping, key=lambda arm: helping[arm].difference)
        wide = helping[best].widened(m * round(ALPHA / alpha))
        return Judgement("helps", wide, corrected[best], best, m, corrected)
    of_primary = against.get(primary, [])
    fallback = best_plain(results, plain or controls[primary], alpha)
    if not of_primary:
        return Judgement("no evidence", None, 1.0, fallback, m, corrected)
    harder = min(of_primary, key=lambda one: one.difference)
    worse = max(of_primary, key=lambda one: one.difference)
    if worse.difference < 0 and max(one.p_value for one in of_primary) < alpha:
        return Judgement("harms", worse, max(one.p_value for one in of_primary), fallback, m, corrected)
    return Judgement("no evidence", harder, harder.p_value, fallback, m, corrected)


# What gains are worth


def worth_in_real_images(counts: np.ndarray, auc: np.ndarray) -> np.ndarray:
    """Of R regimes' counts and their AUC, R×2 without and with generated images. No gain is worth no images, also where the curve
    is level: the nearest count that reaches as much is taken."""
    curve, logs, found = isotonic_regression(auc[:, 0]), np.log(counts), []
    for at, gain in enumerate(auc[:, 1] - auc[:, 0]):
        reached = curve[at] + gain
        if gain >= 0:  # the least count from here on that reaches it, read from the curve's end
            found.append(np.interp(-reached, -curve[at:][::-1], logs[at:][::-1], left=np.inf))
        else:  # the largest count up to here that reaches no more
            found.append(np.interp(reached, curve[: at + 1], logs[: at + 1], left=-np.inf))
    return np.round(np.exp(found), 6)


def worth_interval(counts: np.ndarray, values: np.ndarray, again: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % interval of `worth_in_real_images`, R each, by a bootstrap over draws, the same ones in all regimes, and over test
    sets: curve and gain both vary in it.

    Args:
        values: regime × draw × (without, with generated images).
        again: the same × test set.
    """
    rng, samples = np.random.default_rng(0), []
    for _ in range(BOOTSTRAPS):
        draws, test = rng.integers(values.shape[1], size=values.shape[1]), rng.integers(again.shape[3])
        shifted = values + again[..., test] - again.mean(3)
        samples.append(worth_in_real_images(counts, shifted[:, draws].mean(1)))
    low, high = np.sort(np.array(samples), axis=0)[[round(0.025 * BOOTSTRAPS), round(0.975 * BOOTSTRAPS) - 1]]
    return low, high


def spearman(pairs: Sequence[tuple[float, float]]) -> float | None:
    values = np.array(pairs, dtype=np.float64).reshape(-1, 2)
    if len(values) < FEWEST or not np.all(np.ptp(values, axis=0) > 0):
        return None
    return float(spearmanr(values[:, 0], values[:, 1]).statistic)
