"""Stopped at any step and started again: bit-identical to a run that was never stopped."""

import itertools
import signal
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from medmnist_diffusion import cli
from medmnist_diffusion.diffusion.checkpoints import newest_checkpoint
from medmnist_diffusion.diffusion.loss_log import read_loss_csv
from medmnist_diffusion.errors import StoppedError
from medmnist_diffusion.training import budget
from medmnist_diffusion.training import run as training_run
from tests.conftest import small_training
from tests.training.resuming import (
    EVERY,
    EVERYTHING,
    LAUNCH,
    STEPS,
    kill_all,
    outcome,
    start,
    wait_for_checkpoint,
)


@pytest.mark.parametrize(
    "number",
    [
        signal.SIGTERM,
        pytest.param(signal.SIGKILL, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, marks=pytest.mark.slow),
    ],
    ids=lambda number: number.name,
)
def test_stopped_by_a_signal_and_resumed(
    number: signal.Signals, never_stopped: dict[str, object], small_npz: Path, tmp_path: Path
) -> None:
    """SIGTERM, Ctrl-C and a closed terminal save at whatever step they meet; SIGKILL leaves the last checkpoint."""
    run = tmp_path / "run"
    process = start(run, small_npz)
    wait_for_checkpoint(run, process)
    process.send_signal(number)
    sent = time.monotonic()
    _, errors = process.communicate(timeout=60)
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 4
        assert time.monotonic() - sent < 10
        checkpoint = newest_checkpoint(run / "checkpoints")
        assert f"saved in {checkpoint}. The same command goes on" in errors
        assert "Traceback" not in errors
    assert not (run / "pipeline").exists()
    assert cli.main(["train", *small_training(small_npz, run), *EVERYTHING]) == 0
    assert outcome(run) == never_stopped


def test_a_stop_is_heard_where_every_step_is_saved(small_npz: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = start(run, small_npz, "--checkpointing_steps", "1", "--max_train_steps", "100000")
    wait_for_checkpoint(run, process)
    process.terminate()
    process.communicate(timeout=20)
    assert process.returncode == 4


@pytest.mark.slow
def test_a_reader_that_dies_by_the_same_ctrl_c(
    never_stopped: dict[str, object], small_npz: Path, tmp_path: Path
) -> None:
    """`train … 2>&1 | tee log`: tee is gone before we can say anything; all is saved nevertheless."""
    run = tmp_path / "run"
    process = start(run, small_npz)
    wait_for_checkpoint(run, process)
    assert process.stdout
    assert process.stderr
    process.send_signal(signal.SIGINT)
    process.stdout.close()
    process.stderr.close()
    process.wait(timeout=60)
    newest = newest_checkpoint(run / "checkpoints")
    assert newest is not None
    assert int(newest.name.removeprefix("step_")) % EVERY
    assert cli.main(["train", *small_training(small_npz, run), *EVERYTHING]) == 0
    assert outcome(run) == never_stopped


@pytest.mark.slow
def test_stopped_between_the_rows_of_the_loss_log(
    never_stopped: dict[str, object], small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three times, at steps that neither validate nor log: the sums of a half-filled row are kept, too."""
    from medmnist_diffusion.diffusion import stopping

    run, arguments = tmp_path / "run", [*small_training(small_npz, tmp_path / "run"), *EVERYTHING]
    for at in (5, 17, 23):
        with monkeypatch.context() as patch:
            patch.setattr(stopping.StopRequest, "agreed", lambda self, accelerator, step, at=at: step == at)
            assert cli.main(["train", *arguments]) == 4
        assert newest_checkpoint(run / "checkpoints") == run / "checkpoints" / f"step_{at:08d}"
    assert cli.main(["train", *arguments]) == 0
    assert outcome(run) == never_stopped


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
def test_two_processes_stopped_and_resumed(number: signal.Signals, small_npz: Path, tmp_path: Path) -> None:
    """SIGTERM to the launcher reaches both processes; they stop after the same step, and resume to the same end, as they do after
    a SIGKILL to all of them."""
    results = []
    for name in ("whole", "stopped"):
        run = tmp_path / name
        process = start(run, small_npz, launch=tuple(LAUNCH))
        if name == "stopped":
            wait_for_checkpoint(run, process)
            if number == signal.SIGKILL:
                kill_all(run)
                process.communicate(timeout=120)
            else:
                process.send_signal(number)
                _, errors = process.communicate(timeout=120)
                assert "The same command goes on from there" in errors
            assert process.returncode != 0
            newest = newest_checkpoint(run / "checkpoints")
            assert newest is not None
            assert int(newest.name.removeprefix("step_")) < STEPS
            assert not (run / "pipeline").exists()
            process = start(run, small_npz, launch=tuple(LAUNCH))
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors[-2000:]
        results.append(outcome(run))
    assert results[0] == results[1]


@pytest.mark.slow
def test_killed_between_the_last_step_and_the_pipeline(
    never_stopped: dict[str, object], small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of the end was not written is written by the same command."""
    run, arguments = tmp_path / "run", [*small_training(small_npz, tmp_path / "run"), *EVERYTHING]
    saved: Any = training_run.save_pipeline_folder  # type: ignore[attr-defined]

    def killed(folder: Path, *rest: object) -> Path:
        if folder.name == "pipeline":
            raise StoppedError("killed")
        return saved(folder, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(training_run, "save_pipeline_folder", killed)
        assert cli.main(["train", *arguments]) == 4
    assert cli.main(["train", *arguments]) == 0
    assert outcome(run) == never_stopped


def test_minutes_already_spent_count(small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in its budget and started again, a run takes no more steps than one that was never stopped."""
    from medmnist_diffusion.diffusion import stopping

    steps = []
    for name, stops_at in (("whole", None), ("stopped", 20)):
        arguments = [*small_training(small_npz, tmp_path / name), "--max_train_minutes", "0.1"]
        ticks = itertools.count()  # a clock that counts how often it is asked
        monkeypatch.setattr(budget, "time", SimpleNamespace(monotonic=lambda ticks=ticks: next(ticks) / 20))
        if stops_at:
            with monkeypatch.context() as patch:
                patch.setattr(stopping.StopRequest, "agreed", lambda self, accelerator, step, at=stops_at: step == at)
                assert cli.main(["train", *arguments]) == 4
        assert cli.main(["train", *arguments]) == 0
        steps.append(read_loss_csv(tmp_path / name / "loss.csv")[-1]["step"])
    assert 20 < steps[1] == pytest.approx(steps[0], abs=4)
