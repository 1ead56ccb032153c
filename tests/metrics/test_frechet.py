"""The Fréchet distance against closed forms, torchmetrics and torch-fidelity."""

from typing import Any

import numpy as np
import pytest
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.fid import _compute_fid

from medmnist_diffusion.metrics.frechet import (
    FeatureStatistics,
    extrapolated,
    extrapolated_estimate,
    frechet_distance,
    frechet_estimate,
)

from .helpers import correlated, distance, normal


@pytest.mark.parametrize(("n", "dim"), [(500, 8), (300, 64), (40, 64)])
def test_frechet_distance_against_torchmetrics_and_torch_fidelity(n: Any, dim: Any) -> None:
    real, generated = correlated(n + 7, dim, 0), correlated(n, dim, 1)
    statistics = [torch.from_numpy(x) for pair in ((f.mean(0), np.cov(f.T)) for f in (real, generated)) for x in pair]
    reference = fid_statistics_to_metric(
        fid_features_to_statistics(torch.from_numpy(real)),
        fid_features_to_statistics(torch.from_numpy(generated)),
        False,
    )["frechet_inception_distance"]
    ours = distance(real, generated)
    assert ours == pytest.approx(float(_compute_fid(*statistics)), rel=1e-4)
    assert ours == pytest.approx(reference, rel=1e-3)


def test_frechet_distance_of_gaussians_with_exact_moments() -> None:
    """Whitened samples have exactly the moments that they are given: |Δμ|² + Σ (σ_1 − σ_2)² for axis-aligned ones."""
    rng = np.random.default_rng(0)
    samples = []
    for mean, sigma in ((np.zeros(3), np.array([1.0, 2.0, 3.0])), (np.array([1.0, 0, 2]), np.array([2.0, 2.0, 0.5]))):
        raw = rng.normal(size=(200, 3))
        raw -= raw.mean(0)
        white = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw.T)).T)
        samples.append(white * sigma + mean)
    assert distance(*samples) == pytest.approx(5 + 1 + 0 + 6.25, rel=1e-9)


def test_frechet_distance_properties() -> None:
    real, generated = correlated(200, 16, 0), correlated(150, 16, 1)
    assert distance(real, real) == pytest.approx(0, abs=1e-6)
    assert distance(real, generated) == pytest.approx(distance(generated, real), rel=1e-9)
    assert distance(real, generated[::-1]) == pytest.approx(distance(real, generated), rel=1e-9)
    constant = np.ones((50, 16))
    assert np.isfinite(distance(constant, constant + 1))
    assert distance(constant, constant + 1) == pytest.approx(16)
    noisier = [distance(real, real + np.random.default_rng(2).normal(0, s, real.shape)) for s in (0.0, 0.5, 1.0, 2.0)]
    assert noisier == sorted(noisier)


@pytest.mark.parametrize("n", [2, 5, 16, 17])
def test_fewer_images_than_features_stay_finite(n: Any) -> None:
    value = distance(correlated(300, 16, 0), correlated(n, 16, 1))
    assert np.isfinite(value)
    assert value > 0


def test_what_has_no_distance_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 images"):
        distance(correlated(20, 4, 0), correlated(20, 4, 1)[:1])
    with pytest.raises(ValueError, match="NaN"):
        distance(correlated(20, 4, 0), np.full((20, 4), np.nan))


def test_interval_covers_the_expected_distance() -> None:
    """Of 60 repetitions at n = 200, most intervals hold the mean of the estimator at that n."""
    rng = np.random.default_rng(0)
    real = FeatureStatistics.of(rng.normal(size=(5000, 6)))
    draws = [rng.normal(0.3, 1.2, size=(200, 6)) for _ in range(60)]
    expected = np.mean([frechet_distance(real, draw) for draw in draws])
    intervals = [frechet_estimate(real, draw, seed=i).interval_within(0) for i, draw in enumerate(draws)]
    covered = np.mean([low <= expected <= high for low, high in intervals])
    assert 0.85 <= covered <= 1
    assert np.mean([high - low for low, high in intervals]) < expected  # and they are not simply wide


def test_extrapolation_removes_the_bias_for_few_images() -> None:
    """Same distribution on both sides: at n = 200 the distance is far from its limit 0, the extrapolated one is near it."""
    real = FeatureStatistics.of(normal(50000, 16))
    plain = np.mean([frechet_distance(real, normal(200, 16, i + 1)) for i in range(20)])
    limit = np.mean([extrapolated_estimate(real, normal(200, 16, i + 1), seed=i).value for i in range(20)])
    assert plain > 0.3
    assert abs(limit) < 0.25 * plain


def test_fewer_images_tell_the_distance_of_more() -> None:
    """From 200 images that of 800, which 800 themselves have."""
    real = FeatureStatistics.of(normal(4000, 16, 0))
    told = [extrapolated(real, normal(200, 16, seed), 800, np.random.default_rng(seed)) for seed in range(1, 13)]
    theirs = [frechet_estimate(real, normal(800, 16, seed)).value for seed in range(20, 32)]
    assert np.mean(told) == pytest.approx(np.mean(theirs), rel=0.2)
    assert np.mean([frechet_estimate(real, normal(200, 16, seed)).value for seed in range(1, 4)]) > 2.5 * np.mean(
        theirs
    )
