"""Image folders and parquet: what they become, and that every broken one ends in one line that names it and the remedy."""

import functools
import os
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from medmnist_diffusion.data import load_dataset, tables
from medmnist_diffusion.data.arrow import store_images
from tests.conftest import CliError


def image_folder(path: Path, mode: str = "L", per_class: int = 20) -> Path:
    rng = np.random.default_rng(0)
    for number, name in enumerate(["benign", "malignant"]):
        (path / name).mkdir(parents=True)
        for i in range(per_class):
            shape = (40, 50) if mode == "L" else (40, 50, 3)
            pixels = (rng.normal(80 + 80 * number, 10, shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(path / name / f"{i}.png")
    return path


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_image_folder(tmp_path: Path, mode: str, channels: int) -> None:
    dataset = load_dataset(str(image_folder(tmp_path / "mine", mode)), size=32)
    assert dataset.id2label == {0: "benign", 1: "malignant"}
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 32, "val": 4, "test": 4}
    assert dataset.train.images.shape[1:] == (32, 32, channels)
    brightness = dataset.train.images[:].mean((1, 2, 3))
    np.testing.assert_array_equal(brightness > 120, dataset.train.labels == 1)  # labels stay with their images
    assert dataset.notes == [
        "Classes in the order of their ids: benign, malignant.",
        "Images of 40×50 pixels (height × width) were cropped to their middle square and resized to 32×32.",
        "No val and no test split was given: drawn from train, stratified, with seed 0.",
    ]


def test_image_folder_with_splits_keeps_them(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("val", 3), ("test", 2)):
        image_folder(tmp_path / "mine" / split, per_class=count)
    dataset = load_dataset(str(tmp_path / "mine"))
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 12, "val": 6, "test": 4}


def test_parquet_folder_with_image_and_label_columns(tmp_path: Path) -> None:
    features = datasets.Features({"picture": datasets.Image(), "diagnosis": datasets.ClassLabel(names=["no", "yes"])})
    pictures = [Image.fromarray(np.full((28, 28), 10 * i, np.uint8)) for i in range(20)]
    table = datasets.Dataset.from_dict({"picture": pictures, "diagnosis": [0, 1] * 10}, features=features)
    (tmp_path / "set").mkdir()
    table.to_parquet(str(tmp_path / "set" / "train.parquet"))
    dataset = load_dataset(str(tmp_path / "set"))
    assert dataset.id2label == {0: "no", 1: "yes"}
    values = np.concatenate([split.images[:][:, 0, 0, 0] for split in dataset.splits.values()])
    labels = np.concatenate([split.labels for split in dataset.splits.values()])
    np.testing.assert_array_equal(values // 10 % 2, labels)


def test_text_labels_mean_the_same_in_every_split(tmp_path: Path) -> None:
    """A split that lacks a class must not shift the ids of the others."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    grey = {"a": 40, "b": 120, "c": 200}
    for split, names in (("train", "abc" * 4), ("validation", "abc"), ("test", "aacc")):
        pictures = [Image.fromarray(np.full((28, 28), grey[name], np.uint8)) for name in names]
        table = datasets.Dataset.from_dict({"image": pictures, "label": list(names)}, features=features)
        (tmp_path / "set").mkdir(exist_ok=True)
        table.to_parquet(str(tmp_path / "set" / f"{split}-00000-of-00001.parquet"))
    dataset = load_dataset(str(tmp_path / "set"))
    assert dataset.id2label == {0: "a", 1: "b", 2: "c"}
    for part in dataset.splits.values():
        np.testing.assert_array_equal(part.images[:][:, 0, 0, 0], [list(grey.values())[k] for k in part.labels])


def test_only_top_level_folders_name_splits(tmp_path: Path) -> None:
    """Classes and files whose names hold `test`, `train` or brackets are classes and files; hidden ones are not."""
    folder = image_folder(tmp_path / "mine")
    (folder / "benign").rename(folder / "test_positive")
    (folder / "malignant").rename(folder / "training_artifact")
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "1.png").write_bytes((folder / "test_positive" / "1.png").read_bytes())
    (folder / "test_positive" / "._2.png").write_bytes(b"macOS")
    (folder / "test_positive" / "0.png").rename(folder / "test_positive" / "stress_test_1[0].png")
    dataset = load_dataset(str(folder))
    assert dataset.id2label == {0: "test_positive", 1: "training_artifact"}
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 32, "val": 4, "test": 4}


def test_two_folders_for_one_split_are_refused(tmp_path: Path, cli_error: CliError) -> None:
    for name in ("train", "val", "validation"):
        image_folder(tmp_path / "mine" / name, per_class=3)
    assert "val and validation are both val" in cli_error("audit", str(tmp_path / "mine"))


def test_a_lone_test_folder_becomes_the_set_and_leaks_nowhere(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "mine" / "test" / name).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(rng.integers(0, 256, (28, 28), np.uint8)).save(
                tmp_path / "mine" / "test" / name / f"{i}.png"
            )
    dataset = load_dataset(str(tmp_path / "mine"))
    pixels = [image.tobytes() for split in dataset.splits.values() for image in split.images[:]]
    assert len(pixels) == len(set(pixels)) == 40


def test_corrupt_image_in_a_folder_is_named(tmp_path: Path, cli_error: CliError) -> None:
    folder = image_folder(tmp_path / "mine")
    (folder / "benign" / "7.png").write_bytes((folder / "benign" / "7.png").read_bytes()[:60])
    error = cli_error("audit", str(folder))
    assert "7.png" in error
    assert "Replace or remove it" in error


def test_damaged_image_of_every_kind_is_named(tmp_path: Path, cli_error: CliError) -> None:
    """Pillow raises SyntaxError and ValueError on damaged files, too."""
    folder = image_folder(tmp_path / "mine")
    whole = (folder / "benign" / "7.png").read_bytes()
    at = whole.index(b"IDAT") - 4
    (folder / "benign" / "7.png").write_bytes(whole[:at] + b"\x00\x00\x00\x10" + whole[at + 4 :])
    assert "7.png" in cli_error("audit", str(folder))


def test_folder_with_one_class(tmp_path: Path, cli_error: CliError) -> None:
    folder = image_folder(tmp_path / "mine")
    (folder / "malignant").rename(tmp_path / "elsewhere")
    error = cli_error("audit", str(folder))
    assert "one class only" in error
    assert str(folder) in error


def test_folder_without_images(tmp_path: Path, cli_error: CliError) -> None:
    (tmp_path / "empty").mkdir()
    assert "no images found" in cli_error("audit", str(tmp_path / "empty"))


@pytest.mark.parametrize("kind", ["images", "parquet"])
def test_a_file_rewritten_with_its_old_date_is_read_anew(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Caches know a file by its content: not by path, date and length."""
    monkeypatch.setattr(tables, "store_images", functools.partial(store_images, in_memory_bytes=0))
    folder = tmp_path / "mine"

    def write(grey: int) -> None:
        picture = Image.new("L", (28, 28), grey)
        for number in range(12):
            path = folder / "ab"[number % 2] / f"{number}.bmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
        if kind == "parquet":
            for path in folder.rglob("*.bmp"):
                path.unlink()
            features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
            table = datasets.Dataset.from_dict({"image": [picture] * 12, "label": [0, 1] * 6}, features=features)
            table.to_parquet(str(folder / "train.parquet"))
        for path in folder.rglob("*.*"):
            os.utime(path, (1_600_000_000, 1_600_000_000))

    for grey in (10, 200):
        write(grey)
        dataset = load_dataset(str(folder))
        assert (dataset.train.images[:] == grey).all()
        assert dataset.content_hash == load_dataset(str(folder)).content_hash
