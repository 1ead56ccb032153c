"""Paired differences between arms, with the draws' and the test set's uncertainty in one interval, and the verdict on them."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from scipy.stats import t as student_t

from medmnist_diffusion.metrics.intervals import holm

ALPHA, POWER = 0.05, 0.8
Verdict = Literal["helps", "harms", "no evidence"]


@dataclass(frozen=True)
class Results:
    """A figure of one regime's arms.

    Attributes:
        values: arm → draw → the figure.
        resampled: arm → draw → the figure over resampled test sets, the same ones in every arm.
    """

    values: Mapping[str, Mapping[int, float]]
    resampled: Mapping[str, Mapping[int, np.ndarray]]


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
        """Half of the 95 % interval's width; wider by Bonferroni's correction where it is one of several comparisons."""
        return float(student_t.ppf(1 - ALPHA / 2 / comparisons, self.freedom)) * self.error

    def detectable(self, comparisons: int = 1) -> float:
        """The smallest difference that a study like this one finds in about four cases of five."""
        return smallest_detectable(self.error, self.freedom, comparisons)


def smallest_detectable(error: float, freedom: float, comparisons: int = 1) -> float:
    """The true difference that a two-sided test at 5 %, corrected for the number of comparisons, finds with a power of 80 %, given
    a difference's standard error."""
    return float((student_t.ppf(1 - ALPHA / 2 / comparisons, freedom) + student_t.ppf(POWER, freedom)) * error)


def effect(results: Results, arm: str, control: str) -> Effect | None:
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
        p = 1.0 if abs(difference) < 1e-12 else 2.0 ** (1 - n)
        return Effect(arm, control, n, difference, 0.0, n - 1, (difference, difference), p, p)
    p = float(2 * student_t.sf(abs(difference) / error, freedom))
    one = Effect(arm, control, n, difference, error, freedom, (0.0, 0.0), p, p)
    return replace(one, interval=(difference - one.reach(), difference + one.reach()))


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


def mean_interval(results: Results, arm: str) -> tuple[float, float, float]:
    """An arm's mean over its draws and the 95 % interval around it (`uncertainty`); not a number for fewer than two draws."""
    draws = sorted(results.values[arm])
    values = np.array([results.values[arm][draw] for draw in draws])
    if len(draws) < 2:
        return float(values.mean()), float("nan"), float("nan")
    error, freedom = uncertainty(values, np.array([results.resampled[arm][draw] for draw in draws]))
    reach = float(student_t.ppf(1 - ALPHA / 2, freedom)) * error
    return float(values.mean()), float(values.mean()) - reach, float(values.mean()) + reach


def effects(results: Results, pairs: Sequence[tuple[str, str]], candidates: Collection[str]) -> list[Effect]:
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


def best_plain(results: Results, plain: Sequence[str]) -> str:
    """The first, unless others are better than it after Holm's correction: then the best of these."""
    found = effects(results, [(arm, plain[0]) for arm in plain[1:]], plain[1:])
    better = [one for one in found if one.difference > 0 and one.corrected_p_value < ALPHA]
    return max(better, key=lambda one: one.difference).arm if better else plain[0]


def judge(
    results: Results, controls: Mapping[str, Sequence[str]], primary: str, plain: Sequence[str] = ()
) -> Judgement:
    """Do generated images help?

    They help if some candidate arm is better than each of its controls, after Holm's correction for the number of candidates.
    They harm if none does and the primary arm, named in advance, is worse than each of its controls. An arm that must beat all
    controls has the largest of its p-values (Berger 1982: no correction for their number is needed).

    Args:
        controls: of every candidate arm, the primary one among them.
        plain: arms without generated images, the first control first; the primary's controls where there are no others.
    """
    against = {
        arm: [one for control in of_arm if (one := effect(results, arm, control)) is not None]
        for arm, of_arm in controls.items()
    }
    against = {arm: found for arm, found in against.items() if len(found) == len(controls[arm])}
    better = {arm: max(one.p_value if one.difference > 0 else 1.0 for one in found) for arm, found in against.items()}
    corrected = dict(zip(better, holm(list(better.values())), strict=True))
    m = max(1, len(corrected))
    helping = {arm: min(against[arm], key=lambda one: one.difference) for arm, p in corrected.items() if p < ALPHA}
    if helping:
        best = max(helping, key=lambda arm: helping[arm].difference)
        one = helping[best]
        wide = (one.difference - one.reach(m), one.difference + one.reach(m))
        return Judgement("helps", replace(one, interval=wide), corrected[best], best, m, corrected)
    of_primary = against.get(primary, [])
    fallback = best_plain(results, plain or controls[primary])
    if not of_primary:
        return Judgement("no evidence", None, 1.0, fallback, m, corrected)
    harder = min(of_primary, key=lambda one: one.difference)
    worse = max(of_primary, key=lambda one: one.difference)
    if worse.difference < 0 and max(one.p_value for one in of_primary) < ALPHA:
        return Judgement("harms", worse, max(one.p_value for one in of_primary), fallback, m, corrected)
    return Judgement("no evidence", harder, harder.p_value, fallback, m, corrected)
