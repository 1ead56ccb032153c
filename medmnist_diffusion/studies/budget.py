"""What every study decides once: its precision, and how long it may take."""

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel

from medmnist_diffusion.data import ImageDataset
from medmnist_diffusion.diffusion.machine import probe_precision
from medmnist_diffusion.diffusion.unet import build_unet
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import read_kept, write_json
from medmnist_diffusion.training.config import TrainingConfig


class _Chosen(BaseModel):
    mixed_precision: Literal["no", "bf16", "fp16"]


def chosen_precision(folder: Path, dataset: ImageDataset) -> str:
    """One precision for all cells of a study, by a trial on the default's network; kept in the study's folder."""
    path = folder / "precision.json"
    if kept := read_kept(path, _Chosen, "choice of a precision"):
        return kept.mixed_precision
    from medmnist_diffusion.training.train import unet_arguments

    config = TrainingConfig()
    precision, speeds = probe_precision(build_unet(**unet_arguments(config, dataset)), config.train_batch_size)
    write_json(path, {"mixed_precision": precision, "images_per_second": speeds})
    return precision


def seconds_of(text: str | None) -> float | None:
    """Of `90m`, `2h`, `300s`; None of None."""
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", text.strip())
    if not match:
        raise UserError(f"--budget is {text!r}; a number with s, m or h is needed: 90m, 2h.")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]
