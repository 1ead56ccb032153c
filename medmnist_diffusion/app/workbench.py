"""What the page of `medmnist-diffusion app` does, without the page: pipelines, their images, the nearest training images."""

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from medmnist_diffusion.artifacts import Metrics, TrainingSummary, same_images
from medmnist_diffusion.data import ImageDataset, Split
from medmnist_diffusion.data.audit import describe
from medmnist_diffusion.data.conditioning import Conditioning, condition_of
from medmnist_diffusion.data.images import read_image
from medmnist_diffusion.data.sources import DataSource
from medmnist_diffusion.data.twins import nearest_pictures
from medmnist_diffusion.diffusion.folder_check import WEIGHTS, check_folder
from medmnist_diffusion.diffusion.samplers import (
    DEFAULT_SAMPLER,
    DEFAULT_STEPS,
    DISTILLED_SAMPLER,
    Sampling,
    checked_sampling,
)
from medmnist_diffusion.diffusion.sampling import conditioning_of, generate_images, load_pipeline
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import file_hash
from medmnist_diffusion.generated import GeneratedImages
from medmnist_diffusion.metrics.memorization import Threshold
from medmnist_diffusion.metrics.real_side import RealSide
from medmnist_diffusion.pipelines import ClassConditionalDDPMPipeline
from medmnist_diffusion.publish.card import measured_metrics
from medmnist_diffusion.publish.copies import copy_tests
from medmnist_diffusion.samples import draw, samples_record
from medmnist_diffusion.shipped import name_of, pipeline_folder

MOST_IMAGES, MOST_STEPS = 64, 100  # of one press of a button
MOST_WORK = MOST_IMAGES * MOST_STEPS * 64**2  # images × steps × pixels (voxels) of one
MADE, KEPT_SECONDS = "made-", 3600  # how folders of downloads begin, and how long they stay


@dataclass(frozen=True)
class Likeness:
    """Generated images beside the training images that they lie nearest to.

    Attributes:
        real: the training images, uint8 N×H×W×C.
        relative: float N, the distance ÷ that to the next 50 (data/twins.py).
        threshold: of independent real images' relative distances; an image below it counts as a copy. None where there are no
            independent real images.
        unjudged: why nobody can say what is a copy; None where one can.
    """

    real: np.ndarray
    relative: np.ndarray
    threshold: Threshold | None
    unjudged: str | None

    @property
    def copies(self) -> np.ndarray | None:
        """bool N; None where nobody can say."""
        judged = self.threshold is not None and self.unjudged is None
        return self.relative < self.threshold.value if judged and self.threshold else None


@dataclass
class Workbench:
    """One pipeline, loaded once, and its training data where they are at hand.

    Attributes:
        folder: the pipeline's.
        dataset: what it was trained on; None if that was not given.
    """

    folder: Path
    dataset: ImageDataset | None = None

    @cached_property
    def pipe(self) -> ClassConditionalDDPMPipeline:
        return load_pipeline(self.folder)

    @property
    def name(self) -> str:
        """What the reader chooses it by."""
        return name_of(self.folder)

    @cached_property
    def weights(self) -> str:
        """Eight digits that change with the weights."""
        return file_hash(self.folder / WEIGHTS)[:8]

    @property
    def conditioning(self) -> Conditioning:
        return conditioning_of(self.pipe)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one image, H×W×C, or volume, D×H×W×C."""
        channels, *sides = self.pipe.image_shape
        return (*sides, channels)

    @property
    def metrics(self) -> Metrics | None:
        """What was measured of it; None if nothing was.

        Raises:
            UserError: if it was measured on other data or weights.
        """
        return measured_metrics(self.folder, TrainingSummary.of(self.folder))

    def make(self, labels: Sequence[str], count: int, seed: int, steps: int, guidance: float) -> GeneratedImages:
        """Images of each class, or with several labels an image so many that show all of these labels.

        Raises:
            UserError: for no class, or more images than one press of a button makes.
        """
        conditioning = self.conditioning
        ids = [conditioning.names.index(name) for name in labels]
        if conditioning.multi_label:
            conditions = np.full(count, condition_of(ids), np.int64)
        elif not ids:
            raise UserError("choose at least one class.")
        else:
            conditions = np.repeat(np.array(ids, np.int64), count)
        self._check_work(len(conditions), steps)
        if not 1 <= steps <= MOST_STEPS:
            raise UserError(f"{steps} steps are not possible here; give 1 to {MOST_STEPS}.")
        sampler = DISTILLED_SAMPLER if self.pipe.distilled_steps else DEFAULT_SAMPLER
        sampling = checked_sampling(sampler=sampler, seed=seed, num_inference_steps=steps, guidance_scale=guidance)
        return self._made(draw(self.pipe, conditions, sampling), sampling)

    def variants(
        self, path: Path, labels: Sequence[str], count: int, seed: int, strength: float, guidance: float
    ) -> tuple[np.ndarray, list[str], GeneratedImages]:
        """The image of a file as the pipeline sees it, what was done to it, and variants of it (SDEdit, Meng et al. 2022, arXiv
        2108.01073).

        Raises:
            UserError: if the file cannot be read, or no one class is chosen.
        """
        conditioning = self.conditioning
        try:
            image, notes = read_image(path, self.shape)
        except UserError as error:  # where the page keeps the file is of no interest
            raise UserError(str(error).replace(f"{path} in {path.parent}", path.name)) from None
        ids = [conditioning.names.index(name) for name in labels]
        if not conditioning.multi_label and len(ids) != 1:
            raise UserError("choose the one class that the variants are to show.")
        self._check_work(count, DEFAULT_STEPS[DEFAULT_SAMPLER])
        conditions = np.full(count, condition_of(ids) if conditioning.multi_label else ids[0], np.int64)
        steps = DEFAULT_STEPS[DEFAULT_SAMPLER]
        sampling = checked_sampling(seed=seed, num_inference_steps=steps, guidance_scale=guidance)
        made = generate_images(
            self.pipe, conditions, steps, guidance, seed, image=np.repeat(image[None], count, 0), strength=strength
        )
        return image, notes, self._made(Split("train", made, conditions), sampling, strength)

    def _check_work(self, count: int, steps: int) -> None:
        if not 1 <= count <= MOST_IMAGES:
            raise UserError(f"{count} images at once are not possible here; 1 to {MOST_IMAGES} are.")
        pixels = int(np.prod(self.shape[:-1]))
        if count * steps * pixels > MOST_WORK:
            most = max(1, MOST_WORK // (steps * pixels))
            raise UserError(f"that would take too long for a page: with {steps} steps at most {most} at once.")

    def _made(self, split: Split, sampling: Sampling, strength: float | None = None) -> GeneratedImages:
        record = samples_record(self.folder, self.pipe, split, sampling)
        return GeneratedImages(split, record.model_copy(update={"strength": strength}))

    @cached_property
    def _threshold(self) -> Threshold | None:
        assert self.dataset is not None
        real = RealSide(self.dataset)
        fresh = np.concatenate([real.relative_of_held_out, real.relative_of_alone])
        return Threshold.of(fresh) if len(fresh) else None

    def likeness(self, images: np.ndarray) -> Likeness | None:
        """The nearest training image of each; None where the training data are not at hand."""
        if self.dataset is None:
            return None
        train = self.dataset.train
        nearest = nearest_pictures(Split("train", images, np.zeros(len(images), np.int64)), train)
        return Likeness(train.images[nearest.rows[:, 0]], nearest.relative, self._threshold, self._unjudged())

    def _unjudged(self) -> str | None:
        """Why nobody can say of this pipeline what is a copy."""
        if self._threshold is None:
            return "no real image is known to be independent of the training images"
        try:
            metrics = self.metrics
        except UserError as error:  # measured on other weights
            return str(error)
        return copy_tests(metrics).unjudged if metrics else "the pipeline has not been evaluated"


def workbenches(pipelines: Sequence[Path], source: DataSource | None = None) -> dict[str, Workbench]:
    """By name; with their training data, where they are those of the source, read in the pipeline's size unless it says one.

    Raises:
        UserError: if a pipeline cannot be loaded, two have one name, or none was trained on these data.
    """
    found: dict[str, Workbench] = {}
    loaded: dict[tuple[int, ...], ImageDataset | UserError] = {}
    for path in pipelines:
        bench = Workbench(pipeline_folder(path).resolve())
        check_folder(bench.folder)
        trained_on = TrainingSummary.of(bench.folder).dataset
        if source:
            sides = trained_on.full_shape[:-1]
            if sides not in loaded:
                loaded[sides] = _loaded(source, sides)
            dataset = loaded[sides]
            if isinstance(dataset, ImageDataset) and same_images(trained_on, describe(dataset)):
                bench.dataset = dataset
        if bench.name in found:
            raise UserError(
                f"{path}: another pipeline is called {bench.name}, too. Give one of them, or rename a folder."
            )
        found[bench.name] = bench
    if source and all(bench.dataset is None for bench in found.values()):
        if errors := [one for one in loaded.values() if isinstance(one, UserError)]:
            raise errors[0]
        raise UserError(
            f"none of these pipelines was trained on {source.dataset} as it is read here. Give what they were trained on, with "
            "the same --size, --fit and --window, or leave out --dataset."
        )
    return found


def _loaded(source: DataSource, sides: tuple[int, ...]) -> ImageDataset | UserError:
    """The data in a pipeline's size, or why they cannot be read so."""
    size = source.size or (sides[:1] if len(sides) > 2 else sides)
    try:
        return source._replace(size=size).load()
    except UserError as error:
        return error


def saved(made: GeneratedImages) -> tuple[str, str]:
    """Files to download, in Gradio's folder, which ends with the page: all in one PNG; and a zip of an npz in MedMNIST's layout
    and its record, which has the names of the classes and says that these images are generated."""
    place = os.environ.get("GRADIO_TEMP_DIR")
    for old in Path(place or tempfile.gettempdir()).glob(f"{MADE}*"):
        if place and time.time() - old.stat().st_mtime > KEPT_SECONDS:
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=MADE, dir=place))
    (folder / "images").mkdir()
    made.grid(MOST_IMAGES).save(folder / "images.png")
    made.save(folder / "images" / "images.npz")
    return str(folder / "images.png"), shutil.make_archive(str(folder / "images"), "zip", folder / "images")
