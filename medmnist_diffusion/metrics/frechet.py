"""The Fréchet distance between two feature sets, and its extrapolation to infinitely many generated images.

d² = |μ_1 − μ_2|² + tr(Σ_1 + Σ_2 − 2 (Σ_1 Σ_2)^½) (Dowson & Landau 1982; as FID: Heusel et al. 2017, arXiv 1706.08500).
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import linregress

from medmnist_diffusion.metrics.intervals import Estimate, delete_half_jackknife

CHUNK = 4096
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
        """In two passes over chunks: float64 moments without a float64 copy of all features."""
        n, dim = features.shape
        chunks = [slice(at, at + CHUNK) for at in range(0, n, CHUNK)]
        mean = sum((features[chunk].sum(0, dtype=np.float64) for chunk in chunks), np.zeros(dim)) / n
        covariance = np.zeros((dim, dim))
        for chunk in chunks:
            centred = np.asarray(features[chunk], np.float64) - mean
            covariance += centred.T @ centred
        return cls(mean, covariance / max(n - 1, 1), n)

    @cached_property
    def root(self) -> np.ndarray:
        """The symmetric square root of the covariance."""
        values, vectors = np.linalg.eigh(self.covariance)
        return np.asarray((vectors * np.sqrt(values.clip(0))) @ vectors.T)


class GeneratedFeatures:
    """Features n×D prepared for distances of many of their subsets to one reference: what all of them share is computed once."""

    def __init__(self, real: FeatureStatistics, generated: np.ndarray) -> None:
        self.real, self.features = real, np.asarray(generated, np.float64)
        if not (np.isfinite(self.features).all() and np.isfinite(real.covariance).all()):
            raise ValueError("features contain NaN or infinity")
        self.turned = self.features @ real.root  # Σ_1^½ x
        self.squares = (self.features**2).sum(1)

    def __len__(self) -> int:
        return len(self.features)

    def distance(self, rows: np.ndarray | slice = slice(None)) -> float:
        """The distance of a subset; see `frechet_distance`."""
        features, turned = self.features[rows], self.turned[rows]
        n, dim = features.shape
        if n < 2 or self.real.count < 2:
            raise ValueError(
                f"a Fréchet distance needs at least 2 images on either side, not {min(n, self.real.count)}"
            )
        mean = features.mean(0)
        turned = turned - turned.mean(0)
        gram = turned @ turned.T if n <= dim else turned.T @ turned
        root_trace = np.sqrt(np.linalg.eigvalsh(gram / (n - 1)).clip(0)).sum()
        difference = self.real.mean - mean
        total_variance = (self.squares[rows].sum() - n * mean @ mean) / (n - 1)
        distance = difference @ difference + np.trace(self.real.covariance) + total_variance - 2 * root_trace
        return max(float(distance), 0.0)


def frechet_distance(real: FeatureStatistics, generated: np.ndarray) -> float:
    """The squared Fréchet distance of `generated` features (n×D) to the real statistics; never negative, never complex.

    The eigenvalues of Σ_1 Σ_2 are those of the symmetric R Σ_2 R with R = Σ_1^½, and of a smaller n×n matrix where there are
    fewer images than features: no square root of an asymmetric, perhaps singular matrix, which yields complex numbers.
    With n ≤ D the estimate is biased upwards; callers must say so or refuse.

    Raises:
        ValueError: for fewer than two images, or features that are not finite.
    """
    return GeneratedFeatures(real, generated).distance()


def frechet_estimate(real: FeatureStatistics, generated: np.ndarray, seed: int = 0) -> Estimate:
    """`frechet_distance` with its standard error over random halves; none below 8 images."""
    prepared = GeneratedFeatures(real, generated)
    if len(prepared) < 8:
        return Estimate(prepared.distance())
    return Estimate(prepared.distance(), delete_half_jackknife(prepared.distance, len(prepared), seed))


def extrapolated_estimate(real: FeatureStatistics, generated: np.ndarray, seed: int = 0) -> Estimate:
    """FID∞ of Chong & Forsyth 2020 (arXiv 1911.07023): the distance at 15 sizes, fitted as a + b/n; a, with its standard
    error over random halves.

    Its bias for the number of generated images is gone, so that it may come out slightly below zero; that of the real side is not.
    """
    prepared, rng = GeneratedFeatures(real, generated), np.random.default_rng(seed)
    value = _extrapolate(prepared, np.arange(len(prepared)), rng)
    return Estimate(value, delete_half_jackknife(lambda rows: _extrapolate(prepared, rows, rng), len(prepared), seed))


def extrapolated(real: FeatureStatistics, features: np.ndarray, count: int, rng: np.random.Generator) -> float:
    """The distance that `count` images would have of which fewer, with these features N×D, are there: a + b/n by the same fit."""
    prepared = GeneratedFeatures(real, features)
    return _extrapolate(prepared, np.arange(len(prepared)), rng, count)


def _extrapolate(
    prepared: GeneratedFeatures, rows: np.ndarray, rng: np.random.Generator, count: float = math.inf
) -> float:
    sizes = np.linspace(len(rows) * EXTRAPOLATION_START, len(rows), EXTRAPOLATION_SIZES).astype(int)
    distances = [prepared.distance(rng.permutation(rows)[:size]) for size in sizes]
    line = linregress(1 / sizes, distances)
    return float(line.intercept + line.slope / count)
