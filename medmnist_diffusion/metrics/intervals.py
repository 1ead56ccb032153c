"""95 % intervals of figures that have no formula of their own: the spread over random halves.

The spread of a statistic over random halves without replacement estimates its standard error at the full size (the
delete-half jackknife, Shao & Wu 1989). A bootstrap would repeat images: that shrinks covariances and puts neighbours at
distance zero, so Fréchet distances and everything with nearest neighbours come out biased.

These intervals hold the draw of the generated images. They do not hold the draw of the real ones, nor the training of another
generator.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

HALVES = 20
Z = 1.96


@dataclass(frozen=True)
class Estimate:
    """A figure as it was measured.

    Attributes:
        value: the figure.
        error: its standard error; None where there is none.
        interval: 95 %, of figures that have one of their own (a share: Wilson's). None: value ± 1.96 errors.
        p_value: of the hypothesis that nothing is copied, of figures that test it.
        detectable: of a share that is tested, the smallest that would be called more than chance; None if none would.
        near_fresh: of a share by relative distances, how many of the real images have one below a half.
        seen_copies: of the same share, how many copies of training images, made on purpose, it counts.
        note: how it came about, for the record.
    """

    value: float
    error: float | None = None
    interval: tuple[float, float] | None = None
    p_value: float | None = None
    detectable: float | None = None
    near_fresh: float | None = None
    seen_copies: float | None = None
    note: str = ""

    def interval_within(self, low: float = -np.inf, high: float = np.inf) -> tuple[float, float] | None:
        """The 95 % interval, cut at the range that the figure can lie in; None where there is no error."""
        if self.interval is not None or self.error is None:
            return self.interval
        return max(self.value - Z * self.error, low), min(self.value + Z * self.error, high)


def standard_error(value: float, error: float | None, interval: tuple[float, float] | None) -> float | None:
    """The error of a record, or of a record that holds none (version 0.1) the one behind its interval.

    From the longer side: the other may have been cut at the end of the range.
    """
    if error is not None or interval is None:
        return error
    return max(interval[1] - value, value - interval[0]) / Z


def random_halves(n: int, seed: int, times: int = HALVES) -> list[np.ndarray]:
    """`times` random halves of 0 … n − 1, the same ones for the same seed."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(n)[: n // 2] for _ in range(times)]


def chosen_in_halves(n: int, seed: int) -> np.ndarray:
    """Zeros and ones, float64 n×(1 + HALVES): which of n rows stand in all of them, and in each of the `random_halves`."""
    chosen = np.zeros((n, 1 + HALVES))
    for column, rows in enumerate([np.arange(n), *random_halves(n, seed)]):
        chosen[rows, column] = 1
    return chosen


def delete_half_jackknife(statistic: Callable[[np.ndarray], float], n: int, seed: int) -> float:
    """The standard error at n images of a statistic, given as a function of the rows that it is computed from."""
    return replicate_error([statistic(rows) for rows in random_halves(n, seed)])


def replicate_error(replicates: Sequence[float]) -> float:
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


def share_estimate(yes: np.ndarray, in_pairs: bool = False) -> Estimate:
    """The share of true ones, with Wilson's interval. Its error is that of the interval's longer side: none of 20 is no certainty.

    Args:
        yes: booleans N.
        in_pairs: both of a pair are true or neither is, so that half of them are independent.
    """
    count, n = int(yes.sum()), len(yes)
    interval = share_interval(count // 2, n // 2) if in_pairs else share_interval(count, n)
    return Estimate(count / n, standard_error(count / n, None, interval), interval)
