"""How much real data there is: subsets of the training and the validation images, drawn by class (of several labels an image by
stratum, data/conditioning.py), with proof of what was drawn.

Everything that a regime's arms use, the generator and every threshold included, may look at these subsets and at nothing else
of the training and validation images. The test images are the whole set's own.
"""

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from medmnist_diffusion.data.dataset import ImageDataset, Split, joined
from medmnist_diffusion.data.duplicates import clean_held_out, drop_leaks

LEAST = 5  # images a class in train and in val, however small the share
MOST_FRESH = 4000  # left-out images that are looked at


@dataclass(frozen=True)
class Regime:
    """A share of every class, and a further share of the rarest one."""

    share: float
    rare_share: float = 1.0

    @property
    def name(self) -> str:
        rare = "" if self.rare_share == 1 else f", rarest class cut to {self.rare_share:.3g}"
        return f"{100 * self.share:.3g} %{rare}"

    @property
    def slug(self) -> str:
        """For file names."""
        return f"{self.share:g}-rare{self.rare_share:g}" if self.rare_share != 1 else f"{self.share:g}"


@dataclass(frozen=True)
class RegimeData:
    """One draw of a regime: the data set that its arms see, and the rows that it was made of."""

    regime: Regime
    seed: int
    dataset: ImageDataset
    train_rows: np.ndarray
    val_rows: np.ndarray
    whole: ImageDataset

    def left_out(self, name: str) -> Split:
        """The images of the whole set's train or val that were not drawn, with their labels."""
        whole, drawn = self.whole.splits[name], {"train": self.train_rows, "val": self.val_rows}[name]
        return whole.subset(np.setdiff1d(np.arange(len(whole)), drawn))

    @cached_property
    def unlabelled(self) -> Split:
        """The training images that were not drawn, without those that stand in val or test, or have a twin there."""
        others = replace(self.whole, splits={**self.whole.splits, "train": self.left_out("train")}, notes=[])
        return drop_leaks(others, twins=True)[0].train

    @cached_property
    def fresh(self) -> Split:
        """At most MOST_FRESH images of train and val that were not drawn, without those that have a twin among the drawn training
        images. They come from where these come from, which is not always true of test images."""
        parts = [self.left_out(name) for name in ("train", "val")]
        rng = np.random.default_rng([self.seed, 31])
        return self._without_twins(
            joined("fresh", [_some(part, MOST_FRESH // 2, rng) for part in parts]), self.dataset
        )

    @cached_property
    def fresh_val(self) -> Split:
        """The same of val alone, without twins among all training images: where the others are trained on without their labels."""
        return self._without_twins(
            _some(self.left_out("val"), MOST_FRESH, np.random.default_rng([self.seed, 31])), self.whole
        )

    def _without_twins(self, split: Split, known: ImageDataset) -> Split:
        return clean_held_out(replace(known, splits={**known.splits, "val": split})) if len(split) else split

    @property
    def index_hash(self) -> str:
        return index_hash(self.dataset, self.train_rows, self.val_rows)


def _some(split: Split, most: int, rng: np.random.Generator) -> Split:
    return split if len(split) <= most else split.subset(np.sort(rng.permutation(len(split))[:most]))


def rarest_class(dataset: ImageDataset) -> int:
    """The class, or label, of the fewest training images."""
    return int(np.argmin(dataset.conditioning.counts(dataset.train.labels)))


def draw_regime(dataset: ImageDataset, regime: Regime, seed: int) -> RegimeData:
    """The draw of a regime by seed. Draws of one seed are nested: a larger share holds the images of a smaller one."""
    conditioning, rare = dataset.conditioning, rarest_class(dataset)
    rows = {}
    for stream, name in enumerate(("train", "val")):
        labels, chosen = dataset.splits[name].labels, []
        for stratum, members in enumerate(conditioning.stratum_members(labels)):
            members = np.random.default_rng([seed, stream, stratum, 1]).permutation(members)
            share = regime.share * (regime.rare_share if conditioning.shows(labels[members[:1]], rare).any() else 1)
            chosen.append(members[: max(LEAST, round(share * len(members)))])
        rows[name] = np.sort(np.concatenate(chosen))
    splits = {
        name: dataset.splits[name] if len(kept) == len(dataset.splits[name]) else dataset.splits[name].subset(kept)
        for name, kept in rows.items()
    }
    drawn = replace(dataset, splits={**dataset.splits, **splits})
    return RegimeData(regime, seed, drawn, rows["train"], rows["val"], dataset)


def index_hash(dataset: ImageDataset, train_rows: np.ndarray, val_rows: np.ndarray) -> str:
    """Of which images of the data set's training and validation splits were drawn."""
    digest = hashlib.sha256(f"{len(train_rows)} {len(val_rows)} {dataset.name}".encode())
    for rows in (train_rows, val_rows):
        digest.update(np.ascontiguousarray(rows, dtype="<i8").data)
    return digest.hexdigest()[:24]
