"""Stopped at any step and started again: bit-identical to a run that was never stopped. And what must not resume."""

import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from filelock import FileLock
from PIL import Image

from medmnist_diffusion import cli
from medmnist_diffusion.data import phantom
from medmnist_diffusion.data.npz import write_npz
from medmnist_diffusion.diffusion.checkpoints import newest_checkpoint, read_state
from medmnist_diffusion.diffusion.loss_log import read_loss_csv
from medmnist_diffusion.errors import StoppedError
from medmnist_diffusion.files import recover_folder, replace_folder
from medmnist_diffusion.manifest import MANIFEST
from medmnist_diffusion.training import train as train_script

from .conftest import ROOT, small_training

CliError = Callable[..., str]
STEPS, EVERY = 30, 10
# All that has a state of its own: dropout's random numbers, halves of a batch, rounding to bfloat16, shifted and mirrored images.
EVERYTHING = [
    "--dropout", "0.2", "--gradient_accumulation_steps", "2", "--mixed_precision", "bf16", "--random_shift", "2",
    "--random_flip", "true", "--class_balanced", "true", "--train_batch_size", "8", "--max_train_steps", str(STEPS),
    "--checkpointing_steps", str(EVERY), "--validation_steps", "7", "--logging_steps", "4", "--sample_steps", "15",
]  # fmt: skip
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]


def outcome(run: Path) -> dict[str, object]:
    """All that must be the same: weights, average, optimizers, random states, losses, samples; not what a clock wrote."""
    checkpoint = newest_checkpoint(run / "checkpoints")
    assert checkpoint is not None
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    del manifest["state.json"]
    rows = [
        {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")}
        for row in read_loss_csv(run / "loss.csv")
    ]
    names = ["unet/diffusion_pytorch_model.safetensors", "samples.png", "loss.png"]
    files = {
        f"{folder}/{name}": (run / folder / name).read_bytes()
        for folder in ("pipeline", "pipeline_best")
        for name in names
    }
    grids = {path.name: path.read_bytes() for path in (run / "samples").iterdir()}
    return {"manifest": manifest, "loss": rows, **files, **grids}


def start(run: Path, data: Path, *options: str, launch: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    arguments = [*small_training(data, run), *EVERYTHING, *options]
    return subprocess.Popen(
        [sys.executable, *launch, str(ROOT / "training" / "train.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),  # which a shell's background job ignores
    )


def kill_all(run: Path) -> None:
    """SIGKILL to every process that was started for this run, the launcher first."""
    for entry in sorted(Path("/proc").glob("[0-9]*/cmdline"), key=lambda entry: int(entry.parent.name)):
        try:
            if str(run).encode() in entry.read_bytes():
                os.kill(int(entry.parent.name), signal.SIGKILL)
        except OSError:
            continue  # it ended by itself


def wait_for_checkpoint(run: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not list((run / "checkpoints").glob("step_*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture(scope="module")
def never_stopped(small_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    run = tmp_path_factory.mktemp("whole") / "run"
    assert cli.main(["train", *small_training(small_npz, run), *EVERYTHING]) == 0
    return outcome(run)


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)],
    ids=lambda number: number.name,
)
def test_stopped_by_a_signal_and_resumed(
    number: signal.Signals, never_stopped: dict[str, object], small_npz: Path, tmp_path: Path
) -> None:
    """SIGTERM and Ctrl-C save at whatever step they meet; SIGKILL leaves the last checkpoint."""
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


def test_damaged_checkpoints_do_not_push_out_whole_ones(trained_run: Path, small_npz: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    (run / "checkpoints" / "step_00000060" / MANIFEST).unlink()
    arguments = [*small_training(small_npz, run), "--max_train_steps", "45", "--checkpoints_total_limit", "1"]
    assert cli.main(["train", *arguments]) == 0
    assert newest_checkpoint(run / "checkpoints") == run / "checkpoints" / "step_00000045"


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


# Torn and tampered checkpoints


@pytest.mark.parametrize(
    "damage", ["cut", "missing file", "file too many", "no manifest", "empty manifest", "other manifest"]
)
def test_a_torn_or_tampered_checkpoint_is_passed_over(
    damage: str, trained_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
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
    assert "step_00000060 is damaged" in capsys.readouterr().out


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


# A disk that is full, a folder that is taken or cannot be written


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


# Other data, other settings


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
        patch.setattr(train_script, "_print_plan", lambda *plan: (_ for _ in ()).throw(StoppedError("killed")))
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
    before = read_state(checkpoint)["config"]["mixed_precision"]
    after = "bf16" if before == "no" else "no"
    arguments = [*small_training(small_npz, run), "--max_train_steps", "62", "--allow_changes", "true"]
    assert cli.main(["train", *arguments, "--mixed_precision", after]) == 0
    summary = json.loads((run / "pipeline" / "training_summary.json").read_text())
    assert summary["changes"] == [f"step 60: mixed_precision: {before} → {after}"]
    assert f"mixed_precision: '{after}'" in (run / "training_config.yaml").read_text().replace("bf16", "'bf16'")


def test_killed_between_the_last_step_and_the_pipeline(
    never_stopped: dict[str, object], small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever of the end was not written is written by the same command."""
    run, arguments = tmp_path / "run", [*small_training(small_npz, tmp_path / "run"), *EVERYTHING]
    saved = train_script.save_pipeline_folder

    def killed(folder: Path, *rest: object) -> Path:
        if folder.name == "pipeline":
            raise StoppedError("killed")
        return saved(folder, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(train_script, "save_pipeline_folder", killed)
        assert cli.main(["train", *arguments]) == 4
    assert cli.main(["train", *arguments]) == 0
    assert outcome(run) == never_stopped


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


def test_minutes_already_spent_count(small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped in its budget and started again, a run takes no more steps than one that was never stopped."""
    from medmnist_diffusion.diffusion import stopping

    steps = []
    for name, stops_at in (("whole", None), ("stopped", 20)):
        arguments = [*small_training(small_npz, tmp_path / name), "--max_train_minutes", "0.05"]
        ticks = itertools.count()  # a clock that counts how often it is asked
        monkeypatch.setattr(train_script, "time", SimpleNamespace(monotonic=lambda ticks=ticks: next(ticks) / 20))
        if stops_at:
            with monkeypatch.context() as patch:
                patch.setattr(stopping.StopRequest, "agreed", lambda self, accelerator, step, at=stops_at: step == at)
                assert cli.main(["train", *arguments]) == 4
        assert cli.main(["train", *arguments]) == 0
        steps.append(read_loss_csv(tmp_path / name / "loss.csv")[-1]["step"])
    assert 20 < steps[1] == pytest.approx(steps[0], abs=4)
