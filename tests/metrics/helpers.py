"""Images, features and records that several of these tests make."""

import numpy as np
from scipy.ndimage import gaussian_filter

from medmnist_diffusion.artifacts import MetricRecord
from medmnist_diffusion.data import phantom
from medmnist_diffusion.data.dataset import ImageDataset, Split
from medmnist_diffusion.metrics.evaluation import evaluate_images
from medmnist_diffusion.metrics.frechet import FeatureStatistics, frechet_distance


def distance(real: np.ndarray, generated: np.ndarray) -> float:
    return frechet_distance(FeatureStatistics.of(real), generated)


def correlated(n: int, dim: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim)) + rng.normal(size=dim)


def normal(n: int, dim: int = 8, seed: int = 0, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, scale, (n, dim))


def fresh(count: int, seed: int = 99) -> Split:
    """Phantom images of another seed: real ones that no split holds."""
    arrays = phantom.make_phantom(seed=seed, counts={"train": count})
    return Split("fresh", arrays["train_images"][..., None], arrays["train_labels"][:, 0].astype(np.int64))


def degraded(images: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 25, images.shape)
    return {
        "a little noise": (images + noise / 4).clip(0, 255).astype(np.uint8),
        "much noise": (images + noise).clip(0, 255).astype(np.uint8),
        "blobs": gaussian_filter(images, (0, 4, 4, 0)),
    }


def planted(dataset: ImageDataset, share: float, kind: str, n: int = 400) -> Split:
    """Fresh images, the first `share` of them replaced by training images in one disguise."""
    split, rng = fresh(n), np.random.default_rng(0)
    count = int(share * n)
    copies = dataset.train.images[:count].astype(int)
    if kind == "noised":
        copies = copies + rng.normal(0, 3, copies.shape).round().astype(int)
    elif kind == "shifted":
        copies = np.roll(copies, (1, -2), axis=(1, 2))
    elif kind == "mirrored":
        copies = copies[:, :, ::-1]
    images = np.concatenate([copies.clip(0, 255).astype(np.uint8), split.images[count:]])
    return Split(kind, images, np.concatenate([dataset.train.labels[:count], split.labels[count:]]))


def overall_records(dataset: ImageDataset, split: Split) -> dict[str, MetricRecord]:
    found = evaluate_images(dataset, split, [], parts=["copies"]).records
    return {record.name: record for record in found if record.class_ is None}
