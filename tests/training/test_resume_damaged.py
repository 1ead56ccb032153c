"""Torn and tampered checkpoints, full disks, folders that are taken: what is passed over, and what is kept."""

import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from filelock import FileLock

from medmnist_diffusion import cli
from medmnist_diffusion.diffusion.checkpoints import newest_checkpoint
from medmnist_diffusion.files import recover_folder, replace_folder
from medmnist_diffusion.manifest import MANIFEST
from tests.conftest import ROOT, small_training
from tests.training.resuming import EVERYTHING, STEPS, CliError, outcome


def test_damaged_checkpoints_do_not_push_out_whole_ones(trained_run: Path, small_npz: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    (run / "checkpoints" / "step_00000060" / MANIFEST).unlink()
    arguments = [*small_training(small_npz, run), "--max_train_steps", "45", "--checkpoints_total_limit", "1"]
    assert cli.main(["train", *arguments]) == 0
    assert newest_checkpoint(run / "checkpoints") == run / "checkpoints" / "step_00000045"


@pytest.mark.parametrize(
    "damage", ["cut", "missing file", "file too many", "no manifest", "empty manifest", "other manifest"]
)
def test_a_torn_or_tampered_checkpoint_is_passed_over(
    damage: str, trained_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As a power cut or a hand may leave it: it is named, and the one before is taken."""
    shutil.copytree(trained_run / "checkpoints", tmp_path / "checkpoints")
    newest = tmp_path / "checkpoints" / "step_00000060"
    if damage == "cut":
        weights = newest / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif damage == "missing file":
        (newest / "optimizer.bin").unlink()
    elif damage == "file too many":
        (newest / "custom_checkpoint_0.pkl").write_bytes(b"x")
    elif damage == "no manifest":
        (newest / MANIFEST).unlink()
    else:
        (newest / MANIFEST).write_text({"empty manifest": "{}", "other manifest": '["model.safetensors"]'}[damage])
    assert newest_checkpoint(tmp_path / "checkpoints") == tmp_path / "checkpoints" / "step_00000030"
    assert "step_00000060 is damaged" in caplog.text


def test_a_power_cut_while_the_checkpoint_was_written(
    never_stopped: dict[str, object], small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest checkpoint is torn, and one that was being written lies there half: the end is the same."""
    from medmnist_diffusion.diffusion import stopping

    run, arguments = tmp_path / "run", [*small_training(small_npz, tmp_path / "run"), *EVERYTHING]
    with monkeypatch.context() as patch:
        patch.setattr(stopping.StopRequest, "agreed", lambda self, accelerator, step: step == 23)
        assert cli.main(["train", *arguments]) == 4
    weights = run / "checkpoints" / "step_00000023" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    half = run / "checkpoints" / ".step_00000024.tmp"
    half.mkdir()
    (half / "model.safetensors").write_bytes(b"x")
    assert cli.main(["train", *arguments]) == 0
    assert outcome(run) == never_stopped
    assert not list((run / "checkpoints").glob(".*.tmp"))


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_checkpoint(small_npz: Path, tmp_path: Path) -> None:
    """The kernel refuses files above 200 kB, as it refuses all on a full disk."""
    run = tmp_path / "run"
    arguments = [*small_training(small_npz, run), *EVERYTHING, "--max_train_steps"]
    assert cli.main(["train", *arguments, "10"]) == 0
    before = {path: path.read_bytes() for path in (run / "checkpoints").rglob("*") if path.is_file()}
    result = subprocess.run(
        [sys.executable, str(ROOT / "training" / "train.py"), *arguments, str(STEPS)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000)),
    )
    assert result.returncode == 2, result.stderr
    error = result.stderr.splitlines()[-1]
    assert error.startswith("error: the state of step 20 in")
    assert "could not be written" in error
    assert "checkpoints before it are untouched" in error
    assert {path: path.read_bytes() for path in (run / "checkpoints").rglob("*") if path.is_file()} == before
    assert cli.main(["train", *arguments, str(STEPS)]) == 0


def test_a_folder_that_another_process_works_in(small_npz: Path, tmp_path: Path, cli_error: CliError) -> None:
    run = tmp_path / "run"
    run.mkdir()
    with FileLock(run / ".lock"):
        assert "another process works in" in cli_error(
            "train", *small_training(small_npz, run), "--max_train_steps", "5"
        )
    assert not (run / "checkpoints").exists()


@pytest.mark.skipif(not Path("/proc/version").is_file(), reason="a place where nobody, root neither, can write")
def test_a_folder_that_cannot_be_written(small_npz: Path, cli_error: CliError) -> None:
    error = cli_error("train", *small_training(small_npz, Path("/proc/run")), "--max_train_steps", "5")
    assert "/proc/run cannot be written" in error


def test_an_older_damaged_checkpoint_does_not_push_out_a_whole_one(
    trained_run: Path, small_npz: Path, tmp_path: Path
) -> None:
    """30 is whole, 45 torn; at 50 with two to keep, 30 and 50 stay."""
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    torn = (run / "checkpoints" / "step_00000060").rename(run / "checkpoints" / "step_00000045")
    (torn / MANIFEST).unlink()
    assert cli.main(["train", *small_training(small_npz, run), "--max_train_steps", "50"]) == 0
    assert sorted(path.name for path in (run / "checkpoints").glob("step_*")) == ["step_00000030", "step_00000050"]


def test_a_folder_that_was_being_replaced_comes_back(tmp_path: Path) -> None:
    """Killed between the two renames, the old one lies aside."""
    old, new = tmp_path / ".pipeline.old", tmp_path / "new"
    old.mkdir()
    (old / "weights").write_text("old")
    recover_folder(tmp_path / "pipeline")
    assert (tmp_path / "pipeline" / "weights").read_text() == "old"
    (tmp_path / "pipeline").rename(old)
    new.mkdir()
    replace_folder(new, tmp_path / "pipeline")
    assert not list((tmp_path / "pipeline").iterdir())
    assert not old.exists()


@pytest.mark.parametrize("content", ["garbage", "step,loss\n1,x\n", "a,b\n1,2\n", "\0"])
def test_a_damaged_loss_log_is_named(
    content: str, trained_run: Path, small_npz: Path, tmp_path: Path, cli_error: CliError
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    (run / "loss.csv").write_text(content)
    assert "loss.csv is damaged" in cli_error("train", *small_training(small_npz, run), "--max_train_steps", "70")
