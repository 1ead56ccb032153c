"""What a study decides before it starts: its precision, and how long its cells will take."""

import re
from collections.abc import Hashable
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from medmnist_diffusion.cache import read_kept
from medmnist_diffusion.data import ImageDataset
from medmnist_diffusion.diffusion.machine import kind_of_machine
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import write_json
from medmnist_diffusion.training.config import TrainingConfig
from medmnist_diffusion.training.setup import try_precision

TRAINING_OVERHEAD = 1.3  # a step's own time × this: batches, averages, validation
UNMEASURED = 10_000.0  # images a second, where a trial is not possible


class _Choice(BaseModel):
    machine: str
    mixed_precision: Literal["no", "bf16", "fp16"]
    images_per_second: dict[str, float]


class _Choices(BaseModel):
    model_config = ConfigDict(extra="forbid")

    choices: list[_Choice] = []

    @model_validator(mode="before")
    @classmethod
    def of_one_machine(cls, values: Any) -> Any:
        """Studies once kept a single choice."""
        alone = isinstance(values, dict) and "mixed_precision" in values
        return {"choices": [{"machine": "unknown", **values}]} if alone else values


def first_precision(folder: Path, dataset: ImageDataset) -> str:
    """One precision for all cells of a study, whatever machine goes on with it: what is fast where it began."""
    return (_choices(folder).choices or [_tried(folder, dataset)])[0].mixed_precision


def precisions(folder: Path, dataset: ImageDataset) -> tuple[str, ...]:
    """What is fast on this machine, then what the study's earlier machines took (one may take a hundred times as long here)."""
    kept = _choices(folder).choices
    here = next((one for one in kept if one.machine == kind_of_machine()), None) or _tried(folder, dataset)
    return here.mixed_precision, *sorted({one.mixed_precision for one in kept} - {here.mixed_precision})


def _choices(folder: Path) -> _Choices:
    return read_kept(folder / "precision.json", _Choices, "choice of a precision") or _Choices()


def _tried(folder: Path, dataset: ImageDataset) -> _Choice:
    """This machine's precision, by a trial on the default's network; kept in the study's folder."""
    precision, speeds = try_precision(TrainingConfig(), dataset)
    choice = _Choice.model_validate(
        {"machine": kind_of_machine(), "mixed_precision": precision, "images_per_second": speeds}
    )
    write_json(folder / "precision.json", _Choices(choices=[*_choices(folder).choices, choice]).model_dump())
    return choice


class Clock:
    """Expected seconds of trainings and samplings, by a trial of a second or two for each network."""

    def __init__(self, dataset: ImageDataset) -> None:
        self._dataset, self._speeds, self._counted = dataset, dict[str, float](), set[Hashable]()

    def images_per_second(self, config: TrainingConfig) -> float:
        """Forward and backward pass of the configuration's network, in its precision."""
        network = [config.block_out_channels, config.layers_per_block, config.attention, config.pixel_unshuffle]
        key = repr([*network, config.train_batch_size, config.mixed_precision])
        if key not in self._speeds:
            _, speeds = try_precision(config, self._dataset, config.mixed_precision)
            self._speeds[key] = max(speeds.values(), default=UNMEASURED)
        return self._speeds[key]

    def training(self, config: TrainingConfig) -> float:
        if config.max_train_minutes is not None:
            return 60 * config.max_train_minutes
        images = (config.max_train_steps or 0) * config.train_batch_size
        return TRAINING_OVERHEAD * images / self.images_per_second(config)

    def training_once(self, key: Hashable, config: TrainingConfig) -> float:
        """Of a training that several cells share: 0 where that key was counted before."""
        if key in self._counted:
            return 0.0
        self._counted.add(key)
        return self.training(config)

    def sampling(self, config: TrainingConfig, images: float, steps: int) -> float:
        """A forward pass is a third of a training step; guidance takes two."""
        return images * steps / (3 * self.images_per_second(config))


def seconds_of(text: str | None) -> float:
    """Of `90m`, `2h`, `300s`; infinity of None."""
    if text is None:
        return float("inf")
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", text.strip())
    if not match:
        raise UserError(f"--budget is {text!r}; a number with s, m or h is needed: 90m, 2h.")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]
