"""Generated images against a data set: every figure with its interval and its real-vs-real floor."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

from medmnist_diffusion.data.dataset import ImageDataset, Split
from medmnist_diffusion.data.duplicates import image_hashes, in_other, near_pairs, nearest_distances
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.metrics.classifier import FEATURES, predict, real_data_classifier
from medmnist_diffusion.metrics.extractors import Extractor, extract
from medmnist_diffusion.metrics.frechet import FeatureStatistics, frechet_distance, frechet_interval
from medmnist_diffusion.metrics.records import MetricRecord

MIN_IMAGES = 50  # below this a Fréchet distance says nothing
COPY_QUANTILE = 0.01
NEAR_COPY_GREY_LEVELS = 5.0


@dataclass(frozen=True)
class Comparison:
    """Which images stand on which side, chosen once for all feature spaces.

    The generated images, the reference (training) images, and as many other real images as there are generated ones: their
    distance to the same reference is the floor that no generator is expected to beat.
    """

    generated: np.ndarray  # rows of the generated split
    reference: np.ndarray  # rows of train
    floor: np.ndarray  # rows of val or of train
    floor_split: str
    floor_source: str


def plan_comparison(dataset: ImageDataset, generated: Split, num_real: int | None, seed: int) -> Comparison:
    """Choose both sides so that the figure and its floor have the same sizes and the same class shares.

    Class shares are those of the training split: a distance must not measure that the generated set is balanced.
    The floor's images come from val where it has enough, else from a part of train that is left out of the reference.
    """
    rng = np.random.default_rng(seed)
    train, val, k = dataset.train, dataset.splits["val"], dataset.num_classes
    shares = np.bincount(train.labels, minlength=k) / len(train)

    def most(labels: np.ndarray) -> float:
        """How many images with these class shares the labels allow."""
        return float(np.min(np.bincount(labels, minlength=k) / shares))

    n = int(min(most(generated.labels), max(most(val.labels), len(train) / 2)))
    chosen = _stratified(generated.labels, shares, n, rng)
    n = len(chosen)
    if n < MIN_IMAGES:
        raise UserError(
            f"only {n} of {len(generated)} generated images fit the training set's class shares; at least {MIN_IMAGES} are "
            f"needed. Generate more of every class (training shares: {np.round(shares, 3).tolist()})."
        )
    if most(val.labels) >= n:
        floor, floor_split, source = _stratified(val.labels, shares, n, rng), "val", f"{n} val images"
        reference = np.arange(len(train))
    else:
        floor, floor_split = _stratified(train.labels, shares, n, rng), "train"
        reference = np.setdiff1d(np.arange(len(train)), floor)
        source = f"{n} training images left out of the reference (val has too few)"
    if num_real is not None and num_real < len(reference):
        reference = np.sort(rng.choice(reference, num_real, replace=False))
    return Comparison(chosen, reference, floor, floor_split, source)


def _stratified(labels: np.ndarray, shares: np.ndarray, n: int, rng: np.random.Generator) -> np.ndarray:
    """About n rows (rounded down a class) with the given class shares; never more than a class has."""
    rows = []
    for label, share in enumerate(shares):
        members = np.flatnonzero(labels == label)
        rows.append(rng.permutation(members)[: int(np.floor(n * share + 1e-9))])
    return np.sort(np.concatenate(rows))


def frechet_records(
    extractor: Extractor,
    dataset: ImageDataset,
    generated: Split,
    comparison: Comparison,
    dimensions: Sequence[int] | None = None,
    seed: int = 0,
) -> list[MetricRecord]:
    """A record for each dimension of the extractor (or those asked for). Features of real images are cached."""
    whole_train = len(comparison.reference) + len(comparison.floor) * (comparison.floor_split == "train") == len(
        dataset.train
    )
    if whole_train:
        train_features = extract(extractor, dataset.train, cache=True)
        real = {dimension: values[comparison.reference] for dimension, values in train_features.items()}
    else:
        real = extract(extractor, dataset.train.subset(comparison.reference), cache=True)
    if comparison.floor_split == "train" and whole_train:
        floor = {dimension: values[comparison.floor] for dimension, values in train_features.items()}
    else:
        floor = extract(extractor, dataset.splits[comparison.floor_split].subset(comparison.floor), cache=True)
    fake = extract(extractor, generated.subset(comparison.generated))

    records = []
    for dimension in real:
        if dimensions is not None and len(real) > 1 and dimension not in dimensions:
            continue
        statistics = FeatureStatistics.of(real[dimension])
        n = len(comparison.generated)
        note = ""
        if min(n, len(comparison.reference)) <= dimension:
            note = (
                f"{min(n, len(comparison.reference))} images for {dimension} features: biased upwards, as is the floor"
            )
        records.append(
            MetricRecord(
                name="frechet_distance",
                extractor=extractor.name,
                dimension=dimension,
                class_=None,
                value=frechet_distance(statistics, fake[dimension]),
                interval=frechet_interval(statistics, fake[dimension], seed),
                floor=frechet_distance(statistics, floor[dimension]),
                floor_source=comparison.floor_source,
                n_real=len(comparison.reference),
                n_generated=n,
                reference_split="train",
                seed=seed,
                note=note,
            )
        )
    return records


def label_accuracy_records(dataset: ImageDataset, generated: Split, seed: int = 0) -> list[MetricRecord]:
    """How often a classifier of real images sees in a generated image the class that was asked for.

    Overall (weighted as the generated set is) and for each class; the floor is its accuracy on the val images.
    """
    model, val = real_data_classifier(dataset), dataset.splits["val"]
    right, right_val = predict(model, generated) == generated.labels, predict(model, val) == val.labels
    records = []
    for label in [None, *range(dataset.num_classes)]:
        ours = right if label is None else right[generated.labels == label]
        theirs = right_val if label is None else right_val[val.labels == label]
        if not len(ours) or not len(theirs):
            continue
        records.append(
            MetricRecord(
                name="label_accuracy",
                extractor="classifier",
                dimension=FEATURES,
                class_=label,
                value=float(ours.mean()),
                interval=_share_interval(int(ours.sum()), len(ours)),
                floor=float(theirs.mean()),
                floor_source=f"{len(theirs)} val images",
                n_real=len(dataset.train),
                n_generated=len(ours),
                reference_split="train",
                seed=seed,
            )
        )
    return records


def memorization_record(dataset: ImageDataset, generated: Split, seed: int = 0) -> MetricRecord:
    """The share of generated images nearer (in pixels) to a training image than 99 % of held-out real images are.

    Val images that are themselves copies of training images are left out of the threshold: with leaks in it, no copy would
    ever be flagged. 1 % is what fresh real images score by construction.
    """
    train, val = dataset.train, dataset.splits["val"]
    copies = in_other(image_hashes(val), image_hashes(train))
    copies[[i for i, _ in near_pairs(val, train, NEAR_COPY_GREY_LEVELS)]] = True
    clean = np.flatnonzero(~copies)
    if not len(clean):
        raise UserError(
            f"{dataset.name}: all val images also stand in train, so nothing tells a copy from a fresh image. Give a val split "
            "of images that train does not have."
        )
    held_out = np.concatenate([_nearest(val.images[rows], train) for rows in _chunks(clean)])
    threshold = float(np.quantile(held_out, COPY_QUANTILE))
    distances = np.concatenate([_nearest(chunk, train) for chunk in generated.chunks()])
    flagged = int((distances < threshold).sum())
    return MetricRecord(
        name="memorized_share",
        extractor="pixels",
        dimension=int(np.prod(train.images.shape[1:])),
        class_=None,
        value=flagged / len(distances),
        interval=_share_interval(flagged, len(distances)),
        floor=COPY_QUANTILE,
        floor_source=f"{len(clean)} val images, by construction ({int(copies.sum())} left out: they stand in train)",
        n_real=len(train),
        n_generated=len(distances),
        reference_split="train",
        seed=seed,
        note=f"threshold {threshold:.2f} grey levels (RMS); nearest generated {distances.min():.2f}",
    )


def _nearest(images: np.ndarray, train: Split) -> np.ndarray:
    """Distance to the nearest training image, with the training images read in chunks."""
    return np.min([nearest_distances(images, chunk)[0] for chunk in train.chunks(8192)], axis=0)


def _chunks(rows: np.ndarray, size: int = 1024) -> list[np.ndarray]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _share_interval(count: int, n: int) -> tuple[float, float]:
    interval = binomtest(count, n).proportion_ci(0.95, method="wilson")
    return float(interval.low), float(interval.high)
