"""What a study does in each of its cells: train a generator, sample it, measure the images. Studies call these nowhere else."""

import contextlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from filelock import FileLock

from medmnist_diffusion.data import ImageDataset, Split
from medmnist_diffusion.diffusion.sampling import DEFAULT_SAMPLER, generate, load_pipeline
from medmnist_diffusion.metrics.evaluation import Evaluation
from medmnist_diffusion.metrics.extractors import Extractor
from medmnist_diffusion.publish.pipeline_folder import saved_step
from medmnist_diffusion.training.config import FREE_ON_RESUME, TrainingConfig, checked_config

NEVER = 10**9


def generator_config(
    options: dict[str, Any], dataset: str, seed: int, validations: int, least_steps: int, most_logged: int = NEVER
) -> TrainingConfig:
    """A checked configuration that validates so often in a budget in steps, at most every `least_steps` of them. A budget in
    minutes is for training alone: nothing is validated in it."""  # fmt: skip
    steps = options.get("max_train_steps")
    every = max(least_steps, steps // validations) if steps else NEVER
    rhythm = {"validation_steps": every, "logging_steps": min(most_logged, every), "sample_steps": NEVER}
    run = {"dataset": dataset, "output_dir": "run", "seed": seed, "report_to": "none"}
    return checked_config(TrainingConfig(**{**options, **rhythm, **run}))


def settings_of(config: TrainingConfig, also: Sequence[str] = ()) -> dict[str, Any]:
    """What a training's weights depend on, defaults among it; and other settings by their names."""
    return {name: value for name, value in asdict(config).items() if name not in FREE_ON_RESUME or name in also}


def train_generator(config: TrainingConfig, dataset: ImageDataset, run: Path, log: Path, leave: Sequence[str]) -> Path:
    """The run's pipeline, trained now or before, here or in another process; what training prints goes to `log`.

    Args:
        leave: what is removed from the run's folder afterwards.
    """
    from medmnist_diffusion.training.train import train

    run.mkdir(parents=True, exist_ok=True)
    with FileLock(run / "lock"):
        if saved_step(run / "pipeline") is None:  # written last
            with log.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file):
                train(replace(config, output_dir=str(run)), dataset)
        for name in leave:
            shutil.rmtree(run / name, ignore_errors=True)
    return run / "pipeline"


def training_summary(pipeline: Path) -> dict[str, Any]:
    """What the training wrote beside its weights: steps, seconds, losses, the data's content hash."""
    return json.loads((pipeline / "training_summary.json").read_text(encoding="utf-8"))


def sample_generator(
    pipeline: Path, labels: np.ndarray, seed: int, what: str, sampler: str = DEFAULT_SAMPLER, **options: Any
) -> np.ndarray:
    """uint8 N×H×W×C images of the labels; `options` are those of `generate`."""
    pipe = load_pipeline(pipeline, sampler)
    pipe.to(PartialState().device)
    pipe.set_progress_bar_config(desc=f"{what}: sampling", leave=False)
    return generate(pipe, labels, seed=seed, **options)


def measure_images(
    dataset: ImageDataset,
    generated: Split,
    extractors: Sequence[Extractor],
    labels: bool = True,
    copies: bool = True,
    num_real: int | None = None,
) -> Evaluation:
    """Distances in every space with their floors, of all classes together; whether labels are recognised, and copies."""
    evaluation = Evaluation(dataset, generated, num_real=num_real, per_class=False)
    for extractor in extractors:
        evaluation.compare_features(extractor)
    if labels:
        evaluation.judge_labels()
    if copies:
        evaluation.look_for_copies()
    return evaluation
