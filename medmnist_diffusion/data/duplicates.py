"""Exact and near copies among images, by content hash and by distance."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, pairwise

import numpy as np
from scipy.spatial import cKDTree

from medmnist_diffusion.cache import cache_dir, cached_arrays, digest
from medmnist_diffusion.data.dataset import CHUNK, ImageDataset, Split
from medmnist_diffusion.data.twins import Twins, find_twins

POOLED = 8  # images are compared first as means over at most 8×8 cells, a lower bound of their distance
INDEXED = 8  # principal components of these that a k-d tree holds
QUERIES = 256  # images looked up at once

Place = tuple[str, int]  # a split and a row


def image_hashes(split: Split) -> np.ndarray:
    """A 16-byte content hash an image, N."""
    return np.array(
        [hashlib.blake2b(image.tobytes(), digest_size=16).digest() for chunk in split.chunks() for image in chunk],
        dtype="V16",
    )


def repeats(hashes: np.ndarray) -> int:
    """How many entries repeat an earlier one."""
    return len(hashes) - len(np.unique(hashes))


def in_other(hashes: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Mask of the entries of `hashes` that also stand in `other`."""
    return np.isin(hashes, other)


def drop_leaks(dataset: ImageDataset, twins: bool = False) -> tuple[ImageDataset, int]:
    """Remove the training images that also stand in val or test; return the data set and how many were removed.

    Args:
        twins: also remove those that have a twin there (data/twins.py).
    """
    held_out = np.concatenate([image_hashes(dataset.splits[name]) for name in ("val", "test")])
    leaks = in_other(image_hashes(dataset.train), held_out)
    if twins:
        found = find_twins(dataset)
        leaks[np.concatenate([found.pairs[name][:, 1] for name in ("val", "test")])] = True
    if not leaks.any():
        return dataset, 0
    splits = {**dataset.splits, "train": dataset.train.subset(np.flatnonzero(~leaks))}
    what = "also stand in val or test, or have a twin there," if twins else "also stand in val or test"
    notes = [*dataset.notes, f"{leaks.sum()} training images that {what} were removed."]
    return replace(dataset, splits=splits, notes=notes), int(leaks.sum())


def label_conflicts(
    dataset: ImageDataset, hashes: dict[str, np.ndarray], twins: Twins
) -> list[tuple[Place, Place, bool]]:
    """Pictures that stand in the data set with two labels: of each, one place a label, and whether the pixels are the same.

    Exact copies come first; then twins, of each image its first.

    Args:
        hashes: `image_hashes` of every split.
    """
    places = [(name, row) for name, split in dataset.splits.items() for row in range(len(split))]
    labels = np.concatenate([split.labels for split in dataset.splits.values()])
    _, picture = np.unique(np.concatenate(list(hashes.values())), return_inverse=True)
    order = np.lexsort((np.arange(len(labels)), labels, picture))
    found: dict[int, tuple[Place, Place, bool]] = {}
    for before, after in pairwise(order):
        if picture[before] == picture[after] and labels[before] != labels[after]:
            found.setdefault(int(picture[before]), (places[before], places[after], True))
    for one, other in twins.pairs_over(dataset.splits).tolist():
        different = labels[one] != labels[other] and picture[one] != picture[other]
        if different and not {int(picture[one]), int(picture[other])} & found.keys():
            found[int(picture[one])] = (places[one], places[other], False)
    return list(found.values())


def independent_rows(dataset: ImageDataset) -> np.ndarray:
    """The rows of val whose images are independent of the training images: neither copies nor twins of one, nor of a person in
    train where that is known; perhaps none. Of very large sets some, those that were looked up. Kept on disk by content: a resumed
    run hashes no image again."""
    contents = [
        split.content_hash[:16] for split in dataset.splits.values()
    ]  # test images have a part in what counts as a twin
    groups = [dataset.splits[name].groups for name in ("train", "val")]
    of_whom = "" if None in groups else f"-{digest(groups)[:16]}"
    path = cache_dir() / "held_out" / f"{'-'.join(contents)}{of_whom}-v2.npz"
    return cached_arrays(path, lambda: {"rows": _independent_rows(dataset)})["rows"]


def _independent_rows(dataset: ImageDataset) -> np.ndarray:
    val, twins = dataset.splits["val"], find_twins(dataset)
    known = in_other(image_hashes(val), image_hashes(dataset.train))
    if val.groups is not None and dataset.train.groups is not None:
        known |= np.isin(val.groups, dataset.train.groups)
    return np.setdiff1d(twins.looked_up["val"], np.concatenate([np.flatnonzero(known), twins.rows("val")]))


def clean_held_out(dataset: ImageDataset) -> Split:
    """The val images of `independent_rows`."""
    return dataset.splits["val"].subset(independent_rows(dataset))


def near_pairs(
    split: Split,
    other: Split,
    threshold: float,
    looked_up: np.ndarray | None = None,
    among: np.ndarray | None = None,
) -> Iterator[tuple[int, int]]:
    """Pairs (i, j) of not identical images of two splits at most `threshold` grey levels (RMS) apart.

    Two lower bounds of the distance come first: means over at most 8×8 cells (by Jensen's inequality), and their leading principal
    components (a projection), whose neighbours a k-d tree finds without comparing every pair. Only the pairs that pass are
    compared pixel by pixel, so that memory holds at most 64 numbers a channel and image.
    Within one split (the same object) each pair comes once, with i < j if it could come both ways.

    Args:
        looked_up: only pairs whose i is one of these rows of `split`.
        among: only pairs whose j is one of these rows of `other`.
    """
    theirs = _pooled(other)
    centre, cells = theirs.mean(0), theirs.shape[1]
    theirs -= centre
    ours = theirs if other is split else _pooled(split) - centre
    axes = np.linalg.eigh(theirs.T @ theirs).eigenvectors[:, -INDEXED:]  # ascending: the last ones vary most
    among = np.arange(len(theirs)) if among is None else among
    tree = cKDTree((theirs @ axes)[among])
    radius = np.sqrt(cells) * (threshold + 0.5)  # 0.5: float32's rounding
    queries = np.arange(len(ours)) if looked_up is None else looked_up
    is_query, is_among = np.isin(np.arange(len(ours)), queries), np.isin(np.arange(len(theirs)), among)
    for start in range(0, len(queries), QUERIES):
        block = ours[queries[start : start + QUERIES]]
        neighbours = tree.query_ball_point(block @ axes, radius, workers=-1, return_sorted=False)
        rows = np.repeat(queries[start : start + QUERIES], [len(found) for found in neighbours])
        columns = among[np.fromiter(chain.from_iterable(neighbours), np.int64, len(rows))]
        if other is split:
            once = (columns > rows) | ~(is_query[columns] & is_among[rows])  # else it comes as (j, i), too
            rows, columns = rows[once], columns[once]
        for at in range(0, len(rows), CHUNK):
            i, j = rows[at : at + CHUNK], columns[at : at + CHUNK]
            close = ((ours[i] - theirs[j]) ** 2).sum(1) <= radius**2
            i, j = i[close], j[close]
            if len(i) == 0:
                continue
            difference = _flat(split.images[i]) - _flat(other.images[j])
            distance = np.sqrt((difference**2).mean(1))
            for k in np.flatnonzero((distance > 0) & (distance <= threshold)):
                yield int(i[k]), int(j[k])


def _flat(images: np.ndarray) -> np.ndarray:
    return images.reshape(len(images), -1).astype(np.float32)


def _pooled(split: Split) -> np.ndarray:
    """Float32 N×D means over equal cells, along each side the most up to 8 that divide it. Where none but 1 does (29, 31
    pixels) the bound is the mean grey level, and most pairs are compared pixel by pixel.
    """
    *sides, channels = split.images.shape[1:]
    cells = [max(divisor for divisor in range(1, POOLED + 1) if side % divisor == 0) for side in sides]
    within = [length for side, count in zip(sides, cells, strict=True) for length in (count, side // count)]
    means = tuple(range(2, 2 + 2 * len(sides), 2))
    pooled = np.empty((len(split), int(np.prod(cells)) * channels), np.float32)
    for start, chunk in zip(range(0, len(split), CHUNK), split.chunks(), strict=True):
        blocks = chunk.reshape(len(chunk), *within, channels)
        pooled[start : start + len(chunk)] = blocks.mean(means, dtype=np.float32).reshape(len(chunk), -1)
    return pooled
