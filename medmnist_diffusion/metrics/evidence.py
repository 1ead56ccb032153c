"""What metrics are computed from: values of generated images, and of real ones in the same role."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, Self

import numpy as np

from medmnist_diffusion.data.conditioning import Conditioning
from medmnist_diffusion.metrics.features import Space
from medmnist_diffusion.metrics.frechet import FeatureStatistics
from medmnist_diffusion.metrics.intervals import Estimate
from medmnist_diffusion.metrics.neighbours import precision_recall_density_coverage

Kind = Literal[
    "features",  # float32 N×D in one space; there is a reference, of training images
    "recognised_labels",  # bool N: a classifier of real images sees the class that was asked for
    "recognised_tests",  # bool N test images: a classifier trained on this side sees their class
    "graded_labels",  # int N×2: the grade that was asked for, and the one that a classifier of real images sees
    "label_scores",  # float N×2K: chances that a classifier of real images gives each of several labels; whether it was asked for
    "test_scores",  # the same of N test images, by a classifier trained on this side
    "foreground",  # float N: the share of each volume that is foreground; there is a reference, of training images
    "label_pairs",  # float N×K: chances as in label_scores; there is a reference, of training images
    "train_distances",  # float N: to the nearest training image
    "relative_distances",  # float N: to the nearest training image, ÷ the mean of those to the next 50
    "train_distance_pairs",  # float N×2: to the nearest training image, and from that one to its own nearest other
    "twin_distances",  # float N: to the nearest other image of the same side
]


@dataclass(frozen=True, eq=False)
class LabelledValues:
    """Rows of anything (features N×D, booleans N, distances N) with the conditions of their images, int64 N."""

    values: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def of_class(self, conditioning: Conditioning, class_: int | None, overall: np.ndarray | None = None) -> Self:
        """The rows that show one class; for None those of `overall`, by default all."""
        if class_ is not None:
            return self._rows(np.flatnonzero(conditioning.shows(self.labels, class_)))
        return self if overall is None else self._rows(overall)

    def at_most(self, count: int, seed: int) -> Self:
        """A random `count` of the rows, in order; all of them if there are no more."""
        if len(self) <= count:
            return self
        return self._rows(np.sort(np.random.default_rng(seed).permutation(len(self))[:count]))

    def _rows(self, rows: np.ndarray) -> Self:
        return type(self)(self.values[rows], self.labels[rows])

    @cached_property
    def statistics(self) -> FeatureStatistics:
        """Mean and covariance, of features."""
        return FeatureStatistics.of(self.values)


@dataclass(frozen=True, eq=False)
class Candidate(LabelledValues):
    """The images that a metric judges: generated ones, or for the floor fresh real ones in their place.

    Attributes:
        values, labels: as the metric's `needs` says, and the conditions.
        fresh: fresh real images (their values are what a threshold is made of).
        reference: the training images that features are compared with.
        seed: of random halves.
        unit: of distances.
        known_copies: values of copies of training images, made on purpose; where there are some.
    """

    fresh: LabelledValues
    against: LabelledValues | None
    seed: int
    unit: str
    known_copies: Sequence[LabelledValues] = ()

    @property
    def reference(self) -> LabelledValues:
        if self.against is None:
            raise ValueError("only features have a reference")
        return self.against

    @cached_property
    def neighbour_figures(self) -> dict[str, Estimate]:
        """Precision, recall, density and coverage, which share all of their distances."""
        return precision_recall_density_coverage(self.reference.values, self.values, self.seed)


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the metrics of one kind are computed from, in one space, of one class or of all.

    Attributes:
        kind: what the values are; a metric takes the evidence that it `needs`.
        space: of the features, or what stands in a record for it: `pixels (784)`, `classifier (64)`.
        class_: None for all classes together.
        generated, fresh: values of the generated images, and of the real ones that make the floor.
        fresh_source: which real images these are, in words.
        seed: of random halves.
        reference: of features, those of the training images.
        unit: of distances.
        n_real, n_generated: for the record where they are not the sizes of the reference and of the generated side.
        reference_split: for the record.
        note: for the record.
        known_copies: values of copies of training images, made on purpose: kinds of training images, which are told apart.
        fresh_key: names the real images behind it; a floor is computed once a key (None: every time).
    """

    kind: Kind
    space: Space
    class_: int | None
    generated: LabelledValues
    fresh: LabelledValues
    fresh_source: str
    seed: int
    reference: LabelledValues | None = None
    unit: str = ""
    n_real: int | None = None
    n_generated: int | None = None
    reference_split: str = "train"
    note: str = ""
    known_copies: Sequence[LabelledValues] = ()
    fresh_key: Hashable = None
    _smaller: dict[int, "Evidence"] = field(default_factory=dict, init=False, repr=False)

    @cached_property
    def candidate(self) -> Candidate:
        return self._in_the_role(self.generated)

    @cached_property
    def fresh_candidate(self) -> Candidate:
        return self._in_the_role(self.fresh)

    def _in_the_role(self, side: LabelledValues) -> Candidate:
        return Candidate(side.values, side.labels, self.fresh, self.reference, self.seed, self.unit, self.known_copies)

    @property
    def smallest_side(self) -> int:
        """The number of images of the smallest side."""
        return min(len(side) for side in (self.reference, self.generated, self.fresh) if side is not None)

    @property
    def shortage(self) -> str:
        """Which images are the fewest, in words: more real ones must be found, more generated ones can be made."""
        real = min(len(side) for side in (self.reference, self.fresh) if side is not None)
        return f"the {'generated' if len(self.generated) < real else 'real'} ones are too few"

    def at_most(self, count: int | None) -> "Evidence":
        """The same with at most `count` images a side; the same object for the same count, so that metrics share its results."""
        if count is None:
            return self
        if count not in self._smaller:
            reference = None if self.reference is None else self.reference.at_most(count, self.seed)
            generated, fresh = self.generated.at_most(count, self.seed), self.fresh.at_most(count, self.seed)
            whole = (reference, generated, fresh) == (self.reference, self.generated, self.fresh)
            self._smaller[count] = (
                self if whole else replace(self, reference=reference, generated=generated, fresh=fresh)
            )
        return self._smaller[count]
