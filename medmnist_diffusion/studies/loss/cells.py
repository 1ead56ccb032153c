"""The loss study's cells: one training of one variant with one seed, sampled and measured."""

import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from medmnist_diffusion.artifacts import MetricRecord, TrainingSummary
from medmnist_diffusion.cache import digest
from medmnist_diffusion.data import ImageDataset, Split
from medmnist_diffusion.diffusion.loss_log import read_loss_csv
from medmnist_diffusion.diffusion.machine import describe_machine
from medmnist_diffusion.errors import TrainingDivergedError
from medmnist_diffusion.metrics.features import FeatureExtractor
from medmnist_diffusion.publish.plots import save_grid
from medmnist_diffusion.studies.grid import CellRecord, ResultFile
from medmnist_diffusion.studies.loss.variants import TrainingVariant
from medmnist_diffusion.studies.steps import (
    generator_config,
    measure_images,
    sample_generator,
    settings_of,
    train_generator,
)
from medmnist_diffusion.training.config import BUDGETS, TrainingConfig

CELLS = "cells.jsonl"
MEASURES = 1  # change it with what `_measured` measures: cells of another version are made again
GRID_IMAGES = 20
VALIDATIONS, LEAST_STEPS, MOST_LOGGED = 10, 50, 20


class VariantResult(CellRecord):
    """A cell's line. Of a training that diverged `failed` says so, and there are no figures."""

    arm: TrainingVariant
    seed: int
    machine: str = ""  # not in the fingerprint: cells of several machines may stand in one report, which says so
    failed: str | None = None
    steps: int = 0
    training_seconds: float = 0.0
    seconds: float = 0.0  # with sampling and measuring
    losses: list[dict[str, float]] = Field(default_factory=list)  # the rows of loss.csv that hold held-out losses
    records: list[MetricRecord] = Field(default_factory=list)  # of all classes together
    refused: list[str] = Field(default_factory=list)  # what could not be measured, and why


@cache
def cells_in(folder: Path) -> ResultFile[VariantResult]:
    """The study's results; a folder of an older version, with one JSON file a cell, is taken over."""
    results = ResultFile(folder / CELLS, VariantResult)
    results.import_once(folder / "cells")
    return results


@dataclass(frozen=True)
class TrainingProtocol:
    """What the cells of a part share: where they lie, the data, the budget, and how images are judged.

    Attributes:
        base: settings of TrainingConfig, one budget among them.
        extractors: feature spaces that compare with all training images.
        slow_extractors: Inception's, whose reference is as large as the generated side.
        num_images: generated images that are judged.
    """

    folder: Path
    dataset: ImageDataset
    base: dict[str, Any]
    extractors: tuple[FeatureExtractor, ...]
    slow_extractors: tuple[FeatureExtractor, ...]
    num_images: int

    def config(self, variant: TrainingVariant, seed: int) -> TrainingConfig:
        """A cell's training arguments."""
        options = {**self.base, **variant.options}
        return generator_config(options, self.dataset.name, seed, VALIDATIONS, LEAST_STEPS, MOST_LOGGED)

    def run_folder(self, variant: TrainingVariant, seed: int) -> Path:
        """Where a cell's training lies: named by all that it depends on, which sampling is not."""
        return self.folder / "runs" / digest(self._training(variant, seed))

    def fingerprint(self, variant: TrainingVariant, seed: int) -> str:
        """Of all that a cell's figures depend on; not of the variant's name."""
        sampling = [variant.sampler, variant.num_inference_steps, variant.guidance_scale, self.num_images]
        spaces = [extractor.identity for extractor in (*self.extractors, *self.slow_extractors)]
        held_out = [self.dataset.splits[name].content_hash for name in ("val", "test")]
        return digest([self._training(variant, seed), sampling, spaces, held_out, MEASURES])

    def _training(self, variant: TrainingVariant, seed: int) -> list[Any]:
        settings = settings_of(self.config(variant, seed), self.dataset, also=BUDGETS)
        return [settings, variant.corrupted_share, self.dataset.train.content_hash]

    def finished(self, variant: TrainingVariant, seed: int) -> VariantResult | None:
        """The cell's result if it is there, whatever name its variant had when it was made."""
        result = cells_in(self.folder).get(self.fingerprint(variant, seed))
        return result and result.model_copy(update={"arm": variant})


def run_cell(protocol: TrainingProtocol, variant: TrainingVariant, seed: int) -> VariantResult:
    """Train, sample and measure one cell, or read it where it is finished.

    The run's pipeline and loss.csv stay under `runs`; a variant that differs from another in its sampling alone uses that one's
    training. What training prints goes to `log.txt`.
    """
    if done := protocol.finished(variant, seed):
        return done
    began, key = time.time(), protocol.fingerprint(variant, seed)
    result = VariantResult(arm=variant, seed=seed, fingerprint=key, machine=describe_machine())
    try:
        pipeline = _trained(protocol, variant, seed)
    except TrainingDivergedError as error:
        result.failed = str(error)
    else:
        summary = TrainingSummary.of(pipeline)
        labels = protocol.dataset.labels_in_shares(protocol.num_images)
        generated = Split("generated", generate_cell(pipeline, labels, variant, seed), labels)
        first = np.unique(np.linspace(0, len(generated) - 1, GRID_IMAGES).astype(int))
        save_grid(generated.images[first], protocol.folder / "grids" / f"{key}.png", len(first))
        result.steps, result.training_seconds = summary.step, summary.seconds
        result.losses = [row for row in read_loss_csv(pipeline.parent / "loss.csv") if "val_l2" in row]
        result.records, result.refused = _measured(protocol, generated)
    result.seconds = round(time.time() - began, 1)
    cells_in(protocol.folder).append(result)
    return result


def generate_cell(pipeline: Path, labels: np.ndarray, variant: TrainingVariant, seed: int) -> np.ndarray:
    """uint8 N×H×W×C images of the labels, sampled as the variant does."""
    options = {"num_inference_steps": variant.num_inference_steps, "guidance_scale": variant.guidance_scale}
    return sample_generator(pipeline, labels, seed, f"{variant.name}, seed {seed}", variant.sampler, **options)


def _trained(protocol: TrainingProtocol, variant: TrainingVariant, seed: int) -> Path:
    """The variant's pipeline, trained now or by a variant that trains alike."""
    dataset = protocol.dataset
    if variant.corrupted_share:
        spoiled = corrupted(dataset.train, variant.corrupted_share, seed)
        dataset = replace(dataset, splits={**dataset.splits, "train": spoiled})
    config, run = protocol.config(variant, seed), protocol.run_folder(variant, seed)
    return train_generator(
        config, dataset, run, protocol.folder / "log.txt", ("checkpoints", "pipeline_best", "samples")
    )


def _measured(protocol: TrainingProtocol, generated: Split) -> tuple[list[MetricRecord], list[str]]:
    """Distances in every space with their floors, labels, copies; and what was refused."""
    evaluations = [measure_images(protocol.dataset, generated, protocol.extractors)]
    if protocol.slow_extractors:
        slow, count = protocol.slow_extractors, len(generated)
        evaluations.append(measure_images(protocol.dataset, generated, slow, ["features"], count))
    records = [record for evaluation in evaluations for record in evaluation.records]
    return records, [line for evaluation in evaluations for line in evaluation.refused]


def corrupted(split: Split, share: float, seed: int) -> Split:
    """A copy of the split with a share of its images spoiled: a third each replaced by noise, inverted, or given a wrong label."""
    rng = np.random.default_rng([seed, 7])
    images, labels = np.array(split.images[:]), split.labels.copy()
    noise, inverted, mislabelled = np.array_split(rng.permutation(len(split))[: round(share * len(split))], 3)
    images[noise] = rng.integers(0, 256, images[noise].shape, np.uint8)
    images[inverted] = 255 - images[inverted]
    known, own = np.unique(split.labels, return_inverse=True)
    labels[mislabelled] = known[(own[mislabelled] + rng.integers(1, len(known), len(mislabelled))) % len(known)]
    return Split(split.name, images, labels)
