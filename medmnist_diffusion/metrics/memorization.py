"""Copies: are generated images nearer to the training images than fresh real images are?

Everything here is relative to held-out real images, which lie near to the training set too. Held-out images that are copies
of training images themselves are left out: with leaks in the threshold, no copy would ever be flagged.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import betabinom, mannwhitneyu

from medmnist_diffusion.cache import cache_dir, cached_arrays
from medmnist_diffusion.data.dataset import ImageDataset, Split
from medmnist_diffusion.data.duplicates import image_hashes, in_other, near_pairs
from medmnist_diffusion.metrics.intervals import Estimate

QUANTILE = 0.01  # of the held-out distances: fresh real images fall below it this often
SHIFT = 2  # pixels; a copy may be moved by so much in either direction, and mirrored
WORKING_SIZE = 28  # larger images are averaged down first: copies stay copies, and the cost stays bounded
NEAR_COPY_GREY_LEVELS = 5.0
CHUNK = 1024


@dataclass(frozen=True)
class NearestImages:
    """For each query: its distance to the nearest reference, and that reference's row."""

    distances: np.ndarray
    rows: np.ndarray


def clean_held_out(dataset: ImageDataset) -> Split:
    """The val images that are neither copies nor near-copies of training images; perhaps none. Which these are is kept on disk.

    Near is measured by the set's own contrast: at most 5 grey levels, and less than a quarter of the median distance between a
    training image and its nearest other one.
    """
    train, val = dataset.train, dataset.splits["val"]
    path = cache_dir() / "held_out" / f"{train.content_hash[:24]}-{val.content_hash[:24]}-v1.npz"
    copies = cached_arrays(path, lambda: {"copies": _copies_of_train(train, val)})["copies"]
    return val.subset(np.flatnonzero(~copies))


def _copies_of_train(train: Split, val: Split) -> np.ndarray:
    """Mask of the val images that are copies or near-copies of training images."""
    copies = in_other(image_hashes(val), image_hashes(train))
    some = train.subset(np.sort(np.random.default_rng(0).permutation(len(train))[:CHUNK]))
    _, apart = np.unique(image_hashes(some), return_index=True)
    pixels = flat_pixels(some.subset(np.sort(apart)))
    typical = np.median(nearest_features(pixels, pixels, exclude_self=True).distances) / np.sqrt(pixels.shape[1])
    near = min(NEAR_COPY_GREY_LEVELS, float(typical) / 4)
    copies[[i for i, _ in near_pairs(val, train, near)]] = True
    return copies


def nearest_copies(queries: Split, train: Split) -> NearestImages:
    """The nearest training image of each query, mirrored and shifted by up to 2 pixels as fits best.

    Distances are root-mean-square grey levels over the interior that all shifts share, at most 28 pixels a side.
    """
    references = torch.cat([_interior(block, 0, 0).flatten(1) for block in _blocks(train)])
    norms = (references**2).sum(1)
    distances, rows = [], []
    for block in _blocks(queries):
        best = torch.full((len(block),), torch.inf)
        best_row = torch.zeros(len(block), dtype=torch.long)
        for mirrored in (block, block.flip(-1)):
            for dy in range(-SHIFT, SHIFT + 1):
                for dx in range(-SHIFT, SHIFT + 1):
                    moved = _interior(mirrored, dy, dx).flatten(1)
                    nearest = (norms - 2 * moved @ references.T).min(1)
                    # Recomputed from the pixels: the expanded square loses digits exactly where copies are close.
                    distance = (moved - references[nearest.indices]).square().mean(1).sqrt()
                    nearer = distance < best
                    best = torch.where(nearer, distance, best)
                    best_row = torch.where(nearer, nearest.indices, best_row)
        distances.append(best)
        rows.append(best_row)
    return NearestImages(torch.cat(distances).numpy(), torch.cat(rows).numpy())


def nearest_features(queries: np.ndarray, references: np.ndarray, exclude_self: bool = False) -> NearestImages:
    """The nearest reference of each query by Euclidean distance; with `exclude_self` both are one set.

    Block by block in float64, so that beside the features themselves little memory is needed.
    """
    distances, rows = [], []
    for at in range(0, len(queries), CHUNK):
        block = torch.from_numpy(np.asarray(queries[at : at + CHUNK], np.float64))
        best, best_row = (
            torch.full((len(block),), torch.inf, dtype=torch.float64),
            torch.zeros(len(block), dtype=torch.long),
        )
        for start in range(0, len(references), CHUNK):
            part = torch.cdist(block, torch.from_numpy(np.asarray(references[start : start + CHUNK], np.float64)))
            if exclude_self and start == at:
                part.fill_diagonal_(torch.inf)
            nearest = part.min(1)
            nearer = nearest.values < best
            best = torch.where(nearer, nearest.values, best)
            best_row = torch.where(nearer, nearest.indices + start, best_row)
        distances.append(best)
        rows.append(best_row)
    return NearestImages(torch.cat(distances).numpy(), torch.cat(rows).numpy())


def cached_nearest(key: str, compute: Callable[[], NearestImages]) -> NearestImages:
    """What concerns real images only, and so is the same for every model: kept on disk under a key that names both sides."""
    arrays = cached_arrays(
        cache_dir() / "nearest" / f"{key}.npz",
        lambda: {"distances": (found := compute()).distances, "rows": found.rows},
    )
    return NearestImages(arrays["distances"], arrays["rows"])


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
    """Grey levels as float32 N×(C·S·S), S at most 28: 3 kB a grey image whatever its size."""
    return torch.cat([block.flatten(1) for block in _blocks(split)] or [torch.zeros(0, 1)]).numpy()


def _blocks(split: Split) -> list[torch.Tensor]:
    """Grey levels as float32 n×C×S×S in chunks, S at most 28."""
    blocks = []
    for chunk in split.chunks(CHUNK):
        images = torch.from_numpy(np.ascontiguousarray(chunk)).permute(0, 3, 1, 2).float()
        if images.shape[-1] > WORKING_SIZE:
            images = F.adaptive_avg_pool2d(images, WORKING_SIZE)
        blocks.append(images)
    return blocks


def _interior(images: torch.Tensor, dy: int, dx: int) -> torch.Tensor:
    """The window that every shift by at most SHIFT leaves inside, moved by (dy, dx)."""
    size = images.shape[-1] - 2 * SHIFT
    return images[..., SHIFT + dy : SHIFT + dy + size, SHIFT + dx : SHIFT + dx + size]
