"""Which images are compared with which, so that a figure and its floor have the same size and the same class shares."""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from medmnist_diffusion.data.dataset import ImageDataset, Split
from medmnist_diffusion.errors import UserError

MIN_IMAGES = 50  # below this no figure says anything
MIN_CLASS_IMAGES = 20  # of one class by itself


@dataclass(frozen=True)
class Comparison:
    """Which images stand on which side.

    The generated images, the reference (training) images, and as many other real images as there are generated ones: their
    distance to the same reference is the floor that no generator is expected to beat.
    """

    generated: np.ndarray  # rows of the generated split
    reference: np.ndarray  # rows of train
    floor: np.ndarray  # rows of floor_split
    floor_split: Split  # the held-out images, or train
    floor_source: str

    @cached_property
    def real_key(self) -> str:
        """Names the real rows: the same for every draw of as many generated images with the same labels."""
        digest = hashlib.sha256(self.floor_split.name.encode())
        for rows in (self.reference, self.floor):
            digest.update(repr(len(rows)).encode() + np.ascontiguousarray(rows, "<i8").tobytes())
        return digest.hexdigest()


def plan_comparison(
    dataset: ImageDataset,
    held_out: Split,
    generated: Split,
    num_real: int | None,
    seed: int,
    only_held_out: bool = False,
    left_out: np.ndarray | None = None,
) -> Comparison:
    """Choose both sides so that the figure and its floor have the same size and the same class shares.

    Class shares are those of the training split: a distance must not measure that the generated set is balanced. A class that
    the generated images lack altogether is a loss, and is counted as one: the others fill its place. Where images have several
    labels, combinations of them (`Conditioning.strata`) stand for classes.
    The floor's images are held out where there are enough of them, else a part of train that is left out of the reference.
    `left_out` is a mask of strata that are not compared.
    `only_held_out` takes fewer generated images instead: in a space that was fitted to the training images these lie too close
    to each other, and their floor would be one that no fresh image reaches, real or not.

    Raises:
        UserError: if too few generated (or, with `only_held_out`, held-out) images fit the class shares.
    """
    # A stream each, so that the real side is the same for every model with as many images.
    of_generated, of_floor, of_reference = (np.random.default_rng([seed, stream]) for stream in range(3))
    train, conditioning = dataset.train, dataset.conditioning
    shares = conditioning.stratum_shares(train.labels)
    if left_out is not None and not left_out[shares > 0].all():
        shares = np.where(left_out, 0, shares)
        shares /= shares.sum()
    ours, of_held_out = conditioning.stratum_counts(generated.labels), conditioning.stratum_counts(held_out.labels)
    our_shares = shares * (ours > 0) / shares[ours > 0].sum()

    room = most_images(of_held_out, shares)
    if not only_held_out:
        room = max(room, len(train) // 2)
    counts = class_counts(min(most_images(ours, our_shares), room), shares)
    n = int(counts.sum())
    if n < MIN_IMAGES:
        lack = "real images outside the reference" if room < MIN_IMAGES else f"of {len(generated)} generated images"
        raise UserError(
            f"only {n} {lack} fit the training set's class shares; at least {MIN_IMAGES} are needed. Give more of every class "
            f"(training shares: {np.round(shares, 3).tolist()})."
        )
    chosen = conditioning.draw(
        generated.labels, counts if (ours > 0).all() else _spread_out(n, our_shares), of_generated
    )
    if (of_held_out >= counts).all():
        floor_split, source = held_out, f"{n} val images"
        floor, reference = conditioning.draw(held_out.labels, counts, of_floor), np.arange(len(train))
    else:
        floor_split, source = train, f"{n} training images left out of the reference (val has too few)"
        floor = conditioning.draw(train.labels, counts, of_floor)
        reference = np.setdiff1d(np.arange(len(train)), floor)
    if num_real is not None and num_real < len(reference):
        reference = np.sort(of_reference.choice(reference, num_real, replace=False))
    return Comparison(chosen, reference, floor, floor_split, source)


def plan_class(
    dataset: ImageDataset, held_out: Split, generated: Split, class_: int, seed: int, only_held_out: bool = False
) -> Comparison | None:
    """One class by itself, with all generated images of it that as many real ones can be held against: where its share of the
    whole comparison is too small for figures. None where its real images are too few for two sides."""
    own, known, fresh = (
        np.flatnonzero(dataset.conditioning.shows(split.labels, class_))
        for split in (generated, dataset.train, held_out)
    )
    of_generated, of_floor = (np.random.default_rng([seed, stream, class_]) for stream in (5, 6))
    if len(fresh) >= MIN_CLASS_IMAGES:
        n, floor_split = min(len(own), len(fresh)), held_out
        floor, reference, source = of_floor.permutation(fresh)[:n], known, f"{n} val images"
    elif only_held_out:
        return None
    else:
        n, floor_split = min(len(own), len(known) // 2), dataset.train
        floor = of_floor.permutation(known)[:n]
        reference, source = (
            np.setdiff1d(known, floor),
            f"{n} training images left out of the reference (val has too few)",
        )
    if n < MIN_CLASS_IMAGES:
        return None
    return Comparison(np.sort(of_generated.permutation(own)[:n]), reference, np.sort(floor), floor_split, source)


def most_images(available: np.ndarray, shares: np.ndarray) -> int:
    """How many images with these class shares there are, from the numbers available a class."""
    return int(np.min(available[shares > 0] / shares[shares > 0]))


def class_counts(n: int, shares: np.ndarray) -> np.ndarray:
    """At most n images with the given class shares, a class."""
    return np.floor(n * shares + 1e-9).astype(int)


def _spread_out(n: int, shares: np.ndarray) -> np.ndarray:
    """Exactly n images, as near to the shares as whole numbers are."""
    edges = np.round(n * np.cumsum(shares) + 1e-9).astype(int)
    return np.diff(edges, prepend=0)
