"""A study's cells: one training of one arm with one seed, measured and kept as one JSON file.

A study that was stopped goes on with the cells that are missing, and a training inside a cell at its last checkpoint.
"""

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from medmnist_diffusion.data import ImageDataset, Split
from medmnist_diffusion.diffusion.loss_log import read_loss_csv
from medmnist_diffusion.diffusion.sampling import DEFAULT_SAMPLER, DEFAULT_STEPS, generate, load_pipeline
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import write_json
from medmnist_diffusion.metrics.evaluation import Evaluation
from medmnist_diffusion.metrics.extractors import make_extractor
from medmnist_diffusion.metrics.records import MetricRecord
from medmnist_diffusion.publish.pipeline_folder import saved_step
from medmnist_diffusion.publish.plots import save_grid
from medmnist_diffusion.training.config import TrainingConfig, checked_config

GRID_A_CLASS = 5
VALIDATIONS = 10  # held-out losses in a run
NEVER = 10**9


class Arm(BaseModel):
    """What a cell does differently: settings of TrainingConfig, of sampling, and of the training images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    options: dict[str, Any] = {}
    sampler: str = DEFAULT_SAMPLER
    num_inference_steps: int = DEFAULT_STEPS[DEFAULT_SAMPLER]
    guidance_scale: float = 1.0
    corrupted_share: float = 0.0  # of the training images; evaluation is always against the clean ones


class Protocol(BaseModel):
    """What is the same in all cells of a part of a study.

    Attributes:
        base: settings of TrainingConfig, the budget among them.
        features: extractors by name.
        num_images: generated images that are judged.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    base: dict[str, Any]
    features: tuple[str, ...]
    num_images: int


class CellResult(BaseModel):
    """A cell's file."""

    model_config = ConfigDict(extra="forbid")

    arm: Arm
    seed: int
    fingerprint: str
    steps: int
    training_seconds: float
    seconds: float  # with sampling and measuring
    losses: list[dict[str, float]]  # the rows of loss.csv that hold held-out losses
    records: list[MetricRecord]  # of all classes together

    def value(self, figure: str) -> float | None:
        """The value of a figure by its label, as in `MetricRecord.label`; None if it was not measured."""
        return next((record.value for record in self.records if record.label == figure), None)


def fingerprint(arm: Arm, seed: int, protocol: Protocol, dataset: ImageDataset) -> str:
    """Of everything that a cell's figures depend on, but for the arm's name."""
    return _digest(arm.model_dump(exclude={"name"}), seed, protocol.model_dump(), dataset.content_hash)


def _digest(*content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def finished_cell(folder: Path, arm: Arm, seed: int, protocol: Protocol, dataset: ImageDataset) -> CellResult | None:
    """The cell's result if it is there, whatever name its arm had.

    Raises:
        UserError: for a damaged file.
    """
    path = folder / "cells" / f"{fingerprint(arm, seed, protocol, dataset)}.json"
    if not path.is_file():
        return None
    try:
        result = CellResult.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is no valid cell ({reason}). Remove it: it will be made again.") from None
    return result.model_copy(update={"arm": arm})


def run_cell(folder: Path, arm: Arm, seed: int, protocol: Protocol, dataset: ImageDataset) -> CellResult:
    """Train, sample and measure one cell, or read it where it is finished.

    The run's pipeline and loss.csv stay under `folder/runs`; an arm that differs from another in its sampling alone uses that
    one's training. What training prints goes to `folder/log.txt`.
    """
    if done := finished_cell(folder, arm, seed, protocol, dataset):
        return done
    began = time.monotonic()
    pipeline = _trained(folder, arm, seed, protocol, dataset)
    summary = json.loads((pipeline / "training_summary.json").read_text(encoding="utf-8"))

    pipe = load_pipeline(pipeline, arm.sampler)
    pipe.set_progress_bar_config(desc=f"{arm.name}, seed {seed}: sampling", leave=False)
    shares = np.bincount(dataset.train.labels, minlength=dataset.num_classes) / len(dataset.train)
    labels = np.repeat(np.arange(dataset.num_classes), np.ceil(shares * protocol.num_images).astype(int))
    images = generate(pipe, labels, arm.num_inference_steps, arm.guidance_scale, seed)
    generated = Split("generated", images, labels)

    key = fingerprint(arm, seed, protocol, dataset)
    first = np.concatenate([np.flatnonzero(labels == label)[:GRID_A_CLASS] for label in dataset.id2label])
    save_grid(images[first], folder / "grids" / f"{key}.png", len(first))
    result = CellResult(
        arm=arm,
        seed=seed,
        fingerprint=key,
        steps=summary["step"],
        training_seconds=summary["seconds"],
        seconds=0.0,
        losses=[row for row in read_loss_csv(pipeline.parent / "loss.csv") if "val_l2" in row],
        records=_measured(dataset, generated, protocol.features),
    )
    result.seconds = round(time.monotonic() - began, 1)
    write_json(folder / "cells" / f"{key}.json", result.model_dump())
    return result


def _trained(folder: Path, arm: Arm, seed: int, protocol: Protocol, dataset: ImageDataset) -> Path:
    """The arm's pipeline, trained now or by an arm that trains alike."""
    from medmnist_diffusion.training.train import train

    run = run_folder(folder, arm, seed, protocol, dataset)
    if saved_step(run / "pipeline") is not None:  # written last
        return run / "pipeline"
    if arm.corrupted_share:
        train_split = corrupted(dataset.train, arm.corrupted_share, dataset.num_classes, seed)
        dataset = replace(dataset, splits={**dataset.splits, "train": train_split})
    config = cell_config(arm, seed, protocol, dataset, run)
    run.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
        pipeline = train(config, dataset)
    for name in ("checkpoints", "pipeline_best", "samples"):
        shutil.rmtree(run / name, ignore_errors=True)
    return pipeline


def run_folder(folder: Path, arm: Arm, seed: int, protocol: Protocol, dataset: ImageDataset) -> Path:
    """Where a cell's training lies: named by all that it depends on, which sampling is not."""
    key = _digest(protocol.base, arm.options, arm.corrupted_share, seed, dataset.content_hash)
    return folder / "runs" / key


def cell_config(arm: Arm, seed: int, protocol: Protocol, dataset: ImageDataset, run: Path) -> TrainingConfig:
    """The training arguments of a cell."""
    values = {**protocol.base, **arm.options}
    steps = values.get("max_train_steps")
    every = max(1, steps // VALIDATIONS) if steps else 100
    paths = {"dataset": dataset.name, "output_dir": str(run), "seed": seed, "report_to": "none"}
    rhythm = {"validation_steps": every, "logging_steps": min(20, every), "sample_steps": NEVER}
    return checked_config(TrainingConfig(**{**values, **paths, **rhythm}))


def _measured(dataset: ImageDataset, generated: Split, features: Sequence[str]) -> list[MetricRecord]:
    """Distances in every space with their floors, labels, copies. Inception's real side is as large as the generated one: it is
    slow without a GPU."""
    slow = [name for name in features if name in ("inception", "random")]
    whole = Evaluation(dataset, generated)
    for name in features:
        if name not in slow:
            whole.compare_features(make_extractor(name, dataset))
    whole.judge_labels()
    whole.look_for_copies()
    evaluations = [whole]
    if slow:
        evaluations.append(Evaluation(dataset, generated, num_real=len(generated)))
        for name in slow:
            evaluations[-1].compare_features(make_extractor(name, dataset))
    return [record for evaluation in evaluations for record in evaluation.ordered_records() if record.class_ is None]


def corrupted(split: Split, share: float, num_classes: int, seed: int) -> Split:
    """A copy of the split with a share of its images spoiled: a third each replaced by noise, inverted, or given a wrong label."""
    rng = np.random.default_rng([seed, 7])
    images, labels = np.array(split.images[:]), split.labels.copy()
    noise, inverted, mislabelled = np.array_split(rng.permutation(len(split))[: round(share * len(split))], 3)
    images[noise] = rng.integers(0, 256, images[noise].shape, np.uint8)
    images[inverted] = 255 - images[inverted]
    labels[mislabelled] = (labels[mislabelled] + rng.integers(1, num_classes, len(mislabelled))) % num_classes
    return Split(split.name, images, labels)
