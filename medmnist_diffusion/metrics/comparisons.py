"""Who is compared with whom: a draw of generated images beside real ones, and the evidence that metrics are computed from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from medmnist_diffusion.data.dataset import Split
from medmnist_diffusion.data.twins import Nearest
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.metrics import memorization
from medmnist_diffusion.metrics.evidence import Evidence, LabelledValues
from medmnist_diffusion.metrics.features import FeatureExtractor, Space, extract
from medmnist_diffusion.metrics.memorization import NearestImages
from medmnist_diffusion.metrics.plan import (
    MIN_CLASS_IMAGES,
    Comparison,
    class_counts,
    most_images,
    plan_class,
    plan_comparison,
)
from medmnist_diffusion.metrics.real_side import RealSide
from medmnist_diffusion.metrics.shapes import foreground

UNTESTED = "Copies were not looked for: too few real images that are independent of the training images"


@dataclass(frozen=True)
class Refusals:
    """What could not be measured and why → for which classes."""

    id2label: dict[int, str]
    reasons: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, class_: int | str | None) -> None:
        """Of a class by its id or name; None: of all."""
        name = "all" if class_ is None else class_ if isinstance(class_, str) else self.id2label[class_]
        if name not in (names := self.reasons.setdefault(reason, [])):
            names.append(name)

    def sentences(self) -> list[str]:
        return [f"{reason} (class: {', '.join(names)})" for reason, names in self.reasons.items()]


@dataclass(frozen=True)
class Draw:
    """One draw of generated images beside the real ones.

    Attributes:
        plan: which images are compared.
        plan_of_fitted: the same in spaces that were fitted to train; None where val has too few images for it.
        judged_rows: of the generated images, those whose labels and copies are judged, all classes together: as many as give the
            class shares of train, over the classes that val has enough images of.
        copied_rows: the same over those that are not `untested`, where training images stand beside val's.
        classes: None for all together, and each of them if figures are wanted by class.
        refused: what could not be measured.
        test_chances: filled by the classification score: what a classifier was trained on → its chances N×K on the test images.
    """

    real: RealSide
    generated: Split
    plan: Comparison
    plan_of_fitted: Comparison | None
    judged_rows: np.ndarray
    copied_rows: np.ndarray
    classes: Sequence[int | None]
    refused: Refusals
    test_chances: dict[str, np.ndarray] = field(default_factory=dict)

    def of_generated(self, values: np.ndarray, class_: int | None, rows: np.ndarray | None = None) -> LabelledValues:
        """Values of the generated images: all of a class, or of as many as give the class shares of train (`rows`)."""
        conditioning, overall = self.real.dataset.conditioning, self.judged_rows if rows is None else rows
        return LabelledValues(values, self.generated.labels).of_class(conditioning, class_, overall=overall)


def plan_draw(real: RealSide, generated: Split, per_class: bool = True) -> Draw:
    """Choose which images are compared.

    Raises:
        UserError: if too few generated images fit the class shares of train.
    """
    dataset, refused = real.dataset, Refusals(real.dataset.id2label)
    plan = plan_comparison(dataset, real.held_out, generated, real.num_real, real.seed)
    plan_of_fitted = None
    try:
        # Of several labels an image, one rare combination that val lacks would leave nothing to compare.
        left_out = real.scarce if dataset.conditioning.multi_label else None
        plan_of_fitted = plan_comparison(
            dataset, real.held_out, generated, real.num_real, real.seed, only_held_out=True, left_out=left_out
        )
    except UserError as error:
        refused.add(f"Distances in spaces fitted to train: {error}", None)
    conditioning = dataset.conditioning
    for stratum in np.flatnonzero(real.scarce & (conditioning.stratum_counts(dataset.train.labels) > 0)):
        why = "Labels, copies and spaces fitted to train, overall, are those of the other combinations: too few val images"
        if not conditioning.multi_label:
            why = "Labels and copies, overall, are those of the other classes: too few val images"
        refused.add(why, conditioning.stratum_name(int(stratum)))
    for class_ in np.flatnonzero(conditioning.counts(generated.labels) == 0):
        refused.add("All figures: no generated image of this class", dataset.id2label[int(class_)])
    if not conditioning.multi_label:  # of several labels an image, each label is looked at by itself
        for class_ in np.flatnonzero(real.untested & (conditioning.stratum_counts(generated.labels) > 0)):
            refused.add(UNTESTED, conditioning.stratum_name(int(class_)))
    judged_rows, copied_rows = (
        _in_shares_of_train(real, generated, scarce) for scarce in (real.scarce, real.untested)
    )
    classes = [None, *(dataset.id2label if per_class else ())]
    return Draw(real, generated, plan, plan_of_fitted, judged_rows, copied_rows, classes, refused)


def _in_shares_of_train(real: RealSide, generated: Split, scarce: np.ndarray) -> np.ndarray:
    """Rows of the most generated images that have the class shares of train, over the classes that both sides have enough of."""
    conditioning = real.dataset.conditioning
    available = conditioning.stratum_counts(generated.labels)
    shares = np.where(scarce | (available == 0), 0, conditioning.stratum_shares(real.dataset.train.labels))
    if not shares.any():
        return np.zeros(0, int)
    shares /= shares.sum()
    counts = class_counts(most_images(available, shares), shares)
    return conditioning.draw(generated.labels, counts, np.random.default_rng([real.seed, 4]))


def feature_evidence(
    draw: Draw, extractor: FeatureExtractor, dimensions: Sequence[int] | None = None
) -> Iterator[Evidence]:
    """Features in an extractor's spaces (those of the dimensions that are asked for), and distances to train in them."""
    plan, real = (draw.plan_of_fitted if extractor.fitted else draw.plan), draw.real
    if plan is None:
        return  # refused when it was planned
    train, held_out = real.dataset.train, real.held_out
    of_train: dict[int, np.ndarray] = {}
    of_held_out: dict[int, np.ndarray] = {}
    if real.num_real is None:
        of_train, of_held_out = real.train_features(extractor), real.held_out_features(extractor)
        of_floor = of_train if plan.floor_split is train else of_held_out
        references = {dimension: features[plan.reference] for dimension, features in of_train.items()}
        floors = {dimension: features[plan.floor] for dimension, features in of_floor.items()}
    else:
        references, floors = real.part_features(extractor, plan)
    generated = extract(extractor, draw.generated)
    for dimension in references:
        if dimensions is not None and len(references) > 1 and dimension not in dimensions:
            continue
        space = Space(extractor.name, dimension)
        ours = generated[dimension]
        whole = _feature_sides(draw, plan, ours, references[dimension], floors[dimension])
        for class_ in draw.classes:
            sides, part = [side.of_class(real.dataset.conditioning, class_) for side in whole], plan
            if class_ is not None and of_train and min(map(len, sides)) < MIN_CLASS_IMAGES:
                by_itself = plan_class(
                    real.dataset, held_out, draw.generated, class_, real.seed, only_held_out=extractor.fitted
                )
                of_class = real.dataset.conditioning.shows(draw.generated.labels, class_)
                if by_itself is None and of_class.sum() >= MIN_CLASS_IMAGES:
                    needed = f"{space}: at least {MIN_CLASS_IMAGES} images on either side are needed"
                    draw.refused.add(f"{needed}; the real ones are too few", class_)
                    continue
                if by_itself is not None:
                    part, floor_of = by_itself, of_train if by_itself.floor_split is train else of_held_out
                    own, floor = of_train[dimension][part.reference], floor_of[dimension][part.floor]
                    sides = _feature_sides(draw, part, ours, own, floor)
            yield Evidence(
                "features", space, class_, sides[0], sides[1], part.floor_source, real.seed, sides[2],
                fresh_key=(extractor.identity, part.real_key),
            )  # fmt: skip
        if of_train and len(held_out):
            found = memorization.feature_neighbours(generated[dimension], of_train[dimension])
            nearest_fresh = real.neighbours_of_held_out(
                extractor, dimension, of_held_out[dimension], of_train[dimension]
            )
            # Training images lie closer together than fresh ones in a space that was fitted to them: they are no fresh ones there.
            fitted_or_none = extractor.fitted or not len(real.alone)
            alone = None if fitted_or_none else real.neighbours_of_alone(extractor, dimension, of_train[dimension])
            yield from _distance_evidence(
                draw, space, found.distances[:, 0], nearest_fresh.distances[:, 0], "in feature space"
            )
            yield from _relative_evidence(
                draw, space, found.relative, nearest_fresh.relative, None if alone is None else alone.relative
            )
        elif not of_train:
            draw.refused.add(f"Memorized share, {space}: the reference is a part of the training images", None)


def _feature_sides(
    draw: Draw, plan: Comparison, generated: np.ndarray, reference: np.ndarray, floor: np.ndarray
) -> list[LabelledValues]:
    """Features of the generated images that are compared, of the floor's and of the reference, with their labels."""
    return [
        LabelledValues(generated[plan.generated], draw.generated.labels[plan.generated]),
        LabelledValues(floor, plan.floor_split.labels[plan.floor]),
        LabelledValues(reference, draw.real.dataset.train.labels[plan.reference]),
    ]


def _distance_evidence(
    draw: Draw, space: Space, generated: np.ndarray, held_out: np.ndarray, unit: str
) -> Iterator[Evidence]:
    """Distances to the nearest training image. A class has its own threshold, of its own held-out images."""
    for class_ in draw.classes:
        fresh = draw.real.of_held_out(held_out, class_)
        yield Evidence(
            "train_distances", space, class_, draw.of_generated(generated, class_), fresh,
            draw.real.held_out_source(fresh), draw.real.seed, unit=unit, n_real=len(draw.real.dataset.train),
        )  # fmt: skip


def _relative_evidence(
    draw: Draw, space: Space, generated: np.ndarray, held_out: np.ndarray, alone: np.ndarray | None
) -> Iterator[Evidence]:
    """Distances to the nearest training image ÷ the local spacing, beside those of images that are independent of train."""
    real, rows = draw.real, draw.judged_rows if alone is None else draw.copied_rows
    for class_ in draw.classes:
        yield Evidence(
            "relative_distances", space, class_, draw.of_generated(generated, class_, rows),
            real.independent(held_out, alone, class_), real.independent_source(alone, class_), real.seed,
            unit="of the local spacing", n_real=len(real.dataset.train),
        )  # fmt: skip


def shape_evidence(draw: Draw) -> Iterator[Evidence]:
    """How much of each binary volume is foreground. All classes together, both sides have the class shares of train."""
    real = draw.real
    generated = draw.of_generated(foreground(draw.generated), None)
    fresh = real.of_held_out(real.once("foreground of val", lambda: foreground(real.held_out)), None)
    train = real.dataset.train
    reference = LabelledValues(real.once("foreground of train", lambda: foreground(train)), train.labels)
    yield Evidence(
        "foreground", Space("pixels", int(np.prod(train.images.shape[1:]))), None, generated, fresh,
        real.held_out_source(fresh), real.seed, reference=reference,
    )  # fmt: skip


def pixel_evidence(draw: Draw, nearest: NearestImages, pictures: Nearest) -> Iterator[Evidence]:
    """Copies by pixels: distances to train, mirrored and shifted as fits best and as they are, and among the images themselves.

    Args:
        nearest: of the generated images, `memorization.nearest_copies`.
        pictures: of these, `nearest_pictures`.
    """
    real, train = draw.real, draw.real.dataset.train
    space = Space("pixels", int(np.prod(train.images.shape[1:])))
    alone = real.relative_of_alone if len(real.alone) else None
    for evidence in _relative_evidence(draw, space, pictures.relative, real.relative_of_held_out, alone):
        yield replace(evidence, known_copies=real.relative_of_redrawn(evidence.class_))
    if len(real.held_out) < MIN_CLASS_IMAGES:
        draw.refused.add(
            f"Memorized share: only {len(real.held_out)} val images neither stand in train nor have a twin there, and "
            f"{MIN_CLASS_IMAGES} are needed",
            None,
        )
        return
    fresh_copies = real.nearest_copies_of_held_out()
    yield from _distance_evidence(draw, space, nearest.distances, fresh_copies.distances, "grey levels (RMS)")

    train_pixels, pixels = memorization.flat_pixels(train), memorization.flat_pixels(draw.generated)
    within_train = real.nearest_pixels_within_train(train_pixels)
    pairs, fresh_pairs = (
        memorization.distance_pairs(found, within_train)
        for found in (
            memorization.nearest_features(pixels, train_pixels), real.nearest_pixels_of_held_out(train_pixels)
        )
    )  # fmt: skip
    for class_ in draw.classes:
        generated, fresh = draw.of_generated(pairs, class_), real.of_held_out(fresh_pairs, class_)
        if len(generated) and len(fresh):
            yield Evidence(
                "train_distance_pairs", space, class_, generated, fresh, real.held_out_source(fresh), real.seed,
                n_real=len(train),
            )  # fmt: skip
        yield from _twin_evidence(draw, space, class_, pixels)


def _twin_evidence(draw: Draw, space: Space, class_: int | None, pixels: np.ndarray) -> Iterator[Evidence]:
    """How near the generated images lie to each other, beside how near different fresh real ones do."""
    plan, real = draw.plan, draw.real
    labels, floor_labels = draw.generated.labels[plan.generated], plan.floor_split.labels[plan.floor]
    shows = real.dataset.conditioning.shows
    rows = plan.generated if class_ is None else plan.generated[shows(labels, class_)]
    floor = plan.floor if class_ is None else plan.floor[shows(floor_labels, class_)]

    def among_real() -> np.ndarray:
        different = np.unique(memorization.flat_pixels(plan.floor_split.subset(floor)), axis=0)
        if len(different) < MIN_CLASS_IMAGES:
            return np.zeros(0)
        return memorization.nearest_features(different, different, exclude_self=True).distances

    if len(rows) < MIN_CLASS_IMAGES:
        return
    among_fresh = real.once(("twins", plan.real_key, class_), among_real)
    if not len(among_fresh):
        return
    own = pixels[rows]
    among_generated = memorization.nearest_features(own, own, exclude_self=True).distances
    yield Evidence(
        "twin_distances", space, class_,
        LabelledValues(among_generated, draw.generated.labels[rows]),
        LabelledValues(among_fresh, np.full(len(among_fresh), -1 if class_ is None else class_)),
        f"{len(among_fresh)} real images among themselves", real.seed,
    )  # fmt: skip
