"""Fixtures: arrays in MedMNIST's layout."""

import numpy as np
import pytest

from medmnist_diffusion.data import phantom


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    return phantom.make_phantom(counts={"train": 40, "val": 20, "test": 20})
