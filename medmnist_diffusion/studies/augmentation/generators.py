"""Where the study's generated images come from: a pipeline trained on a regime's images, and what it was asked for."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from medmnist_diffusion.artifacts import TRAINING_SUMMARY, TrainingSummary
from medmnist_diffusion.cache import cached_arrays, digest
from medmnist_diffusion.data import ImageDataset, Split
from medmnist_diffusion.data.dataset import joined
from medmnist_diffusion.data.regimes import Regime, RegimeData, draw_regime
from medmnist_diffusion.data.unlabeled import Unlabeled, unlabeled_images
from medmnist_diffusion.diffusion.folder_check import WEIGHTS
from medmnist_diffusion.diffusion.samplers import DEFAULT_SAMPLER, DEFAULT_STEPS
from medmnist_diffusion.diffusion.sampling import load_pipeline
from medmnist_diffusion.files import file_hash, write_text
from medmnist_diffusion.metrics.membership import denoising_familiarity
from medmnist_diffusion.studies.augmentation.arms import epsilon_of
from medmnist_diffusion.studies.steps import generator_config, sample_generator, settings_of, train_generator
from medmnist_diffusion.training.config import TrainingConfig

GUIDANCE, STRENGTH = 2.0, 0.6
STEPS = DEFAULT_STEPS[DEFAULT_SAMPLER]
INDEX_HASH = "index_hash.txt"  # in a generator's folder: of the real images that it is trained on
VALIDATIONS, LEAST_STEPS = 20, 20
# Of the images asked for, a pool; the others all. Selections take at most half of `plain`.
FRACTION = {"leaky": 0.5, "guided": 0.5, "variants": 0.5, "semi": 0.5, "conditioned": 0.5}


@dataclass(frozen=True)
class Pool:
    """Generated images with their labels, the hash of the real images that their generator was trained on, and the summary of that
    training, with its `max_train_steps`; None where it is not known (any more)."""

    split: Split
    index_hash: str
    summary: dict[str, Any] | None = None


@dataclass(frozen=True)
class Lesson:
    """What a generator learns from: a regime's images, others without labels, and the pipeline that it starts from; and what it
    promises of the regime's images (differential privacy)."""

    regime: RegimeData
    unlabeled: Unlabeled | None = None
    start: Path | None = None
    epsilon: float | None = None


class Source(Protocol):
    """Anything that makes a regime's pools; tests put known truths in its place."""

    @property
    def identity(self) -> str:
        """Of all that its images depend on, beside the regime."""
        ...

    def draw(self, pool: str, regime: RegimeData, beside: Split | None = None) -> Pool:
        """The named pool of one draw of a regime; the same arguments give the same images.

        Args:
            beside: images without labels that the pool's generator sees, too, with the labels that they are given: `conditioned`
                learns these, `semi` does not.
        """
        ...

    def familiarity(self, pool: str, regime: RegimeData, splits: Sequence[Split]) -> list[np.ndarray]:
        """How well the generator of a pool, plain or private, knows the images of each split, float N each: what an attack looks
        at."""
        ...

    def summary(self, regime: Regime, seed: int) -> dict[str, Any] | None:
        """The training summary of a draw's generator, with its `max_train_steps`; None if there is none (any more)."""
        ...


@dataclass(frozen=True)
class DiffusionSource:
    """Pipelines trained on a regime's images alone, and sampled. Of each training the weights with the lowest loss on the regime's
    validation images are used: small sets are memorized soon.

    Attributes:
        folder: keeps generators and pools.
        whole: the whole data set; only the `leaky` pool comes from a generator of all of it.
        options: settings of TrainingConfig, with a budget.
        num_images: of the plain pool.
        times: it has at least so many for each real image.
        start: the pipeline that the generator of the `tuned` pool starts from.
    """

    folder: Path
    whole: ImageDataset
    options: dict[str, Any]
    num_images: int
    times: float = 0.0
    start: Path | None = None

    @property
    def identity(self) -> str:
        sampling: dict[str, Any] = {"num_images": self.num_images, "guidance_scale": GUIDANCE, "strength": STRENGTH}
        sampling |= {"sampler": DEFAULT_SAMPLER, "steps": STEPS, **({"times": self.times} if self.times else {})}
        sampling |= {"start": file_hash(self.start / WEIGHTS)} if self.start else {}
        content = [self._training(self._config("any", 0)), sampling]
        return json.dumps({**self.options, **sampling, "recipe": digest(content)}, sort_keys=True)

    def draw(self, pool: str, regime: RegimeData, beside: Split | None = None) -> Pool:
        lesson = Lesson(regime, start=self.start if pool == "tuned" else None, epsilon=epsilon_of(pool))
        if pool == "leaky":
            lesson = Lesson(draw_regime(self.whole, Regime(1.0), regime.seed))
        elif pool == "conditioned" and beside is not None:
            lesson = Lesson(_with_more(regime, beside))
        elif pool == "semi" and beside is not None:
            title, beside_images = "the images without labels", beside.images[:]
            lesson = Lesson(regime, unlabeled_images(beside_images, regime.dataset, title, "as the others", []))
        count = max(self.num_images, round(self.times * len(regime.dataset.train)))
        labels = regime.dataset.labels_to_add(round(count * FRACTION.get(pool, 1.0)))
        settings = hashlib.sha256(self.identity.encode()).hexdigest()[:8]
        path = self.folder / "pools" / f"{self._key(lesson)}-{settings}-{pool}.npz"
        arrays = cached_arrays(path, lambda: self._sampled(pool, lesson, labels))
        return Pool(Split(pool, arrays["images"], labels), str(arrays["index_hash"]), self._summary(lesson))

    def _sampled(self, pool: str, lesson: Lesson, labels: np.ndarray) -> dict[str, np.ndarray]:
        """The images, and the index hash that the generator's own folder names."""
        folder, seed, options = self.trained(lesson), lesson.regime.seed, dict[str, Any]()
        if pool == "guided":
            options = {"guidance_scale": GUIDANCE}
        elif pool == "variants":
            options = {"image": lesson.regime.dataset.train.images_of(labels, seed), "strength": STRENGTH}
        index_hash = (folder.parent / INDEX_HASH).read_text(encoding="utf-8")
        images = sample_generator(folder, labels, seed, f"{pool} images", **options)
        return {"images": images, "index_hash": np.array(index_hash)}

    def familiarity(self, pool: str, regime: RegimeData, splits: Sequence[Split]) -> list[np.ndarray]:
        pipe = load_pipeline(self.trained(Lesson(regime, epsilon=epsilon_of(pool))))
        return [denoising_familiarity(pipe, split) for split in splits]

    def summary(self, regime: Regime, seed: int) -> dict[str, Any] | None:
        return self._summary(Lesson(draw_regime(self.whole, regime, seed)))

    def _summary(self, lesson: Lesson) -> dict[str, Any] | None:
        best = self.folder / "generators" / self._key(lesson) / "pipeline_best"
        if not (best / TRAINING_SUMMARY).is_file():
            return None
        return TrainingSummary.of(best).model_dump() | {"max_train_steps": self.options.get("max_train_steps")}

    def trained(self, lesson: Lesson) -> Path:
        """The generator's pipeline with the best weights, trained now or before, here or in another process.

        Raises:
            RuntimeError: if the pipeline was trained on anything but the lesson's images.
        """
        run, regime = self.folder / "generators" / self._key(lesson), lesson.regime
        if not (run / INDEX_HASH).is_file():
            write_text(run / INDEX_HASH, regime.index_hash)
        config = self._config(regime.dataset.name, regime.seed)
        if lesson.epsilon:
            config = replace(config, target_epsilon=lesson.epsilon, mixed_precision="no")
        if lesson.start:
            config = replace(config, pretrained_model_name_or_path=str(lesson.start))
        left = ("checkpoints", "samples")
        pipeline = train_generator(config, regime.dataset, run, run / "log.txt", left, lesson.unlabeled)
        best = pipeline.with_name("pipeline_best")
        if TrainingSummary.of(best).dataset.content_hash != regime.dataset.content_hash:
            raise RuntimeError(f"{best} was trained on other images than its regime's: a leak.")
        return best

    def _config(self, dataset: str, seed: int) -> TrainingConfig:
        return generator_config(self.options, dataset, seed, VALIDATIONS, LEAST_STEPS)

    def _training(self, config: TrainingConfig) -> list[Any]:
        """All settings that a training depends on, defaults among them."""
        return [settings_of(config, self.whole) | self.options, VALIDATIONS, LEAST_STEPS]

    def _key(self, lesson: Lesson) -> str:
        """Of all that a generator depends on: not the size of the pools."""
        regime, splits = lesson.regime, lesson.regime.dataset.splits
        content = [*self._training(self._config(regime.dataset.name, regime.seed))]
        content += [splits["train"].content_hash, splits["val"].content_hash]
        content += [lesson.unlabeled.record.content_hash] if lesson.unlabeled else []
        content += [file_hash(lesson.start / WEIGHTS), "new classes at random"] if lesson.start else []
        content += [f"epsilon {lesson.epsilon:g}"] if lesson.epsilon else []
        return digest(content)


def _with_more(regime: RegimeData, beside: Split) -> RegimeData:
    """The regime with more training images, which keep the labels that they come with."""
    splits = {**regime.dataset.splits, "train": joined("train", [regime.dataset.train, beside])}
    return replace(regime, dataset=replace(regime.dataset, splits=splits))
