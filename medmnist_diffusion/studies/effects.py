"""Paired differences between arms, with the draws' and the test set's uncertainty in one interval, and the verdict on them."""

from collections.abc import Mapping, Sequence
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
        values: arm → draw → the figure, the higher the better.
        resampled: arm → draw → the figure over resampled test sets, the same ones in every arm; empty where it was not resampled.
    """

    values: Mapping[str, Mapping[int, float]]
    resampled: Mapping[str, Mapping[int, np.ndarray]]


@dataclass(frozen=True)
class Effect:
    """How much higher `arm` is than `control`: mean over paired draws, standard error, 95 % interval, p-value."""

    arm: str
    control: str
    draws: int
    difference: float
    error: float
    interval: tuple[float, float]
    p_value: float  # two-sided, uncorrected
    corrected_p_value: float  # after Holm, for the arms that are compared with this control

    @property
    def detectable(self) -> float:
        """The smallest difference that a study like this one would find in four cases of five."""
        return smallest_detectable(self.error, self.draws)


def smallest_detectable(error: float, draws: int) -> float:
    """The true difference that a two-sided test at 5 % finds with a power of 80 %, given a difference's standard error."""
    freedom = max(1, draws - 1)
    return float((student_t.ppf(1 - ALPHA / 2, freedom) + student_t.ppf(POWER, freedom)) * error)


def effect(results: Results, arm: str, control: str) -> Effect | None:
    """One arm against one control; None with fewer than two draws that both have.

    A draw is an own subset, generator and initialization, so that the spread over draws holds all of these. The error of the one
    test set that all draws share is added to it, from resampling its images. Student's t with draws − 1 degrees of freedom.
    """
    ours, theirs = results.values.get(arm, {}), results.values.get(control, {})
    draws = sorted(set(ours) & set(theirs))
    if len(draws) < 2:
        return None
    differences = np.array([ours[draw] - theirs[draw] for draw in draws])
    of_draws = differences.var(ddof=1) / len(draws)
    again_ours, again_theirs = results.resampled.get(arm, {}), results.resampled.get(control, {})
    of_test = 0.0
    if all(draw in again_ours and draw in again_theirs for draw in draws):
        of_test = float(np.mean([again_ours[draw] - again_theirs[draw] for draw in draws], 0).var(ddof=1))
    error, difference = float(np.sqrt(of_draws + of_test)), float(differences.mean())
    if error < 1e-12:  # the same in every draw and every test set: no chance in it
        p = float(abs(difference) < 1e-12)
        return Effect(arm, control, len(draws), difference, 0.0, (difference, difference), p, p)
    reach = float(student_t.ppf(1 - ALPHA / 2, len(draws) - 1)) * error
    p = float(2 * student_t.sf(abs(difference) / error, len(draws) - 1))
    return Effect(arm, control, len(draws), difference, error, (difference - reach, difference + reach), p, p)


def effects(results: Results, arms: Sequence[str], control: str) -> list[Effect]:
    """Every arm against one control, corrected for their number (Holm 1979)."""
    found = [one for arm in arms if arm != control and (one := effect(results, arm, control)) is not None]
    corrected = holm([one.p_value for one in found])
    return [replace(one, corrected_p_value=p) for one, p in zip(found, corrected, strict=True)]


@dataclass(frozen=True)
class Judgement:
    """The verdict on one regime, and the effect that it stands on."""

    verdict: Verdict
    effect: Effect | None
    p_value: float
    recommended: str


def judge(results: Results, candidates: Sequence[str], primary: str, controls: Sequence[str]) -> Judgement:
    """Do generated images help?

    They help if some candidate arm is better than every control, after Holm's correction for the number of candidates. They
    harm if none does and the primary arm, named in advance, is worse than every control. An arm that must beat all controls has
    the largest of its p-values (Berger 1982: no correction for their number is needed).
    """
    harder: dict[str, Effect] = {}  # a candidate's effect against the control that is harder to beat
    p_values: dict[str, float] = {}
    for arm in candidates:
        against = [one for control in controls if (one := effect(results, arm, control)) is not None]
        if len(against) == len(controls):
            harder[arm] = min(against, key=lambda one: one.difference)
            p_values[arm] = max(one.p_value if one.difference > 0 else 1.0 for one in against)
    corrected = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    helping = [arm for arm, p in corrected.items() if p < ALPHA]
    if helping:
        best = max(helping, key=lambda arm: harder[arm].difference)
        return Judgement("helps", harder[best], corrected[best], best)
    against = [one for control in controls if (one := effect(results, primary, control)) is not None]
    if not against:
        return Judgement("no evidence", None, 1.0, controls[0])
    p = max(one.p_value if one.difference < 0 else 1.0 for one in against)
    if p < ALPHA:
        return Judgement("harms", max(against, key=lambda one: one.difference), p, controls[0])
    return Judgement(
        "no evidence", min(against, key=lambda one: one.difference), max(p, corrected.get(primary, 1.0)), controls[0]
    )
