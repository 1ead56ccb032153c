"""Fidelity and diversity by nearest neighbours: precision, recall, density and coverage.

Precision and recall: Kynkäänniemi et al. 2019 (arXiv 1904.06991). Density and coverage: Naeem et al. 2020 (arXiv 2002.09797),
whose package `prdc` gives the same values; here the distances are computed once for the figures and for all of their halves.
"""

import numpy as np
import torch

from medmnist_diffusion.metrics.intervals import Estimate, random_halves, replicate_error

NEAREST_K = 5
CHUNK = 1024


def precision_recall_density_coverage(
    real: np.ndarray, generated: np.ndarray, seed: int = 0, nearest_k: int = NEAREST_K
) -> dict[str, Estimate]:
    """The four figures of generated n×D against real m×D features, with standard errors over random halves of the generated.

    precision: share of generated images inside the real manifold (within some real image's k-th-neighbour radius).
    recall: share of real images inside the generated manifold. density: in how many real balls a generated image lies, ÷ k
    (about 1 for real images, unbounded above). coverage: share of real images with a generated one in their ball.

    Raises:
        ValueError: where either side has too few images for k neighbours (and their halves).
    """
    if min(len(real), len(generated) // 2) < nearest_k + 2:
        raise ValueError(
            f"{nearest_k} neighbours need at least {nearest_k + 2} real and {2 * (nearest_k + 2)} generated images, "
            f"not {len(real)} and {len(generated)}"
        )
    r, g = torch.from_numpy(np.asarray(real, np.float64)), torch.from_numpy(np.asarray(generated, np.float64))
    real_radii = torch.cat([_kth(torch.cdist(block, r), nearest_k) for block in torch.split(r, CHUNK)])
    between = torch.cat([torch.cdist(block, g).float() for block in torch.split(r, CHUNK)])  # m×n
    within = torch.cat([torch.cdist(block, g).float() for block in torch.split(g, CHUNK)])  # n×n
    inside = between < real_radii[:, None].float()
    precision, density = inside.any(0).double(), inside.sum(0).double() / nearest_k

    def figures(rows: torch.Tensor) -> dict[str, float]:
        radii = _kth(within[rows][:, rows], nearest_k)
        return {
            "precision": float(precision[rows].mean()),
            "recall": float((between[:, rows] < radii).any(1).double().mean()),
            "density": float(density[rows].mean()),
            "coverage": float(inside[:, rows].any(1).double().mean()),
        }

    values = figures(torch.arange(len(g)))
    replicates = [figures(torch.from_numpy(rows)) for rows in random_halves(len(g), seed)]
    return {
        name: Estimate(value, replicate_error([other[name] for other in replicates]), note=f"k = {nearest_k}")
        for name, value in values.items()
    }


def _kth(distances: torch.Tensor, k: int) -> torch.Tensor:
    """Each row's distance to its k-th neighbour, not counting itself."""
    return distances.topk(k + 1, dim=1, largest=False).values[:, -1]
