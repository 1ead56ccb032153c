"""The table of metrics: everything about a metric in one entry. `evaluate_images` measures what stands here, with its floor, and
records, tables, cards and plots show it.

To add one: write what computes it from a `Candidate`, and enter it below. docs/metrics.md says what each of them is.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from medmnist_diffusion.artifacts import UNLABELED, MetricRecord
from medmnist_diffusion.metrics.diversity import intra_class_spread
from medmnist_diffusion.metrics.evidence import Candidate, Evidence, Kind
from medmnist_diffusion.metrics.frechet import extrapolated_estimate, frechet_estimate
from medmnist_diffusion.metrics.intervals import Estimate, share_estimate
from medmnist_diffusion.metrics.kernel import kernel_distance
from medmnist_diffusion.metrics.label_figures import cooccurrence_distance, grade_agreement, grade_error, mean_auc
from medmnist_diffusion.metrics.memorization import FEWEST_KNOWN, NEAR, Threshold, authentic, nearness_to_train
from medmnist_diffusion.metrics.plan import MIN_CLASS_IMAGES
from medmnist_diffusion.metrics.shapes import relative_deviation

MAX_PAIRWISE = 5000  # images a side where all pairs are looked at: the cost stays linear beyond


@dataclass(frozen=True)
class Metric:
    """Everything about a metric.

    Attributes:
        name: in metrics.json.
        label: in tables and plots.
        needs: the kind of evidence that it is computed from (metrics/evidence.py).
        compute: the figure of a candidate. Its floor is the same of the fresh real images.
        better: which way the images get better.
        bounds: the range that it can lie in; 95 % intervals end there.
        compared_by: "ratio": value ÷ floor. "difference": value − floor, of unbiased figures, whose floors lie about zero. None:
            value and floor are read side by side.
        in_ratio_plot: whether value ÷ floor, overall, is drawn there.
        chance: the floor of figures for which it needs no computation; its note ends the record's `floor_source`.
        inception_name: what it is called where the official Inception weights made the features.
        min_images: fewer on either side are refused.
        images_per_dimension: of so many images a side, one stands for one; these must be more than the features' dimensions.
        max_images: so many random images a side are looked at.
        uses_reference: False for a figure of features that looks at the candidate alone.
        optional: left out without a word where there are too few images.
    """

    name: str
    label: str
    needs: Kind
    compute: Callable[[Candidate], Estimate]
    better: Literal["lower", "higher"]
    bounds: tuple[float, float] = (0, np.inf)
    compared_by: Literal["ratio", "difference"] | None = "ratio"
    in_ratio_plot: bool = True
    chance: Callable[[Candidate], Estimate] | None = None
    inception_name: str | None = None
    min_images: int = MIN_CLASS_IMAGES
    images_per_dimension: int = 0
    max_images: int | None = None
    uses_reference: bool = True
    optional: bool = False

    def unmet(self, evidence: Evidence) -> str | None:
        """Why it cannot be computed from this evidence; None if it can."""
        n, space = evidence.smallest_side, evidence.space
        if n < self.min_images:
            # What is refused: all figures of a kind at once, where they ask for the same.
            several = self.min_images == MIN_CLASS_IMAGES and self.needs in ("features", "train_distances")
            what = (
                (f"{space}" if self.needs == "features" else f"Memorized share, {space}")
                if several
                else f"{self.label}, {space}"
            )
            return f"{what}: at least {self.min_images} images on either side are needed; {evidence.shortage}"
        if self.images_per_dimension and n // self.images_per_dimension <= space.dimension:
            needed = self.images_per_dimension * space.dimension
            return f"{self.label}, {space}: more than {needed} images on either side are needed; {evidence.shortage}"
        return None


def record_label(record: MetricRecord) -> str:
    """What to call a figure: FID and KID only where the official Inception weights made the features, and as the record names it
    where the table does not know it."""
    metric = METRICS.get(record.name)
    if metric is None:
        return f"{record.name}, {record.extractor} ({record.dimension})"
    if record.reference_split == UNLABELED:
        return f"{metric.label}, unlabeled images, {record.extractor} ({record.dimension})"
    if record.extractor == "inception" and metric.inception_name:
        return f"{metric.inception_name} ({record.dimension})"
    if metric.needs not in ("features", "train_distances", "relative_distances") or record.extractor == "pixels":
        return metric.label  # there is one of it
    return f"{metric.label}, {record.extractor} ({record.dimension})"


def figure_name(name: str) -> str:
    """The label of a metric whatever its space; of one that the table does not know, its name."""
    return METRICS[name].label if name in METRICS else name


def shown_in_ratio_plot(record: MetricRecord) -> bool:
    """Whether a record has a place in the ratio plot: of all classes together; where the table does not know it, with a ratio."""
    if record.class_ is not None or record.floor <= 0:
        return False
    return METRICS[record.name].in_ratio_plot if record.name in METRICS else record.ratio is not None


# How each is computed


def _frechet_distance(images: Candidate) -> Estimate:
    return frechet_estimate(images.reference.statistics, images.values, images.seed)


def _frechet_distance_extrapolated(images: Candidate) -> Estimate:
    return extrapolated_estimate(images.reference.statistics, images.values, images.seed)


def _kernel_distance(images: Candidate) -> Estimate:
    return kernel_distance(images.reference.values, images.values, images.seed)


def _neighbour_figure(name: str) -> Callable[[Candidate], Estimate]:
    return lambda images: images.neighbour_figures[name]


def _deviation(spread: bool) -> Callable[[Candidate], Estimate]:
    return lambda images: relative_deviation(images.reference.values, images.values, spread, images.seed)


def _share(images: Candidate) -> Estimate:
    return share_estimate(images.values)


def _nearest_share(images: Candidate) -> Estimate:
    """How many lie nearer to a training image than a low quantile of fresh real ones do."""
    threshold, distances = Threshold.of(images.fresh.values), images.values
    near = distances < threshold.value
    share = share_estimate(near)
    p_value = threshold.p_value(int(near.sum()), len(near))
    note = f"threshold {threshold.value:.3g} {images.unit}; nearest generated {distances.min():.3g}"
    return Estimate(share.value, share.error, share.interval, p_value, threshold.detectable(len(near)), note=note)


def _copied_share(images: Candidate) -> Estimate:
    """The same by relative distances; how many of the real images lie nearer than half of the local spacing; and how many copies
    of training images, made on purpose, would be seen: of the kind of training images that it sees least of."""
    near, threshold = float((images.fresh.values < NEAR).mean()), Threshold.of(images.fresh.values)
    seen = [float((kind.values < threshold.value).mean()) for kind in images.known_copies if len(kind) >= FEWEST_KNOWN]
    return replace(_nearest_share(images), near_fresh=near, seen_copies=min(seen, default=None))


def _below_threshold(images: Candidate) -> Estimate:
    return Estimate(Threshold.of(images.fresh.values).expected, note="by construction")


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric(
            "frechet_distance", "Fréchet distance", "features", _frechet_distance, "lower",
            inception_name="FID", images_per_dimension=1,
        ),
        Metric(
            "frechet_distance_extrapolated", "Fréchet distance, n → ∞", "features", _frechet_distance_extrapolated, "lower",
            bounds=(-np.inf, np.inf), compared_by="difference", in_ratio_plot=False, inception_name="FID∞",
            images_per_dimension=10,  # the smallest size within a half must exceed it, too
            optional=True,
        ),
        Metric(
            "kernel_distance", "Kernel distance", "features", _kernel_distance, "lower",
            bounds=(-np.inf, np.inf), compared_by="difference", in_ratio_plot=False, inception_name="KID",
            max_images=MAX_PAIRWISE,
        ),
        *(
            Metric(
                name, name.capitalize(), "features", _neighbour_figure(name), "higher",
                bounds=(0, high), max_images=MAX_PAIRWISE,
            )
            for name, high in (("precision", 1), ("recall", 1), ("density", np.inf), ("coverage", 1))
        ),
        Metric(
            "intra_class_spread", "Intra-class spread", "features",
            lambda images: intra_class_spread(images.values, images.labels, images.seed), "higher",
            uses_reference=False,
        ),
        Metric(
            "label_accuracy", "Label accuracy", "recognised_labels", _share, "higher",
            bounds=(0, 1), compared_by=None, min_images=1,
        ),
        *(
            Metric(name, label, "foreground", _deviation(spread), "lower", compared_by=None)
            for name, label, spread in (
                ("foreground_deviation", "Deviation of the foreground", False),
                ("foreground_spread_deviation", "Deviation of the foreground's spread", True),
            )
        ),
        Metric(
            "label_error", "Error of the grade", "graded_labels", lambda images: grade_error(images.values), "lower",
            compared_by=None,
        ),
        Metric(
            "label_kappa", "Agreement of the grade (quadratic κ)", "graded_labels",
            lambda images: grade_agreement(images.values, images.seed), "higher", bounds=(-1, 1), compared_by=None,
        ),
        Metric(
            "label_auc", "Label AUC", "label_scores", lambda images: mean_auc(images.values), "higher",
            bounds=(0, 1), compared_by=None,
        ),
        Metric(
            "cooccurrence_distance", "Distance of labels seen together", "label_pairs",
            lambda images: cooccurrence_distance(images.reference.values, images.values, images.seed), "lower",
        ),
        Metric(
            "classification_auc", "Classification AUC score", "test_scores", lambda images: mean_auc(images.values), "higher",
            bounds=(0, 1), compared_by=None,
        ),
        Metric(
            "classification_accuracy", "Classification accuracy score", "recognised_tests", _share, "higher",
            bounds=(0, 1), compared_by=None, min_images=1,
        ),
        Metric(
            "memorized_share", "Memorized share", "train_distances", _nearest_share, "lower",
            bounds=(0, 1), compared_by=None, chance=_below_threshold,
        ),
        Metric(
            "copied_share", "Copied share", "relative_distances", _copied_share, "lower",
            bounds=(0, 1), compared_by=None, chance=_below_threshold,
        ),
        Metric(
            "nearness_to_train", "Nearness to train", "train_distances",
            lambda images: nearness_to_train(images.values, images.fresh.values), "lower",
            bounds=(0, 1), compared_by=None, chance=lambda images: Estimate(0.5),
        ),
        Metric(
            "authenticity", "Authenticity", "train_distance_pairs",
            lambda images: share_estimate(authentic(images.values)), "higher",
            bounds=(0, 1), compared_by=None, min_images=1,
        ),
        Metric(
            "duplicate_share", "Duplicate share", "twin_distances",
            lambda images: share_estimate(images.values < Threshold.of(images.fresh.values).value, in_pairs=True), "lower",
            bounds=(0, 1), compared_by=None, chance=_below_threshold,
        ),
    )
}  # fmt: skip
