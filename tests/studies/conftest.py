"""The data of tests that run a whole study, which trains many networks."""

from pathlib import Path

import pytest

from medmnist_diffusion.data import ImageDataset, load_dataset, phantom
from medmnist_diffusion.data.npz import write_npz


@pytest.fixture(scope="session")
def tiny_npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """240 / 80 / 80 phantom images of 16 pixels: a third of the work that 28 are."""
    path = tmp_path_factory.mktemp("data") / "tiny.npz"
    write_npz(path, phantom.make_phantom(size=16, counts={"train": 240, "val": 80, "test": 80}))
    return path


@pytest.fixture(scope="session")
def tiny(tiny_npz: Path) -> ImageDataset:
    """The same as a data set."""
    return load_dataset(str(tiny_npz))
