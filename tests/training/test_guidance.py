"""A pipeline's own guidance is the least with which a classifier sees what was asked for as surely as in held-out images."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from medmnist_diffusion import cli
from medmnist_diffusion.artifacts import Metrics
from medmnist_diffusion.data import ImageDataset, Split
from medmnist_diffusion.diffusion.folder_check import check_folder, write_manifest
from medmnist_diffusion.diffusion.samplers import Sampling
from medmnist_diffusion.metrics.real_side import RealSide
from medmnist_diffusion.training import guidance
from medmnist_diffusion.training.guidance import tune_guidance
from tests.conftest import CliError

FEW = ["--features", "texture", "--num_images", "80", "--num_inference_steps", "2"]


@pytest.fixture
def folder(trained_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained_run / "pipeline", tmp_path / "pipeline")


@pytest.mark.parametrize(("clear_from", "chosen"), [(1.0, 1.0), (1.1, 1.1), (1.2, 1.2), (9.0, 1.2)])
def test_the_least_that_is_enough(
    folder: Path, small: ImageDataset, monkeypatch: pytest.MonkeyPatch, clear_from: float, chosen: float
) -> None:
    """In the place of generated images stand held-out ones: of their classes from a guidance on, before that of others."""
    real, asked = RealSide(small), list[float]()

    def drawn(_: Any, labels: np.ndarray, how: Sampling) -> Split:
        asked.append(how.guidance_scale or 0.0)
        held_out = real.held_out
        members = held_out.labels == 0
        shown = held_out.labels if asked[-1] >= clear_from else np.where(members, 1, 0)
        return Split("generated", held_out.images[:], shown)

    monkeypatch.setattr(guidance, "draw", drawn)
    assert tune_guidance(folder, real, Sampling(seed=3)) == chosen
    assert asked == [scale for scale in (1.0, 1.1, 1.2) if scale <= chosen]
    assert check_folder(folder).default_guidance_scale == chosen  # the manifest knows it


def test_an_evaluation_with_it_is_of_the_chosen_guidance(folder: Path, small_npz: Path) -> None:
    """The short training's images show no class: the most guidance is taken."""
    assert cli.main(["evaluate", str(folder), "--dataset", str(small_npz), "--tune_guidance", *FEW]) == 0
    assert json.loads((folder / "model_index.json").read_text())["default_guidance_scale"] == 1.2
    assert Metrics.read(folder / "metrics.json").sampling["guidance_scale"] == 1.2
    assert "guidance 1.2" in (folder / "README.md").read_text()


def test_where_it_cannot_be_chosen(folder: Path, small_npz: Path, cli_error: CliError) -> None:
    command = ["evaluate", str(folder), "--dataset", str(small_npz), "--tune_guidance", *FEW]
    assert "no --guidance_scale" in cli_error(*command, "--guidance_scale", "1.1")
    assert "needs a pipeline" in cli_error("evaluate", str(small_npz), *command[2:])
    config = yaml.safe_load((folder / "training_config.yaml").read_text())
    (folder / "training_config.yaml").write_text(yaml.safe_dump({**config, "label_dropout": 0.0}))
    write_manifest(folder)
    assert "was trained with --label_dropout 0" in cli_error(*command)
