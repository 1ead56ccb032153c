"""The command evaluate: metrics.json, its table, what it takes and what it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medmnist_diffusion import cli
from medmnist_diffusion.artifacts import Metrics
from medmnist_diffusion.data import phantom
from medmnist_diffusion.data.npz import write_npz
from medmnist_diffusion.metrics.table import record_label

from ..conftest import run_python


def test_every_figure_has_its_floor_and_numbers(evaluated: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = json.loads((evaluated / "m.json").read_text())
    assert set(values) == {"dataset", "pipeline", "sampling", "metrics", "refused"}
    names = [(r["name"], r["extractor"], r["class"]) for r in values["metrics"]]
    assert ("kernel_distance", "classifier", None) in names
    assert ("frechet_distance", "texture", None) in names
    assert ("memorized_share", "pixels", None) in names
    assert ("label_accuracy", "classifier", 3) in names
    for record in values["metrics"]:
        assert record["floor"] is not None
        assert record["floor_source"]
        assert record["n_generated"] > 0
        assert record["interval"][0] <= record["value"] <= record["interval"][1]
        if record["name"] == "frechet_distance":
            assert record["ratio"] == pytest.approx(record["value"] / record["floor"])


def test_another_model_reuses_what_was_computed_of_the_real_set(
    evaluated: Path, small_npz: Path, private_cache: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with np.load(evaluated / "fresh.npz") as arrays:
        other = dict(arrays)
    other["train_images"] = 255 - other["train_images"]
    write_npz(evaluated / "other.npz", other)
    # Not the classifiers, which all test processes share; which of them are trained is printed.
    before = {path: path.stat().st_mtime_ns for path in private_cache.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert cli.main(["evaluate", str(evaluated / "other.npz"), "--dataset", str(small_npz), "--features", "classifier",
                     "texture", "--output", str(evaluated / "other.json")]) == 0  # fmt: skip
    printed = capsys.readouterr()
    assert "classifier on generated images" in printed.err
    assert "real images" not in printed.err  # no classifier of those is trained again
    assert {path: path.stat().st_mtime_ns for path in before} == before  # nor anything else of them computed
    new = [path.name for path in private_cache.rglob("*") if path.is_file() and path not in before]
    assert not new
    assert "Fréchet distance, texture (81)" in printed.out
    assert "FID" not in printed.out
    assert "not measured: texture (81): at least 20 images on either side are needed; the " in printed.out


def test_the_same_images_give_the_same_file(evaluated: Path, small_npz: Path) -> None:
    assert cli.main(["evaluate", str(evaluated / "fresh.npz"), "--dataset", str(small_npz), "--features", "classifier",
                     "texture", "--output", str(evaluated / "again.json")]) == 0  # fmt: skip
    assert (evaluated / "again.json").read_text() == (evaluated / "m.json").read_text()


@pytest.mark.slow
def test_two_processes_measure_the_same(evaluated: Path, small_npz: Path, tmp_path: Path) -> None:
    """What no classifier has a part in: those of the fixture were trained for fewer steps."""
    result = run_python(
        "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m", "medmnist_diffusion.cli",
        "evaluate", str(evaluated / "fresh.npz"), "--dataset", str(small_npz), "--features", "texture", "--output",
        str(tmp_path / "two.json"), cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    one, two = (
        [record for record in Metrics.read(path).metrics if record.extractor != "classifier"]
        for path in (evaluated / "m.json", tmp_path / "two.json")
    )
    assert [record_label(record) for record in two] == [record_label(record) for record in one]
    for record, other in zip(one, two, strict=True):
        assert other.value == pytest.approx(record.value, rel=1e-4, abs=1e-4), record_label(record)


def test_pipelines_and_image_folders_are_evaluated_too(trained_run: Path, small_npz: Path, tmp_path: Path) -> None:
    pipeline = tmp_path / "pipeline"
    shutil.copytree(trained_run / "pipeline", pipeline)
    arguments = ["--dataset", str(small_npz), "--features", "texture"]
    assert cli.main(["evaluate", str(pipeline), *arguments, "--num_images", "80", "--num_inference_steps", "5"]) == 0
    metrics = Metrics.read(pipeline / "metrics.json")
    assert metrics.sampling == {"sampler": "dpmsolver++", "num_inference_steps": 5, "guidance_scale": 1.0, "seed": 0}
    assert metrics.pipeline["weights_sha256"]
    assert cli.main(["sample", str(pipeline), "--num_per_class", "40", "--num_inference_steps", "5", "--output",
                     str(tmp_path / "images")]) == 0  # fmt: skip
    assert cli.main(["evaluate", str(tmp_path / "images"), *arguments, "--output", str(tmp_path / "f.json")]) == 0
    one, two = (
        next(record.value for record in found.metrics if record.name == "kernel_distance")
        for found in (metrics, Metrics.read(tmp_path / "f.json"))
    )
    assert Metrics.read(tmp_path / "f.json").sampling == metrics.sampling  # read from the folder's metadata.csv
    assert two == pytest.approx(one, rel=0.5)  # the same generator, other numbers of images


def test_a_pipeline_is_drawn_anew_for_every_sampling_seed(trained_run: Path, small_npz: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(trained_run / "pipeline", folder)
    arguments = [
        "--dataset",
        str(small_npz),
        "--features",
        "texture",
        "--num_images",
        "80",
        "--num_inference_steps",
        "3",
    ]
    values = {}
    for name, extra in (
        ("0", []), ("1", ["--seed", "1"]), ("both", ["--sampling_seeds", "2"])
    ):  # fmt: skip
        assert cli.main(["evaluate", str(folder), *arguments, *extra, "--output", str(tmp_path / f"{name}.json")]) == 0
        metrics = Metrics.read(tmp_path / f"{name}.json")
        values[name] = next(r.value for r in metrics.metrics if r.name == "label_accuracy" and r.class_ is None)
    assert metrics.sampling["sampling_seeds"] == 2
    assert values["both"] == pytest.approx((values["0"] + values["1"]) / 2, abs=0.05)


def test_what_does_not_fit_is_refused(
    trained_run: Path, small_npz: Path, tmp_path: Path, cli_error: Callable[..., str]
) -> None:
    arguments = ["--features", "texture", "--output", str(tmp_path / "m.json")]
    other = tmp_path / "other.npz"
    write_npz(other, phantom.make_phantom(size=32, counts={"train": 60, "val": 20, "test": 20}))
    assert "shape (32, 32, 1)" in cli_error("evaluate", str(other), "--dataset", str(small_npz), *arguments)
    two = phantom.make_phantom(counts={"train": 60, "val": 20, "test": 20})
    for name in ("train", "val", "test"):
        two[f"{name}_labels"] %= 2
    write_npz(tmp_path / "two.npz", two)
    pipeline = str(trained_run / "pipeline")
    assert "two has {0: '0', 1: '1'}" in cli_error(
        "evaluate", pipeline, "--dataset", str(tmp_path / "two.npz"), *arguments
    )
    assert "outside the 2 classes" in cli_error(
        "evaluate", str(small_npz), "--dataset", str(tmp_path / "two.npz"), *arguments
    )
    assert "is no pipeline folder" in cli_error(
        "evaluate", str(tmp_path / "none"), "--dataset", str(small_npz), *arguments
    )
    assert "is not in the range x>=2" in cli_error(
        "evaluate", pipeline, "--dataset", str(small_npz), *arguments, "--num_images", "1"
    )
    assert not (tmp_path / "m.json").exists()


def test_bad_image_folders_are_named(small_npz: Path, tmp_path: Path, cli_error: Callable[..., str]) -> None:
    arguments = ["--dataset", str(small_npz), "--features", "texture", "--output", str(tmp_path / "m.json")]
    (tmp_path / "empty").mkdir()
    assert "no images found" in cli_error("evaluate", str(tmp_path / "empty"), *arguments)
    good = Image.fromarray(np.full((28, 28), 90, np.uint8))
    for name in ("0", "1"):
        (tmp_path / "broken" / name).mkdir(parents=True)
        good.save(tmp_path / "broken" / name / "good.png")
        (tmp_path / "colour" / name).mkdir(parents=True)
        Image.new("RGB", (28, 28), (90, 80, 70)).save(tmp_path / "colour" / name / "good.png")
    (tmp_path / "broken" / "1" / "torn.png").write_bytes((tmp_path / "broken" / "1" / "good.png").read_bytes()[:50])
    for name in ("0", "1"):
        (tmp_path / "large" / name).mkdir(parents=True)
        good.resize((40, 40)).save(tmp_path / "large" / name / "good.png")
    assert "has 40×40 pixels, small 28×28" in cli_error("evaluate", str(tmp_path / "large"), *arguments)
    assert "torn.png" in cli_error("evaluate", str(tmp_path / "broken"), *arguments)
    assert "holds colour images" in cli_error("evaluate", str(tmp_path / "colour"), *arguments)
