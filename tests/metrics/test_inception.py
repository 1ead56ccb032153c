"""The network behind FID, with random weights and with a stand-in for the official file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch_fidelity import feature_extractor_inceptionv3
from torchmetrics.image.fid import FrechetInceptionDistance

from medmnist_diffusion.data.dataset import Split
from medmnist_diffusion.files import file_hash
from medmnist_diffusion.metrics import inception
from medmnist_diffusion.metrics.extractors import make_extractor
from medmnist_diffusion.metrics.features import extract

from .helpers import degraded, distance, fresh


@pytest.mark.slow
def test_random_inception_runs_offline_at_all_dimensions_and_ranks(small: Any) -> None:
    """Finite at 768 and 2048 too, the same every time, and it sees noise and blur."""
    extractor = make_extractor("random", small)
    assert extractor.name == "random-inception"
    reference = extract(extractor, small.train.subset(np.arange(100)))
    assert list(reference) == [64, 192, 768, 2048]
    images = fresh(60)
    real = extract(extractor, images)
    cases = degraded(images.images[:])
    worse = {name: extract(extractor, Split(name, cases[name], images.labels)) for name in ("much noise", "blobs")}
    for dimension, features in reference.items():
        assert np.isfinite(features).all()
        near = distance(features, real[dimension])
        for name, other in worse.items():
            assert near < distance(features, other[dimension]), (dimension, name)
    again = make_extractor("random", small)
    assert again.identity == extractor.identity
    for dimension, features in extract(again, images.subset(np.arange(8))).items():
        np.testing.assert_allclose(features, real[dimension][:8], rtol=1e-4, atol=1e-4)


@pytest.fixture
def stand_in_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A file of the official one's layout with random weights, and its hash as the one to expect."""
    torch.manual_seed(0)
    network = inception._bare_inception()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    digest = file_hash(tmp_path / "weights.pth")
    monkeypatch.setattr(inception, "INCEPTION_HASH_PREFIX", digest[:8])
    return tmp_path / "weights.pth"


def test_fid_equals_torchmetrics_from_images_to_figure(stand_in_weights: Any, small: Any) -> None:
    real, generated = small.train.subset(np.arange(70)), fresh(66)
    extractor = make_extractor("inception", small, stand_in_weights)
    theirs = FrechetInceptionDistance(64, feature_extractor_weights_path=str(stand_in_weights)).set_dtype(
        torch.float64
    )
    for split, is_real in ((real, True), (generated, False)):
        images = torch.from_numpy(split.images).permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
        theirs.update(images, real=is_real)
    ours = distance(extract(extractor, real)[64], extract(extractor, generated)[64])
    assert ours == pytest.approx(float(theirs.compute()), rel=1e-3)


def test_another_weights_file_is_refused(small_npz: Path, tmp_path: Path, cli_error: Callable[..., str]) -> None:
    (tmp_path / "weights.pth").write_bytes(b"something else")
    message = cli_error("evaluate", str(small_npz), "--dataset", str(small_npz), "--inception_weights",
                        str(tmp_path / "weights.pth"))  # fmt: skip
    assert "is not the official Inception file" in message
    assert "--features classifier texture" in message
    assert "no such file" in cli_error("evaluate", str(small_npz), "--dataset", str(small_npz), "--inception_weights",
                                       str(tmp_path / "none.pth"))  # fmt: skip


def test_absent_weights_and_no_network(
    small_npz: Path, tmp_path: Path, cli_error: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real download is tried, at an address where nothing listens."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(feature_extractor_inceptionv3, "URL_INCEPTION_V3", "http://127.0.0.1:9/weights-6726825d.pth")
    message = cli_error("evaluate", str(small_npz), "--dataset", str(small_npz), "--features", "inception")
    assert "cannot be downloaded" in message
    assert "http://127.0.0.1:9/weights-6726825d.pth" in message
    assert "--inception_weights PATH" in message
    assert "--features random" in message
    assert not list(tmp_path.rglob("*.pth"))
