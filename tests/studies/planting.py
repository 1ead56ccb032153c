"""Sources of images whose worth is known, in the place of a generator; everything else of a study is the real thing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medmnist_diffusion.data import ImageDataset, Split, phantom
from medmnist_diffusion.data.regimes import Regime, RegimeData
from medmnist_diffusion.metrics.mixed_training import Recipe
from medmnist_diffusion.studies.augmentation.draws import measure_draw, train_draw
from medmnist_diffusion.studies.augmentation.generators import Pool
from medmnist_diffusion.studies.augmentation.protocol import AugmentationProtocol
from medmnist_diffusion.studies.augmentation.situations import Situation
from medmnist_diffusion.studies.augmentation.verdicts import RegimeResult, judge_regime
from medmnist_diffusion.studies.statistics import Judgement
from tests.conftest import grey_splits

IMAGES = 1200  # of a pool
QUICK = Recipe(steps=60, batch_size=64, learning_rates=(3e-3,))


@dataclass(frozen=True)
class Oracle:
    """Fresh images of the true distribution, or with shuffled labels; as honest as a generator could be."""

    shuffled: bool = False

    @property
    def identity(self) -> str:
        return f"oracle, shuffled {self.shuffled}"

    def summary(self, regime: Regime, seed: int) -> None:
        return None

    def draw(self, pool: str, regime: RegimeData, beside: Split | None = None) -> Pool:
        arrays = phantom.make_phantom(
            size=regime.dataset.image_size, seed=1000 + regime.seed, counts={"train": IMAGES}
        )
        labels = arrays["train_labels"][:, 0].astype(np.int64)
        if self.shuffled:
            labels = np.random.default_rng(regime.seed).permutation(labels)
        return Pool(Split(pool, arrays["train_images"][..., None], labels), regime.index_hash)

    def familiarity(self, pool: str, regime: RegimeData, splits: Sequence[Split]) -> list[np.ndarray]:
        """As of a generator that knows nothing of single images."""
        rng = np.random.default_rng(regime.seed)
        return [rng.normal(size=len(split)) for split in splits]


class Copier(Oracle):
    """The regime's own training images, hardly changed, by a generator that knows nothing of them beyond that."""

    def draw(self, pool: str, regime: RegimeData, beside: Split | None = None) -> Pool:
        train = regime.dataset.train
        rows = np.arange(IMAGES) % len(train)
        noise = np.random.default_rng(regime.seed).integers(-2, 3, (IMAGES, *train.images.shape[1:]))
        images = (train.images[rows].astype(int) + noise).clip(0, 255).astype(np.uint8)
        return Pool(Split(pool, images, train.labels[rows]), regime.index_hash)


class Knower(Oracle):
    """Fresh images, by a generator that knows each of its training images."""

    def familiarity(self, pool: str, regime: RegimeData, splits: Sequence[Split]) -> list[np.ndarray]:
        members, others = super().familiarity(pool, regime, splits)
        return [members + 2, others]


def verdict_on(
    folder: Path, source: Oracle, situation: Situation, regime: Regime, seeds: int = 6, train: int = 400,
    outside: ImageDataset | None = None,
) -> Judgement:  # fmt: skip
    """The verdict on a small phantom set (16 pixels)."""
    return result_on(folder, source, situation, regime, seeds, train, outside).judgement


def result_on(
    folder: Path, source: Oracle, situation: Situation, regime: Regime, seeds: int = 6, train: int = 400,
    outside: ImageDataset | None = None,
) -> RegimeResult:  # fmt: skip
    """All that the verdict is from."""
    arrays = phantom.make_phantom(size=16, seed=7, counts={"train": train, "val": 120, "test": 400})
    splits = grey_splits(arrays)
    dataset = ImageDataset("planted", splits, dict(phantom.CLASSES), synthetic=True)
    study = AugmentationProtocol(folder, dataset, source, QUICK, situation, outside=outside)
    draws = []
    for seed in range(seeds):
        train_draw(study, regime, seed)
        draws.append(measure_draw(study, regime, seed) if situation.sharing else study.read(regime, seed))
    return judge_regime(dataset, regime, [draw for draw in draws if draw], situation)
