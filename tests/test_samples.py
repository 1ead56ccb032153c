"""Sampling and export: three forms that are read back, records of how, several processes."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from PIL import Image

from medmnist_diffusion import cli
from medmnist_diffusion.data import Split, load_dataset
from medmnist_diffusion.data.labelled_folder import load_labelled_folder
from medmnist_diffusion.data.npz import read_npz
from medmnist_diffusion.diffusion.sampling import generate_images, load_pipeline
from medmnist_diffusion.files import file_hash
from tests.conftest import run_python

STEPS = ["--num_inference_steps", "4"]


@pytest.fixture(scope="module")
def pipeline(trained_run: Path) -> Any:
    return str(trained_run / "pipeline")


@pytest.fixture(scope="module")
def expected(trained_run: Path) -> Any:
    """Six images a class, made by the library."""
    pipe = load_pipeline(trained_run / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    return generate_images(pipe, np.repeat(range(4), 6), num_inference_steps=4)


def agree(images: np.ndarray, expected: np.ndarray) -> None:
    """Within one grey level."""
    np.testing.assert_allclose(images.astype(int), expected.astype(int), atol=1)


def test_folder_of_pngs_with_metadata(pipeline: str, expected: Any, small_npz: Path, tmp_path: Path) -> None:
    out = tmp_path / "images"
    assert cli.main(["sample", pipeline, "--num_per_class", "6", "--output", str(out), *STEPS]) == 0
    with (out / "metadata.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["label"]) for row in rows] == np.repeat(range(4), 6).tolist()
    agree(np.stack([np.asarray(Image.open(out / row["file_name"]))[..., None] for row in rows]), expected)
    first = rows[0]
    assert first["file_name"] == "0_0/000000.png"
    shown = np.stack([np.asarray(Image.open(out / row["file_name"]))[..., None] for row in rows])
    content = Split("train", shown, np.array([int(row["label"]) for row in rows])).content_hash
    assert first | {"file_name": ""} == {
        "images_sha256": content,
        "file_name": "", "label": "0", "label_name": "0", "index": "0", "trained_on": "small", "synthetic": "False",
        "pipeline_weights_sha256": file_hash(Path(pipeline) / "unet" / "diffusion_pytorch_model.safetensors"),
        "sampler": "dpmsolver++", "num_inference_steps": "4", "guidance_scale": "1.0", "seed": "0",
    }  # fmt: skip
    # Our own reader, and the ecosystem's.
    dataset = load_dataset(str(small_npz))
    split = load_labelled_folder(out, dataset.name, dataset.conditioning, dataset.shape)
    agree(split.images[np.argsort(split.labels, kind="stable")], expected)
    table = datasets.load_dataset("imagefolder", data_dir=str(out), split="train")
    assert sorted(table["label"]) == np.repeat(range(4), 6).tolist()
    assert set(table["seed"]) == {0}


def test_npz_in_medmnist_layout(pipeline: str, expected: Any, tmp_path: Path) -> None:
    out = tmp_path / "images.npz"
    assert cli.main(["sample", pipeline, "--num_per_class", "6", "--output", str(out), *STEPS]) == 0
    split = read_npz(out, ("train",))["train"]
    agree(split.images[:], expected)
    assert split.labels.tolist() == np.repeat(range(4), 6).tolist()
    with np.load(out) as arrays:
        assert arrays["train_images"].shape == (24, 28, 28)
        assert arrays["train_labels"].shape == (24, 1)
        assert len(arrays["test_images"]) == 0
    record = json.loads(out.with_suffix(".json").read_text())
    assert record["seed"] == 0
    assert record["id2label"]["3"] == "3"


def test_parquet_with_a_class_label(pipeline: str, expected: Any, tmp_path: Path) -> None:
    out = tmp_path / "table"
    assert (
        cli.main(["sample", pipeline, "--num_per_class", "6", "--output", str(out), "--format", "parquet", *STEPS])
        == 0
    )
    table = datasets.load_dataset(str(out), split="train")
    assert table.features["label"].names == ["0", "1", "2", "3"]
    agree(np.stack([np.asarray(image)[..., None] for image in table["image"]]), expected)
    assert json.loads((out / "sampling.json").read_text())["sampler"] == "dpmsolver++"


def test_seed_sampler_and_guidance_change_the_images(pipeline: str, expected: Any, tmp_path: Path) -> None:
    for name, option in (("seed", "1"), ("sampler", "ddim"), ("guidance_scale", "2.0")):
        out = tmp_path / f"{name}.npz"
        arguments = ["--num_per_class", "6", "--output", str(out), f"--{name}", option, *STEPS]
        assert cli.main(["sample", pipeline, *arguments]) == 0
        images = read_npz(out, ("train",))["train"].images
        assert np.abs(images[:].astype(int) - expected.astype(int)).max() > 5, name


def test_more_images_begin_with_the_same_ones(pipeline: str, expected: Any, tmp_path: Path) -> None:
    out = tmp_path / "more.npz"
    arguments = ["--num_per_class", "9", "--output", str(out), "--batch_size", "5", *STEPS]
    assert cli.main(["sample", pipeline, *arguments]) == 0
    images = read_npz(out, ("train",))["train"].images[:].reshape(4, 9, 28, 28, 1)
    agree(images[:, :6].reshape(24, 28, 28, 1), expected)


def test_two_processes_give_the_same_images_as_one(pipeline: str, expected: Any, tmp_path: Path) -> None:
    out = tmp_path / "two.npz"
    result = run_python(
        "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m", "medmnist_diffusion.cli",
        "sample", pipeline, "--num_per_class", "6", "--output", str(out), *STEPS, cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    assert "by 2 process" in result.stdout
    agree(read_npz(out, ("train",))["train"].images[:], expected)


def test_what_is_there_is_not_overwritten(pipeline: str, tmp_path: Path, cli_error: Callable[..., str]) -> None:
    (tmp_path / "there").mkdir()
    message = cli_error("sample", pipeline, "--num_per_class", "1", "--output", str(tmp_path / "there"))
    assert "exists already" in message


def test_bad_arguments(pipeline: str, tmp_path: Path, cli_error: Callable[..., str]) -> None:
    out = ["--output", str(tmp_path / "out")]
    assert "0 is not in the range x>=1" in cli_error("sample", pipeline, "--num_per_class", "0", *out)
    assert "greater than or equal to 1" in cli_error(
        "sample", pipeline, "--num_per_class", "2", "--num_inference_steps", "0", *out
    )
    assert "has 1000 noise levels" in cli_error(
        "sample", pipeline, "--num_per_class", "1", "--sampler", "ddim", "--num_inference_steps", "1001", *out
    )
    assert "--seed is -1" in cli_error("sample", pipeline, "--num_per_class", "1", "--seed", "-1", *out)
    assert "does not end with .npz" in cli_error("sample", pipeline, "--num_per_class", "1", "--format", "npz", *out)
    assert "model_index.json is missing" in cli_error("sample", str(tmp_path), "--num_per_class", "1", *out)
    assert not (tmp_path / "out").exists()
