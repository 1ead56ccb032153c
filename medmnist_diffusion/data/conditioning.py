"""What an image is asked to show: one class, or several labels at once. The one module that does arithmetic on label ids.

A condition is one number, int64, so that a split has one an image whatever its task. Where every image has one class, it is the
class id, 0 … K − 1. Where an image can have several labels (or none), bit k of it says whether label k is there: 0 is "no label",
5 is labels 0 and 2. The null label, K or 2^K, stands for "unknown" in training and in guidance (Ho and Salimans, Classifier-Free
Diffusion Guidance, 2022). Functions that need no K take the conditions alone; all others are methods of `Conditioning`.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import torch

Labels = np.ndarray  # int64 N: a condition an image
Rows = np.ndarray  # int64, positions in a split
# multi-class: one of two or more classes; ordinal: these are grades.
Task = Literal["multi-class", "ordinal", "multi-label"]

NO_LABEL = "no label"
MOST_LABELS = 62  # that one condition can hold, the null label's bit aside
LARGEST_GROUP = 0.2  # of all images, that may go to a drawn part
OWN_STRATUM = 20  # training images of a combination of labels that is a stratum of its own


def task_in(text: str) -> Task:
    """What images are labelled with, in the words of `medmnist.INFO` ("ordinal-regression", "multi-label, binary-class")."""
    return "multi-label" if "multi-label" in text else "ordinal" if "ordinal" in text else "multi-class"


@dataclass(frozen=True)
class Conditioning:
    """The classes or labels of a data set or of a pipeline, and everything that follows from them.

    Attributes:
        id2label: class id → name, ids 0 … K − 1.
        task: whether an image has one class, one grade, or any number of labels.
        known: of several labels, the conditions of the training images, in any order: they make the strata.
    """

    id2label: dict[int, str]
    task: Task = "multi-class"
    known: Labels | None = field(default=None, compare=False, repr=False)

    @property
    def multi_label(self) -> bool:
        """Whether an image can have several labels, or none."""
        return self.task == "multi-label"

    @property
    def num_classes(self) -> int:
        """K, classes or labels."""
        return len(self.id2label)

    @property
    def num_labels(self) -> int | None:
        """K where an image can have several labels, else None: as `read_npz` takes it."""
        return self.num_classes if self.multi_label else None

    @cached_property
    def ids(self) -> Labels:
        """The conditions that show one class each, in order, K; of several labels "no label" comes before them, K + 1."""
        if self.multi_label:
            return np.concatenate([[0], 1 << np.arange(self.num_classes)])
        return np.arange(self.num_classes)

    @property
    def names(self) -> list[str]:
        """The classes' names in the order of their ids, K."""
        return [self.id2label[label] for label in range(self.num_classes)]

    @property
    def shown_names(self) -> list[str]:
        """Those of `ids`."""
        return [self.name_of(int(condition)) for condition in self.ids]

    def name_of(self, condition: int) -> str:
        """A condition in words: `pneumonia`; of several labels `effusion + mass`, or `no label`."""
        if not self.multi_label:
            return self.id2label[condition]
        return " + ".join(self.id2label[label] for label in self.labels_in(condition)) or NO_LABEL

    def labels_in(self, condition: int) -> list[int]:
        """The ids of the classes that a condition asks for, ascending."""
        if not self.multi_label:
            return [condition]
        return [label for label in range(self.num_classes) if condition >> label & 1]

    def asked(self, condition: int) -> Any:
        """A condition as files hold it: a class id, or a list of them."""
        return self.labels_in(condition) if self.multi_label else condition

    def asked_by_name(self, condition: int) -> Any:
        """A condition as a pipeline's `class_labels` takes it: a class's name, or a list of them. Ids would be mistaken where
        classes are called by numbers."""
        names = [self.id2label[label] for label in self.labels_in(condition)]
        return names if self.multi_label else names[0]

    # As rows of zeros and ones

    def matrix(self, conditions: Labels) -> np.ndarray:
        """uint8 N×K: whether each class is asked for."""
        if self.multi_label:
            return (conditions[:, None] >> np.arange(self.num_classes) & 1).astype(np.uint8)
        return np.eye(self.num_classes, dtype=np.uint8)[conditions]

    def truth(self, conditions: Labels) -> np.ndarray:
        """What a classifier is held against: class ids int64 N, or of several labels zeros and ones uint8 N×K."""
        return self.matrix(conditions) if self.multi_label else conditions

    def shows(self, conditions: Labels, class_: int) -> np.ndarray:
        """bool N: whether a class is asked for, alone or with others."""
        return (conditions >> class_ & 1).astype(bool) if self.multi_label else conditions == class_

    # In the network

    @property
    def null_label(self) -> int:
        """The condition that stands for "unknown" in training."""
        return 1 << self.num_classes if self.multi_label else self.num_classes

    def unet_options(self, varied: bool = False) -> dict[str, Any]:
        """What a stock `UNet2DModel` is built with to take these conditions, the null one among them, as `class_labels`.

        Args:
            varied: and those of varied images, after them; where an image has one class.
        """
        embeds = self.num_classes + 1 + (self.num_classes if varied else 0)
        return {"class_embed_type": "identity"} if self.multi_label else {"num_class_embeds": embeds}

    def varied(self, labels: torch.Tensor) -> torch.Tensor:
        """The conditions of varied images, which nothing is sampled from."""
        return labels + self.num_classes + 1

    def dropped(self, labels: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """The conditions, int64 n, with the null label where the boolean mask, n, is true."""
        return labels.masked_fill(mask, self.null_label)

    # In a split

    def outside(self, labels: Labels) -> Labels:
        """Those of the conditions that no class or labels make."""
        return labels[(labels < 0) | (labels >= (self.null_label if self.multi_label else self.num_classes))]

    def counts(self, labels: Labels) -> np.ndarray:
        """How many images show each class, int64 K."""
        return (
            self.matrix(labels).sum(0, dtype=np.int64)
            if self.multi_label
            else np.bincount(labels, minlength=self.num_classes)
        )

    def members(self, labels: Labels) -> list[Rows]:
        """The rows that show each class, ascending; of several labels, a row is with each of its own."""
        return [np.flatnonzero(self.shows(labels, label)) for label in range(self.num_classes)]

    def shown_members(self, labels: Labels) -> list[Rows]:
        """The same for `ids`: of several labels, the rows without a label come first."""
        return [rows_of(labels, 0), *self.members(labels)] if self.multi_label else self.members(labels)

    def combinations(self, labels: Labels) -> dict[str, int]:
        """Of several labels: how many images show each combination, in words, most first."""
        conditions, counts = np.unique(labels, return_counts=True)
        order = np.argsort(-counts, kind="stable")
        return {self.name_of(int(conditions[at])): int(counts[at]) for at in order}

    # Strata: the disjoint parts whose shares a comparison, a subset and a set of samples keep. Where an image has one class these
    # are the classes. Where it can have several labels, they are the combinations with OWN_STRATUM training images or more; a
    # rarer one counts with those that have the same rarest label.

    @cached_property
    def _own_strata(self) -> Labels:
        conditions, counts = np.unique(np.zeros(0, np.int64) if self.known is None else self.known, return_counts=True)
        return conditions[counts >= OWN_STRATUM]

    @cached_property
    def _rarest_first(self) -> np.ndarray:
        return np.argsort(self.counts(np.zeros(0, np.int64) if self.known is None else self.known), kind="stable")

    @property
    def num_strata(self) -> int:
        return len(self._own_strata) + self.num_classes + 1 if self.multi_label else self.num_classes

    def stratum_name(self, stratum: int) -> str:
        if not self.multi_label:
            return self.id2label[stratum]
        own = self._own_strata
        if stratum < len(own):
            return self.name_of(int(own[stratum]))
        rare = stratum - len(own)
        return (
            NO_LABEL
            if rare == self.num_classes
            else f"rare combinations with {self.id2label[int(self._rarest_first[rare])]}"
        )

    def strata(self, labels: Labels) -> np.ndarray:
        """int64 N: the stratum of each condition, 0 … S − 1."""
        if not self.multi_label:
            return labels
        own, matrix = self._own_strata, self.matrix(labels)[:, self._rarest_first]
        rare = len(own) + np.where(matrix.any(1), matrix.argmax(1), self.num_classes)
        if not len(own):
            return rare
        at = np.searchsorted(own, labels).clip(max=len(own) - 1)
        return np.where(own[at] == labels, at, rare)

    def stratum_counts(self, labels: Labels) -> np.ndarray:
        """How many images there are of each stratum, int64 S."""
        return np.bincount(self.strata(labels), minlength=self.num_strata)

    def stratum_shares(self, labels: Labels) -> np.ndarray:
        """Which part of the images is of each stratum, float64 S."""
        return self.stratum_counts(labels) / len(labels)

    def stratum_members(self, labels: Labels) -> list[Rows]:
        """The rows of each stratum, ascending."""
        strata = self.strata(labels)
        return [rows_of(strata, stratum) for stratum in range(self.num_strata)]

    def draw(self, labels: Labels, counts: Sequence[int] | np.ndarray, rng: np.random.Generator) -> Rows:
        """Rows of `counts` images a stratum, drawn without replacement, ascending; all of a stratum that has fewer."""
        members = self.stratum_members(labels)
        return np.sort(
            np.concatenate([rng.permutation(rows)[:count] for rows, count in zip(members, counts, strict=True)])
        )

    # To be generated

    def each(self, count: int) -> Labels:
        """`count` of every one of `ids`, in their order."""
        return np.repeat(self.ids, count)

    def balanced(self, count: int) -> Labels:
        """At least `count` conditions, each of `ids` equally often, in their order."""
        return self.each(-(-count // len(self.ids)))

    def as_in(self, labels: Labels, count: int) -> Labels:
        """At least `count` conditions as they occur in `labels`, ascending: each class rounded up; of several labels, combinations
        in their shares, by evenly spaced picks."""
        if self.multi_label:
            return np.sort(labels)[((np.arange(count) + 0.5) / count * len(labels)).astype(int)]
        return np.repeat(self.ids, np.ceil(self.counts(labels) / len(labels) * count).astype(int))

    def with_enough_of_each(self, labels: Labels, fewest: int) -> Labels:
        """The conditions, and of every class that has fewer as many as make `fewest`; at most as many more as there were.

        Of several labels, those that are added for one are combinations that it stands in, or it alone where there is none.
        """
        fewest = min(fewest, len(labels) // self.num_classes)
        if not self.multi_label:
            return np.repeat(self.ids, np.maximum(self.counts(labels), fewest))
        more = []
        for label, members in enumerate(self.members(labels)):
            showing = labels[members] if len(members) else np.array([1 << label])
            more.append(np.resize(showing, max(0, fewest - len(members))))
        return np.sort(np.concatenate([labels, *more]))

    def folder_of(self, condition: int) -> str:
        """A folder name for a condition that sorts as the ids do and holds no odd characters: `0_normal`; of several labels
        `5_effusion+mass`, the number its bits."""
        if self.multi_label:
            return f"{condition}_{'+'.join(plain_name(self.id2label[label]) for label in self.labels_in(condition)) or 'no_label'}"
        digits = len(str(self.num_classes - 1))
        return f"{condition:0{digits}d}_{plain_name(self.id2label[condition])}"

    def label_of_folder(self, folder: str) -> int | None:
        """The condition that a folder's name means: None for no class.

        A class's name comes first, then an id with that class's name (`0_normal`), then an id alone; the last only where no class
        is itself called by a number, so that an id never stands for another class's name. Of several labels an image only
        what `folder_of` writes.
        """
        if self.multi_label:
            number = folder.partition("_")[0]
            known = number.isdecimal() and int(number) < self.null_label and folder == self.folder_of(int(number))
            return int(number) if known else None
        if folder in self.names:
            return self.names.index(folder)
        number, _, rest = folder.partition("_")
        if not number.isdecimal() or int(number) not in self.id2label:
            return None
        numbers_are_ids = not any(_is_integer(name) for name in self.names)
        means = plain_name(self.id2label[int(number)])
        return int(number) if rest == means or (folder == number and numbers_are_ids) else None


def condition_of(labels: Iterable[int]) -> int:
    """Several labels of one image, by their ids, as a condition; each counts once."""
    return sum(1 << label for label in set(labels))


def conditions_of(matrix: np.ndarray) -> Labels:
    """int64 N: rows of zeros and ones, N×K, as conditions of several labels."""
    return matrix.astype(np.int64) @ (1 << np.arange(matrix.shape[1]))


def plain_name(name: str) -> str:
    """A name in letters, digits and underscores."""
    return re.sub(r"[^0-9A-Za-z]+", "_", name).strip("_")


def class_order(names: Iterable[str]) -> list[str]:
    """Class names in the order of their ids: as numbers where all are numbers (2 before 10), else as text."""
    different = set(names)
    if all(re.fullmatch(r"[+-]?[0-9]+(\.[0-9]+)?", name) for name in different):
        return sorted(different, key=lambda name: (float(name), name))
    return sorted(different)


def nearly_equal(names: Iterable[str], blanks: bool = True) -> tuple[str, str] | None:
    """Two names that differ only in how they are written (`same_name`); None if there are none.

    Args:
        blanks: whether `PAT 001` and `PAT001` are two.
    """
    seen: dict[str, str] = {}
    for name in names:
        key = same_name(name) if blanks else same_name(name).replace(" ", "")
        if seen.setdefault(key, name) != name:
            return seen[key], name
    return None


_NOT_KNOWN = (
    "unlabeled", "unlabelled", "notlabeled", "notlabelled", "nolabel", "unknown", "unannotated", "notannotated", "notgraded",
    "uncertain", "indeterminate", "undetermined", "ungradable", "notgradable", "notsure",
)  # fmt: skip
_NO_NUMBER = (-1, -9, -99, -999, 99, 999, 9999)


def no_class(names: Sequence[str]) -> str | None:
    """A name that stands for an image without a class: `unlabelled`, `Pneumonia?`; of numbers −1, or 99 beside smaller ones."""
    if odd := next(
        (name for name in names if re.sub(r"[\W_]+", "", name.casefold()) in _NOT_KNOWN or name.endswith("?")), None
    ):
        return odd
    if not all(re.fullmatch(r"-?\d+", name) for name in names):
        return None
    numbers = {int(name): name for name in names}
    others = [number for number in numbers if number not in _NO_NUMBER]
    if len(others) < 2:
        return None  # −1 and 1, perhaps
    small = max(others) < min(map(abs, set(numbers) & set(_NO_NUMBER[4:])), default=10**9) // 2
    return next((name for number, name in numbers.items() if number in _NO_NUMBER and (number < 0 or small)), None)


_VISIT = re.compile(
    r"(?P<of>.*\w)[-_ ]+((v|visits?|ses(sion)?|fu|follow[-_ ]?up|tp|timepoint)[-_ ]*\d+|left|right|[lr]|o[ds])",
    re.IGNORECASE,
)


def without_visit(person: str) -> str:
    """A person's id without that of a visit or a side at its end: P01 of P01_V2 or P01_left."""
    match = _VISIT.fullmatch(person)
    return match["of"] if match else person


def several_in_one(names: Sequence[str]) -> tuple[str, list[str]] | None:
    """A name made of others' names, and these: `Mass, Nodule` beside Mass and Nodule."""
    known = {same_name(name): name for name in names}
    for name in names:
        parts = [known.get(same_name(part)) for part in re.split(r"[,/+&\s]+(?:and\s+)?", name)]
        if len(parts) > 1 and all(parts):
            return name, [part for part in parts if part]
    return None


def same_name(name: str) -> str:
    """What names have in common that differ only in case, in spaces, hyphens and underscores, in a way to write the same letters,
    or in one to write the same whole number (1, 01, 1.0)."""
    key = unicodedata.normalize("NFC", " ".join(name.split())).casefold()
    if re.fullmatch(r"[+-]?[0-9]+(\.0+)?", key):
        return str(int(key.partition(".")[0]))
    return re.sub(r"(?<=\w)[-_\s]+(?=\w)", " ", key)


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
        groups: N; images of one group stay together.
    """
    if groups is not None:
        return _whole_groups(labels, share, parts, rng, groups)
    drawn: list[list[np.ndarray]] = [[] for _ in range(parts + 1)]
    for label in np.unique(labels):
        members = rng.permutation(rows_of(labels, label))
        count = max(1, round(share * len(members)))
        for part in range(parts):
            drawn[part].append(members[part * count : (part + 1) * count])
        drawn[parts].append(members[parts * count :])
    return [np.sort(np.concatenate(part)) for part in drawn]


def _whole_groups(
    labels: Labels, share: float, parts: int, rng: np.random.Generator, groups: np.ndarray
) -> list[Rows]:
    """The same of whole groups, one after another until a part has its share of a class; what came with others counts."""
    order = np.argsort(groups, kind="stable")
    members_of = dict(zip(np.unique(groups), np.split(order, np.flatnonzero(np.diff(groups[order])) + 1), strict=True))
    part_of = np.full(len(labels), parts)
    for label in np.unique(labels):
        members = rng.permutation(rows_of(labels, label))
        count = max(1, round(share * len(members)))
        for part in range(parts):
            have = int((part_of[members] == part).sum())
            for row in members:
                if have >= count:
                    break
                group = members_of[groups[row]]
                # A person with a great part of the images stays in what is left, which becomes train.
                if part_of[row] == parts and len(group) <= max(count, LARGEST_GROUP * len(labels)):
                    part_of[group] = part
                    have = int((part_of[members] == part).sum())
    return [np.flatnonzero(part_of == part) for part in range(parts + 1)]
