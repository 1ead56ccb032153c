"""What surrounds a training - variables, terminals, many classes - changes nothing unsaid."""

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file

from medmnist_diffusion import cli
from medmnist_diffusion.data import ImageDataset, Split
from medmnist_diffusion.diffusion.stopping import stop_signals
from medmnist_diffusion.publish.plots import MOST_CLASSES
from medmnist_diffusion.training.config import training_config
from medmnist_diffusion.training.train import train
from tests.conftest import CliError, run_python, small_training

WEIGHTS = "pipeline/unet/diffusion_pytorch_model.safetensors"


def test_accumulation_in_the_environment_is_not_used(
    small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Accelerate would apply every fourth gradient and say 1."""
    weights = []
    for name in ("without", "with"):
        if name == "with":
            monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "4")
        assert cli.main(["train", *small_training(small_npz, tmp_path / name), "--max_train_steps", "8"]) == 0
        weights.append(load_file(tmp_path / name / WEIGHTS))
    assert all((weights[0][key] == weights[1][key]).all() for key in weights[0])
    assert "ACCELERATE_GRADIENT_ACCUMULATION_STEPS=4 in the environment is not used" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ACCELERATE_DYNAMO_BACKEND", "INDUCTOR"), ("ACCELERATE_USE_DEEPSPEED", "true"), ("ACCELERATE_USE_MEGATRON_LM", "true"),
        ("ACCELERATE_MIXED_PRECISION", "fp8"),
    ],
)  # fmt: skip
def test_what_the_environment_asks_for_in_vain(
    name: str, value: str, small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli_error: CliError
) -> None:
    monkeypatch.setenv(name, value)
    error = cli_error("train", *small_training(small_npz, tmp_path / "run"), "--max_train_steps", "2")
    assert f"{name}={value} in the environment" in error


def test_a_hangup_that_is_ignored_stays_ignored() -> None:
    """`nohup medmnist-diffusion train …` outlives its terminal."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_signals() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.received
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_log_file_gets_few_lines_of_progress(small_npz: Path, tmp_path: Path) -> None:
    arguments = [*small_training(small_npz, tmp_path / "run"), "--max_train_steps", "60"]
    done = run_python("-m", "medmnist_diffusion.cli", "train", *arguments, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    bars = [line for line in done.stderr.replace("\r", "\n").splitlines() if "training:" in line]
    assert 1 <= len(bars) <= 4, done.stderr


def test_a_thousand_classes_do_not_make_a_grid_of_ten_thousand(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(100), 2)
    images = rng.integers(0, 256, (200, 16, 16, 1), np.uint8)
    splits = {name: Split(name, images ^ place, labels) for place, name in enumerate(("train", "val", "test"))}
    config: Any = training_config(
        dataset="many", output_dir=str(tmp_path / "run"), max_train_steps=2, block_out_channels=[8], report_to="none",
        mixed_precision="no",
    )  # fmt: skip
    with caplog.at_level(logging.INFO, "medmnist_diffusion"):
        pipeline = train(config, ImageDataset("many", splits, {label: f"class {label}" for label in range(100)}))
    with Image.open(pipeline / "samples.png") as grid:
        assert grid.height <= 3 * 17 * MOST_CLASSES
    assert f"grids of samples show the first {MOST_CLASSES} of 100 classes" in caplog.text


def test_a_reader_that_has_enough(small_npz: Path) -> None:
    """`audit … | head -1`."""
    command = f"{sys.executable} -m medmnist_diffusion.cli audit {small_npz} | head -1; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode in (0, 141), done.stderr
    assert "error" not in done.stderr.lower(), done.stderr
