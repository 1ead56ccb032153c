"""Fidelity and diversity by nearest neighbours: precision, recall, density and coverage.

Precision and recall: Kynkäänniemi et al. 2019 (arXiv 1904.06991). Density and coverage: Naeem et al. 2020 (arXiv 2002.09797),
whose package `prdc` gives the same values; here the distances are computed once for the figures and for all of their halves.
"""

import numpy as np
import torch

from medmnist_diffusion.metrics.intervals import Estimate, chosen_in_halves, replicate_error

NEAREST_K = 5
CHUNK = 1024
NEAREST_LOOKED_UP = 48  # of each image; of a half a half of them


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
    inside = (between < real_radii[:, None].float()).float()
    chosen = torch.from_numpy(chosen_in_halves(len(g), seed))
    sizes = chosen.sum(0)
    radii = _radii_within(g, chosen > 0, nearest_k)  # n×columns; of those that are not chosen 0
    # Of all pairs only those can count whose distance lies below some column's radius.
    which_real, which = torch.nonzero(between < radii.amax(1), as_tuple=True)
    distances = between[which_real, which]
    recall = []
    for column in range(chosen.shape[1]):
        found = torch.zeros(len(r), dtype=torch.bool)
        found[which_real[distances < radii[which, column]]] = True
        recall.append(float(found.double().mean()))
    columns = {
        "precision": (inside.any(0).double() @ chosen / sizes).tolist(),
        "recall": recall,
        "density": (inside.sum(0).double() @ chosen / (nearest_k * sizes)).tolist(),
        "coverage": (inside @ chosen.float() > 0).double().mean(0).tolist(),
    }
    return {
        name: Estimate(values[0], replicate_error(values[1:]), note=f"k = {nearest_k}")
        for name, values in columns.items()
    }


def _radii_within(g: torch.Tensor, chosen: torch.Tensor, k: int) -> torch.Tensor:
    """Each image's distance to its k-th neighbour among the chosen ones, float32 n×columns for bool n×columns; 0 of the others.

    Each image's nearest ones are sorted once, and counted off in each column. Where too few of them are chosen, all are looked at.
    """
    radii, most = [], min(len(g), NEAREST_LOOKED_UP)
    for block in torch.split(torch.arange(len(g)), CHUNK):
        distances = torch.cdist(g[block], g).float()
        near, rows = distances.topk(most, dim=1, largest=False)
        for column in range(chosen.shape[1]):
            counted = chosen[rows, column].cumsum(1)
            place = (counted <= k).sum(1)  # the first with k + 1 of them: itself is one
            radius = near.gather(1, place.clamp(max=most - 1)[:, None])[:, 0]
            if bool((short := place >= most).any()):
                radius[short] = _kth(distances[short][:, chosen[:, column]], k)
            radii.append(radius * chosen[block, column])
    blocks = [torch.stack(radii[at : at + chosen.shape[1]], 1) for at in range(0, len(radii), chosen.shape[1])]
    return torch.cat(blocks)


def _kth(distances: torch.Tensor, k: int) -> torch.Tensor:
    """Each row's distance to its k-th neighbour, not counting itself."""
    return distances.topk(k + 1, dim=1, largest=False).values[:, -1]
