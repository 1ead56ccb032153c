"""What the page of `medmnist-diffusion app` does, without the page: pipelines, their images, the nearest training images."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from medmnist_diffusion.artifacts import Metrics, TrainingSummary, same_images
from medmnist_diffusion.data import ImageDataset, Split
from medmnist_diffusion.data.audit import describe
from medmnist_diffusion.data.conditioning import Conditioning, condition_of
from medmnist_diffusion.data.images import read_image
from medmnist_diffusion.data.twins import nearest_pictures
from medmnist_diffusion.diffusion.folder_check import check_folder
from medmnist_diffusion.diffusion.samplers import DEFAULT_STEPS, Sampling
from medmnist_diffusion.diffusion.sampling import conditioning_of, generate_images, load_pipeline
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.generated import GeneratedImages
from medmnist_diffusion.metrics.memorization import Threshold
from medmnist_diffusion.metrics.real_side import RealSide
from medmnist_diffusion.pipelines import ClassConditionalDDPMPipeline
from medmnist_diffusion.samples import draw, samples_record
from medmnist_diffusion.shipped import pipeline_folder

MOST_IMAGES, MOST_STEPS = 64, 100  # of one press of a button


@dataclass(frozen=True)
class Likeness:
    """Generated images beside the training images that they lie nearest to.

    Attributes:
        real: the training images, uint8 N×H×W×C.
        relative: float N, the distance ÷ that to the next 50 (data/twins.py).
        limit: below it lies one in a hundred of independent real images; an image below it counts as a copy.
    """

    real: np.ndarray
    relative: np.ndarray
    limit: float

    @property
    def copies(self) -> np.ndarray:
        """bool N."""
        return self.relative < self.limit


@dataclass
class Workbench:
    """One pipeline, loaded once, and its training data where they are at hand.

    Attributes:
        folder: the pipeline's.
        dataset: what it was trained on; None if that was not given.
    """

    folder: Path
    dataset: ImageDataset | None = None
    _limit: list[float] = field(default_factory=list)

    @cached_property
    def pipe(self) -> ClassConditionalDDPMPipeline:
        return load_pipeline(self.folder)

    @property
    def name(self) -> str:
        """What the reader chooses it by."""
        return self.folder.name if self.folder.name != "pipeline" else f"{self.folder.parent.name}/pipeline"

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
        """What was measured of it; None if nothing was."""
        path = self.folder / "metrics.json"
        return Metrics.read(path) if path.is_file() else None

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
        if len(conditions) > MOST_IMAGES:
            raise UserError(f"{len(conditions)} images are too many at once; {MOST_IMAGES} are the most.")
        sampling = _sampling(seed, steps, guidance)
        split = draw(self.pipe, conditions, sampling)
        return GeneratedImages(split, samples_record(self.folder, self.pipe, split, sampling))

    def variants(
        self, path: Path, labels: Sequence[str], count: int, seed: int, strength: float, guidance: float
    ) -> tuple[np.ndarray, GeneratedImages]:
        """The image of a file as the pipeline sees it, and variants of it (SDEdit, Meng et al. 2022, arXiv 2108.01073).

        Raises:
            UserError: if the file cannot be read, or no one class is chosen.
        """
        conditioning, image = self.conditioning, read_image(path, self.shape)
        ids = [conditioning.names.index(name) for name in labels]
        if not conditioning.multi_label and len(ids) != 1:
            raise UserError("choose the one class that the variants are to show.")
        condition = condition_of(ids) if conditioning.multi_label else ids[0]
        conditions = np.full(count, condition, np.int64)
        sampling = _sampling(seed, DEFAULT_STEPS["dpmsolver++"], guidance)
        made = generate_images(
            self.pipe, conditions, sampling.num_inference_steps, guidance, seed, image=np.repeat(image[None], count, 0),
            strength=strength,
        )  # fmt: skip
        split = Split("train", made, conditions)
        return image, GeneratedImages(split, samples_record(self.folder, self.pipe, split, sampling))

    def likeness(self, images: np.ndarray) -> Likeness | None:
        """The nearest training image of each; None where the training data are not at hand."""
        if self.dataset is None:
            return None
        if not self._limit:
            real = RealSide(self.dataset)
            fresh = np.concatenate([real.relative_of_held_out, real.relative_of_alone])
            self._limit.append(Threshold.of(fresh).value if len(fresh) else 0.0)
        train = self.dataset.train
        nearest = nearest_pictures(Split("train", images, np.zeros(len(images), np.int64)), train)
        return Likeness(train.images[nearest.rows[:, 0]], nearest.relative, self._limit[0])


def workbenches(pipelines: Sequence[Path], datasets: Sequence[ImageDataset]) -> dict[str, Workbench]:
    """By name; to each its training data, where they are among those given.

    Raises:
        UserError: if a pipeline cannot be loaded, two have one name, or a data set belongs to none of them.
    """
    found: dict[str, Workbench] = {}
    descriptions = [describe(dataset) for dataset in datasets]
    unused = set(range(len(datasets)))
    for path in pipelines:
        bench = Workbench(pipeline_folder(path))
        check_folder(bench.folder)
        trained_on = TrainingSummary.of(bench.folder).dataset
        for at, description in enumerate(descriptions):
            if same_images(trained_on, description):
                bench.dataset = datasets[at]
                unused.discard(at)
        if bench.name in found:
            raise UserError(
                f"{path}: another pipeline is called {bench.name}, too. Give one of them, or rename a folder."
            )
        found[bench.name] = bench
    if unused:
        name = datasets[min(unused)].name
        raise UserError(f"none of these pipelines was trained on {name}. Leave out --dataset, or give another.")
    return found


def _sampling(seed: int, steps: int, guidance: float) -> Sampling:
    if not 1 <= steps <= MOST_STEPS:
        raise UserError(f"{steps} steps are not possible here; give 1 to {MOST_STEPS}.")
    return Sampling(seed=seed, num_inference_steps=steps, guidance_scale=guidance)


def saved(made: GeneratedImages) -> tuple[str, str]:
    """Files to download: all in one PNG, and an npz in MedMNIST's layout; in a folder that the system may empty."""
    folder = Path(tempfile.mkdtemp(prefix="medmnist-diffusion-app-"))
    made.grid().save(folder / "images.png")
    made.save(folder / "images.npz")
    return str(folder / "images.png"), str(folder / "images.npz")
