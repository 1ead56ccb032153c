"""Binary volumes: shapes of black and white. They are judged after thresholding, too: a grey haze would hide what their surface is
like, and a shape is mostly background."""

import numpy as np

from medmnist_diffusion.data.dataset import Split
from medmnist_diffusion.metrics.features import Extractor, FeatureExtractor
from medmnist_diffusion.metrics.intervals import Estimate, delete_half_jackknife

THRESHOLD = 128  # from this grey level on a voxel is foreground
SUFFIX = "-thresholded"


def thresholded(extractor: FeatureExtractor) -> Extractor:
    """The same feature space, of images made black and white first."""

    def embed(images: np.ndarray) -> dict[int, np.ndarray]:
        return extractor.embed(np.where(images >= THRESHOLD, 255, 0).astype(np.uint8))

    return Extractor(
        f"{extractor.name}{SUFFIX}", f"{extractor.identity}{SUFFIX}", extractor.batch_size, embed, extractor.fitted
    )


def foreground(split: Split) -> np.ndarray:
    """float N: which share of each image's pixels or voxels is foreground."""
    shares = [(chunk >= THRESHOLD).reshape(len(chunk), -1).mean(1) for chunk in split.chunks()]
    return np.concatenate(shares) if shares else np.zeros(0)


def relative_deviation(reference: np.ndarray, values: np.ndarray, spread: bool, seed: int = 0) -> Estimate:
    """|figure ÷ that of the reference − 1|, of the mean or of the standard deviation of shares, float N."""

    def figure(shares: np.ndarray) -> float:
        return float(shares.std(ddof=1) if spread else shares.mean())

    wanted = figure(reference)
    if not wanted:
        return Estimate(float("inf") if figure(values) else 0.0)
    error = delete_half_jackknife(lambda rows: figure(values[rows]) / wanted, len(values), seed)
    return Estimate(abs(figure(values) / wanted - 1), error, note=f"{figure(values):.3g}, in train {wanted:.3g}")
