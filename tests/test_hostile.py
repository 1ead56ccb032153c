"""Hostile input to whole commands: what each of them refuses in one line, and what is left where one fails."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from medmnist_diffusion import cli, generated
from medmnist_diffusion.errors import DEBUG
from tests.conftest import CliError, small_training
from tests.pipeline_folders import WEIGHTS, sampling


def test_every_command_refuses_what_is_changed(
    pipeline: Path, small_npz: Path, tmp_path: Path, cli_error: CliError
) -> None:
    data = bytearray((pipeline / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (pipeline / WEIGHTS).write_bytes(data)
    for command in (
        ["evaluate", str(pipeline), "--dataset", str(small_npz), "--features", "texture"],
        ["augment", str(pipeline), "--dataset", str(small_npz), "--output", str(tmp_path / "more.npz")],
        ["card", str(pipeline)],
        ["publish", str(pipeline), "a/b", "--dry_run"],
        ["publish-dataset", str(small_npz), "a/b", "--pipeline", str(pipeline), "--dry_run"],
    ):
        assert "is not what manifest.json says" in cli_error(*command), command


def test_every_command_refuses_a_damaged_data_set(
    pipeline: Path, small_npz: Path, tmp_path: Path, cli_error: CliError
) -> None:
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(small_npz.read_bytes()[:-500])
    for command in (
        ["audit", str(damaged)],
        ["train", *small_training(damaged, tmp_path / "run"), "--max_train_steps", "5"],
        ["evaluate", str(pipeline), "--dataset", str(damaged), "--features", "texture"],
        ["evaluate", str(damaged), "--dataset", str(small_npz), "--features", "texture"],
        ["augment", str(pipeline), "--dataset", str(damaged), "--output", str(tmp_path / "more.npz")],
        ["study", "loss", str(damaged), "--output", str(tmp_path / "loss")],
        ["study", "augmentation", str(damaged), "--output", str(tmp_path / "augmentation")],
    ):
        assert "not a readable npz file, or cut short" in cli_error(*command), command


def test_what_no_machine_has_memory_for(pipeline: Path, small_npz: Path, tmp_path: Path, cli_error: CliError) -> None:
    many = sampling(pipeline)
    many[many.index("--num_per_class") + 1] = str(10**10)
    error = cli_error(*many)
    assert "GiB of memory" in error
    arguments = [*small_training(small_npz, tmp_path / "run"), "--max_train_steps", "5"]
    arguments[arguments.index("--train_batch_size") + 1] = str(10**8)
    error = cli_error("train", *arguments)
    assert "smaller --train_batch_size" in error


def test_images_that_do_not_fit_leave_no_record(
    pipeline: Path, monkeypatch: pytest.MonkeyPatch, cli_error: CliError
) -> None:
    """Or the same command, when there is room again, would refuse to write over it."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(generated, "write_npz", full)
        assert "No space left" in cli_error(*sampling(pipeline))
    assert not Path(f"{pipeline}.json").exists()
    assert cli.main(sampling(pipeline)) == 0
    Path(f"{pipeline}.npz").unlink()
    assert "exists already" in cli_error(*sampling(pipeline))  # the record is somebody's


def test_a_terminal_that_knows_no_such_character(small_npz: Path) -> None:
    command = [sys.executable, "-m", "medmnist_diffusion.cli", "audit", str(small_npz)]
    result = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"28\\xd728" in result.stdout


def test_a_fault_of_ours_is_one_line_without_debug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from medmnist_diffusion.data import audit

    def broken(dataset: object) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr(audit, "audit", broken)
    assert cli.main(["audit", "phantom"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "KeyError: 'surprise'" in error
    assert DEBUG in error
    with pytest.raises(KeyError):
        cli.main(["audit", "phantom", DEBUG])


def test_contradictory_and_unknown_arguments(cli_error: CliError) -> None:
    """Exit code 2, one line and no traceback; with the nearest option where one is near."""
    assert "Missing argument 'PIPELINE'" in cli_error("sample")
    for arguments in (["sample"], ["train", "--no_such_option", "1"], ["evaluate", "x", "--seed", "many"]):
        assert "Did you mean" not in cli_error(*arguments)
    both = ["train", "--dataset", "phantom", "--output_dir", "x", "--max_train_steps", "5", "--max_train_minutes", "5"]
    assert "only one of" in cli_error(*both)
    for size in ("-5", "0", "2", "10000000"):
        assert f"--size is {size}; from 8 to 1024 pixels" in cli_error("audit", "phantom", "--size", size)
    nan = ["sample", "x", "--num_per_class", "1", "--output", "y", "--guidance_scale", "nan"]
    assert "a finite number" in cli_error(*nan)
    assert "minutes is nan" in cli_error("demo", "--output", "x", "--minutes", "nan")


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["train", "--learnin_rate", "1"], "--learning_rate"),
        (["evaluate", "x", "--dataset", "phantom", "--num_imags", "5"], "--num_images"),
        (["sample", "x", "--num_per_class", "1", "--output", "y", "--guidence_scale", "2"], "--guidance_scale"),
        (["study", "augmentation", "phantom", "--sharse", "0.5"], "--shares"),
        (["study", "loss", "phantom", "--sedes", "2"], "--seeds"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_misspelt_option_gets_a_suggestion(arguments: list[str], nearest: str, cli_error: CliError) -> None:
    hint = cli_error(*arguments).split("Did you mean")[1]
    assert f"'{nearest}'" in hint
