"""The real side of an evaluation: what is the same for every draw of the generated images, and so computed once."""

from collections.abc import Callable, Hashable
from functools import partial
from typing import TypeVar

import numpy as np

from medmnist_diffusion.data.dataset import ImageDataset, Split
from medmnist_diffusion.data.duplicates import independent_rows
from medmnist_diffusion.data.twins import Nearest, find_twins, nearest_pictures
from medmnist_diffusion.metrics import memorization
from medmnist_diffusion.metrics.classifier import SmallCNN, real_data_classifier
from medmnist_diffusion.metrics.evidence import LabelledValues
from medmnist_diffusion.metrics.features import FeatureExtractor, extract
from medmnist_diffusion.metrics.intervals import Estimate
from medmnist_diffusion.metrics.memorization import NearestImages
from medmnist_diffusion.metrics.plan import MIN_CLASS_IMAGES, Comparison, class_counts, most_images

Known = TypeVar("Known")
MOST_ALONE = 2000  # training images that stand in for fresh ones: more would only cost time
ALONE_OF_SCARCE = 40  # of each class that val has too few images of
MOST_REDRAWN = 200  # training images of either kind that are copied on purpose


class RealSide:
    """A data set as evaluations look at it. Give one to all evaluations of the same pipeline, or of several.

    What is large (features, searches for neighbours, classifiers) lies in the cache on disk, by content; what is small, floors
    among it, is kept here.

    Args:
        num_real: at most so many training images as reference; None for all of them.
        seed: chooses which real images are compared, and random halves.

    Attributes:
        held_out: the val images that are independent of the training images: neither copies nor twins of one.
        held_out_rows: of these, those that give the class shares of train, over the classes that val has enough of.
        alone: rows of training images, about 2,000 at most, that have no twin among the others: each left out once, they are to
            the others what a fresh image is. None where the data have groups (patients).
        scarce: bool S, the other classes (of several labels an image: strata).
        untested: bool S, those of the scarce ones that have hardly any images alone, either: copies of these are not looked for.
        floors: what metrics gave for real images (`records.measure`).
    """

    def __init__(self, dataset: ImageDataset, num_real: int | None = None, seed: int = 0) -> None:
        self.dataset, self.num_real, self.seed = dataset, num_real, seed
        self._independent, self._twins = independent_rows(dataset), find_twins(dataset)
        self.held_out = dataset.splits["val"].subset(self._independent)
        self.floors: dict[Hashable, Estimate] = {}
        self._known: dict[Hashable, object] = {}
        # Overall, nearness to train depends on the mix of classes: both sides have that of train, over the classes that val has
        # enough images of.
        conditioning = dataset.conditioning
        shares = conditioning.stratum_shares(dataset.train.labels)
        available = conditioning.stratum_counts(self.held_out.labels)
        self.scarce = available < np.minimum(MIN_CLASS_IMAGES, shares * len(self.held_out) / 2)
        self._alone = self._places_alone()
        self.alone = self._twins.looked_up["train"][self._alone]
        alone = conditioning.stratum_counts(dataset.train.labels[self.alone])
        self.untested = self.scarce & (shares > 0) & (alone < MIN_CLASS_IMAGES)
        shares = np.where(self.scarce, 0, shares)
        if shares.any():
            shares /= shares.sum()
            counts = class_counts(most_images(available, shares), shares)
        else:
            counts = np.zeros(conditioning.num_strata, int)
        self.held_out_rows = conditioning.draw(self.held_out.labels, counts, np.random.default_rng([seed, 3]))

    def _places_alone(self) -> np.ndarray:
        """Places, among the training images looked up, that stand in for fresh ones: any, and some of each scarce class."""
        if self.dataset.train.groups is not None:  # others of the same person are too near
            return np.zeros(0, int)
        places = np.flatnonzero(self._twins.alone)
        strata = self.dataset.conditioning.strata(self.dataset.train.labels[self._twins.looked_up["train"][places]])
        of_scarce = [places[strata == one][:ALONE_OF_SCARCE] for one in np.flatnonzero(self.scarce)]
        return np.concatenate(
            [places[:MOST_ALONE], np.setdiff1d(np.concatenate([places[:0], *of_scarce]), places[:MOST_ALONE])]
        )

    def once(self, key: Hashable, compute: Callable[[], Known]) -> Known:
        """What `compute` returns, computed at the first call with this key."""
        if key not in self._known:
            self._known[key] = compute()
        return self._known[key]  # type: ignore[return-value]

    @property
    def classifier(self) -> SmallCNN:
        """The classifier of the training images."""
        return self.once("classifier", lambda: real_data_classifier(self.dataset))

    def of_held_out(self, values: np.ndarray, class_: int | None) -> LabelledValues:
        """Values of the held-out images: all of a class, or of as many as give the class shares of train."""
        return LabelledValues(values, self.held_out.labels).of_class(
            self.dataset.conditioning, class_, overall=self.held_out_rows
        )

    def held_out_source(self, fresh: LabelledValues) -> str:
        left_out = len(self.dataset.splits["val"]) - len(self.held_out)
        why = f" ({left_out} left out: they stand in train, or have a twin there)" if left_out else ""
        return f"{len(fresh)} val images{why}"

    def independent(self, of_held_out: np.ndarray, of_alone: np.ndarray | None, class_: int | None) -> LabelledValues:
        """Values of images that are independent of the training images: held-out ones and, where given, those `alone` in train."""
        held_out = self.of_held_out(of_held_out, class_)
        if of_alone is None:
            return held_out
        labels = self.dataset.train.labels[self.alone]
        overall = np.flatnonzero(~self.untested[self.dataset.conditioning.strata(labels)])
        alone = LabelledValues(of_alone, labels).of_class(self.dataset.conditioning, class_, overall)
        return LabelledValues(
            np.concatenate([held_out.values, alone.values]), np.concatenate([held_out.labels, alone.labels])
        )

    def independent_source(self, of_alone: np.ndarray | None, class_: int | None) -> str:
        """In words, which images `independent` takes."""
        held_out = self.of_held_out(np.zeros(len(self.held_out)), class_)
        words = self.held_out_source(held_out)
        if of_alone is None:
            return words
        count = len(self.independent(np.zeros(len(self.held_out)), of_alone, class_)) - len(held_out)
        return f"{words}, {count} training images, each compared with the others"

    # Features: {dimension: float32 N×dimension}, from the cache where they are there

    def train_features(self, extractor: FeatureExtractor) -> dict[int, np.ndarray]:
        return extract(extractor, self.dataset.train, cache=True)

    def held_out_features(self, extractor: FeatureExtractor) -> dict[int, np.ndarray]:
        return extract(extractor, self.held_out, cache=True) if len(self.held_out) else {}

    def part_features(
        self, extractor: FeatureExtractor, plan: Comparison
    ) -> tuple[dict[int, np.ndarray], dict[int, np.ndarray]]:
        """Of the reference and of the floor's images only: Inception takes its time."""
        train = self.dataset.train
        reference = extract(extractor, train.subset(plan.reference), cache=True)
        return reference, extract(extractor, plan.floor_split.subset(plan.floor), cache=True)

    # Nearest training images, from the cache where they are there

    def neighbours_of_held_out(
        self, extractor: FeatureExtractor, dimension: int, held_out: np.ndarray, train: np.ndarray
    ) -> Nearest:
        """By these features, the 51 nearest."""
        key = f"{self._content}-{extractor.identity}-{dimension}-neighbours"
        return memorization.cached_nearest(key, Nearest, partial(memorization.feature_neighbours, held_out, train))

    def neighbours_of_alone(self, extractor: FeatureExtractor, dimension: int, train: np.ndarray) -> Nearest:
        """By these features, the 51 nearest other training images of those `alone`."""
        key = f"{self._content}-{extractor.identity}-{dimension}-alone-{len(self.alone)}"
        return memorization.cached_nearest(
            key, Nearest, lambda: memorization.feature_neighbours(train[self.alone], train, self.alone)
        )

    @property
    def relative_of_held_out(self) -> np.ndarray:
        """By pictures (data/twins.py): distance to the nearest training image ÷ mean of those to the next 50."""
        return self._twins.relative["val"][np.isin(self._twins.looked_up["val"], self._independent)]

    @property
    def relative_of_alone(self) -> np.ndarray:
        """The same of the training images `alone`."""
        return self._twins.relative["train"][self._alone]

    def relative_of_redrawn(self, class_: int | None) -> list[LabelledValues]:
        """The same of copies of training images, made on purpose (`memorization.redrawn`): of those that have a twin in train, and
        of the others. A test for copies that does not see these sees nothing."""
        train = self.dataset.train
        twins = np.isin(np.arange(len(train)), self._twins.rows("train"))
        kinds = []
        for name, of_kind in (("alone", ~twins), ("twins", twins)):
            rows = np.flatnonzero(of_kind)
            rows = np.sort(np.random.default_rng([self.seed, 13]).permutation(rows)[:MOST_REDRAWN])
            found = memorization.cached_nearest(
                f"{self._content}-{self.seed}-{name}-redrawn", Nearest, partial(self._nearest_of_redrawn, rows)
            )
            kinds.append(
                LabelledValues(found.relative, train.labels[rows]).of_class(self.dataset.conditioning, class_)
            )
        return kinds

    def _nearest_of_redrawn(self, rows: np.ndarray) -> Nearest:
        train, rng = self.dataset.train, np.random.default_rng([self.seed, 14])
        copies = memorization.redrawn(train.images[rows].astype(float), rng)
        if self.dataset.is_binary:
            copies = np.where(copies > 127.5, 255.0, 0.0)
        return nearest_pictures(
            Split("redrawn", copies.round().clip(0, 255).astype(np.uint8), train.labels[rows]), train
        )

    def nearest_pairs(self, count: int, among: int) -> tuple[np.ndarray, Nearest]:
        """Real images that lie as near to a training image as the nearest `count` of `among` independent ones do, in order, and
        their nearest training images: what generated ones are to be seen beside. At most `count`; perhaps none."""
        val, train = self.relative_of_held_out, self.relative_of_alone
        order = np.argsort(np.concatenate([val, train]), kind="stable")
        places = np.unique(np.arange(count) * len(order) // among)
        chosen = order[places[places < len(order)]]
        of_val, of_train = chosen[chosen < len(val)], self.alone[chosen[chosen >= len(val)] - len(val)]
        images = np.concatenate([self.held_out.images[of_val], self.dataset.train.images[of_train]])
        found = [
            nearest_pictures(self.held_out.subset(of_val), self.dataset.train),
            nearest_pictures(self.dataset.train.subset(of_train), self.dataset.train, of_train),
        ]
        width = min(one.distances.shape[1] for one in found)
        distances, rows = (
            np.concatenate([getattr(one, what)[:, :width] for one in found]) for what in ("distances", "rows")
        )
        nearest = Nearest(distances, rows)
        by_nearness = np.argsort(nearest.relative, kind="stable")
        return images[by_nearness], nearest.subset(by_nearness)

    def nearest_copies_of_held_out(self) -> NearestImages:
        """By pixels, mirrored and shifted as fits best."""
        return memorization.cached_nearest(
            f"{self._content}-pixels-copies",
            NearestImages,
            partial(memorization.nearest_copies, self.held_out, self.dataset.train),
        )

    def nearest_pixels_of_held_out(self, train_pixels: np.ndarray) -> NearestImages:
        """By pixels as they are."""
        return memorization.cached_nearest(
            f"{self._content}-pixels-flat",
            NearestImages,
            lambda: memorization.nearest_features(memorization.flat_pixels(self.held_out), train_pixels),
        )

    def nearest_pixels_within_train(self, train_pixels: np.ndarray) -> NearestImages:
        """Each training image's nearest other one."""
        return memorization.cached_nearest(
            f"{self.dataset.train.content_hash[:24]}-pixels-within",
            NearestImages,
            lambda: memorization.nearest_features(train_pixels, train_pixels, exclude_self=True),
        )

    @property
    def _content(self) -> str:
        return f"{self.dataset.train.content_hash[:24]}-{self.held_out.content_hash[:24]}"
