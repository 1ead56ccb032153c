"""Fixtures: the outcome of a run that was never stopped."""

from pathlib import Path

import pytest

from medmnist_diffusion import cli
from tests.conftest import small_training
from tests.training.resuming import EVERYTHING, outcome


@pytest.fixture(scope="package")
def never_stopped(small_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    run = tmp_path_factory.mktemp("whole") / "run"
    assert cli.main(["train", *small_training(small_npz, run), *EVERYTHING]) == 0
    return outcome(run)
