"""A training that starts from another pipeline: what it takes over, what it says of it, and what it refuses."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medmnist_diffusion import cli
from medmnist_diffusion.artifacts import TrainingSummary
from medmnist_diffusion.data import ImageDataset, phantom
from medmnist_diffusion.diffusion.sampling import generate_images, load_pipeline
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.publish.licences import check_bases, license_of
from tests.conftest import CliError, small_training
from tests.training.resuming import outcome

FEW = {"train": 60, "val": 24, "test": 24}


def started(base: Path, data: str, run: Path, *options: str) -> list[str]:
    return ["train", *small_training(data, run), "--pretrained_model_name_or_path", str(base / "pipeline"), *options]


def test_nothing_is_lost_at_the_start(trained_run: Path, small_npz: Path, small: ImageDataset, tmp_path: Path) -> None:
    run = tmp_path / "run"
    still = ["--max_train_steps", "1", "--learning_rate", "1e-12", "--muon_learning_rate", "1e-12"]
    assert cli.main(started(trained_run, str(small_npz), run, *still)) == 0
    new, base = (load_pipeline(folder / "pipeline") for folder in (run, trained_run))
    labels = np.arange(4)
    np.testing.assert_array_equal(generate_images(new, labels), generate_images(base, labels))
    (record,) = TrainingSummary.of(run / "pipeline").bases
    assert (record.name, record.trained_on, record.adapted) == ("pipeline", "small", [])
    assert record.content_hash == small.content_hash
    card = (run / "pipeline" / "README.md").read_text()
    assert "**It started from a trained pipeline:** pipeline (trained on small" in card
    assert "Whether images of small were copied was not looked for here" in card


@pytest.mark.parametrize(
    ("data", "size", "shape"),
    [("phantom-rgb", "28", (3, 28, 28)), ("phantom", "64", (1, 64, 64)), ("phantom-multilabel", "28", (1, 28, 28))],
)
def test_other_colours_sizes_and_tasks(
    data: str, size: str, shape: tuple[int, ...], trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phantom, "SPLITS", FEW)
    run = tmp_path / "run"
    assert cli.main(started(trained_run, data, run, "--size", size, "--max_train_steps", "3")) == 0
    pipe = load_pipeline(run / "pipeline")
    assert pipe.image_shape == shape
    assert pipe.scheduler.config.prediction_type == "v_prediction"
    assert pipe.image_encoder.encoded_shape[1:] == ((14, 14) if size == "28" else (16, 16))
    (record,) = TrainingSummary.of(run / "pipeline").bases
    assert bool(record.adapted) == (data != "phantom" or size != "28")


def test_other_classes_of_a_folder(trained_run: Path, tmp_path: Path) -> None:
    images = phantom.make_phantom(counts={"train": 40})["train_images"]
    for number, image in enumerate(images):
        folder = tmp_path / "mine" / ("1", "rare")[number % 2]  # 1 is also an id, of the other class
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{number}.png")
    run = tmp_path / "run"
    assert cli.main(started(trained_run, str(tmp_path / "mine"), run, "--max_train_steps", "2")) == 0
    assert TrainingSummary.of(run / "pipeline").bases[0].adapted == [
        "Classes that the base does not know start at random: rare."
    ]


def test_stopped_and_resumed_it_is_the_same(
    trained_run: Path, small_npz: Path, tmp_path: Path, cli_error: CliError
) -> None:
    steps = ["--max_train_steps", "30", "--checkpointing_steps", "10"]
    assert cli.main(started(trained_run, str(small_npz), tmp_path / "whole", *steps)) == 0
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for path in (tmp_path / "cut" / "pipeline", tmp_path / "cut" / "checkpoints" / "step_00000030"):
        assert path.is_dir()
        shutil.rmtree(path)
    assert cli.main(started(trained_run, str(small_npz), tmp_path / "cut", *steps)) == 0
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")
    without = ["train", *small_training(small_npz, tmp_path / "cut"), *steps]
    assert "base:" in cli_error(*without)  # another start is another run


def test_bases_of_bases_are_known(trained_run: Path, small_npz: Path, tmp_path: Path) -> None:
    for before, run in ((trained_run, tmp_path / "first"), (tmp_path / "first", tmp_path / "second")):
        assert cli.main(started(before, str(small_npz), run, "--max_train_steps", "1")) == 0
    summary = TrainingSummary.of(tmp_path / "second" / "pipeline")
    assert len(summary.bases) == 2
    assert summary.bases[1] == TrainingSummary.of(tmp_path / "first" / "pipeline").bases[0]
    assert "That one started from pipeline" in (tmp_path / "second" / "pipeline" / "README.md").read_text()
    limited = summary.bases[1].model_copy(update={"license": "CC BY-NC 4.0"})
    assert license_of(summary.model_copy(update={"bases": [limited]})) == "CC BY-NC 4.0"
    with pytest.raises(UserError, match="whose licence is 'unknown'"):
        check_bases(summary.bases)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--block_out_channels", "48"], "the base has block_out_channels [16, 32], and this training [16, 32, 48]"),
        (["--prediction_type", "epsilon"], "the base predicts v_prediction, and --prediction_type asks for epsilon"),
        (["--beta_schedule", "linear"], "--beta_schedule squaredcos_cap_v2"),
        (["--pretrained_model_name_or_path", "nothing/here"], "is no folder here, and the Hub gave none"),
        (["--pretrained_model_name_or_path", "nothing"], "no pipeline folder, and no Hub id"),
    ],
)
def test_an_unfit_base_is_refused(
    options: list[str], words: str, trained_run: Path, small_npz: Path, tmp_path: Path, cli_error: CliError
) -> None:
    assert words in cli_error(
        *started(trained_run, str(small_npz), tmp_path / "run", "--max_train_steps", "2", *options)
    )
    assert not (tmp_path / "run" / "pipeline").exists()


def test_volumes_do_not_start_from_images(
    trained_run: Path, tmp_path: Path, cli_error: CliError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phantom, "VOLUMES", FEW)
    line = cli_error(*started(trained_run, "phantom-3d", tmp_path / "run", "--size", "16", "--max_train_steps", "1"))
    assert "the base makes images, and this data set holds volumes" in line


def test_a_base_whose_licence_forbids_publication_is_known_before_training(
    trained_run: Path, tmp_path: Path, cli_error: CliError, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_" + "x" * 34)  # it is not used: no network is asked before training
    hub = ["--push_to_hub", "true", "--hub_model_id", "somebody/x"]
    error = cli_error(*started(trained_run, "phantom", tmp_path / "run", *hub))
    assert "the base pipeline was trained on small, whose licence is 'unknown'" in error
    assert not (tmp_path / "run" / "checkpoints").exists()
