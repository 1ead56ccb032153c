"""What a study does in each of its cells: train a generator, sample it, measure the images. Studies call these nowhere else."""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from filelock import FileLock

from medmnist_diffusion.console import bar_options, messages_in
from medmnist_diffusion.data import ImageDataset, Split
from medmnist_diffusion.data.unlabeled import Unlabeled
from medmnist_diffusion.diffusion.samplers import DEFAULT_SAMPLER
from medmnist_diffusion.diffusion.sampling import generate_images, load_pipeline
from medmnist_diffusion.metrics.evaluation import Evaluated, Part, evaluate_images
from medmnist_diffusion.metrics.features import FeatureExtractor
from medmnist_diffusion.processes import threads_kept
from medmnist_diffusion.publish.pipeline_folder import saved_step
from medmnist_diffusion.training.config import FREE_ON_RESUME, TrainingConfig, training_config
from medmnist_diffusion.training.setup import NARROW, with_choices
from medmnist_diffusion.training.train import train

NEVER = 10**9
# Settings that came later, and mean nothing where they are not given.
LATER = (
    "fit",
    "window",
    "slices",
    "pretrained_learning_rate_factor",
    "varied_share",
    "target_epsilon",
    "target_delta",
)


def generator_config(
    options: dict[str, Any], dataset: str, seed: int, validations: int, least_steps: int, most_logged: int = NEVER
) -> TrainingConfig:
    """A checked configuration that validates so often in a budget in steps, at most every `least_steps` of them. A budget in
    minutes is for training alone: nothing is validated in it."""  # fmt: skip
    steps = options.get("max_train_steps")
    every = max(least_steps, steps // validations) if steps else NEVER
    rhythm = {"validation_steps": every, "logging_steps": min(most_logged, every), "sample_steps": NEVER}
    run = {"dataset": dataset, "output_dir": "run", "seed": seed, "report_to": "none"}
    return training_config(**{**options, **rhythm, **run})


def settings_of(config: TrainingConfig, dataset: ImageDataset, also: Sequence[str] = ()) -> dict[str, Any]:
    """What a training's weights depend on, defaults among it; and other settings by their names.

    What a configuration leaves to the data is named as the data choose it; the factor only where the older rule chose another, so
    that results that were kept then are found again.
    """
    chosen = with_choices(config, dataset)
    settings = replace(chosen, pixel_unshuffle=config.pixel_unshuffle)
    if chosen.block_out_channels != NARROW or any(side % 4 for side in dataset.shape[:-1]):
        settings = chosen
    values = {name: value for name, value in asdict(settings).items() if name not in FREE_ON_RESUME or name in also}
    return {name: value for name, value in values.items() if name not in LATER or value not in (None, 0.0)}


def train_generator(
    config: TrainingConfig,
    dataset: ImageDataset,
    run: Path,
    log: Path,
    leave: Sequence[str],
    unlabeled: Unlabeled | None = None,
) -> Path:
    """The run's pipeline, trained now or before, here or in another process; what training prints goes to `log`.

    Args:
        leave: what is removed from the run's folder afterwards.
        unlabeled: what it also sees, as of unknown class.
    """
    run.mkdir(parents=True, exist_ok=True)
    with FileLock(run / "lock"):
        if saved_step(run / "pipeline") is None:  # written last
            with log.open("a", encoding="utf-8") as file, messages_in(file), threads_kept():
                train(replace(config, output_dir=str(run)), dataset, unlabeled)
        for name in leave:
            shutil.rmtree(run / name, ignore_errors=True)
    return run / "pipeline"


def sample_generator(
    pipeline: Path, labels: np.ndarray, seed: int, what: str, sampler: str = DEFAULT_SAMPLER, **options: Any
) -> np.ndarray:
    """uint8 N×H×W×C images of the labels; `options` are those of `generate_images`. Without guidance unless they ask for some."""
    pipe = load_pipeline(pipeline, sampler)
    pipe.to(PartialState().device)
    pipe.set_progress_bar_config(desc=f"{what}: sampling", leave=False, **bar_options())
    return generate_images(pipe, labels, seed=seed, **{"guidance_scale": 1.0, **options})


def measure_images(
    dataset: ImageDataset,
    generated: Split,
    extractors: Sequence[FeatureExtractor],
    parts: Sequence[Part] = ("features", "labels", "copies"),
    num_real: int | None = None,
) -> Evaluated:
    """The asked-for parts of an evaluation, of all classes together."""
    return evaluate_images(dataset, generated, extractors, num_real=num_real, per_class=False, parts=parts)
