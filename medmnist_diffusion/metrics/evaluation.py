"""Generated images against a data set: every figure with its interval and its real-vs-real floor, overall and per class."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from medmnist_diffusion.data.dataset import ImageDataset, Split
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.metrics import memorization
from medmnist_diffusion.metrics.classifier import FEATURES, fitted_classifier, predict, real_data_classifier
from medmnist_diffusion.metrics.extractors import Extractor, extract
from medmnist_diffusion.metrics.frechet import FeatureStatistics, extrapolated_estimate, frechet_estimate
from medmnist_diffusion.metrics.intervals import Estimate, halves, ratio_interval, share_interval, spread
from medmnist_diffusion.metrics.kernel import kernel_distance
from medmnist_diffusion.metrics.neighbours import NEAREST_K, precision_recall_density_coverage
from medmnist_diffusion.metrics.records import NAMES, MetricRecord

MIN_IMAGES = 50  # below this no figure says anything
MIN_CLASS_IMAGES = 20
MAX_PAIRWISE = 5000  # images a side where all pairs are looked at: the cost stays linear beyond


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


def plan_comparison(
    dataset: ImageDataset,
    held_out: Split,
    generated: Split,
    num_real: int | None,
    seed: int,
    only_held_out: bool = False,
) -> Comparison:
    """Choose both sides so that the figure and its floor have the same sizes and the same class shares.

    Class shares are those of the training split: a distance must not measure that the generated set is balanced.
    The floor's images are held out where there are enough of them, else a part of train that is left out of the reference.
    `only_held_out` takes fewer generated images instead: in a space that was fitted to the training images these lie too close
    to each other, and their floor would be one that no fresh image reaches, real or not.

    Raises:
        UserError: if too few generated images fit the class shares.
    """
    # A stream each, so that the real side is the same for every model with as many images.
    of_generated, of_floor, of_reference = (np.random.default_rng([seed, stream]) for stream in range(3))
    train, k = dataset.train, dataset.num_classes
    shares = np.bincount(train.labels, minlength=k) / len(train)

    def most(labels: np.ndarray) -> float:
        """How many images with these class shares the labels allow."""
        return float(np.min(np.bincount(labels, minlength=k) / shares))

    only_held_out = only_held_out and most(held_out.labels) >= MIN_IMAGES
    room = most(held_out.labels) if only_held_out else max(most(held_out.labels), len(train) / 2)
    chosen = _stratified(generated.labels, shares, int(min(most(generated.labels), room)), of_generated)
    n = len(chosen)
    if n < MIN_IMAGES:
        raise UserError(
            f"only {n} of {len(generated)} generated images fit the training set's class shares; at least {MIN_IMAGES} are "
            f"needed. Generate more of every class (training shares: {np.round(shares, 3).tolist()})."
        )
    if most(held_out.labels) >= n:
        floor_split, source = held_out, f"{n} val images"
        floor, reference = _stratified(held_out.labels, shares, n, of_floor), np.arange(len(train))
    else:
        floor_split, source = train, f"{n} training images left out of the reference (val has too few)"
        floor = _stratified(train.labels, shares, n, of_floor)
        reference = np.setdiff1d(np.arange(len(train)), floor)
    if num_real is not None and num_real < len(reference):
        reference = np.sort(of_reference.choice(reference, num_real, replace=False))
    return Comparison(chosen, reference, floor, floor_split, source)


def _stratified(labels: np.ndarray, shares: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """About n rows (rounded down a class) with the given class shares; never more than a class has."""
    rows = []
    for label, share in enumerate(shares):
        members = np.flatnonzero(labels == label)
        rows.append(rng.permutation(members)[: int(np.floor(n * share + 1e-9))])
    return np.sort(np.concatenate(rows))


class Evaluation:
    """One comparison, its records as they are measured, and what had to be refused."""

    def __init__(self, dataset: ImageDataset, generated: Split, num_real: int | None = None, seed: int = 0) -> None:
        self.dataset, self.generated, self.seed = dataset, generated, seed
        self.held_out = memorization.clean_held_out(dataset)
        self.plan = plan_comparison(dataset, self.held_out, generated, num_real, seed)
        self.plan_of_fitted = plan_comparison(dataset, self.held_out, generated, num_real, seed, only_held_out=True)
        self.whole_train = num_real is None
        self.records: list[MetricRecord] = []
        self.refused: dict[str, list[str]] = {}  # what and why → for which classes

    # Distribution

    def compare_features(self, extractor: Extractor, dimensions: Sequence[int] | None = None) -> None:
        """All figures in an extractor's space, or in those of its dimensions that are asked for."""
        plan, train = (self.plan_of_fitted if extractor.fitted else self.plan), self.dataset.train
        if self.whole_train:
            of_train = extract(extractor, train, cache=True)
            of_held_out = extract(extractor, self.held_out, cache=True)
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
            for class_ in [None, *self.dataset.id2label]:
                self._compare(
                    space, plan.floor_source, class_, reference.of(class_), fresh.of(class_), ours.of(class_)
                )
            if self.whole_train:
                near, near_held_out = (
                    memorization.nearest_features(side, of_train[dimension]).distances
                    for side in (generated[dimension], of_held_out[dimension])
                )
                self._copies(space, near, near_held_out, "in feature space")

    def _compare(
        self, space: "Space", floor_source: str, class_: int | None, reference: "Side", fresh: "Side", ours: "Side"
    ) -> None:
        """The distances, the four neighbour figures and the spread of one class, or of all."""
        dimension, n = space.dimension, min(len(reference), len(fresh), len(ours))
        if n < MIN_CLASS_IMAGES:
            self._refuse(f"{space}: at least {MIN_CLASS_IMAGES} images on either side are needed", class_)
            return

        def add(name: str, estimate: Callable[["Side"], Estimate], n_real: int) -> None:
            add_estimates(name, estimate(ours), estimate(fresh), n_real)

        def add_estimates(name: str, value: Estimate, floor: Estimate, n_real: int, **more: Any) -> None:
            if (
                name == "frechet_distance" and floor.value > 0
            ):  # its floor is a positive bias; unbiased ones' lie about zero
                more |= {"ratio": value.value / floor.value, "ratio_interval": ratio_interval(value, floor)}
            self._add(
                name, space, class_, value.value, value.interval, floor.value, floor_source, n_real,
                len(ours), floor_interval=floor.interval, **more,
            )  # fmt: skip

        if n > dimension:
            statistics = FeatureStatistics.of(reference.features)
            add(
                "frechet_distance", lambda side: frechet_estimate(statistics, side.features, self.seed), len(reference)
            )
            if n // 10 > dimension:  # the smallest size within a half must exceed it, too
                add(
                    "frechet_distance_extrapolated",
                    lambda side: extrapolated_estimate(statistics, side.features, self.seed), len(reference),
                )  # fmt: skip
        else:
            self._refuse(f"Fréchet distance, {space}: more than {dimension} images on either side are needed", class_)
        near = self._thinned(reference.features)
        add("kernel_distance", lambda side: kernel_distance(near, self._thinned(side.features), self.seed), len(near))
        of_ours, of_fresh = (
            precision_recall_density_coverage(near, self._thinned(side.features), self.seed) for side in (ours, fresh)
        )
        for name, value in of_ours.items():
            add_estimates(name, value, of_fresh[name], len(near), note=f"k = {NEAREST_K}")
        add(
            "intra_class_spread",
            lambda side: intra_class_spread(side.features, side.labels, self.seed),
            len(reference),
        )

    def _thinned(self, features: np.ndarray) -> np.ndarray:
        if len(features) <= MAX_PAIRWISE:
            return features
        return features[np.sort(np.random.default_rng(self.seed).permutation(len(features))[:MAX_PAIRWISE])]

    # Labels

    def judge_labels(self) -> None:
        """How often a classifier of real images sees in a generated image the class that was asked for; floor: in val images.

        Overall it is weighted as the generated set is.
        """
        model, val = real_data_classifier(self.dataset), self.dataset.splits["val"]
        ours = Side(predict(model, self.generated) == self.generated.labels, self.generated.labels)
        fresh = Side(predict(model, val) == val.labels, val.labels)
        for class_ in [None, *self.dataset.id2label]:
            self._add_shares(
                "label_accuracy", CLASSIFIER, class_, ours.of(class_), fresh.of(class_), f"{len(val)} val images",
                len(ours.of(class_)),
            )  # fmt: skip

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
            model = fitted_classifier(split, self.dataset.num_classes, self.seed)
            sides.append(Side(predict(model, test) == test.labels, test.labels))
        for class_ in [None, *self.dataset.id2label]:
            ours, fresh = (side.of(class_) for side in sides)
            self._add_shares(
                "classification_accuracy", CLASSIFIER, class_, ours, fresh, f"trained on {plan.floor_source}",
                len(plan.generated), note=f"one training of {len(plan.generated)} images, {len(test)} test images",
            )  # fmt: skip

    # Copies

    def look_for_copies(self) -> memorization.NearestImages:
        """Copies by pixels, mirrored and shifted ones included; returns each generated image's nearest training image."""
        train, plan = self.dataset.train, self.plan
        space = Space("pixels", int(np.prod(train.images.shape[1:])))
        ours = memorization.nearest_copies(self.generated, train)
        held_out = memorization.nearest_copies(self.held_out, train)
        self._copies(space, ours.distances, held_out.distances, "grey levels (RMS)")

        flat_train, flat_ours, flat_held_out = (_flat(split) for split in (train, self.generated, self.held_out))
        within_train = memorization.nearest_features(flat_train, flat_train, exclude_self=True)
        authentic, authentic_real = (
            memorization.authentic(memorization.nearest_features(side, flat_train), within_train)
            for side in (flat_ours, flat_held_out)
        )
        labels = np.zeros(0)
        self._add_shares(
            "authenticity", space, None, Side(authentic, labels), Side(authentic_real, labels), self._held_out_source,
            len(authentic),
        )  # fmt: skip

        fresh = np.unique(_flat(plan.floor_split.subset(plan.floor)), axis=0)
        among_fresh = memorization.nearest_features(fresh, fresh, exclude_self=True).distances
        threshold = memorization.Threshold.of(among_fresh)
        some = flat_ours[plan.generated]
        flagged = memorization.nearest_features(some, some, exclude_self=True).distances < threshold.value
        self._add(
            "duplicate_share", space, None, float(flagged.mean()), share_interval(int(flagged.sum()), len(flagged)),
            threshold.expected, f"{len(fresh)} real images among themselves, by construction", len(fresh), len(flagged),
        )  # fmt: skip
        return ours

    def _copies(self, space: "Space", ours: np.ndarray, held_out: np.ndarray, unit: str) -> None:
        """The share below the held-out threshold, overall and by each class's own, and the nearness to train."""
        generated_side, held_out_side = Side(ours, self.generated.labels), Side(held_out, self.held_out.labels)
        for class_ in [None, *self.dataset.id2label]:
            distances, fresh = generated_side.of(class_).features, held_out_side.of(class_).features
            if min(len(distances), len(fresh)) < MIN_CLASS_IMAGES:
                self._refuse(
                    f"Memorized share, {space}: at least {MIN_CLASS_IMAGES} images on either side are needed", class_
                )
                continue
            threshold = memorization.Threshold.of(fresh)
            count = int((distances < threshold.value).sum())
            self._add(
                "memorized_share", space, class_, count / len(distances), share_interval(count, len(distances)),
                threshold.expected, f"{self._held_out_source}, by construction", len(self.dataset.train), len(distances),
                p_value=threshold.p_value(count, len(distances)),
                note=f"threshold {threshold.value:.3g} {unit}; nearest generated {distances.min():.3g}",
            )  # fmt: skip
        value, p_value = memorization.nearness_to_train(ours, held_out)
        self._add(
            "nearness_to_train", space, None, value.value, value.interval, 0.5, self._held_out_source,
            len(self.dataset.train), len(ours), p_value=p_value,
        )  # fmt: skip

    @property
    def _held_out_source(self) -> str:
        left_out = len(self.dataset.splits["val"]) - len(self.held_out)
        return f"{len(self.held_out)} val images ({left_out} left out: they stand in train)"

    # Records

    def _add_shares(
        self,
        name: str,
        space: "Space",
        class_: int | None,
        ours: "Side",
        fresh: "Side",
        source: str,
        n_generated: int,
        **more: Any,
    ) -> None:
        """A record of two shares, of booleans."""
        if not len(ours) or not len(fresh):
            return
        yes, yes_real = int(ours.features.sum()), int(fresh.features.sum())
        self._add(
            name, space, class_, yes / len(ours), share_interval(yes, len(ours)), yes_real / len(fresh), source,
            len(self.dataset.train), n_generated, floor_interval=share_interval(yes_real, len(fresh)), **more,
        )  # fmt: skip

    def _add(
        self,
        name: str,
        space: "Space",
        class_: int | None,
        value: float,
        interval: tuple[float, float] | None,
        floor: float,
        floor_source: str,
        n_real: int,
        n_generated: int,
        **more: Any,
    ) -> None:
        self.records.append(
            MetricRecord(
                name=name, extractor=space.extractor, dimension=space.dimension, class_=class_, value=value, interval=interval,
                floor=floor, floor_source=floor_source, n_real=n_real, n_generated=n_generated, reference_split="train",
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

    features: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.features)

    def of(self, class_: int | None) -> "Side":
        """The rows of one class; all of them for None."""
        if class_ is None:
            return self
        return Side(self.features[self.labels == class_], self.labels[self.labels == class_])


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


def _flat(split: Split) -> np.ndarray:
    return np.concatenate([chunk.reshape(len(chunk), -1).astype(np.float32) for chunk in split.chunks()])
