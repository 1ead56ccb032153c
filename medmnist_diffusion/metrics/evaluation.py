"""Generated images against a data set: every figure with its interval and its real-vs-real floor, overall and per class."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from medmnist_diffusion.artifacts import UNLABELED, MetricRecord
from medmnist_diffusion.data.dataset import ImageDataset, Split
from medmnist_diffusion.data.twins import Nearest, nearest_pictures
from medmnist_diffusion.metrics import comparisons, label_comparisons
from medmnist_diffusion.metrics.comparisons import Draw
from medmnist_diffusion.metrics.evidence import Evidence
from medmnist_diffusion.metrics.features import FeatureExtractor
from medmnist_diffusion.metrics.memorization import nearest_copies
from medmnist_diffusion.metrics.real_side import RealSide
from medmnist_diffusion.metrics.records import in_order, measure
from medmnist_diffusion.metrics.shapes import thresholded
from medmnist_diffusion.metrics.table import METRICS

Part = Literal["features", "labels", "classification", "copies"]
PARTS: tuple[Part, ...] = ("features", "labels", "classification", "copies")
COPY_SHARES = ("memorized_share", "copied_share")


@dataclass(frozen=True)
class Evaluated:
    """What came out of an evaluation.

    Attributes:
        records: as the table of metrics has them, overall before the classes.
        refused: what could not be measured, why, and for which classes: one sentence each.
        nearest: each generated image's nearest training images, by `nearest_pictures`; None without "copies".
        test_chances: what a classifier was trained on → its chances of each class or label on the test images, float64 N×K; empty
            without "classification".
    """

    records: list[MetricRecord]
    refused: list[str]
    nearest: Nearest | None
    test_chances: dict[str, np.ndarray]


def evaluate_images(
    dataset: ImageDataset,
    generated: Split,
    extractors: Sequence[FeatureExtractor],
    *,
    num_real: int | None = None,
    dimensions: Sequence[int] | None = None,
    seed: int = 0,
    per_class: bool = True,
    parts: Sequence[Part] = PARTS,
    real_side: RealSide | None = None,
) -> Evaluated:
    """Measure all that the table of metrics holds, each figure beside its floor.

    Args:
        generated: images of the data set's shape, with the class ids that were asked for.
        extractors: feature spaces: `make_extractor`, or any object like `FeatureExtractor`.
        num_real: at most so many training images as reference (default: all).
        dimensions: of an extractor with several, these only.
        seed: chooses which images are compared, and random halves.
        per_class: also each class by itself.
        parts: distributions in the extractors' spaces, with copies there; labels, by a classifier of real images; a
            classifier trained on the generated images; copies by pixels.
        real_side: what is known of the real images, to be shared by several draws of generated ones.

    Raises:
        UserError: if too few generated images fit the class shares of train.
        ValueError: for a real side of another data set, number of real images or seed.
    """
    real = real_side or RealSide(dataset, num_real, seed)
    if real.dataset is not dataset or (real.num_real, real.seed) != (num_real, seed):
        raise ValueError("the real side was made for another data set, num_real or seed")
    if unknown := set(parts) - set(PARTS):
        raise ValueError(f"unknown parts of an evaluation: {sorted(unknown)}")
    draw = comparisons.plan_draw(real, generated, per_class)
    shapes = dataset.is_volume and dataset.is_binary
    records: list[MetricRecord] = []
    if "features" in parts:
        # Shapes of black and white that were made with greys: also after thresholding.
        greys = shapes and not generated.is_binary
        for extractor in [*extractors, *(thresholded(one) for one in extractors if greys)]:
            records += _measured(draw, comparisons.feature_evidence(draw, extractor, dimensions))
    if "labels" in parts:
        records += _measured(draw, label_comparisons.label_evidence(draw))
    if "classification" in parts:
        records += _measured(draw, label_comparisons.classification_evidence(draw))
    nearest = None
    if "features" in parts and shapes:
        records += _measured(draw, comparisons.shape_evidence(draw))
    if "copies" in parts:
        nearest = nearest_pictures(generated, dataset.train)
        copies = nearest_copies(generated, dataset.train)
        records += _measured(draw, comparisons.pixel_evidence(draw, copies, nearest))
    return Evaluated(in_order(records), draw.refused.sentences(), nearest, draw.test_chances)


def unlabeled_copies(
    dataset: ImageDataset,
    unlabeled: Split,
    generated: Split,
    extractors: Sequence[FeatureExtractor],
    real_side: RealSide,
) -> list[MetricRecord]:
    """The shares of copies among images that were trained on without labels, by the same measures, all classes together.

    Args:
        unlabeled: those images. Any class will do for each, if only all have the shares of train: single classes are not judged.
        real_side: of the data set.

    Raises:
        UserError: if there are too few images to compare.
    """
    in_shares = dataset.labels_in_shares(len(unlabeled))
    labels = np.random.default_rng([real_side.seed, 12]).permutation(in_shares)[: len(unlabeled)]
    as_train = replace(dataset, splits={**dataset.splits, "train": Split("train", unlabeled.images, labels)})
    side = real_side.once("unlabeled", lambda: RealSide(as_train, None, real_side.seed))
    found = evaluate_images(
        side.dataset,
        generated,
        extractors,
        seed=side.seed,
        per_class=False,
        parts=("features", "copies"),
        real_side=side,
    )
    shares = (record for record in found.records if record.name in COPY_SHARES)
    return [record.model_copy(update={"reference_split": UNLABELED}) for record in shares]


def _measured(draw: Draw, evidence: Iterable[Evidence]) -> list[MetricRecord]:
    """The records of all metrics that need this evidence; what there is too little of is refused."""
    records = []
    for found in evidence:
        for metric in METRICS.values():
            if metric.needs != found.kind:
                continue
            if (reason := metric.unmet(found)) is None:
                records.append(measure(metric, found, draw.real.floors))
            elif not metric.optional:
                draw.refused.add(reason, found.class_)
    return records
