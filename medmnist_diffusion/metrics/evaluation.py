"""Generated images against a data set: every figure with its interval and its real-vs-real floor, overall and per class."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from medmnist_diffusion.data.dataset import ImageDataset, Split
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.metrics import memorization
from medmnist_diffusion.metrics.classifier import (
    FEATURES,
    fitted_classifier,
    predict,
    real_data_classifier,
)
from medmnist_diffusion.metrics.extractors import Extractor, extract
from medmnist_diffusion.metrics.frechet import FeatureStatistics, extrapolated_estimate, frechet_estimate
from medmnist_diffusion.metrics.intervals import (
    Estimate,
    difference_interval,
    halves,
    ratio_interval,
    share_interval,
    spread,
)
from medmnist_diffusion.metrics.kernel import kernel_distance
from medmnist_diffusion.metrics.neighbours import NEAREST_K, precision_recall_density_coverage
from medmnist_diffusion.metrics.plan import Comparison, class_counts, draw_rows, most_images, plan_comparison
from medmnist_diffusion.metrics.records import NAMES, UNBIASED, MetricRecord

MIN_CLASS_IMAGES = 20
MAX_PAIRWISE = 5000  # images a side where all pairs are looked at: the cost stays linear beyond


@dataclass(frozen=True)
class Space:
    """A feature space: an extractor and one of its dimensions."""

    extractor: str
    dimension: int

    def __str__(self) -> str:
        return f"{self.extractor} ({self.dimension})"


CLASSIFIER = Space("classifier", FEATURES)


@dataclass(frozen=True)
class Side:
    """Rows of anything (features N×D, booleans N) with their labels."""

    values: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    def of(self, class_: int | None) -> "Side":
        """The rows of one class; all of them for None."""
        if class_ is None:
            return self
        return Side(self.values[self.labels == class_], self.labels[self.labels == class_])


class Evaluation:
    """One comparison, its records as they are measured, and what had to be refused."""

    def __init__(
        self,
        dataset: ImageDataset,
        generated: Split,
        num_real: int | None = None,
        seed: int = 0,
        per_class: bool = True,
    ) -> None:
        self.dataset, self.generated, self.seed = dataset, generated, seed
        self.classes: list[int | None] = [None, *(dataset.id2label if per_class else ())]  # None: all together
        self.records: list[MetricRecord] = []
        self.refused: dict[str, list[str]] = {}  # what and why → for which classes
        self.whole_train = num_real is None
        self.held_out = memorization.clean_held_out(dataset)
        self.plan = plan_comparison(dataset, self.held_out, generated, num_real, seed)
        self.plan_of_fitted: Comparison | None = None
        try:
            self.plan_of_fitted = plan_comparison(
                dataset, self.held_out, generated, num_real, seed, only_held_out=True
            )
        except UserError as error:
            self.refused[f"Distances in spaces fitted to train: {error}"] = ["all"]
        # Overall, nearness to train depends on the mix of classes: both sides have that of train, over the classes that val has
        # enough images of.
        shares = np.bincount(dataset.train.labels, minlength=dataset.num_classes) / len(dataset.train)
        available = np.bincount(self.held_out.labels, minlength=dataset.num_classes)
        scarce = available < np.minimum(MIN_CLASS_IMAGES, shares * len(self.held_out) / 2)
        for class_ in np.flatnonzero(scarce):
            self._refuse("Labels and copies, overall, are those of the other classes: too few val images", int(class_))
        shares = np.where(scarce, 0, shares)
        if shares.any():
            shares /= shares.sum()
            counts = class_counts(most_images(available, shares), shares)
        else:
            counts = np.zeros(dataset.num_classes, int)
        self.held_out_rows = draw_rows(self.held_out.labels, counts, np.random.default_rng([seed, 3]))
        self.judged_rows = self.plan.generated[~scarce[generated.labels[self.plan.generated]]]
        for class_ in np.setdiff1d(np.arange(dataset.num_classes), generated.labels):
            self._refuse("All figures: no generated image of this class", int(class_))

    # Distribution

    def compare_features(self, extractor: Extractor, dimensions: Sequence[int] | None = None) -> None:
        """All figures in an extractor's space, or in those of its dimensions that are asked for."""
        plan, train = (self.plan_of_fitted if extractor.fitted else self.plan), self.dataset.train
        if plan is None:
            return  # refused when it was planned
        if self.whole_train:
            of_train = extract(extractor, train, cache=True)
            of_held_out = extract(extractor, self.held_out, cache=True) if len(self.held_out) else {}
            of_floor = of_train if plan.floor_split is train else of_held_out
            references = {dimension: features[plan.reference] for dimension, features in of_train.items()}
            floors = {dimension: features[plan.floor] for dimension, features in of_floor.items()}
        else:  # only what is looked at: Inception takes its time
            references = extract(extractor, train.subset(plan.reference), cache=True)
            floors = extract(extractor, plan.floor_split.subset(plan.floor), cache=True)
        generated = extract(extractor, self.generated)
        for dimension in references:
            if dimensions is not None and len(references) > 1 and dimension not in dimensions:
                continue
            space = Space(extractor.name, dimension)
            reference = Side(references[dimension], train.labels[plan.reference])
            fresh = Side(floors[dimension], plan.floor_split.labels[plan.floor])
            ours = Side(generated[dimension][plan.generated], self.generated.labels[plan.generated])
            for class_ in self.classes:
                self._compare(
                    space, plan.floor_source, class_, reference.of(class_), fresh.of(class_), ours.of(class_)
                )
            if self.whole_train and len(self.held_out):
                key = f"{train.content_hash[:24]}-{self.held_out.content_hash[:24]}-{extractor.identity}-{dimension}"
                near = memorization.nearest_features(generated[dimension], of_train[dimension])
                fresh_features, train_features = of_held_out[dimension], of_train[dimension]
                near_held_out = memorization.cached_nearest(
                    key, partial(memorization.nearest_features, fresh_features, train_features)
                )
                self._copies(space, near.distances, near_held_out.distances, "in feature space")
            elif not self.whole_train:
                self._refuse(f"Memorized share, {space}: the reference is a part of the training images", None)

    def _compare(
        self, space: Space, floor_source: str, class_: int | None, reference: Side, fresh: Side, ours: Side
    ) -> None:
        """The distances, the four neighbour figures and the spread of one class, or of all."""
        dimension, n = space.dimension, min(len(reference), len(fresh), len(ours))
        if n < MIN_CLASS_IMAGES:
            self._refuse(f"{space}: at least {MIN_CLASS_IMAGES} images on either side are needed", class_)
            return

        def add(name: str, estimate: Callable[[Side], Estimate], n_real: int, n_generated: int) -> None:
            add_estimates(name, estimate(ours), estimate(fresh), n_real, n_generated)

        def add_estimates(
            name: str, value: Estimate, floor: Estimate, n_real: int, n_generated: int, **more: Any
        ) -> None:
            if name in UNBIASED:
                more |= {
                    "difference": value.value - floor.value,
                    "difference_interval": difference_interval(value, floor),
                }
            elif floor.value > 0:
                more |= {"ratio": value.value / floor.value, "ratio_interval": ratio_interval(value, floor)}
            self._add(
                name, space, class_, value.value, value.interval, floor.value, floor_source, n_real,
                n_generated, floor_interval=floor.interval, **more,
            )  # fmt: skip

        if n > dimension:
            statistics = FeatureStatistics.of(reference.values)
            add(
                "frechet_distance",
                lambda side: frechet_estimate(statistics, side.values, self.seed),
                len(reference),
                len(ours),
            )
            if n // 10 > dimension:  # the smallest size within a half must exceed it, too
                add(
                    "frechet_distance_extrapolated",
                    lambda side: extrapolated_estimate(statistics, side.values, self.seed),
                    len(reference),
                    len(ours),
                )
        else:
            self._refuse(f"Fréchet distance, {space}: more than {dimension} images on either side are needed", class_)
        near, n_generated = self._thinned(reference.values), min(len(ours), MAX_PAIRWISE)
        add(
            "kernel_distance",
            lambda side: kernel_distance(near, self._thinned(side.values), self.seed),
            len(near),
            n_generated,
        )
        of_ours, of_fresh = (
            precision_recall_density_coverage(near, self._thinned(side.values), self.seed) for side in (ours, fresh)
        )
        for name, value in of_ours.items():
            add_estimates(name, value, of_fresh[name], len(near), n_generated, note=f"k = {NEAREST_K}")
        add(
            "intra_class_spread",
            lambda side: intra_class_spread(side.values, side.labels, self.seed),
            len(fresh),
            len(ours),
        )

    def _thinned(self, features: np.ndarray) -> np.ndarray:
        if len(features) <= MAX_PAIRWISE:
            return features
        return features[np.sort(np.random.default_rng(self.seed).permutation(len(features))[:MAX_PAIRWISE])]

    # Labels

    def judge_labels(self) -> None:
        """How often a classifier of real images sees in a generated image the class that was asked for; floor: in val images
        that it was not trained on. Overall, both sides are weighted as train is."""
        if not len(self.held_out):
            self._refuse("Label accuracy: all val images stand in train", None)
            return
        model = real_data_classifier(self.dataset)
        right, right_real = (predict(model, side) == side.labels for side in (self.generated, self.held_out))
        for class_ in self.classes:
            ours, fresh = self._side(right, class_), self._held_out_side(right_real, class_)
            self._add_shares(
                "label_accuracy", CLASSIFIER, class_, ours, fresh, self._held_out_source(fresh), len(ours)
            )

    def _side(self, values: np.ndarray, class_: int | None) -> Side:
        """Values of the generated images: all of a class, or of as many as give the class shares of train."""
        whole, rows = Side(values, self.generated.labels), self.judged_rows
        return Side(values[rows], whole.labels[rows]) if class_ is None else whole.of(class_)

    def _held_out_side(self, values: np.ndarray, class_: int | None) -> Side:
        """Values of the held-out images, likewise."""
        whole, rows = Side(values, self.held_out.labels), self.held_out_rows
        return Side(values[rows], whole.labels[rows]) if class_ is None else whole.of(class_)

    def train_on_generated(self) -> None:
        """Classification accuracy score (Ravuri & Vinyals 2019, arXiv 1905.10887): train on generated, test on real test images.

        Floor: the same with as many real images. One training on either side: its luck is not in the interval.
        """
        plan, test = self.plan, self.dataset.splits["test"]
        sides = []
        for name, split, rows in (
            ("generated images", self.generated, plan.generated),
            ("as many real images", plan.floor_split, plan.floor),
        ):
            split = Split(name, split.images[rows], split.labels[rows])
            model = fitted_classifier(split, self.dataset.num_classes, self.seed, shorter=True)
            sides.append(Side(predict(model, test) == test.labels, test.labels))
        for class_ in self.classes:
            ours, fresh = (side.of(class_) for side in sides)
            self._add_shares(
                "classification_accuracy", CLASSIFIER, class_, ours, fresh, f"trained on {plan.floor_source}",
                len(plan.generated), reference_split="test", n_real=len(test),
                note=f"one training of {len(plan.generated)} images, {len(test)} test images",
            )  # fmt: skip

    # Copies

    def look_for_copies(self) -> memorization.NearestImages:
        """Copies by pixels, mirrored and shifted ones included; returns each generated image's nearest training image."""
        train, held_out = self.dataset.train, self.held_out
        space = Space("pixels", int(np.prod(train.images.shape[1:])))
        ours = memorization.nearest_copies(self.generated, train)
        if len(held_out) < MIN_CLASS_IMAGES:
            self._refuse(
                f"Copies: only {len(held_out)} val images do not stand in train, and {MIN_CLASS_IMAGES} are needed to tell a copy "
                "from a fresh image",
                None,
            )
            return ours
        key = f"{train.content_hash[:24]}-{held_out.content_hash[:24]}-pixels"
        fresh = memorization.cached_nearest(f"{key}-copies", lambda: memorization.nearest_copies(held_out, train))
        self._copies(space, ours.distances, fresh.distances, "grey levels (RMS)")

        flat_train, flat_ours = memorization.flat_pixels(train), memorization.flat_pixels(self.generated)
        within_train = memorization.cached_nearest(
            f"{train.content_hash[:24]}-pixels-within",
            lambda: memorization.nearest_features(flat_train, flat_train, exclude_self=True),
        )
        to_train = memorization.nearest_features(flat_ours, flat_train)
        fresh_to_train = memorization.cached_nearest(
            f"{key}-flat",
            lambda: memorization.nearest_features(memorization.flat_pixels(held_out), flat_train),
        )
        authentic, authentic_real = (memorization.authentic(side, within_train) for side in (to_train, fresh_to_train))
        for class_ in self.classes:
            side, fresh_side = self._side(authentic, class_), self._held_out_side(authentic_real, class_)
            self._add_shares(
                "authenticity", space, class_, side, fresh_side, self._held_out_source(fresh_side),
                len(side),
            )  # fmt: skip
            self._duplicates(space, class_, flat_ours)
        return ours

    def _duplicates(self, space: Space, class_: int | None, flat_ours: np.ndarray) -> None:
        """Near-duplicates among the generated images, by how near fresh real images are to each other."""
        plan = self.plan
        labels, floor_labels = self.generated.labels[plan.generated], plan.floor_split.labels[plan.floor]
        rows = plan.generated if class_ is None else plan.generated[labels == class_]
        floor = plan.floor if class_ is None else plan.floor[floor_labels == class_]
        fresh = np.unique(memorization.flat_pixels(plan.floor_split.subset(floor)), axis=0)
        if min(len(rows), len(fresh)) < MIN_CLASS_IMAGES:
            return
        among_fresh = memorization.nearest_features(fresh, fresh, exclude_self=True).distances
        threshold = memorization.Threshold.of(among_fresh)
        some = flat_ours[rows]
        flagged = memorization.nearest_features(some, some, exclude_self=True).distances < threshold.value
        self._add(
            "duplicate_share", space, class_, float(flagged.mean()),
            share_interval(int(flagged.sum()) // 2, len(flagged) // 2),  # they come in pairs
            threshold.expected, f"{len(fresh)} real images among themselves, by construction", len(fresh), len(flagged),
        )  # fmt: skip

    def _copies(self, space: Space, ours: np.ndarray, held_out: np.ndarray, unit: str) -> None:
        """The share below the held-out threshold, overall and by each class's own, and the nearness to train."""
        for class_ in self.classes:
            distances, fresh_side = self._side(ours, class_).values, self._held_out_side(held_out, class_)
            fresh, source = fresh_side.values, self._held_out_source(fresh_side)
            if min(len(distances), len(fresh)) < MIN_CLASS_IMAGES:
                self._refuse(
                    f"Memorized share, {space}: at least {MIN_CLASS_IMAGES} images on either side are needed", class_
                )
                continue
            threshold = memorization.Threshold.of(fresh)
            count = int((distances < threshold.value).sum())
            self._add(
                "memorized_share", space, class_, count / len(distances), share_interval(count, len(distances)),
                threshold.expected, f"{source}, by construction", len(self.dataset.train), len(distances),
                p_value=threshold.p_value(count, len(distances)),
                note=f"threshold {threshold.value:.3g} {unit}; nearest generated {distances.min():.3g}",
            )  # fmt: skip
            value, p_value = memorization.nearness_to_train(distances, fresh)
            self._add(
                "nearness_to_train", space, class_, value.value, value.interval, 0.5, source,
                len(self.dataset.train), len(distances), p_value=p_value,
            )  # fmt: skip

    def _held_out_source(self, fresh: Side) -> str:
        left_out = len(self.dataset.splits["val"]) - len(self.held_out)
        return f"{len(fresh)} val images" + (f" ({left_out} left out: they stand in train)" if left_out else "")

    # Records

    def _add_shares(
        self,
        name: str,
        space: Space,
        class_: int | None,
        ours: Side,
        fresh: Side,
        source: str,
        n_generated: int,
        n_real: int | None = None,
        **more: Any,
    ) -> None:
        """A record of two shares, of booleans."""
        if not len(ours) or not len(fresh):
            return
        yes, yes_real = int(ours.values.sum()), int(fresh.values.sum())
        self._add(
            name, space, class_, yes / len(ours), share_interval(yes, len(ours)), yes_real / len(fresh), source,
            len(self.dataset.train) if n_real is None else n_real, n_generated,
            floor_interval=share_interval(yes_real, len(fresh)), **more,
        )  # fmt: skip

    def _add(
        self,
        name: str,
        space: Space,
        class_: int | None,
        value: float,
        interval: tuple[float, float] | None,
        floor: float,
        floor_source: str,
        n_real: int,
        n_generated: int,
        reference_split: str = "train",
        **more: Any,
    ) -> None:
        self.records.append(
            MetricRecord(
                name=name, extractor=space.extractor, dimension=space.dimension, class_=class_, value=value, interval=interval,
                floor=floor, floor_source=floor_source, n_real=n_real, n_generated=n_generated, reference_split=reference_split,
                seed=self.seed, **more,
            )
        )  # fmt: skip

    def _refuse(self, reason: str, class_: int | None) -> None:
        self.refused.setdefault(reason, []).append("all" if class_ is None else self.dataset.id2label[class_])

    def refusals(self) -> list[str]:
        """What could not be measured, why, and for which classes."""
        return [f"{reason} (class: {', '.join(classes)})" for reason, classes in self.refused.items()]

    def ordered_records(self) -> list[MetricRecord]:
        """By what they measure, overall before the classes."""
        order = list(NAMES)
        return sorted(
            self.records, key=lambda record: (order.index(record.name), -1 if record.class_ is None else record.class_)
        )


def intra_class_spread(features: np.ndarray, labels: np.ndarray, seed: int = 0) -> Estimate:
    """Root mean squared distance of two images of one class; below the floor, the images of a class are too alike."""

    def figure(rows: np.ndarray) -> float:
        total = 0.0
        for class_ in np.unique(labels):
            members = np.asarray(features[rows][labels[rows] == class_], np.float64)
            if len(members) > 1:  # E|x − y|² = 2 tr Σ
                total += 2 * members.var(0, ddof=1).sum() * len(members) / len(rows)
        return float(np.sqrt(total))

    value = figure(np.arange(len(labels)))
    return Estimate(value, spread([figure(rows) for rows in halves(len(labels), seed)]), 0)
