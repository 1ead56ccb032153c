"""The kernel distance (KID of Bińkowski et al. 2018, arXiv 1801.01401): an unbiased squared MMD with a cubic kernel."""

import numpy as np

from medmnist_diffusion.metrics.intervals import Estimate, chosen_in_halves, replicate_error

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
    to_real, diagonal = _row_sums(generated, real) / m, _diagonal(generated)
    chosen = chosen_in_halves(n, seed)[:, : None if n >= 8 else 1]
    sizes = chosen.sum(0)
    pairs = (chosen * _row_sums(generated, generated, chosen)).sum(0) - diagonal @ chosen
    values = within_real + pairs / (sizes * (sizes - 1)) - 2 * to_real @ chosen / sizes
    return Estimate(float(values[0]), replicate_error(values[1:].tolist()) if n >= 8 else None)


def _row_sums(left: np.ndarray, right: np.ndarray, chosen: np.ndarray | None = None) -> np.ndarray:
    """Σ_j k(left_i, right_j), in chunks; or of the chosen j alone, for zeros and ones j×columns."""
    dim, sums = left.shape[1], []
    for at in range(0, len(left), CHUNK):
        kernel = left[at : at + CHUNK] @ right.T / dim + 1
        kernel = kernel * kernel * kernel
        sums.append(kernel.sum(1) if chosen is None else kernel @ chosen)
    return np.concatenate(sums)


def _diagonal(features: np.ndarray) -> np.ndarray:
    return np.asarray((np.einsum("ij,ij->i", features, features) / features.shape[1] + 1) ** 3)
