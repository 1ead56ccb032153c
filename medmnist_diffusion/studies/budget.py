"""What a study decides before it starts: its precision, and how long it may take."""

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, model_validator

from medmnist_diffusion.cache import read_kept
from medmnist_diffusion.data import ImageDataset
from medmnist_diffusion.diffusion.machine import kind_of_machine, probe_precision
from medmnist_diffusion.diffusion.unet import build_unet
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import write_json
from medmnist_diffusion.training.config import TrainingConfig


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


def precisions(folder: Path, dataset: ImageDataset) -> tuple[str, list[str]]:
    """What is fast on this machine, and what else a study's earlier machines took (one may need a hundred times as long here)."""
    kept = _choices(folder).choices
    here = next((one for one in kept if one.machine == kind_of_machine()), None) or _tried(folder, dataset)
    return here.mixed_precision, sorted({one.mixed_precision for one in kept} - {here.mixed_precision})


def _choices(folder: Path) -> _Choices:
    return read_kept(folder / "precision.json", _Choices, "choice of a precision") or _Choices()


def _tried(folder: Path, dataset: ImageDataset) -> _Choice:
    """This machine's precision, by a trial on the default's network; kept in the study's folder."""
    from medmnist_diffusion.training.train import unet_arguments

    config = TrainingConfig()
    precision, speeds = probe_precision(build_unet(**unet_arguments(config, dataset)), config.train_batch_size)
    choice = _Choice.model_validate(
        {"machine": kind_of_machine(), "mixed_precision": precision, "images_per_second": speeds}
    )
    choices = _Choices(choices=[*_choices(folder).choices, choice])
    write_json(folder / "precision.json", choices.model_dump())
    return choice


def seconds_of(text: str | None) -> float | None:
    """Of `90m`, `2h`, `300s`; None of None."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", text.strip())
    if not match:
        raise UserError(f"--budget is {text!r}; a number with s, m or h is needed: 90m, 2h.")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]
