"""Other settings or other data: what must not resume unless it is asked for, and is remembered if it is."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medmnist_diffusion import cli
from medmnist_diffusion.data import phantom
from medmnist_diffusion.data.npz import write_npz
from medmnist_diffusion.diffusion.checkpoints import newest_checkpoint, read_state
from medmnist_diffusion.diffusion.loss_log import read_loss_csv
from medmnist_diffusion.errors import StoppedError
from medmnist_diffusion.training import train as train_script
from tests.conftest import small_training
from tests.training.resuming import CliError


def test_other_images_do_not_resume_unless_asked(
    trained_run: Path, tmp_path: Path, cli_error: CliError, capsys: pytest.CaptureFixture[str]
) -> None:
    run, data = tmp_path / "run", tmp_path / "small.npz"
    shutil.copytree(trained_run, run)
    write_npz(data, phantom.make_phantom(seed=1, counts={"train": 240, "val": 80, "test": 80}))
    arguments = [*small_training(data, run), "--max_train_steps", "70"]
    error = cli_error("train", *arguments)
    assert "train images: " in error
    assert "--allow_changes true" in error
    assert cli.main(["train", *arguments, "--allow_changes", "true"]) == 0
    assert "changed: train images" in capsys.readouterr().out


def test_an_asked_for_change_of_settings_goes_on(trained_run: Path, small_npz: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    arguments = [*small_training(small_npz, run), "--max_train_steps", "70", "--allow_changes", "true"]
    assert cli.main(["train", *arguments, "--learning_rate", "0.001"]) == 0
    rates = [row["learning_rate"] for row in read_loss_csv(run / "loss.csv") if row["step"] > 60]
    assert max(rates) <= 0.001


def test_an_asked_for_change_that_cannot_be(
    trained_run: Path, small_npz: Path, tmp_path: Path, cli_error: CliError
) -> None:
    """Weights of one network do not fit another."""
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    arguments = [*small_training(small_npz, run), "--max_train_steps", "70", "--allow_changes", "true"]
    arguments[arguments.index("32")] = "48"
    assert "does not fit" in cli_error("train", *arguments)
    assert np.isfinite(read_loss_csv(run / "loss.csv")[-1]["loss"])


def test_a_change_is_not_forgotten_by_a_kill_before_the_next_checkpoint(
    trained_run: Path,
    small_npz: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cli_error: CliError,
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    arguments = [*small_training(small_npz, run), "--max_train_steps", "70"]
    with monkeypatch.context() as patch:  # as a kill between the start and the next checkpoint
        patch.setattr(train_script, "say_plan", lambda *plan: (_ for _ in ()).throw(StoppedError("killed")))
        assert cli.main(["train", *arguments, "--learning_rate", "0.001", "--allow_changes", "true"]) == 4
    capsys.readouterr()
    assert "learning_rate: 0.004 → 0.001" in cli_error("train", *arguments, "--learning_rate", "0.001")
    assert cli.main(["train", *arguments]) == 0  # the checkpoint is one of the first settings
    summary = json.loads((run / "pipeline" / "training_summary.json").read_text())
    assert summary["changes"] == []
    assert summary["extensions"] == ["step 60: max_train_steps: 60 → 70"]
    assert "max_train_steps: 60 → 70" in (run / "pipeline" / "README.md").read_text()


def test_a_precision_that_is_asked_for_is_used(trained_run: Path, small_npz: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    checkpoint = newest_checkpoint(run / "checkpoints")
    assert checkpoint is not None
    before = read_state(checkpoint).config["mixed_precision"]
    after = "bf16" if before == "no" else "no"
    arguments = [*small_training(small_npz, run), "--max_train_steps", "62", "--allow_changes", "true"]
    assert cli.main(["train", *arguments, "--mixed_precision", after]) == 0
    summary = json.loads((run / "pipeline" / "training_summary.json").read_text())
    assert summary["changes"] == [f"step 60: mixed_precision: {before} → {after}"]
    assert f"mixed_precision: '{after}'" in (run / "training_config.yaml").read_text().replace("bf16", "'bf16'")


def test_another_test_set_counts_where_leaks_are_dropped(tmp_path: Path, cli_error: CliError) -> None:
    """Which training images leak depends on it."""
    data, run = tmp_path / "small.npz", tmp_path / "run"
    arrays = phantom.make_phantom(counts={"train": 60, "val": 20, "test": 20})
    write_npz(data, arrays)
    arguments = [*small_training(data, run), "--drop_leaks", "true", "--max_train_steps"]
    assert cli.main(["train", *arguments, "2"]) == 0
    arrays["test_images"][0] = arrays["train_images"][0]
    write_npz(data, arrays)
    assert "test images: " in cli_error("train", *arguments, "4")


def test_renamed_classes_do_not_resume(tmp_path: Path, cli_error: CliError) -> None:
    arrays = phantom.make_phantom(counts={"train": 60, "val": 4, "test": 4})
    folder, run = tmp_path / "images", tmp_path / "run"
    for row, (image, label) in enumerate(zip(arrays["train_images"], arrays["train_labels"][:, 0], strict=True)):
        (folder / f"class_{label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"class_{label}" / f"{row:03d}.png")
    arguments = [*small_training(folder, run), "--max_train_steps"]
    assert cli.main(["train", *arguments, "2"]) == 0
    (folder / "class_0").rename(folder / "class_00")
    assert "classes: class_0, " in cli_error("train", *arguments, "4")
