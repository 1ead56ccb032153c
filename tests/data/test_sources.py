"""Sources: what every good name becomes, and that every bad one ends in one line that names it and the remedy."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medmnist_diffusion.data import load_dataset, phantom, to_model_range, to_uint8
from medmnist_diffusion.errors import UserError
from tests.conftest import CliError


@pytest.mark.parametrize(
    ("name", "channels", "size"), [("phantom", 1, 28), ("phantom-rgb", 3, 28), ("phantom", 1, 64)]
)
def test_phantom(name: str, channels: int, size: int) -> None:
    dataset = load_dataset(name, size=size)
    assert dataset.synthetic
    assert dataset.train.images.shape == (2400, size, size, channels)
    assert dataset.train.images[:].dtype == np.uint8
    assert dataset.num_classes == 4
    assert "Synthetic" in dataset.description
    assert dataset.content_hash == load_dataset(name, size=size).content_hash


def test_phantom_seeds_differ_and_classes_look_different() -> None:
    first, second = phantom.make_phantom(seed=0), phantom.make_phantom(seed=1)
    assert (first["train_images"] != second["train_images"]).mean() > 0.5
    means = [first["train_images"][first["train_labels"][:, 0] == k].mean(0) for k in range(4)]
    for i in range(4):
        for j in range(i):
            assert np.abs(means[i] - means[j]).max() > 3


def test_real_pneumoniamnist(real_data: Path) -> None:
    dataset = load_dataset("pneumoniamnist", root=real_data)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 4708, "val": 524, "test": 624}
    assert np.bincount(dataset.train.labels).tolist() == [1214, 3494]
    assert dataset.id2label == {0: "normal", 1: "pneumonia"}
    assert dataset.license == "CC BY 4.0"
    assert "Yang" in dataset.citation
    assert "unverified copy" in dataset.notes[0]


def test_root_comes_from_the_environment(real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDMNIST_ROOT", str(real_data))
    assert len(load_dataset("pneumoniamnist").train) == 4708


def test_image_tensor_round_trip_is_exact() -> None:
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    tensor = to_model_range(images)
    assert tensor.min() == -1
    assert tensor.max() == 1
    np.testing.assert_array_equal(to_uint8(tensor), images)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pneumoniamnst", "Did you mean 'pneumoniamnist'?"),
        ("phantm", "Did you mean 'phantom'?"),
        ("xyzzy", "Known: "),
    ],
)
def test_unknown_flags(name: str, message: str, cli_error: CliError) -> None:
    assert message in cli_error("audit", name)


def test_unsupported_sizes(tmp_path: Path, small_npz: Path, cli_error: CliError) -> None:
    assert "comes in sizes 28, 64, 128, 224, not 32" in cli_error("audit", "pneumoniamnist", "--size", "32")
    assert "Use a multiple of 4" in cli_error("audit", "phantom", "--size", "30")
    assert "--size 64 does not fit" in cli_error("audit", str(small_npz), "--size", "64")


def test_missing_medmnist_file_says_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"pneumoniamnist\.npz: no such file.*zenodo.*28209eda62fecd6e6a2d98b1501bb15f.*MEDMNIST_ROOT"
    ):
        load_dataset("pneumoniamnist", root=tmp_path, download=False)


def test_a_failed_download_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli_error: CliError
) -> None:
    import medmnist

    monkeypatch.setitem(medmnist.INFO["breastmnist"], "url", "http://127.0.0.1:9/breastmnist.npz")
    error = cli_error("audit", "breastmnist", "--root", str(tmp_path / "root"))
    assert "could not be downloaded" in error
    assert "--root or MEDMNIST_ROOT" in error
    assert not list((tmp_path / "root").glob("*"))


def test_downloaded_file_with_the_wrong_checksum_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli_error: CliError, small_npz: Path
) -> None:
    import http.server
    import threading

    import medmnist

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(small_npz.parent))

        def log_message(self, *args: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/{small_npz.name}"
    monkeypatch.setitem(medmnist.INFO["breastmnist"], "url", url)
    try:
        assert "could not be downloaded" in cli_error("audit", "breastmnist", "--root", str(tmp_path / "root"))
        assert not list((tmp_path / "root").glob("*"))
    finally:
        server.shutdown()


def test_hub_set_out_of_reach(cli_error: CliError) -> None:
    assert "neither an existing path nor a Hub data set that can be reached" in cli_error(
        "audit", "nobody/nothing-here"
    )
