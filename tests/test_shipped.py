"""Pipelines that come with the package: by name wherever a pipeline is asked for, never written to."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import medmnist_diffusion as md
from medmnist_diffusion import cli, shipped
from medmnist_diffusion.manifest import folder_manifest
from tests.conftest import CliError, small_training

FEW = ["--num_inference_steps", "4"]


@pytest.fixture
def named(trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The small run's pipeline as one that came with the package, and a folder to work in."""
    cards = tmp_path / "installed"
    shutil.copytree(trained_run / "pipeline", cards / "tiny-28")
    (cards / "only-a-card").mkdir()
    monkeypatch.setattr(shipped, "MODEL_CARDS", cards)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return cards / "tiny-28"


def test_a_name_stands_for_its_folder(named: Path, trained_run: Path) -> None:
    assert shipped.shipped_names() == ["tiny-28"]
    by_name, by_path = (md.generate(one, {"1": 2}, seed=3) for one in ("tiny-28", trained_run / "pipeline"))
    np.testing.assert_array_equal(by_name.images, by_path.images)
    assert by_name.record.pipeline_weights_sha256 == by_path.record.pipeline_weights_sha256
    assert md.load_pipeline("tiny-28").get_label_ids("1") == [1]


def test_a_folder_of_that_name_comes_first(named: Path) -> None:
    Path("tiny-28").mkdir()
    with pytest.raises(md.UserError, match="tiny-28 is no pipeline folder"):
        md.load_pipeline("tiny-28")


@pytest.mark.parametrize(
    "command",
    [
        ["sample", "tiny", "--num_per_class", "1", "--output", "x"],
        ["publish", "tiny", "a/b", "--dry_run"],
        ["train", "--dataset", "phantom", "--pretrained_model_name_or_path", "tiny", "--output_dir", "x"],
        ["evaluate", "tiny", "--dataset", "phantom"],
    ],
    ids=lambda command: command[0],
)
def test_another_name_is_answered_with_the_ones_there_are(
    named: Path, cli_error: CliError, command: list[str]
) -> None:
    assert "medmnist-diffusion models`: tiny-28" in cli_error(*command)


def test_sampling_and_augmenting_leave_it_as_it_was(named: Path, small_npz: Path) -> None:
    before = folder_manifest(named)
    assert cli.main(["sample", "tiny-28", "--num_per_class", "1", "--output", "images.npz", *FEW]) == 0
    beside = ["augment", "tiny-28", "--dataset", str(small_npz), "--output", "more.npz", "--share", "0.05", *FEW]
    assert cli.main(beside) == 0
    assert json.loads(Path("more.json").read_text())["pipeline_weights_sha256"]
    assert folder_manifest(named) == before


def test_it_is_evaluated_as_a_copy(named: Path, small_npz: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = folder_manifest(named)
    few = ["--features", "texture", "--num_images", "80", *FEW]
    assert cli.main(["evaluate", "tiny-28", "--dataset", str(small_npz), *few]) == 0
    assert "A copy of it is evaluated: the folder tiny-28, here" in capsys.readouterr().out
    assert folder_manifest(named) == before
    assert {"metrics.json", "samples_seed0.npz", "README.md"} <= {path.name for path in Path("tiny-28").iterdir()}
    assert json.loads(Path("tiny-28/metrics.json").read_text())["metrics"]


def test_a_training_starts_from_it(named: Path, small_npz: Path) -> None:
    start = [
        "--pretrained_model_name_or_path",
        "tiny-28",
        "--max_train_steps",
        "1",
        "--block_out_channels",
        "16",
        "32",
    ]
    assert cli.main(["train", *small_training(small_npz, Path("run"))[:4], *start, "--report_to", "none"]) == 0
    (base,) = json.loads(Path("run/pipeline/training_summary.json").read_text())["bases"]
    assert base["name"] == "tiny-28"


def test_models_lists_it(named: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert cli.main(["models"]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if "tiny-28" in line)
    assert "28×28 grey" in row
    assert "unknown" in row  # its licence


def test_data_in_another_order_are_the_same_data(named: Path, small_npz: Path, tmp_path: Path) -> None:
    """MedMNIST's files are passed on in more than one order of rows."""
    with np.load(small_npz) as arrays:
        order = {
            name: np.random.default_rng(1).permutation(len(arrays[f"{name}_labels"]))
            for name in ("train", "val", "test")
        }
        np.savez(tmp_path / "small.npz", **{key: arrays[key][order[key.partition("_")[0]]] for key in arrays})
        np.savez(tmp_path / "other.npz", **{**arrays, "train_labels": arrays["train_labels"][::-1]})
    beside = ["augment", "tiny-28", "--output", "more.npz", "--share", "0.05", *FEW, "--dataset"]
    assert cli.main([*beside, str(tmp_path / "other.npz")]) == 2
    assert cli.main([*beside, str(tmp_path / "small.npz")]) == 0
