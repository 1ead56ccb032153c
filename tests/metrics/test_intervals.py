"""Standard errors and intervals against known distributions and closed forms."""

from functools import partial
from typing import Any

import numpy as np
import pytest

from medmnist_diffusion.metrics.frechet import FeatureStatistics, frechet_distance
from medmnist_diffusion.metrics.intervals import (
    Estimate,
    delete_half_jackknife,
    difference_interval,
    holm,
    ratio_interval,
)

from .helpers import normal


@pytest.mark.parametrize("statistic", ["mean", "frechet"])
def test_halves_estimate_the_standard_error(statistic: Any) -> None:
    """Against the spread over 60 fresh draws."""
    real = FeatureStatistics.of(normal(20000, 6))

    def figure(draw: np.ndarray, rows: Any = slice(None)) -> float:
        return float(draw[rows].mean()) if statistic == "mean" else frechet_distance(real, draw[rows])

    draws = [normal(300, 6, seed=i + 1, shift=0.3) for i in range(60)]
    truth = np.std([figure(draw) for draw in draws], ddof=1)
    estimated = np.mean([delete_half_jackknife(partial(figure, draw), 300, seed=i) for i, draw in enumerate(draws)])
    assert 0.7 < estimated / truth < 1.4


def test_holm_against_its_definition() -> None:
    """Sorted p-values times what is left, never decreasing (Holm 1979; the values of R's p.adjust)."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_difference_interval() -> None:
    low, high = difference_interval(Estimate(3.0, 0.3), Estimate(1.0, 0.4))
    assert (low, high) == pytest.approx((2 - 1.96 * 0.5, 2 + 1.96 * 0.5))
    assert difference_interval(Estimate(3.0, None), Estimate(1.0, 0.4)) is None


def test_ratio_interval() -> None:
    assert ratio_interval(Estimate(2.0, 0.0), Estimate(1.0, 0.1)) is None
    low, high = ratio_interval(Estimate(2.0, 0.2), Estimate(1.0, 0.1))
    assert low < 2 < high
    assert low * high == pytest.approx(4)
    assert np.log(high / 2) == pytest.approx(1.96 * np.hypot(0.1, 0.1))
