"""The Fréchet distance between two feature sets, and its extrapolation to infinitely many generated images.

d² = |μ_1 − μ_2|² + tr(Σ_1 + Σ_2 − 2 (Σ_1 Σ_2)^½) (Dowson & Landau 1982; as FID: Heusel et al. 2017, arXiv 1706.08500).
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.linalg
from scipy.stats import linregress

from medmnist_diffusion.metrics.intervals import Estimate, halves, spread

EXTRAPOLATION_SIZES = 15  # as in Chong & Forsyth
EXTRAPOLATION_START = 0.2  # the smallest size, as a share of the images


@dataclass(frozen=True)
class FeatureStatistics:
    """Mean D and covariance D×D (float64, n − 1 in the denominator) of n feature vectors."""

    mean: np.ndarray
    covariance: np.ndarray
    count: int

    @classmethod
    def of(cls, features: np.ndarray) -> "FeatureStatistics":
        features = np.asarray(features, np.float64)
        return cls(features.mean(0), np.atleast_2d(np.cov(features, rowvar=False)), len(features))

    @cached_property
    def root(self) -> np.ndarray:
        """The symmetric square root of the covariance."""
        values, vectors = scipy.linalg.eigh(self.covariance)
        return (vectors * np.sqrt(values.clip(0))) @ vectors.T


def frechet_distance(real: FeatureStatistics, generated: np.ndarray) -> float:
    """The squared Fréchet distance of `generated` features (n×D) to the real statistics; never negative, never complex.

    The eigenvalues of Σ_1 Σ_2 are those of the symmetric R Σ_2 R with R = Σ_1^½, and of a smaller n×n matrix where there are
    fewer images than features: no square root of an asymmetric, perhaps singular matrix, which yields complex numbers.
    With n ≤ D the estimate is biased upwards; callers must say so or refuse.

    Raises:
        ValueError: for fewer than two images, or features that are not finite.
    """
    generated = np.asarray(generated, np.float64)
    n, dim = generated.shape
    if n < 2 or real.count < 2:
        raise ValueError(f"a Fréchet distance needs at least 2 images on either side, not {min(n, real.count)}")
    if not (np.isfinite(generated).all() and np.isfinite(real.covariance).all()):
        raise ValueError("features contain NaN or infinity")
    mean = generated.mean(0)
    factor = (generated - mean) @ real.root / np.sqrt(n - 1)
    gram = factor @ factor.T if n <= dim else factor.T @ factor
    root_trace = np.sqrt(scipy.linalg.eigvalsh(gram).clip(0)).sum()
    difference = real.mean - mean
    total_variance = ((generated - mean) ** 2).sum() / (n - 1)
    distance = difference @ difference + np.trace(real.covariance) + total_variance - 2 * root_trace
    return max(float(distance), 0.0)


def frechet_estimate(real: FeatureStatistics, generated: np.ndarray, seed: int = 0) -> Estimate:
    """`frechet_distance` with its standard error over random halves; none below 8 images."""
    value = frechet_distance(real, generated)
    if len(generated) < 8:
        return Estimate(value, None, 0)
    replicates = [frechet_distance(real, generated[rows]) for rows in halves(len(generated), seed)]
    return Estimate(value, spread(replicates), 0)


def extrapolated_frechet_distance(real: FeatureStatistics, generated: np.ndarray, seed: int = 0) -> float:
    """FID∞ of Chong & Forsyth 2020 (arXiv 1911.07023): the distance at 15 sizes, fitted as a + b/n; returns a.

    Its bias for the number of generated images is gone, so that it may come out slightly below zero; that of the real side is not.
    """
    n = len(generated)
    rng = np.random.default_rng(seed)
    sizes = np.linspace(n * EXTRAPOLATION_START, n, EXTRAPOLATION_SIZES).astype(int)
    distances = [frechet_distance(real, generated[rng.permutation(n)[:size]]) for size in sizes]
    return float(linregress(1 / sizes, distances).intercept)


def extrapolated_estimate(real: FeatureStatistics, generated: np.ndarray, seed: int = 0) -> Estimate:
    """`extrapolated_frechet_distance` with its standard error over random halves."""
    value = extrapolated_frechet_distance(real, generated, seed)
    rows_of_halves = halves(len(generated), seed)
    return Estimate(
        value, spread([extrapolated_frechet_distance(real, generated[rows], seed) for rows in rows_of_halves])
    )
