"""Arms against each other over seeds: means, paired tests with Holm's correction, and a sentence that says no more."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from scipy.stats import t as student_t

from medmnist_diffusion.metrics.intervals import holm

ALPHA = 0.05
Values = Mapping[str, Mapping[int, float]]  # arm → seed → a figure, the lower the better


@dataclass(frozen=True)
class Pair:
    """Two arms in one figure: how many times the first is the second, its 95 % interval, and Holm's p-value."""

    figure: str
    first: str
    second: str
    seeds: int
    ratio: float
    interval: tuple[float, float] | None
    p_value: float  # of a ratio of 1, corrected for the number of pairs compared
    raw_p_value: float


def compare_arms(by_figure: Mapping[str, Values], reference: str | None = None) -> list[Pair]:
    """All pairs of arms in all figures, or each arm against `reference`.

    Paired over seeds on the logarithm (Student's t): the same seed means the same first weights, batches and noise. Figures that
    are not positive are left out. p-values are corrected for all pairs together (Holm 1979).
    """
    pairs = []
    for figure, values in by_figure.items():
        arms = list(values)
        chosen = combinations(arms, 2) if reference is None else ((arm, reference) for arm in arms if arm != reference)
        pairs += [_compare(figure, first, second, values) for first, second in chosen]
    pairs = [pair for pair in pairs if pair.seeds]
    corrected = holm([pair.raw_p_value for pair in pairs]) if pairs else []
    return [Pair(**{**vars(pair), "p_value": p}) for pair, p in zip(pairs, corrected, strict=True)]


def _compare(figure: str, first: str, second: str, values: Values) -> Pair:
    common = [seed for seed in values[first] if seed in values[second]]
    both = [(values[first][seed], values[second][seed]) for seed in common]
    logs = np.array([np.log(a / b) for a, b in both if a > 0 and b > 0])
    n = len(logs)
    mean = float(logs.mean()) if n else 0.0
    if n < 2:
        return Pair(figure, first, second, n, float(np.exp(mean)), None, 1.0, 1.0)
    error = float(logs.std(ddof=1) / np.sqrt(n))
    if error == 0:  # to the last digit the same difference every time: none, or no chance in it
        p, reach = float(mean == 0), 0.0
    else:
        p, reach = float(2 * student_t.sf(abs(mean) / error, n - 1)), float(student_t.ppf(0.975, n - 1)) * error
    interval = (float(np.exp(mean - reach)), float(np.exp(mean + reach)))
    return Pair(figure, first, second, n, float(np.exp(mean)), interval, p, p)


def verdict(figure: str, values: Values, pairs: Sequence[Pair]) -> str:
    """Who is best in a figure, or that the data cannot tell; from the corrected p-values."""
    means = {arm: float(np.mean(list(of_arm.values()))) for arm, of_arm in values.items() if of_arm}
    if len(means) < 2:
        return f"{figure}: fewer than two arms were measured."
    best = min(means, key=lambda arm: means[arm])
    worse: list[str] = []
    alike: list[str] = []
    for arm in means:
        if arm == best:
            continue
        pair = next((p for p in pairs if p.figure == figure and {p.first, p.second} == {best, arm}), None)
        differs = pair is not None and pair.p_value < ALPHA and (pair.ratio < 1) == (pair.first == best)
        (worse if differs else alike).append(arm)
    if not worse:
        return f"{figure}: the data cannot tell {_listed(list(means))} apart."
    if not alike:
        return f"{figure}: {best} is best."
    verb = "is" if len(worse) == 1 else "are"
    return f"{figure}: {_listed([best, *alike])} cannot be told apart; {_listed(worse)} {verb} worse than {best}."


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def mean_and_spread(values: Sequence[float]) -> str:
    """`mean ± standard deviation` of a few seeds, as tables print it."""
    if len(values) == 0:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.3g}"
    return f"{np.mean(values):.3g} ± {np.std(values, ddof=1):.2g}"
