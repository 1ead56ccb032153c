"""The contract of a feature space: a batch of uint8 images n×H×W×C in, {dimension: float32 n×dimension} out.

Distances in one space say nothing about another, nor do they compare across dimensions. A semantic space (classifier,
Inception) and a texture space belong together: a classifier sees what separates the classes, not what makes an image real.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from accelerate import PartialState
from tqdm import tqdm

from medmnist_diffusion.cache import cache_dir, cached_arrays
from medmnist_diffusion.console import bar_options
from medmnist_diffusion.data.dataset import Split
from medmnist_diffusion.processes import share_among_processes

Embed = Callable[[np.ndarray], dict[int, np.ndarray]]


class FeatureExtractor(Protocol):
    """What `evaluate_images` and `extract` take: an `Extractor`, or any object like it."""

    @property
    def name(self) -> str:
        """What records and tables call it."""

    @property
    def identity(self) -> str:
        """Names its weights and settings: the key of what is kept of it on disk. Letters, digits, `-`, `.`, `@`."""

    @property
    def batch_size(self) -> int:
        """How many images `embed` gets at once."""

    @property
    def fitted(self) -> bool:
        """Whether it was trained on the training images' labels, so that these lie closer together than fresh ones."""

    @property
    def embed(self) -> Embed:
        """uint8 n×H×W×C → {dimension: float32 n×dimension}; the same dimensions for every batch."""


@dataclass(frozen=True)
class Extractor:
    """A named feature space; its fields are those of `FeatureExtractor`."""

    name: str
    identity: str
    batch_size: int
    embed: Embed
    fitted: bool = False


@dataclass(frozen=True)
class Space:
    """A feature space: an extractor's name and one of its dimensions."""

    extractor: str
    dimension: int

    def __str__(self) -> str:
        return f"{self.extractor} ({self.dimension})"


def extract(extractor: FeatureExtractor, split: Split, cache: bool = False) -> dict[int, np.ndarray]:
    """{dimension: float32 N×dimension} of a whole split, its images shared among the processes.

    With `cache` the features are kept on disk by the split's content and the extractor's identity.
    """
    state = PartialState()
    if not cache:
        return _extract(extractor, split)
    path = cache_dir() / "features" / f"{split.content_hash[:32]}-{extractor.identity}.npz"
    arrays = cached_arrays(
        path,
        lambda: {str(dimension): features for dimension, features in _extract(extractor, split).items()},
        write=state.is_main_process,
    )
    state.wait_for_everyone()
    return {int(dimension): features for dimension, features in arrays.items()}


def _extract(extractor: FeatureExtractor, split: Split) -> dict[int, np.ndarray]:
    dimensions: list[int] = []

    def embed(rows: np.ndarray) -> np.ndarray:
        blocks = []
        bar = tqdm(
            range(0, len(rows), extractor.batch_size),
            desc=f"{extractor.name} features",
            unit="batch",
            **bar_options(),
            disable=not PartialState().is_main_process,
        )
        for start in bar:
            features = extractor.embed(split.images[rows[start : start + extractor.batch_size]])
            dimensions[:] = list(features)
            blocks.append(np.concatenate(list(features.values()), axis=1))
        return np.concatenate(blocks)

    stacked = share_among_processes(len(split), embed)
    return dict(zip(dimensions, np.split(stacked, np.cumsum(dimensions)[:-1], axis=1), strict=True))
