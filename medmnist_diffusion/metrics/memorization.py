"""Copies: are generated images nearer to the training images than fresh real images are?

Everything here is relative to real images that are independent of the training images, which lie near to these too. Held-out
images that are copies or twins of training images (data/twins.py) are left out: with them in the threshold, no copy would be
flagged.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from scipy.stats import betabinom, mannwhitneyu

from medmnist_diffusion.cache import cache_dir, cached_arrays
from medmnist_diffusion.data.dataset import Split
from medmnist_diffusion.data.twins import NEXT, Nearest, interior, shifts, working_blocks
from medmnist_diffusion.metrics.intervals import Estimate

QUANTILE = 0.01  # of the distances of fresh real images: they fall below it this often
NEAR = 0.5  # a relative distance that fewer than 1 % of independent images are below
# p-value of a share that is called more than chance also after Holm's correction for a hundred tests, where p-values of several
# draws are doubled.
SURE = 0.00005
FEWEST_KNOWN = 10  # copies made on purpose, of a kind of training images, that say how many of these a test sees
REDRAWN = 10.0  # grey levels (RMS) between an image and its copy by `redrawn`
CHUNK = 1024


@dataclass(frozen=True)
class NearestImages:
    """For each query: its distance to the nearest reference, and that reference's row."""

    distances: np.ndarray
    rows: np.ndarray


def nearest_copies(queries: Split, train: Split) -> NearestImages:
    """The nearest training image of each query, mirrored and shifted by up to 2 pixels (volumes 1 voxel) as fits best.

    Distances are root-mean-square grey levels over the interior that all shifts share, at most 28 pixels a side.
    """
    references = torch.cat([interior(block, (0,) * (block.ndim - 2)).flatten(1) for block in working_blocks(train)])
    norms = (references**2).sum(1)
    distances, rows = [], []
    for block in working_blocks(queries):
        best = torch.full((len(block),), torch.inf)
        best_row = torch.zeros(len(block), dtype=torch.long)
        for mirrored in (block, block.flip(-1)):
            for by in shifts(block):
                moved = interior(mirrored, by).flatten(1)
                nearest = (norms - 2 * moved @ references.T).min(1)
                # Recomputed from the pixels: the expanded square loses digits exactly where copies are close.
                distance = (moved - references[nearest.indices]).square().mean(1).sqrt()
                nearer = distance < best
                best = torch.where(nearer, distance, best)
                best_row = torch.where(nearer, nearest.indices, best_row)
        distances.append(best)
        rows.append(best_row)
    return NearestImages(torch.cat(distances).numpy(), torch.cat(rows).numpy())


def redrawn(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Copies as an overfitted generator makes them: softer, brighter or darker, and noise until 10 grey levels (RMS) lie between.

    Args:
        images: float, grey levels, N×H×W×C or N×D×H×W×C.
    """
    sides = images.ndim - 2
    per_image = (len(images), *[1] * (sides + 1))
    changed = gaussian_filter(images, (0, *[0.7] * sides, 0)) + rng.uniform(-6, 6, per_image)
    off = ((changed - images) ** 2).mean(tuple(range(1, images.ndim)), keepdims=True)
    return changed + np.sqrt(np.maximum(REDRAWN**2 - off, 0)) * rng.normal(size=images.shape)


def nearest_features(queries: np.ndarray, references: np.ndarray, exclude_self: bool = False) -> NearestImages:
    """The nearest reference of each query by Euclidean distance; with `exclude_self` both are one set."""
    found = feature_neighbours(queries, references, np.arange(len(queries)) if exclude_self else None, 1)
    return NearestImages(found.distances[:, 0], found.rows[:, 0])


def feature_neighbours(
    queries: np.ndarray, references: np.ndarray, own_rows: np.ndarray | None = None, count: int = 1 + NEXT
) -> Nearest:
    """The `count` nearest references of each query by Euclidean distance, or all where there are no more.

    Block by block in float64, so that beside the features themselves little memory is needed.

    Args:
        own_rows: of queries that are references themselves, their rows there: each is compared with all others.
    """
    distances, rows = [], []
    count = min(count, len(references) - (own_rows is not None))
    for at in range(0, len(queries), CHUNK):
        block = torch.from_numpy(np.asarray(queries[at : at + CHUNK], np.float64))
        own = None if own_rows is None else torch.from_numpy(own_rows[at : at + CHUNK])
        best = torch.empty(len(block), 0, dtype=torch.float64)
        best_rows = torch.empty(len(block), 0, dtype=torch.long)
        for start in range(0, len(references), CHUNK):
            part = torch.cdist(block, torch.from_numpy(np.asarray(references[start : start + CHUNK], np.float64)))
            here = torch.arange(start, start + part.shape[1])
            if own is not None:
                part.masked_fill_(own[:, None] == here, torch.inf)
            best, best_rows = torch.cat([best, part], 1), torch.cat([best_rows, here.expand_as(part)], 1)
            top = best.topk(min(count, best.shape[1]), dim=1, largest=False)
            best, best_rows = top.values, best_rows.gather(1, top.indices)
        distances.append(best)
        rows.append(best_rows)
    return Nearest(torch.cat(distances).numpy(), torch.cat(rows).numpy())


Found = TypeVar("Found", NearestImages, Nearest)


def cached_nearest(key: str, kind: type[Found], compute: Callable[[], Found]) -> Found:
    """What concerns real images only, and so is the same for every model: kept on disk under a key that names both sides."""
    arrays = cached_arrays(
        cache_dir() / "nearest" / f"{key}.npz",
        lambda: {"distances": (found := compute()).distances, "rows": found.rows},
    )
    return kind(arrays["distances"], arrays["rows"])


@dataclass(frozen=True)
class Threshold:
    """A low order statistic of held-out distances. `expected` is how often a fresh image falls below it."""

    value: float
    rank: int
    held_out: int

    @classmethod
    def of(cls, held_out: np.ndarray, quantile: float = QUANTILE) -> "Threshold":
        rank = max(1, int(np.floor(quantile * (len(held_out) + 1))))
        return cls(float(np.sort(held_out)[rank - 1]), rank, len(held_out))

    @property
    def expected(self) -> float:
        return self.rank / (self.held_out + 1)

    def detectable(self, n: int) -> float | None:
        """The smallest share of n images whose p-value is below `SURE`; None if not even all of them would be."""
        chances = betabinom.pmf(np.arange(n + 1), n, self.rank, self.held_out + 1 - self.rank)
        seen = np.flatnonzero(chances[::-1].cumsum()[::-1] < SURE)  # of so many and more
        return float(seen[0] / n) if len(seen) else None

    def p_value(self, flagged: int, n: int) -> float:
        """Chance that at least `flagged` of n fresh images fall below: exact for exchangeable images (beta-binomial), so that
        the threshold's own uncertainty is in it."""
        return float(betabinom.sf(flagged - 1, n, self.rank, self.held_out + 1 - self.rank))


def nearness_to_train(generated: np.ndarray, held_out: np.ndarray) -> Estimate:
    """The chance that a generated image lies nearer to the training set than a held-out one, with a p-value.

    ½ where the generator does not copy; 1 for copies (the data-copying test of Meehan et al. 2020, arXiv 2004.05675: the
    Mann–Whitney statistic of the two sets of distances, ÷ nm). The p-value is one-sided, for copying.
    """
    n, m = len(generated), len(held_out)
    test = mannwhitneyu(held_out, generated, alternative="greater")
    order, other = np.sort(held_out), np.sort(generated)
    farther = 1 - (np.searchsorted(order, generated, "left") + np.searchsorted(order, generated, "right")) / (2 * m)
    nearer = (np.searchsorted(other, held_out, "left") + np.searchsorted(other, held_out, "right")) / (2 * n)
    error = float(np.sqrt(farther.var(ddof=1) / n + nearer.var(ddof=1) / m))  # DeLong's
    return Estimate(float(test.statistic / (n * m)), error, p_value=float(test.pvalue))


def distance_pairs(queries: NearestImages, train_to_train: NearestImages) -> np.ndarray:
    """float N×2: each query's distance to its nearest training image, and that one's to its own nearest other."""
    return np.stack([queries.distances, train_to_train.distances[queries.rows]], axis=1)


def authentic(pairs: np.ndarray) -> np.ndarray:
    """Mask of the `distance_pairs` whose query is farther from its nearest training image than that is from its own nearest one.

    Alaa et al. 2022 (arXiv 2102.08921). What is not authentic could be a noisy copy.
    """
    return np.asarray(pairs[:, 0] > pairs[:, 1])


def flat_pixels(split: Split) -> np.ndarray:
    """Grey levels as float32 N×D, at most 28 a side: 3 kB a grey image whatever its size."""
    return torch.cat([block.flatten(1) for block in working_blocks(split)] or [torch.zeros(0, 1)]).numpy()
