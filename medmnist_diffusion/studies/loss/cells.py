"""A study's cells: one training of one arm with one seed, measured and kept as one JSON file.

A study that was stopped goes on with the cells that are missing, and a training inside a cell at its last checkpoint.
"""

import contextlib
import json
import shutil
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from pydantic import BaseModel, ConfigDict

from medmnist_diffusion.artifacts import MetricRecord
from medmnist_diffusion.cache import digest, read_kept
from medmnist_diffusion.data import ImageDataset, Split
from medmnist_diffusion.diffusion.loss_log import read_loss_csv
from medmnist_diffusion.diffusion.machine import describe_machine
from medmnist_diffusion.diffusion.sampling import DEFAULT_SAMPLER, DEFAULT_STEPS, generate, load_pipeline
from medmnist_diffusion.errors import TrainingDivergedError
from medmnist_diffusion.files import write_json
from medmnist_diffusion.metrics.evaluation import evaluate_images
from medmnist_diffusion.metrics.extractors import Extractor
from medmnist_diffusion.publish.pipeline_folder import saved_step
from medmnist_diffusion.publish.plots import save_grid
from medmnist_diffusion.training.config import BUDGETS, FREE_ON_RESUME, TrainingConfig, checked_config

MEASURES = 1  # change it with what `_measured` measures: cells of another version are made again
GRID_IMAGES = 20
VALIDATIONS, LEAST_STEPS = 10, 50  # held-out losses in a run with a budget in steps; not more often than that
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


class CellResult(BaseModel):
    """A cell's file. Of a training that diverged `failed` says so, and there are no figures."""

    model_config = ConfigDict(extra="forbid")

    arm: Arm
    seed: int
    fingerprint: str
    machine: str = ""  # not in the fingerprint: cells of several machines may stand in one report, which says so
    failed: str | None = None
    steps: int = 0
    training_seconds: float = 0.0
    seconds: float = 0.0  # with sampling and measuring
    losses: list[dict[str, float]] = []  # the rows of loss.csv that hold held-out losses
    records: list[MetricRecord] = []  # of all classes together
    refused: list[str] = []  # what could not be measured, and why


@dataclass(frozen=True)
class Bench:
    """What the cells of a part of a study share: where they lie, the data, the budget, and how images are judged.

    Attributes:
        base: settings of TrainingConfig, one budget among them.
        extractors: feature spaces that compare with all training images.
        slow_extractors: Inception's, whose reference is as large as the generated side.
        num_images: generated images that are judged.
    """

    folder: Path
    dataset: ImageDataset
    base: dict[str, Any]
    extractors: tuple[Extractor, ...]
    slow_extractors: tuple[Extractor, ...]
    num_images: int

    def config(self, arm: Arm, seed: int) -> TrainingConfig:
        """A cell's training arguments. A budget in minutes is for training alone: nothing is validated in it."""
        values = {**self.base, **arm.options}
        steps = values.get("max_train_steps")
        every = max(LEAST_STEPS, steps // VALIDATIONS) if steps else NEVER
        rhythm = {
            "validation_steps": every,
            "logging_steps": min(20, every),
            "sample_steps": NEVER,
            "report_to": "none",
        }
        run = {"dataset": self.dataset.name, "output_dir": "run", "seed": seed}
        return checked_config(TrainingConfig(**{**values, **rhythm, **run}))

    def run_folder(self, arm: Arm, seed: int) -> Path:
        """Where a cell's training lies: named by all that it depends on, which sampling is not."""
        return self.folder / "runs" / digest(self._training(arm, seed))

    def fingerprint(self, arm: Arm, seed: int) -> str:
        """Of all that a cell's figures depend on; not of the arm's name."""
        sampling = [arm.sampler, arm.num_inference_steps, arm.guidance_scale, self.num_images]
        spaces = [extractor.identity for extractor in (*self.extractors, *self.slow_extractors)]
        held_out = [self.dataset.splits[name].content_hash for name in ("val", "test")]
        return digest([self._training(arm, seed), sampling, spaces, held_out, MEASURES])

    def _training(self, arm: Arm, seed: int) -> list[Any]:
        settings = asdict(self.config(arm, seed))
        kept = {name: value for name, value in settings.items() if name not in FREE_ON_RESUME or name in BUDGETS}
        return [kept, arm.corrupted_share, self.dataset.train.content_hash]

    def finished(self, arm: Arm, seed: int) -> CellResult | None:
        """The cell's result if it is there, whatever name its arm had when it was made.

        Raises:
            UserError: for a damaged file.
        """
        result = read_kept(self.folder / "cells" / f"{self.fingerprint(arm, seed)}.json", CellResult, "cell")
        return result and result.model_copy(update={"arm": arm})


def run_cell(bench: Bench, arm: Arm, seed: int) -> CellResult:
    """Train, sample and measure one cell, or read it where it is finished.

    The run's pipeline and loss.csv stay under `runs`; an arm that differs from another in its sampling alone uses that one's
    training. What training prints goes to `log.txt`.
    """
    if done := bench.finished(arm, seed):
        return done
    began, key = time.monotonic(), bench.fingerprint(arm, seed)
    result = CellResult(arm=arm, seed=seed, fingerprint=key, machine=describe_machine())
    try:
        pipeline = _trained(bench, arm, seed)
    except TrainingDivergedError as error:
        result.failed = str(error)
    else:
        summary = json.loads((pipeline / "training_summary.json").read_text(encoding="utf-8"))
        labels = bench.dataset.labels_in_shares(bench.num_images)
        generated = Split("generated", generate_cell(pipeline, labels, arm, seed), labels)
        first = np.unique(np.linspace(0, len(generated) - 1, GRID_IMAGES).astype(int))
        save_grid(generated.images[first], bench.folder / "grids" / f"{key}.png", len(first))
        result.steps, result.training_seconds = summary["step"], summary["seconds"]
        result.losses = [row for row in read_loss_csv(pipeline.parent / "loss.csv") if "val_l2" in row]
        result.records, result.refused = _measured(bench, generated)
    result.seconds = round(time.monotonic() - began, 1)
    write_json(bench.folder / "cells" / f"{key}.json", result.model_dump())
    return result


def generate_cell(pipeline: Path, labels: np.ndarray, arm: Arm, seed: int) -> np.ndarray:
    """uint8 N×H×W×C images of the labels, sampled as the arm does."""
    pipe = load_pipeline(pipeline, arm.sampler)
    pipe.to(PartialState().device)
    pipe.set_progress_bar_config(desc=f"{arm.name}, seed {seed}: sampling", leave=False)
    return generate(pipe, labels, arm.num_inference_steps, arm.guidance_scale, seed)


def _trained(bench: Bench, arm: Arm, seed: int) -> Path:
    """The arm's pipeline, trained now or by an arm that trains alike."""
    from medmnist_diffusion.training.train import train

    run, dataset = bench.run_folder(arm, seed), bench.dataset
    if saved_step(run / "pipeline") is None:  # written last
        if arm.corrupted_share:
            spoiled = corrupted(dataset.train, arm.corrupted_share, dataset.num_classes, seed)
            dataset = replace(dataset, splits={**dataset.splits, "train": spoiled})
        run.mkdir(parents=True, exist_ok=True)
        with (bench.folder / "log.txt").open("a", encoding="utf-8") as log, contextlib.redirect_stdout(log):
            train(replace(bench.config(arm, seed), output_dir=str(run)), dataset)
    for name in ("checkpoints", "pipeline_best", "samples"):
        shutil.rmtree(run / name, ignore_errors=True)
    return run / "pipeline"


def _measured(bench: Bench, generated: Split) -> tuple[list[MetricRecord], list[str]]:
    """Distances in every space with their floors, labels, copies; and what was refused."""
    parts = ("features", "labels", "copies")
    evaluated = [evaluate_images(bench.dataset, generated, bench.extractors, per_class=False, parts=parts)]
    if bench.slow_extractors:
        evaluated.append(
            evaluate_images(
                bench.dataset, generated, bench.slow_extractors, num_real=len(generated), per_class=False, parts=["features"]
            )
        )  # fmt: skip
    return [record for one in evaluated for record in one.records], [line for one in evaluated for line in one.refused]


def corrupted(split: Split, share: float, num_classes: int, seed: int) -> Split:
    """A copy of the split with a share of its images spoiled: a third each replaced by noise, inverted, or given a wrong label."""
    rng = np.random.default_rng([seed, 7])
    images, labels = np.array(split.images[:]), split.labels.copy()
    noise, inverted, mislabelled = np.array_split(rng.permutation(len(split))[: round(share * len(split))], 3)
    images[noise] = rng.integers(0, 256, images[noise].shape, np.uint8)
    images[inverted] = 255 - images[inverted]
    labels[mislabelled] = (labels[mislabelled] + rng.integers(1, num_classes, len(mislabelled))) % num_classes
    return Split(split.name, images, labels)
