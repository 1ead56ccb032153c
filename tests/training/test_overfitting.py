"""Where the held-out loss rises, training stops and the best weights are kept: against runs that are given their losses."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medmnist_diffusion import cli
from medmnist_diffusion.artifacts import TrainingSummary
from medmnist_diffusion.data import phantom
from medmnist_diffusion.data.npz import write_npz
from medmnist_diffusion.diffusion.loss_log import read_loss_csv
from medmnist_diffusion.diffusion.training_state import Best
from medmnist_diffusion.files import file_hash
from medmnist_diffusion.training.overfitting import bearable_steps, has_risen, patience_is_over
from tests.conftest import small_training

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def test_noise_is_no_rise() -> None:
    """Losses that differ by chance alone are called risen in fewer than one of a hundred cases; a rise by 5 % nearly always."""
    rng = np.random.default_rng(0)
    of_image = rng.gamma(4, 0.025, 64)
    called = {0.0: 0, 0.05: 0}
    for _ in range(500):
        before = np.tile(of_image, 4)
        for rise in called:
            now = np.tile(of_image * (1 + rise + rng.normal(0, 0.06, 64)), 4)
            called[rise] += has_risen(now, Best(float(before.mean()), before), 64)
    assert called[0.0] < 5
    assert called[0.05] > 450


def test_repeated_images_are_not_counted_twice() -> None:
    """A small val split comes several times in the fixed batch; that gives no more evidence."""
    rng = np.random.default_rng(1)
    before = rng.gamma(4, 0.025, 8)
    now = before * (1.02 + rng.normal(0, 0.05, 8))
    once = has_risen(now, Best(float(before.mean()), before), 8)
    again = has_risen(np.tile(now, 64), Best(float(before.mean()), np.tile(before, 64)), 8)
    assert once == again


def test_patience_grows_with_the_way_to_the_best() -> None:
    assert not patience_is_over(1000, 800, 50)
    assert patience_is_over(1200, 800, 50)
    assert not patience_is_over(120, 50, 50)  # three validations at least
    assert bearable_steps(546, 64) == pytest.approx(1450, abs=5)


@pytest.fixture(scope="module")
def overfitted(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A network that learns 24 images by heart: data, arguments, and the run's folder."""
    folder = tmp_path_factory.mktemp("overfitted")
    data = folder / "few.npz"
    write_npz(data, phantom.make_phantom(counts={"train": 24, "val": 24, "test": 24}))
    arguments = [*small_training(data, folder / "run"), "--validation_steps", "50", "--max_train_steps", "3000"]
    assert cli.main(["train", *arguments]) == 0
    return data, arguments, folder / "run"


def test_training_stops_and_keeps_the_best_weights(overfitted: Any, capsys: pytest.CaptureFixture[str]) -> None:
    _, arguments, run = overfitted
    summary = TrainingSummary.of(run / "pipeline")
    rows = [row for row in read_loss_csv(run / "loss.csv") if "val_loss" in row]
    best = min(rows, key=lambda row: row["val_loss"])
    assert summary.step == best["step"]
    assert summary.last_step == rows[-1]["step"] < 3000
    assert summary.stopped_early
    assert summary.last_val_loss > 1.01 * summary.val_loss
    assert file_hash(run / "pipeline" / WEIGHTS) == file_hash(run / "pipeline_best" / WEIGHTS)
    card = (run / "pipeline" / "README.md").read_text(encoding="utf-8")
    assert f"weights of step {summary.step}" in card
    # The same command finds nothing left to do.
    assert cli.main(["train", *arguments]) == 0
    assert "is trained already" in capsys.readouterr().out
    assert TrainingSummary.of(run / "pipeline") == summary


def test_latest_weights_for_who_wants_them(overfitted: Any, tmp_path: Path) -> None:
    """Where it stopped, --keep latest trains on."""
    _, arguments, run = overfitted
    stopped = TrainingSummary.of(run / "pipeline").last_step
    assert stopped is not None
    shutil.copytree(run, tmp_path / "run")
    again = [str(tmp_path / "run") if word == str(run) else word for word in arguments]
    assert cli.main(["train", *again, "--keep", "latest", "--max_train_steps", str(stopped + 20)]) == 0
    summary = TrainingSummary.of(tmp_path / "run" / "pipeline")
    assert (summary.weights, summary.step, summary.last_step) == ("latest", stopped + 20, None)


def test_a_val_split_of_training_images_is_said_in_the_card(tmp_path: Path) -> None:
    arrays = phantom.make_phantom(counts={"train": 60, "val": 24, "test": 24})
    arrays["val_images"], arrays["val_labels"] = arrays["train_images"][:24], arrays["train_labels"][:24]
    write_npz(tmp_path / "seen.npz", arrays)
    arguments = [*small_training(tmp_path / "seen.npz", tmp_path / "run"), "--max_train_steps", "3"]
    assert cli.main(["train", *arguments]) == 0
    summary = TrainingSummary.of(tmp_path / "run" / "pipeline")
    assert (summary.held_out_seen, summary.held_out_images) == (True, 24)
    card = (tmp_path / "run" / "pipeline" / "README.md").read_text(encoding="utf-8")
    assert "their loss cannot tell whether the model memorizes" in card
