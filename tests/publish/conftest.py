"""Fixtures: an evaluated pipeline folder, and a Hub on the loopback."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from medmnist_diffusion import cli
from medmnist_diffusion.data import phantom
from medmnist_diffusion.data.npz import write_npz
from tests.conftest import small_training
from tests.publish.hub_server import Hub
from tests.publish.publishing import environment


@pytest.fixture(scope="package")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder with its figures, as `train` and `evaluate` leave it."""
    made = tmp_path_factory.mktemp("published")
    write_npz(made / "small.npz", phantom.make_phantom(counts={"train": 480, "val": 240, "test": 120}))
    assert cli.main(["train", *small_training(made / "small.npz", made / "run"), "--max_train_steps", "20"]) == 0
    arguments = ["--features", "classifier", "--num_images", "160", "--num_inference_steps", "3"]
    assert (
        cli.main(["evaluate", str(made / "run" / "pipeline"), "--dataset", str(made / "small.npz"), *arguments]) == 0
    )
    return made / "run" / "pipeline"


@pytest.fixture
def folder(evaluated: Path, tmp_path: Path) -> Path:
    return shutil.copytree(evaluated, tmp_path / "pipeline")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        for name, value in environment(server).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield server
