"""Pipelines that come with the package: by name wherever a pipeline is asked for, never written to."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import medmnist_diffusion as md
from medmnist_diffusion import cli, shipped
from medmnist_diffusion.artifacts import Metrics
from medmnist_diffusion.manifest import folder_manifest
from medmnist_diffusion.publish.card import write_card
from medmnist_diffusion.publish.copies import copy_tests
from medmnist_diffusion.publish.publish import copy_for_publication, reasons_against_publishing
from tests.conftest import ROOT, WITHOUT_US, CliError, run_python, small_training

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
    monkeypatch.setenv("COLUMNS", "60")
    assert cli.main(["models"]) == 0
    assert "tiny-28 " in capsys.readouterr().out  # a name can be copied from a narrow terminal, too


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


# What really comes with the package

SHIPPED = shipped.shipped_folders()
NAMES = [folder.name for folder in SHIPPED]
STRANGER = (
    WITHOUT_US
    + """
import numpy as np, torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
names = [pipe.id2label[0], pipe.id2label[1]]
np.save(sys.argv[2], pipe(class_labels=names, timesteps=pipe.fast_timesteps(3), output_type="np",
                          generator=[torch.Generator().manual_seed(s) for s in range(2)]).images)
print(next(pipe.unet.parameters()).dtype)
"""
)


def test_there_are_some_and_they_are_small() -> None:
    assert {"pneumoniamnist-28", "phantom-28"} <= set(NAMES)
    files = [path for folder in SHIPPED for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 25e6
    assert {path.name for path in files if path.suffix == ".png" and path.stat().st_size > 200_000} == set()


@pytest.mark.parametrize("folder", SHIPPED, ids=NAMES)
def test_each_could_be_published_as_it_is(folder: Path, tmp_path: Path) -> None:
    """Present code, whole by its manifest, evaluated, no copies over spaces and classes, an open licence, nothing private."""
    copy = tmp_path / "copy"
    copy_for_publication(Path(folder.name), copy, f"somebody/{folder.name}", None)
    assert reasons_against_publishing(copy, f"somebody/{folder.name}") == []
    spaces = {record.extractor for record in copy_tests(Metrics.read(folder / "metrics.json")).shares}
    assert {"pixels", "classifier", "texture"} <= spaces


@pytest.mark.parametrize("folder", SHIPPED, ids=NAMES)
def test_each_card_is_drawn_from_its_own_files(folder: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(folder, tmp_path / folder.name)
    write_card(copy, f"model_cards/{folder.name}")
    assert (copy / "README.md").read_text() == (folder / "README.md").read_text(), "run benchmarks/ship.py --refresh"


def test_one_loads_without_the_package_in_full_precision(tmp_path: Path) -> None:
    (folder,) = (one for one in SHIPPED if one.name == "pneumoniamnist-28")
    done = run_python("-c", STRANGER, str(folder), str(tmp_path / "x.npy"), cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip().endswith("torch.float32")
    pipe: Any = md.load_pipeline(folder.name)
    names = [pipe.id2label[0], pipe.id2label[1]]
    ours = pipe(
        class_labels=names, timesteps=pipe.fast_timesteps(3), output_type="np",
        generator=[torch.Generator().manual_seed(seed) for seed in range(2)],
    ).images  # fmt: skip
    np.testing.assert_allclose(np.load(tmp_path / "x.npy"), ours, atol=1e-5)


def test_the_first_lines_of_the_readme_run_as_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    code = (ROOT / "README.md").read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(code, names)
    assert len(names["images"]) == 16
    assert Image.open("xrays.png").size[0] > 200
    image, label = names["train_set"][0]
    assert (tuple(image.shape), int(label)) == ((1, 28, 28), 1)


def test_half_precision_changed_no_figure_beyond_its_interval() -> None:
    """Which ones left it stands in the file: of many figures with 95 % intervals a few may by chance."""
    kept = json.loads((ROOT / "benchmarks" / "results" / "half_precision.json").read_text())
    assert set(kept) == set(NAMES)
    for name, found in kept.items():
        assert found["outside"] <= 0.1 * len(found["figures"]), name
