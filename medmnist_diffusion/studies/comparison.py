"""Arms against each other over seeds: planned contrasts, tested with the variance of all arms together, and a sentence that says
no more than they do."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from scipy.stats import t as student_t

from medmnist_diffusion.metrics.intervals import holm

ALPHA = 0.05
Values = Mapping[str, Mapping[int, float]]  # arm → seed → a figure above 0, the lower the better


@dataclass(frozen=True)
class Contrast:
    """Two arms in one figure: how many times the first is the second, its 95 % interval, and p-values of a ratio of 1."""

    figure: str
    first: str
    second: str
    seeds: int
    ratio: float
    interval: tuple[float, float] | None
    raw_p_value: float
    p_value: float  # corrected for the contrasts of this figure (Holm 1979)


def all_pairs(arms: Sequence[str]) -> list[tuple[str, str]]:
    return list(combinations(arms, 2))


def contrasts(figure: str, values: Values, pairs: Sequence[tuple[str, str]]) -> list[Contrast]:
    """The given pairs of arms in one figure.

    The logarithm is modelled as arm + seed + chance: the same seed in every arm, and one variance of chance for all arms, from the
    seeds that every arm has. So with a arms and s seeds Student's t has (a − 1)(s − 1) degrees of freedom, not the s − 1 of a pair
    alone, which three seeds could never satisfy. Two arms alone give the paired t-test.
    """
    arms = [arm for arm in values if values[arm]]
    seeds = sorted(set.intersection(*(set(values[arm]) for arm in arms))) if arms else []
    pairs = [pair for pair in pairs if set(pair) <= set(arms)]
    n, freedom = len(seeds), (len(arms) - 1) * (len(seeds) - 1)
    if not n or not pairs:
        return []
    logs = np.log([[values[arm][seed] for seed in seeds] for arm in arms])
    residuals = logs - logs.mean(0) - logs.mean(1, keepdims=True) + logs.mean()
    error = float(np.sqrt(2 / n * (residuals**2).sum() / freedom)) if freedom else float("inf")
    found = []
    for first, second in pairs:
        difference = float(logs[arms.index(first)].mean() - logs[arms.index(second)].mean())
        interval = None
        if not freedom:
            p = 1.0
        elif error < 1e-12:  # every seed the same difference, to rounding: either none, or no chance in it
            p = float(abs(difference) < 1e-9)
            interval = (float(np.exp(difference)),) * 2
        else:
            p = float(2 * student_t.sf(abs(difference) / error, freedom))
            reach = float(student_t.ppf(1 - ALPHA / 2, freedom)) * error
            interval = (float(np.exp(difference - reach)), float(np.exp(difference + reach)))
        found.append(Contrast(figure, first, second, n, float(np.exp(difference)), interval, p, p))
    corrected = holm([contrast.raw_p_value for contrast in found])
    return [replace(contrast, p_value=p) for contrast, p in zip(found, corrected, strict=True)]


def verdict(figure: str, arms: Sequence[str], found: Sequence[Contrast]) -> str:
    """Of all pairs: who is best, or that the data cannot tell."""
    mean_log = dict.fromkeys(arms, 0.0)
    for contrast in found:
        mean_log[contrast.first] += np.log(contrast.ratio)
        mean_log[contrast.second] -= np.log(contrast.ratio)
    best = min(mean_log, key=lambda arm: mean_log[arm])
    worse = [arm for arm in arms if any(_beats(contrast, best, arm) for contrast in found)]
    alike = [arm for arm in arms if arm not in (best, *worse)]
    if not worse:
        return f"{figure}: the data cannot tell {listed(arms)} apart."
    if not alike:
        return f"{figure}: {best} is best."
    verb = "is" if len(worse) == 1 else "are"
    return f"{figure}: {listed([best, *alike])} cannot be told apart; {listed(worse)} {verb} worse than {best}."


def changes(figure: str, found: Sequence[Contrast]) -> str:
    """Of changes (first) against what they change (second): which help, which harm."""
    better = [f"{c.first} (× {c.ratio:.2g})" for c in found if c.p_value < ALPHA and c.ratio < 1]
    worse = [f"{c.first} (× {c.ratio:.2g})" for c in found if c.p_value < ALPHA and c.ratio > 1]
    said = [f"{word}: {', '.join(arms)}" for word, arms in (("better", better), ("worse", worse)) if arms]
    return f"{figure}: {'; '.join(said) or 'no change can be told from none'}."


def _beats(contrast: Contrast, best: str, other: str) -> bool:
    lower = contrast.first if contrast.ratio < 1 else contrast.second
    return {contrast.first, contrast.second} == {best, other} and lower == best and contrast.p_value < ALPHA


def listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def mean_and_spread(values: Sequence[float]) -> str:
    """`mean ± standard deviation` of a few seeds, as tables print it."""
    if len(values) == 0:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.3g}"
    return f"{np.mean(values):.3g} ± {np.std(values, ddof=1):.2g}"
