"""Twins: two files of one picture. It was saved again, moved, mirrored, or changed in brightness; or scanned again so alike.

Twins are recognised, not assumed. Each image's distance to the nearest training image is divided by the mean distance to the next
50: about 0.8 where the nearest one is another image, far lower where it is the same picture. (Carlini et al. 2023, arXiv
2301.13188, compare distances with this local spacing to find images that a diffusion model has memorized.) Where the values of a
data set fall into two heaps, the limit between twins and other images lies in the valley between them.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.stats import gaussian_kde

from medmnist_diffusion.cache import cache_dir, cached_arrays
from medmnist_diffusion.data.dataset import ImageDataset, Split

NEXT = 50  # neighbours that the local spacing is the mean of
FEWEST_NEXT = 10  # with fewer there is no spacing
CELLS = 8  # a side: images are compared as means over so many cells. Noise and softness mostly vanish in them
SHIFT = 2  # pixels in either direction, of at most WORKING_SIZE a side
SHIFT_OF_VOLUMES = 1  # voxels in each of three directions: 27 places
WORKING_SIZE = 28  # larger images are averaged down first: the same picture stays so, and the cost stays bounded
QUERIES, REFERENCES = 256, 8192  # compared at once
# Comparisons of two images; beyond, some images of the split are looked up, drawn at random, at least 1,000.
MOST_OF_TRAIN, MOST_OF_OTHERS, FEWEST_LOOKED_UP = 50_000_000, 1_000_000_000, 1000
MOST_GROUPED = 30_000  # images that are all compared with each other
LOWEST, HIGHEST = 0.05, 0.6  # between which the limit lies; exact copies are below
BANDWIDTH = 0.15  # of the density of log values
DEPTH = 3.0  # of a valley: so many times lower than the heaps beside it
# A cluster of more than this share of all images, and of more than ten, is one kind of image and not one picture.
LARGEST_CLUSTER, SMALL_CLUSTER = 0.2, 10


@dataclass(frozen=True)
class Nearest:
    """For each of N queries its K nearest references: distances N×K, ascending, and rows N×K."""

    distances: np.ndarray
    rows: np.ndarray

    def subset(self, queries: np.ndarray) -> "Nearest":
        """Those of some queries."""
        return Nearest(self.distances[queries], self.rows[queries])

    @property
    def links(self) -> np.ndarray:
        """float N×K: each distance ÷ the mean of those from the second on; 1 where there are no ten to compare with."""
        spacing = self.distances[:, 1:].mean(1, keepdims=True) if self.distances.shape[1] > FEWEST_NEXT else 0.0
        return np.divide(self.distances, spacing, out=np.ones_like(self.distances), where=np.asarray(spacing) > 0)

    @property
    def relative(self) -> np.ndarray:
        """float N: the distance to the nearest reference, ÷ the mean distance to the next 50."""
        return self.links[:, 0] if self.distances.shape[1] else np.ones(len(self.distances))


def nearest_pictures(
    queries: Split, references: Split, own_rows: np.ndarray | None = None, most: int = 1 + NEXT
) -> Nearest:
    """The nearest references of each query, mirrored and shifted as fits best, whatever their brightness and contrast.

    Images are compared as means over 8×8 cells (volumes 8×8×8) of the interior that all shifts share, with mean 0 and length 1: a
    distance of 0 is the same picture, √2 is no likeness.

    Args:
        own_rows: of queries that are references themselves, their rows there: each is compared with all others.
        most: so many of them, or all where there are no more.
    """
    targets = torch.cat([_described(block, (0,) * (block.ndim - 2)) for block in working_blocks(references)])
    count = min(most, len(targets) - (own_rows is not None))
    found, start = [], 0
    for images in working_blocks(queries):
        for block in images.split(QUERIES):
            moved = torch.stack([_described(m, by) for m in (block, block.flip(-1)) for by in shifts(block)])
            own = None if own_rows is None else torch.from_numpy(own_rows[start : start + len(block)])
            found.append(_most_alike(moved, targets, count, own))
            start += len(block)
    if not found:
        return Nearest(np.zeros((0, count), np.float32), np.zeros((0, count), np.int64))
    alike, rows = (torch.cat(part) for part in zip(*found, strict=True))
    return Nearest((2 - 2 * alike).clamp(min=0).sqrt().numpy(), rows.numpy())


def _most_alike(
    moved: torch.Tensor, targets: torch.Tensor, count: int, own: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` highest cosines n×count of the moved queries M×n×D with the targets, best of all M, and their rows.

    Args:
        own: n, the queries' own rows among the targets, which are passed over; None if they are no targets.
    """
    best, rows = torch.empty(moved.shape[1], 0), torch.empty(moved.shape[1], 0, dtype=torch.long)
    for at in range(0, len(targets), REFERENCES):
        part = targets[at : at + REFERENCES]
        cosines = torch.full((moved.shape[1], len(part)), -torch.inf)
        for one in moved:
            torch.maximum(cosines, one @ part.T, out=cosines)
        rows_here = torch.arange(at, at + len(part))
        if own is not None:
            cosines.masked_fill_(own[:, None] == rows_here, -torch.inf)
        best, rows = (
            torch.cat([best, cosines], 1),
            torch.cat([rows, rows_here.expand_as(cosines)], 1),
        )
        top = best.topk(min(count, best.shape[1]), dim=1)
        best, rows = top.values, rows.gather(1, top.indices)
    return best, rows


def _described(images: torch.Tensor, by: Sequence[int]) -> torch.Tensor:
    """Means over the cells of a moved window, n×D, with mean 0 and length 1 (0 of an image without any contrast)."""
    cells = pooled(interior(images, by), CELLS).flatten(1)
    centred = cells - cells.mean(1, keepdim=True)
    return centred / centred.norm(dim=1, keepdim=True).clamp(min=1e-3)


def _reach(images: torch.Tensor) -> int:
    return SHIFT if images.ndim == 4 else SHIFT_OF_VOLUMES


def shifts(images: torch.Tensor) -> Iterator[tuple[int, ...]]:
    """How far images n×C×H×W or volumes n×C×D×H×W are moved, along each side."""
    reach = _reach(images)
    return product(range(-reach, reach + 1), repeat=images.ndim - 2)


def working_blocks(split: Split) -> Iterator[torch.Tensor]:
    """Grey levels as float32 n×C×H×W, volumes n×C×D×H×W, in chunks, at most 28 a side."""
    for chunk in split.chunks():
        images = torch.from_numpy(np.ascontiguousarray(chunk)).movedim(-1, 1).float()
        yield pooled(images, [min(side, WORKING_SIZE) for side in images.shape[2:]])


def pooled(images: torch.Tensor, sides: int | Sequence[int]) -> torch.Tensor:
    """Means over equal cells, so many along each side; the images themselves where they have as many pixels."""
    wanted: Any = [sides] * (images.ndim - 2) if isinstance(sides, int) else list(sides)
    if list(images.shape[2:]) == wanted:
        return images
    return F.adaptive_avg_pool2d(images, wanted) if images.ndim == 4 else F.adaptive_avg_pool3d(images, wanted)


def interior(images: torch.Tensor, by: Sequence[int]) -> torch.Tensor:
    """The window that every shift leaves inside, moved."""
    reach = _reach(images)
    for axis, move in enumerate(by, start=2):
        images = images.narrow(axis, reach + move, images.shape[axis] - 2 * reach)
    return images


def twin_limit(relative: np.ndarray) -> float:
    """Below which relative distance the nearest image is a twin: the last valley before the heap of unlike images.

    A valley counts where the density of the logarithms is three times as high on either side, one image's worth added to it: so
    a heap has three images at least. Without a valley only exact copies are twins.

    Args:
        relative: N values, of as many images as there are; of images that have no twin, most lie about 0.8.
    """
    logs = np.log(np.maximum(relative, LOWEST))
    if len(logs) < 2 or np.ptp(logs) < BANDWIDTH:
        return LOWEST
    grid = np.linspace(np.log(LOWEST) - 3 * BANDWIDTH, float(logs.max()), 400)
    density = gaussian_kde(logs, BANDWIDTH / logs.std(ddof=1))(grid)
    one_image = 1 / (len(logs) * BANDWIDTH * np.sqrt(2 * np.pi))
    before, after = np.maximum.accumulate(density), np.maximum.accumulate(density[::-1])[::-1]
    depth = np.minimum(before, after) / (density + one_image)
    valleys = np.flatnonzero((depth >= DEPTH) & (grid < np.log(HIGHEST)))
    if not len(valleys):
        return LOWEST
    last = np.split(valleys, np.flatnonzero(np.diff(valleys) > 1) + 1)[
        -1
    ]  # neighbouring points of the grid are one valley
    return float(np.exp(grid[last[np.argmax(depth[last])]]))


@dataclass(frozen=True)
class Twins:
    """Which images of a data set have a twin among its training images.

    Attributes:
        limit: of the relative distance; below it two images are twins.
        looked_up: split → the rows that were looked up: all, or of large sets some.
        relative: split → of each of these, the relative distance to the (other) training images.
        pairs: split → M×2, a row of the split and the training row that is its twin.
        alike: so many images are too much alike for twins to be told among them: only exact copies count, in the whole set.
    """

    limit: float
    looked_up: dict[str, np.ndarray]
    relative: dict[str, np.ndarray]
    pairs: dict[str, np.ndarray]
    alike: int = 0

    def pairs_over(self, splits: dict[str, Split]) -> np.ndarray:
        """int M×2: all pairs, as rows of the splits one after the other."""
        return _over_all(self.pairs, splits)

    def rows(self, split: str) -> np.ndarray:
        """The rows of a split that have a twin in train."""
        return np.unique(self.pairs[split][:, 0])

    @property
    def independent(self) -> np.ndarray:
        """Relative distances of images that are independent of the training images: val images, and training images each left out
        once, without those that have a twin."""
        known = np.concatenate([self.relative["val"], self.relative["train"]])
        return known[known >= self.limit]

    @property
    def alone(self) -> np.ndarray:
        """Mask of the training images looked up: those without a twin in train."""
        return self.relative["train"] >= self.limit


def find_twins(dataset: ImageDataset) -> Twins:
    """Look up the images of all splits among the (other) training images. Kept on disk by content."""
    contents = [split.content_hash[:16] for split in dataset.splits.values()]
    path = cache_dir() / "twins" / f"{'-'.join(contents)}-v2.npz"
    arrays = cached_arrays(path, lambda: _found(dataset))
    looked_up, relative, pairs = (
        {name: arrays[f"{name}_{what}"] for name in dataset.splits} for what in ("looked_up", "relative", "pairs")
    )
    return Twins(float(arrays["limit"]), looked_up, relative, pairs, int(arrays["alike"]))


def _found(dataset: ImageDataset) -> dict[str, np.ndarray]:
    train, arrays, nearest = dataset.train, dict[str, np.ndarray](), dict[str, Nearest]()
    for name, split in dataset.splits.items():
        most = max(FEWEST_LOOKED_UP, (MOST_OF_TRAIN if name == "train" else MOST_OF_OTHERS) // len(train))
        rows = np.random.default_rng(0).permutation(len(split))[:most]
        if name != "train":
            rows = np.sort(rows)
        nearest[name] = nearest_pictures(split.subset(rows), train, rows if name == "train" else None)
        arrays[f"{name}_looked_up"], arrays[f"{name}_relative"] = rows, nearest[name].relative

    def pairs(limit: float) -> dict[str, np.ndarray]:
        return {name: _linked(one, limit, arrays[f"{name}_looked_up"]) for name, one in nearest.items()}

    def groups(limit: float) -> np.ndarray:
        return clusters(_over_all(pairs(limit), dataset.splits), sum(map(len, dataset.splits.values())))

    limit, alike = _believed(twin_limit(np.concatenate([one.relative for one in nearest.values()])), groups)
    arrays |= {f"{name}_pairs": found for name, found in pairs(limit).items()}
    return {**arrays, "limit": np.array(limit), "alike": np.array(alike)}


def _over_all(pairs: dict[str, np.ndarray], splits: dict[str, Split]) -> np.ndarray:
    """int M×2: pairs of each split's rows and train's, as rows of all splits one after the other."""
    starts = dict(zip(splits, np.cumsum([0, *map(len, splits.values())]), strict=False))
    return np.concatenate([np.add(rows, [starts[name], starts["train"]]) for name, rows in pairs.items()])


def _linked(found: Nearest, limit: float, rows: np.ndarray) -> np.ndarray:
    """int M×2: rows of the queries, and the references that are their twins."""
    queries, places = np.nonzero(found.links < limit)
    return np.stack([rows[queries], found.rows[queries, places]], 1)


def _believed(limit: float, groups: Callable[[float], np.ndarray]) -> tuple[float, int]:
    """The limit, or that of exact copies where it would make one picture of images that are merely alike; and how many these are.

    Args:
        groups: limit → int N, the cluster of each image.
    """
    largest = int(np.bincount(found := groups(limit)).max())
    if limit > LOWEST and largest > max(SMALL_CLUSTER, LARGEST_CLUSTER * len(found)):
        return LOWEST, largest
    return limit, 0


def picture_groups(pool: Split) -> tuple[np.ndarray, int]:
    """int N: the group of each image; twins are in one. And how many images are too much alike to tell twins (`Twins.alike`)."""
    every = np.arange(len(pool))
    if len(pool) < 2:
        return every, 0
    found = nearest_pictures(pool, pool, every)

    def groups(limit: float) -> np.ndarray:
        return clusters(_linked(found, limit, every), len(pool))

    limit, alike = _believed(twin_limit(found.relative), groups)
    return groups(limit), alike


def alike_in_words(alike: int) -> str:
    """What a user should know of images that are too much alike."""
    return f"{alike} images are so much alike that twins cannot be told among them: only exact copies were taken for one picture."


def joined_groups(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """int N: groups of images that are in one group by either of two, int N, directly or through others."""
    count = len(one)
    first = [
        np.unique(groups, return_index=True)[1][np.unique(groups, return_inverse=True)[1]] for groups in (one, other)
    ]
    return clusters(np.concatenate([np.stack([np.arange(count), rows], 1) for rows in first]), count)


def clusters(pairs: np.ndarray, count: int) -> np.ndarray:
    """int N: the cluster of each of N images, by pairs M×2 of their rows; an image without a twin is a cluster of its own."""
    links = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    return connected_components(links, directed=False)[1]
