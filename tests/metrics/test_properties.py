"""Properties of the metrics that must hold for whatever input hypothesis thinks of."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from medmnist_diffusion.metrics.frechet import FeatureStatistics, frechet_distance
from medmnist_diffusion.metrics.intervals import holm
from medmnist_diffusion.metrics.kernel import kernel_distance
from medmnist_diffusion.metrics.neighbours import precision_recall_density_coverage


@st.composite
def features(draw: st.DrawFn) -> np.ndarray:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, dim = draw(st.integers(40, 80)), 6
    mixing = rng.normal(size=(dim, dim))
    return rng.normal(size=(n, dim)) @ mixing * draw(st.floats(0.01, 100)) + draw(st.floats(-5, 5))


def frechet(real: np.ndarray, generated: np.ndarray) -> float:
    return frechet_distance(FeatureStatistics.of(real), generated)


def kernel(real: np.ndarray, generated: np.ndarray) -> float:
    return kernel_distance(real, generated).value


DISTANCES = pytest.mark.parametrize("distance", [frechet, kernel])


Distance = Callable[[np.ndarray, np.ndarray], float]


@DISTANCES
@given(st.data())
def test_distances_are_symmetric(distance: Distance, data: st.DataObject) -> None:
    first, second = data.draw(features()), data.draw(features())
    scale = abs(distance(first, second)) + frechet(first, np.zeros_like(first) + first.mean(0)) + 1e-12
    assert distance(first, second) == pytest.approx(distance(second, first), abs=1e-6 * scale, rel=1e-6)


@DISTANCES
@given(st.data())
def test_distances_do_not_depend_on_order(distance: Distance, data: st.DataObject) -> None:
    first, second = data.draw(features()), data.draw(features())
    rng = np.random.default_rng(0)
    shuffled = distance(rng.permutation(first), rng.permutation(second))
    assert shuffled == pytest.approx(distance(first, second), rel=1e-6, abs=1e-6 * np.var(first))


@given(features())
def test_a_set_has_no_frechet_distance_to_itself(first: np.ndarray) -> None:
    assert frechet(first, first) == pytest.approx(0, abs=1e-6 * np.var(first) * first.shape[1])


@DISTANCES
@given(st.data())
def test_more_noise_is_farther_away(distance: Distance, data: st.DataObject) -> None:
    first = data.draw(features())
    first = (first - first.mean(0)) / first.std(0)
    noise = np.random.default_rng(1).normal(size=first.shape)
    found = [distance(first, first + amount * noise) for amount in (0.5, 1.0, 2.0, 4.0)]
    assert found == sorted(found)


@given(features())
def test_a_set_beside_itself_has_all_neighbours(first: np.ndarray) -> None:
    figures = precision_recall_density_coverage(first, first)
    assert figures["precision"].value == figures["recall"].value == figures["coverage"].value == 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_raises_no_p_value_above_one_lowers_none_and_keeps_their_order(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(before <= after <= 1 for before, after in zip(p_values, corrected, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert list(np.array(corrected)[order]) == sorted(corrected)
