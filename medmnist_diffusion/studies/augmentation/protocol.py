"""What a draw of the augmentation study depends on, and what is kept of it.

A line is added to the results after every arm, so that a study stopped anywhere goes on with the next one.
"""

from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from medmnist_diffusion.cache import digest, kept_arrays
from medmnist_diffusion.data import ImageDataset, Split
from medmnist_diffusion.data.regimes import Regime, RegimeData
from medmnist_diffusion.metrics import selection
from medmnist_diffusion.metrics.classifier_scores import kept_scores
from medmnist_diffusion.metrics.mixed_training import Recipe
from medmnist_diffusion.studies.augmentation.arms import ClassifierArm, PoolName
from medmnist_diffusion.studies.augmentation.generators import Source
from medmnist_diffusion.studies.augmentation.situations import Situation
from medmnist_diffusion.studies.grid import CellRecord, ResultFile

DRAWS = "draws.jsonl"
VERSION = 3  # change it with what a draw's figures mean: draws of another version are made again


def generator_of(pool: PoolName = "plain") -> str:
    """What the generator of a pool is called among a draw's attacks."""
    return "the generator" if pool == "plain" else f"the generator of {pool}"


class ClassifierResult(BaseModel):
    """One arm's classifier in one draw: what it saw, how validation chose it, and its test figures (MedMNIST's AUC and ACC)."""

    model_config = ConfigDict(extra="forbid")

    regime: str
    arm: str
    settings: dict[str, Any]  # the arm's
    seed: int
    classifier: str
    leaky: bool
    real_index_hash: str
    generator_index_hash: str | None
    n_real: int
    n_val: int
    n_synthetic: int  # distinct generated images that could be drawn
    learning_rate: float
    step: int
    val_loss: float
    auc: float
    acc: float
    balanced_accuracy: float
    recall: list[float]
    ece: float
    seconds: float
    average_precision: list[float] | None = None  # a class; of later results
    held_out: dict[str, float] | None = None  # figures on real images that the regime left out: `images`, `auc`, …


class DrawResult(CellRecord):
    """What is known of a draw; a line of the results holds what is new since the one before it.

    `pools` holds, of each pool of generated images, its metrics by name; `scores` the test scores of the arms (see `scores_of`), a
    list a column.
    """

    share: float
    rare_share: float
    seed: int
    n_real: int
    n_real_per_class: list[int]
    n_val: int
    cells: list[ClassifierResult] = Field(default_factory=list)
    pools: dict[str, dict[str, float]] = Field(default_factory=dict)
    failed: str | None = None  # why its generator could not be trained; the draw is left out then
    skipped: dict[str, str] = Field(default_factory=dict)  # leaky arms without a generator, and why; the draw stays
    generator: dict[str, Any] | None = None  # steps, losses and images of the plain one's training; of earlier results
    generators: dict[str, dict[str, Any]] = Field(default_factory=dict)  # the same of each pool's
    scores: dict[str, list[list[float]]] = Field(default_factory=dict)
    attacks: dict[str, float] = Field(default_factory=dict)  # `attack_auc` on classifiers and on the generator

    @property
    def regime(self) -> Regime:
        return Regime(self.share, self.rare_share)

    def cell(self, arm: str) -> ClassifierResult | None:
        return next((cell for cell in self.cells if cell.arm == arm), None)

    def scores_of(self, arm: str) -> np.ndarray:
        """float16 N×K."""
        return np.array(self.scores[arm], np.float16).T

    def joined(self, newer: Self) -> Self:
        """Both together; of an arm that both have the newer result counts."""
        again = {cell.arm for cell in newer.cells}
        changes: dict[str, Any] = {"cells": [cell for cell in self.cells if cell.arm not in again] + newer.cells}
        changes |= {
            name: getattr(self, name) | getattr(newer, name)
            for name in ("pools", "skipped", "scores", "attacks", "generators")
        }
        changes |= {name: getattr(newer, name) or getattr(self, name) for name in ("failed", "generator")}
        return self.model_copy(update=changes)


@cache
def draws_in(folder: Path) -> ResultFile[DrawResult]:
    """The study's results; a folder of an older version, with a JSON file and an npz for each draw, is taken over."""

    def with_scores(path: Path, draw: DrawResult) -> DrawResult:
        scores = kept_arrays(path.with_suffix(".npz")) or {}
        return draw.model_copy(update={"scores": {arm: kept_scores(of_arm) for arm, of_arm in scores.items()}})

    results = ResultFile(folder / DRAWS, DrawResult)
    results.import_once(folder / "units", with_scores)
    return results


@dataclass(frozen=True)
class AugmentationProtocol:
    """What all draws share: where they lie, the data, the generated images' source, and how classifiers are trained.

    Attributes:
        earlier: the same in the precisions of other machines, which made a part of the draws.
        outside: real images of another set, made like these, where the situation compares with them.
        looks: how many verdicts may be asked for as the study goes.
    """

    folder: Path
    dataset: ImageDataset
    source: Source
    recipe: Recipe
    situation: Situation
    earlier: "tuple[AugmentationProtocol, ...]" = ()
    looks: int = 1
    outside: ImageDataset | None = None

    @property
    def arms(self) -> tuple[ClassifierArm, ...]:
        return self.situation.arms

    def of(self, regime: Regime, seed: int) -> "AugmentationProtocol":
        """The one in whose precision the draw has all arms; else itself. All arms of a draw have one precision."""
        known = sorted((self, *self.earlier), key=lambda one: one.recipe.precision)  # the same on every machine
        return next((one for one in known if not one.missing(regime, seed)), self)

    def fingerprint(self, regime: Regime, seed: int) -> str:
        """Of all that a draw's figures depend on; not of which arms there are."""
        content = [self.dataset.content_hash, asdict(regime), seed, self.source.identity, asdict(self.recipe)]
        which = [] if self.situation.name == "few-images" else [self.situation.name]  # which was the only one once
        more = [self.outside.content_hash, "as many steps before"] if self.outside else []
        if self.situation.unlabelled:
            more.append("pseudo-labels as they are found, consistency beside whole batches")
        return digest([*content, selection.SETTINGS, VERSION, *which, *more])

    def held_out(self, data: RegimeData) -> Split:
        """Real images, beside the test images, that no arm of a draw has seen, labelled or not."""
        return data.fresh_val if self.situation.unlabelled else data.fresh

    def arms_of(self, regime: Regime) -> list[ClassifierArm]:
        """With all real images there is nothing that a leaky generator could see beyond them."""
        return [arm for arm in self.arms if not (arm.leaky and regime == Regime(1.0))]

    def read(self, regime: Regime, seed: int) -> DrawResult | None:
        """A draw's results, finished or not; None where there is none."""
        return draws_in(self.folder).get(self.fingerprint(regime, seed))

    def missing(self, regime: Regime, seed: int) -> list[ClassifierArm]:
        """The arms that a draw still lacks: without a result, or with one of other settings, or without its scores."""
        draw, arms = self.read(regime, seed), self.arms_of(regime)
        if draw is None or draw.failed:
            return [] if draw else arms
        done = {cell.arm: cell.settings for cell in draw.cells if cell.arm in draw.scores}
        return [arm for arm in arms if done.get(arm.name) != arm.settings and arm.name not in draw.skipped]

    def pools_of(self, draw: DrawResult) -> list[str]:
        """The pools of generated images that a draw's arms use."""
        arms = [arm for arm in self.arms_of(draw.regime) if arm.generated and arm.name not in draw.skipped]
        return list(dict.fromkeys(arm.pool for arm in arms if arm.pool != "both"))  # which is another pool, and more

    def finished(self, regime: Regime, seed: int) -> bool:
        """Whether all arms of a draw are trained, and its pools measured; or it failed for good."""
        draw = self.read(regime, seed)
        if draw is None or self.missing(regime, seed):
            return False
        return draw.failed is not None or (self.attacked(draw) and set(self.pools_of(draw)) <= set(draw.pools))

    def attacked(self, draw: DrawResult) -> bool:
        """Whether it is known what a draw's generators give away, where that is asked."""
        return not self.situation.sharing or all(generator_of(pool) in draw.attacks for pool in self.pools_of(draw))
