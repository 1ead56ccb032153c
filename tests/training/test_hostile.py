"""A training, or an evaluation, that cannot be written."""

import errno
from pathlib import Path

import pytest

from medmnist_diffusion.training import evaluate_fid
from tests.conftest import CliError, small_training
from tests.pipeline_folders import sampling


def test_no_place_to_write(small_npz: Path, pipeline: Path, cli_error: CliError, tmp_path: Path) -> None:
    """A file where a folder is needed: what root, too, cannot write to."""
    (tmp_path / "file").write_text("")
    inside = tmp_path / "file" / "run"
    assert "cannot be written" in cli_error("train", *small_training(small_npz, inside), "--max_train_steps", "5")
    assert "Not a directory" in cli_error(*sampling(pipeline)[:-1], str(inside / "x.npz"))
    assert ". exists already" in cli_error(*sampling(pipeline)[:-1], ".")


def test_an_evaluation_that_cannot_be_written_leaves_the_one_before(
    pipeline: Path, small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli_error: CliError
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = {name: f"old {name}" for name in ("metrics.json", "ratios.png", "closest_generated.png")}
    for name, text in before.items():
        (pipeline / name).write_text(text)
    command = ["evaluate", str(pipeline), "--dataset", str(small_npz), "--features", "texture", "--num_images", "120"]
    assert "does not end with .json" in cli_error(*command, "--output", str(small_npz))
    monkeypatch.setattr(evaluate_fid, "plot_closest", full)
    assert "No space left on device" in cli_error(*command, "--num_inference_steps", "2")
    assert {name: (pipeline / name).read_text() for name in before} == before
    assert not list(pipeline.glob(".evaluation-*"))
