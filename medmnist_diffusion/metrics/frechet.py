"""The Fréchet distance between two feature sets, its interval, and the statistics that are cached for the real side.

d² = |μ_1 − μ_2|² + tr(Σ_1 + Σ_2 − 2 (Σ_1 Σ_2)^½) (Dowson & Landau 1982; as FID: Heusel et al. 2017, arXiv 1706.08500).
"""

from dataclasses import dataclass

import numpy as np
import scipy.linalg

SUBSAMPLES = 20


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


def frechet_distance(real: FeatureStatistics, generated: np.ndarray) -> float:
    """The squared Fréchet distance of `generated` features (n×D) to the real statistics; never negative, never complex.

    With Σ_2 = FᵀF the eigenvalues of Σ_1 Σ_2 are those of the symmetric F Σ_1 Fᵀ, so that one symmetric eigenvalue problem
    of size min(n, D) replaces the matrix square root that yields complex numbers where a covariance is singular.
    With n ≤ D the covariance is singular and the estimate is biased upwards; the record says so.

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
    centred = (generated - mean) / np.sqrt(n - 1)
    if n <= dim:
        factor = centred
    else:
        values, vectors = scipy.linalg.eigh(centred.T @ centred)
        factor = np.sqrt(values.clip(0))[:, None] * vectors.T
    product = factor @ real.covariance @ factor.T
    root_trace = np.sqrt(scipy.linalg.eigvalsh((product + product.T) / 2).clip(0)).sum()
    difference = real.mean - mean
    distance = difference @ difference + np.trace(real.covariance) + (centred**2).sum() - 2 * root_trace
    return max(float(distance), 0.0)


def frechet_interval(
    real: FeatureStatistics, generated: np.ndarray, seed: int = 0, subsamples: int = SUBSAMPLES
) -> tuple[float, float]:
    """A 95 % interval of `frechet_distance` for the draw of the generated images, by the delete-half jackknife.

    The spread of a statistic over random halves without replacement estimates its standard error at the full size (Shao & Wu
    1989). A bootstrap would repeat images, which shrinks covariances and biases the distance. The interval is centred on the
    full-sample value. It does not contain the draw of the real images, nor the training of another generator.
    """
    value = frechet_distance(real, generated)
    n = len(generated)
    if n < 8:
        return 0.0, float("inf")
    rng = np.random.default_rng(seed)
    halves = [frechet_distance(real, generated[rng.permutation(n)[: n // 2]]) for _ in range(subsamples)]
    error = float(np.std(halves, ddof=1))
    return max(value - 1.96 * error, 0.0), value + 1.96 * error
