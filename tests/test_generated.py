"""`generate`: images in memory, as a torch data set, as a table, as a picture, as files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel
from torchvision.transforms.functional import to_tensor

import medmnist_diffusion as md
from medmnist_diffusion.artifacts import SamplesRecord
from medmnist_diffusion.data import Split
from medmnist_diffusion.data.npz import read_npz
from medmnist_diffusion.diffusion.sampling import generate_images, load_pipeline
from medmnist_diffusion.generated import GeneratedImages

FEW = md.Sampling(num_inference_steps=4)


@pytest.fixture(scope="module")
def folder(trained_run: Path) -> Path:
    return trained_run / "pipeline"


@pytest.fixture(scope="module")
def made(folder: Path) -> GeneratedImages:
    return md.generate(folder, {"2": 3, "0": 1}, seed=7, sampling=FEW)


def of(labels: list[int], task: Any = "multi-class", shape: tuple[int, ...] = (5, 4, 3)) -> GeneratedImages:
    """Images of noise, of three classes."""
    images = np.random.default_rng(0).integers(0, 256, (len(labels), *shape), np.uint8)
    record = SamplesRecord(
        id2label={0: "a", 1: "b", 2: "c"}, task=task, pipeline_weights_sha256="", trained_on="", synthetic=True,
        sampler="ddim", num_inference_steps=1, guidance_scale=1, seed=0, images_sha256="",
    )  # fmt: skip
    return GeneratedImages(Split("train", images, np.array(labels)), record)


def test_images_are_those_of_the_loaded_pipeline(made: GeneratedImages, folder: Path) -> None:
    expected = generate_images(load_pipeline(folder), [2, 2, 2, 0], num_inference_steps=4, seed=7)
    np.testing.assert_array_equal(made.images, expected)
    assert made.labels.tolist() == [2, 2, 2, 0]
    assert made.names == ["2", "2", "2", "0"]
    assert made.record.seed == 7
    assert len(made) == 4


@pytest.mark.parametrize(
    "labels",
    [
        ["2", "2", "2", "0"],
        [2, 2, 2, 0],
        [["2"], [2], "2", 0],
        np.array([2, 2, 2, 0]),
        torch.tensor([2, 2, 2, 0]),
        {"2": np.int64(3), "0": np.int64(1)},
    ],
)
def test_what_each_image_shows_can_be_listed(made: GeneratedImages, folder: Path, labels: Any) -> None:
    np.testing.assert_array_equal(md.generate(folder, labels, seed=7, sampling=FEW).images, made.images)


def test_more_images_begin_with_the_same_ones(made: GeneratedImages, folder: Path) -> None:
    more = md.generate(folder, {"2": 5}, sampling=md.Sampling(num_inference_steps=4, seed=7))
    np.testing.assert_array_equal(more.images[:3], made.images[:3])
    assert not (md.generate(folder, {"2": 3}, seed=8, sampling=FEW).images == made.images[:3]).all()


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ({"lung": 3}, "labels: 'lung' is none of 0, 1, 2, 3"), ({"1": -1}, "give a number of images for each name"),
        ({"1": "many"}, "give a number of images for each name"), ({"1": 0}, "no images were asked for"),
        ([], "no images were asked for"), ([4], "labels: 4 is none of"), ([["0", "1"]], "an image shows one class"),
    ],
)  # fmt: skip
def test_what_cannot_be_made_is_refused(folder: Path, labels: dict[str, int], says: str) -> None:
    with pytest.raises(md.UserError, match=says):
        md.generate(folder, labels, sampling=FEW)


def test_a_negative_seed_is_refused(folder: Path) -> None:
    with pytest.raises(md.UserError, match="--seed is -1"):
        md.generate(folder, {"0": 1}, seed=-1)


@pytest.mark.parametrize("labels", [[0, 2, 1, 1], [0, 5, 4, 7]], ids=["classes", "several labels"])
def test_a_torch_dataset_holds_what_torchvision_makes_of_the_pictures(labels: list[int]) -> None:
    made = of(labels, "multi-label" if max(labels) > 2 else "multi-class")
    dataset = made.as_torch_dataset()
    table = made.as_datasets()
    assert len(dataset) == len(table) == 4
    for at, row in enumerate(table):
        image, label = dataset[at]
        torch.testing.assert_close(image, to_tensor(row["image"]))
        if max(labels) > 2:
            assert label.dtype == torch.float32
            assert torch.nonzero(label)[:, 0].tolist() == row["labels"]
        else:
            assert label.dtype == torch.int64
            assert label == row["label"]


def test_a_table_has_the_names_of_the_classes(made: GeneratedImages) -> None:
    feature = made.as_datasets().features["label"]
    assert isinstance(feature, ClassLabel)
    assert [feature.int2str(label) for label in made.labels.tolist()] == made.names


def test_volumes_are_tensors_and_no_table() -> None:
    made = of([0, 1], shape=(6, 5, 4, 1))
    image, _ = made.as_torch_dataset()[1]
    assert tuple(image.shape) == (1, 6, 5, 4)
    torch.testing.assert_close(image[0, 2], torch.from_numpy(made.images[1, 2, ..., 0] / 255).float())
    with pytest.raises(md.UserError, match="volumes"):
        made.as_datasets()


def test_a_grid_has_a_row_a_class_and_leaves_places_white() -> None:
    made = of([1, 0, 1, 1], shape=(5, 4, 1))
    grid = np.asarray(made.grid())[1::3, 1::3]  # every pixel is drawn three times
    assert grid.shape == (2 * 6 - 1, 3 * 5 - 1)
    np.testing.assert_array_equal(grid[:5, :4], made.images[1, ..., 0])
    np.testing.assert_array_equal(grid[6:, 10:], made.images[3, ..., 0])
    assert (grid[:5, 5:] == 255).all()


def written(made: GeneratedImages, tmp_path: Path) -> Iterator[Split]:
    """What comes back from each form that has a reader here."""
    yield read_npz(made.save(tmp_path / "x.npz"), ("train",))["train"]
    read = md.load_dataset  # a folder of classes is split by its own reader: all of it is in some split
    splits = read(str(made.save(tmp_path / "pictures")), size=28).splits.values()
    yield Split("train", np.concatenate([s.images[:] for s in splits]), np.concatenate([s.labels for s in splits]))


def test_saved_images_come_back(folder: Path, tmp_path: Path) -> None:
    made = md.generate(folder, dict.fromkeys("0123", 8), sampling=FEW)
    for split in written(made, tmp_path):
        assert split.unordered_hash == made.split.unordered_hash
    made.save(tmp_path / "table", "parquet")
    with pytest.raises(md.UserError, match="exists already"):
        made.save(tmp_path / "x.npz")
    with pytest.raises(md.UserError, match=r"does not end with \.npz"):
        made.save(tmp_path / "y", "npz")
