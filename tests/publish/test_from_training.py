"""A training that publishes what it made."""

from pathlib import Path

import pytest

from medmnist_diffusion import cli
from medmnist_diffusion.data import phantom
from medmnist_diffusion.data.npz import write_npz
from tests.conftest import CliError, small_training
from tests.publish.hub_server import WRITE_TOKEN, Hub
from tests.publish.publishing import REPO, WEIGHTS


def test_training_can_publish_what_it_made(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli_error: CliError
) -> None:
    """Trained, evaluated, published; the id and the licence stay out of the published configuration. The same command does it
    again; what is somebody else's is left alone, and that is said before training."""
    data, run = tmp_path / "small.npz", tmp_path / "run"
    write_npz(data, phantom.make_phantom(counts={"train": 480, "val": 240, "test": 120}))
    options = ["--max_train_steps", "5", "--push_to_hub", "true", "--hub_model_id", REPO, "--data_license", "CC0 1.0"]
    assert cli.main(["train", *small_training(data, run), *options]) == 0
    files = hub.repos["model", REPO].files
    assert files[WEIGHTS] == (run / "pipeline" / WEIGHTS).read_bytes()
    assert "metrics.json" in files
    assert b"hub_model_id" not in files["training_config.yaml"]
    assert cli.main(["train", *small_training(data, run), *options]) == 0
    hub.repos["model", REPO].files = {"README.md": b"mine"}
    assert "holds something else" in cli_error("train", *small_training(data, tmp_path / "other"), *options)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "needs --hub_model_id"),
        (["--hub_model_id", "nobody"], "is no Hub id"),
        (["--hub_model_id", REPO, "--data_license", "mine"], "needs one of"),
        (["--hub_model_id", REPO], "no Hugging Face token"),
    ],
)
def test_what_would_not_be_published_is_said_before_training(
    options: list[str],
    message: str,
    small_npz: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cli_error: CliError,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "" if message.startswith("no Hugging") else WRITE_TOKEN)
    arguments = [*small_training(small_npz, tmp_path / "run"), "--max_train_steps", "5", "--push_to_hub", "true"]
    assert message in cli_error("train", *arguments, *options)
    assert not (tmp_path / "run").exists()
