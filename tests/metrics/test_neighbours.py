"""Precision, recall, density and coverage against prdc, and the intra-class spread against its definition."""

from typing import Any

import numpy as np
import pytest
from prdc import compute_prdc

from medmnist_diffusion.metrics.diversity import intra_class_spread
from medmnist_diffusion.metrics.kernel import kernel_distance
from medmnist_diffusion.metrics.neighbours import precision_recall_density_coverage

from .helpers import normal


@pytest.mark.parametrize(("m", "n"), [(300, 250), (1200, 400)])
def test_neighbour_figures_against_prdc(m: Any, n: Any) -> None:
    real, generated = normal(m), normal(n, seed=1, shift=0.3, scale=0.8)
    ours = precision_recall_density_coverage(real, generated)
    for name, value in compute_prdc(real, generated, nearest_k=5).items():
        assert ours[name].value == pytest.approx(value, rel=1e-3), name


def test_precision_and_recall_are_not_swapped() -> None:
    """Narrow generated images: all are real-like, yet they reach little of the real ones; and the other way round."""
    narrow = precision_recall_density_coverage(normal(500), normal(500, seed=1, scale=0.3))
    wide = precision_recall_density_coverage(normal(500, scale=0.3), normal(500, seed=1))
    assert narrow["precision"].value > 0.9 > 0.4 > narrow["recall"].value
    assert wide["recall"].value > 0.9 > 0.4 > wide["precision"].value


def test_collapsed_and_tied_images() -> None:
    """One image a hundred times: no diversity, and no figure that is not a number."""
    real, collapsed = normal(200), np.repeat(normal(1, seed=5) * 0.1, 100, axis=0)
    figures = precision_recall_density_coverage(real, collapsed)
    assert figures["recall"].value == 0
    assert figures["coverage"].value < 0.5
    assert all(np.isfinite(figure.value) for figure in figures.values())
    assert np.isfinite(kernel_distance(real, collapsed).value)
    assert intra_class_spread(collapsed, np.zeros(100, int)).value == pytest.approx(0, abs=1e-6)


def test_too_few_images_for_neighbours() -> None:
    with pytest.raises(ValueError, match="5 neighbours need at least"):
        precision_recall_density_coverage(normal(100), normal(10))


def test_spread_against_its_definition() -> None:
    features, labels = normal(60, 4), np.arange(60) % 3
    squared = [
        ((features[labels == c][:, None] - features[labels == c][None]) ** 2).sum(-1).sum() / (20 * 19)
        for c in range(3)
    ]
    assert intra_class_spread(features, labels).value == pytest.approx(np.sqrt(np.mean(squared)))
