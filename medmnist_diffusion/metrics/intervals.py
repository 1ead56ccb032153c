"""95 % intervals of figures that have no formula of their own: the spread over random halves.

The spread of a statistic over random halves without replacement estimates its standard error at the full size (the
delete-half jackknife, Shao & Wu 1989). A bootstrap would repeat images: that shrinks covariances and puts neighbours at
distance zero, so Fréchet distances and everything with nearest neighbours come out biased.

These intervals hold the draw of the generated images. They do not hold the draw of the real ones, nor the training of another
generator.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

HALVES = 20
Z = 1.96


@dataclass(frozen=True)
class Estimate:
    """A figure, its standard error (None where there is none), and the range that it can lie in."""

    value: float
    error: float | None
    low: float = -np.inf
    high: float = np.inf

    @property
    def interval(self) -> tuple[float, float] | None:
        if self.error is None:
            return None
        return max(self.value - Z * self.error, self.low), min(self.value + Z * self.error, self.high)


def halves(n: int, seed: int, times: int = HALVES) -> list[np.ndarray]:
    """`times` random halves of 0 … n − 1, the same ones for the same seed."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(n)[: n // 2] for _ in range(times)]


def spread(replicates: list[float]) -> float:
    """The standard error at the full size from a statistic's values on random halves."""
    return float(np.std(replicates, ddof=1))


def ratio_interval(value: Estimate, floor: Estimate) -> tuple[float, float] | None:
    """95 % interval of value ÷ floor, by the delta method on the logarithm.

    None where either is not positive, or where the errors are so large that the ratio says nothing.
    """
    if not (value.error and floor.error and value.value > 0 and floor.value > 0):
        return None
    error = np.hypot(value.error / value.value, floor.error / floor.value)
    if error > 1:  # a factor of 7 and more either way
        return None
    ratio = value.value / floor.value
    return float(ratio * np.exp(-Z * error)), float(ratio * np.exp(Z * error))


def difference_interval(value: Estimate, floor: Estimate) -> tuple[float, float] | None:
    """95 % interval of value − floor, for figures that are unbiased and so may lie about zero."""
    if value.error is None or floor.error is None:
        return None
    difference, error = value.value - floor.value, float(np.hypot(value.error, floor.error))
    return difference - Z * error, difference + Z * error


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979), in their order."""
    m, order = len(p_values), np.argsort(p_values)
    stepped = np.maximum.accumulate([(m - rank) * p_values[at] for rank, at in enumerate(order)])
    corrected = np.empty(m)
    corrected[order] = np.minimum(stepped, 1)
    return corrected.tolist()


def share_interval(count: int, n: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a share."""
    interval = binomtest(count, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
