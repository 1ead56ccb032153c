"""One evaluation of fresh images by the command."""

from pathlib import Path

import pytest

from medmnist_diffusion import cli
from medmnist_diffusion.data import phantom
from medmnist_diffusion.data.npz import write_npz


@pytest.fixture(scope="session")
def evaluated(small_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """metrics.json of an npz of fresh images."""
    folder = tmp_path_factory.mktemp("evaluated")
    arrays = phantom.make_phantom(seed=7, counts={"train": 200, "val": 8, "test": 8})
    write_npz(folder / "fresh.npz", arrays)
    arguments = [
        "--dataset",
        str(small_npz),
        "--features",
        "classifier",
        "texture",
        "--output",
        str(folder / "m.json"),
    ]
    assert cli.main(["evaluate", str(folder / "fresh.npz"), *arguments]) == 0
    return folder
