"""What an image is asked to show: today one class id an image. The one module that does arithmetic on such ids.

Ids run from 0 to K − 1; K, the null label, stands for "no label" in training and in guidance (Ho and Salimans, Classifier-Free
Diffusion Guidance, 2022). Functions that need no K take the labels alone; all others are methods of `Conditioning`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch

Labels = np.ndarray  # int64 N
Rows = np.ndarray  # int64, positions in a split


@dataclass(frozen=True)
class Conditioning:
    """The classes of a data set or of a pipeline, and everything that follows from them.

    Attributes:
        id2label: class id → name, ids 0 … K − 1.
    """

    id2label: dict[int, str]

    @property
    def num_classes(self) -> int:
        """K."""
        return len(self.id2label)

    @property
    def ids(self) -> Labels:
        """All class ids in order, K."""
        return np.arange(self.num_classes)

    @property
    def names(self) -> list[str]:
        """The classes' names in the order of their ids, K."""
        return [self.id2label[label] for label in range(self.num_classes)]

    # In the network

    @property
    def null_label(self) -> int:
        """The id that stands for "no label" in training."""
        return self.num_classes

    def unet_options(self) -> dict[str, Any]:
        """What a stock `UNet2DModel` is built with to take these conditions, the null one among them, as `class_labels`."""
        return {"num_class_embeds": self.num_classes + 1}

    def dropped(self, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The labels, int64 n, with the null label where the boolean mask, n, is true."""
        return labels.masked_fill(mask, self.null_label)

    # In a split

    def outside(self, labels: Labels) -> Labels:
        """Those of the labels that are no class."""
        return labels[(labels < 0) | (labels >= self.num_classes)]

    def counts(self, labels: Labels) -> np.ndarray:
        """How many labels there are of each class, int64 K."""
        return np.bincount(labels, minlength=self.num_classes)

    def shares(self, labels: Labels) -> np.ndarray:
        """Which part of the labels is of each class, float64 K."""
        return self.counts(labels) / len(labels)

    def members(self, labels: Labels) -> list[Rows]:
        """The rows of each class, ascending."""
        return [rows_of(labels, label) for label in range(self.num_classes)]

    def draw(self, labels: Labels, counts: Sequence[int] | np.ndarray, rng: np.random.Generator) -> Rows:
        """Rows of `counts` images a class, drawn without replacement, ascending; all of a class that has fewer."""
        rows = [rng.permutation(members)[:count] for members, count in zip(self.members(labels), counts, strict=True)]
        return np.sort(np.concatenate(rows))

    # To be generated

    def each(self, count: int) -> Labels:
        """`count` labels of every class, in the order of their ids."""
        return np.repeat(self.ids, count)

    def balanced(self, count: int) -> Labels:
        """At least `count` labels, each class equally often, in the order of their ids."""
        return self.each(-(-count // self.num_classes))

    def in_shares(self, count: int, shares: np.ndarray) -> Labels:
        """At least `count` labels with the given class shares, rounded up a class, in the order of their ids."""
        return np.repeat(self.ids, np.ceil(shares * count).astype(int))

    def folder_of(self, label: int) -> str:
        """A folder name for a class that sorts as the ids do and holds no odd characters: `0_normal`."""
        digits = len(str(self.num_classes - 1))
        return f"{label:0{digits}d}_{plain_name(self.id2label[label])}"

    def with_enough_of_each(self, labels: Labels, fewest: int) -> Labels:
        """The labels, and of every class that has fewer as many as make `fewest`; at most as many more as there were."""
        fewest = min(fewest, len(labels) // self.num_classes)
        return np.repeat(self.ids, np.maximum(self.counts(labels), fewest))

    def label_of_folder(self, folder: str) -> int | None:
        """The class that a folder's name means: None for no class.

        A class's name comes first, then an id with that class's name (`0_normal`), then an id alone; the last only where no class
        is itself called by a number, so that an id never stands for another class's name.
        """
        if folder in self.names:
            return self.names.index(folder)
        number, _, rest = folder.partition("_")
        if not number.isdecimal() or int(number) not in self.id2label:
            return None
        numbers_are_ids = not any(_is_integer(name) for name in self.names)
        means = plain_name(self.id2label[int(number)])
        return int(number) if rest == means or (folder == number and numbers_are_ids) else None


def plain_name(name: str) -> str:
    """A name in letters, digits and underscores."""
    return re.sub(r"[^0-9A-Za-z]+", "_", name).strip("_")


def class_order(names: Iterable[str]) -> list[str]:
    """Class names in the order of their ids: as numbers where all are numbers (2 before 10), else as text."""
    different = set(names)
    if all(re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", name) for name in different):
        return sorted(different, key=lambda name: (float(name), name))
    return sorted(different)


def nearly_equal(names: Iterable[str]) -> tuple[str, str] | None:
    """Two names that differ only in case, spaces, a way to write the same letters or the same number; None if there are none."""
    seen: dict[str, str] = {}
    for name in names:
        key = unicodedata.normalize("NFC", " ".join(name.split())).casefold()
        key = str(int(key)) if _is_integer(key) else key
        if seen.setdefault(key, name) != name:
            return seen[key], name
    return None


def _is_integer(name: str) -> bool:
    return re.fullmatch(r"[+-]?[0-9]+", name) is not None


def rows_of(labels: Labels, label: int) -> Rows:
    """The rows that show a class, ascending."""
    return np.flatnonzero(labels == label)


def occurrences(labels: Iterable[int]) -> list[tuple[int, int]]:
    """(label, index) of every image to be made: the how-many-th of its label it is. This names its random stream."""
    seen: Counter[int] = Counter()
    rows = []
    for label in map(int, labels):
        rows.append((label, seen[label]))
        seen[label] += 1
    return rows


def random_rows(labels: Labels, wanted: Labels, rng: np.random.Generator) -> Rows:
    """For every wanted label a random row that shows it, drawn with replacement.

    Raises:
        ValueError: if no row shows a wanted label.
    """
    return np.array([rng.choice(rows_of(labels, label)) for label in wanted])


def stratified_parts(
    labels: Labels, share: float, parts: int, rng: np.random.Generator, groups: np.ndarray | None = None
) -> list[Rows]:
    """Draw `parts` disjoint parts with the given share of every class each, at least one image; what is left comes last.

    Labels that are no class of anything count as one, so that whoever checks them finds them again.

    Args:
        groups: N; images of one group stay together, in the first part that one of them was drawn for.
    """
    drawn: list[list[np.ndarray]] = [[] for _ in range(parts + 1)]
    for label in np.unique(labels):
        members = rng.permutation(rows_of(labels, label))
        count = max(1, round(share * len(members)))
        for part in range(parts):
            drawn[part].append(members[part * count : (part + 1) * count])
        drawn[parts].append(members[parts * count :])
    rows = [np.sort(np.concatenate(part)) for part in drawn]
    if groups is None:
        return rows
    part_of = np.full(len(labels), parts)
    for part in reversed(range(parts)):
        part_of[np.isin(groups, groups[rows[part]])] = part
    return [np.flatnonzero(part_of == part) for part in range(parts + 1)]
