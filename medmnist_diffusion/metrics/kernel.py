"""The kernel distance (KID of Bińkowski et al. 2018, arXiv 1801.01401): an unbiased squared MMD with a cubic kernel."""

import numpy as np

from medmnist_diffusion.metrics.intervals import Estimate, delete_half_jackknife

CHUNK = 1024


def kernel_distance(real: np.ndarray, generated: np.ndarray, seed: int = 0) -> Estimate:
    """Unbiased squared MMD between real m×D and generated n×D features with the kernel (x·y / D + 1)³.

    All pairs are used, where other packages average over subsets: the same expectation with less variance. Unbiased, so that it
    lies about zero, and may lie below, where the two distributions agree. Its standard error comes from random halves.

    Raises:
        ValueError: for fewer than two images on either side.
    """
    m, n = len(real), len(generated)
    if min(m, n) < 2:
        raise ValueError(f"a kernel distance needs at least 2 images on either side, not {min(m, n)}")
    real, generated = np.asarray(real, np.float64), np.asarray(generated, np.float64)
    within_real = (_row_sums(real, real).sum() - _diagonal(real).sum()) / (m * (m - 1))
    to_real = _row_sums(generated, real) / m
    diagonal = _diagonal(generated)

    def distance(rows: np.ndarray) -> float:
        subset, size = generated[rows], len(rows)
        within = (_row_sums(subset, subset).sum() - diagonal[rows].sum()) / (size * (size - 1))
        return float(within_real + within - 2 * to_real[rows].mean())

    value = distance(np.arange(n))
    return Estimate(value, delete_half_jackknife(distance, n, seed) if n >= 8 else None)


def _row_sums(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Σ_j k(left_i, right_j), in chunks."""
    dim = left.shape[1]
    return np.concatenate(
        [((left[at : at + CHUNK] @ right.T / dim + 1) ** 3).sum(1) for at in range(0, len(left), CHUNK)]
    )


def _diagonal(features: np.ndarray) -> np.ndarray:
    return np.asarray((np.einsum("ij,ij->i", features, features) / features.shape[1] + 1) ** 3)
