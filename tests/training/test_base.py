"""A training that starts from another pipeline: what it takes over, what it says of it, and what it refuses."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from medmnist_diffusion import cli
from medmnist_diffusion.artifacts import BaseRecord, TrainingSummary, UnlabeledRecord
from medmnist_diffusion.choices import OPEN_LICENSES
from medmnist_diffusion.data import ImageDataset, load_dataset, phantom
from medmnist_diffusion.data.npz import npz_arrays, write_npz
from medmnist_diffusion.diffusion.checkpoints import read_state
from medmnist_diffusion.diffusion.optimizers import build_optimizers
from medmnist_diffusion.diffusion.sampling import generate_images, load_pipeline
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.provenance import saw_no_patients
from medmnist_diffusion.publish.licences import STRICTEST_FIRST, check_data, citations_of, license_of, with_license
from medmnist_diffusion.training import history
from tests.conftest import CliError, small_training
from tests.training.resuming import EVERYTHING, outcome, start, wait_for_checkpoint

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
    assert (record.name, record.trained_on, record.adapted) == (trained_run.name, "small", [])
    assert record.content_hash == small.content_hash
    card = (run / "pipeline" / "README.md").read_text()
    assert f"**It started from a trained pipeline:** {trained_run.name} (trained on small" in card
    assert "Its base saw images of" not in card  # but for the same ones
    assert yaml.safe_load((run / "training_config.yaml").read_text())["pretrained_model_name_or_path"] == "pipeline"


@pytest.mark.parametrize(
    ("base", "data", "size", "shape", "grid"),
    [
        ("phantom-28", "phantom-rgb", "28", (3, 28, 28), 14),
        ("phantom-28", "phantom", "40", (1, 40, 40), 14),  # by 3: a power of two would leave 10 or 20
        ("retinamnist-28", "phantom-multilabel", "64", (1, 64, 64), 14),
        ("retinamnist-28", "phantom-rgb", "64", (3, 64, 64), 22),  # 27 channels: its first block has 32
        ("pbc-blood-64", "phantom-rgb", "28", (3, 28, 28), 14),
        ("adrenalmnist3d-28", "phantom-3d", "16", (1, 16, 16, 16), 16),
    ],
)
def test_from_a_shipped_pipeline_to_other_colours_sizes_and_tasks(
    base: str, data: str, size: str, shape: tuple[int, ...], grid: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(phantom, "SPLITS", FEW)
    monkeypatch.setattr(phantom, "VOLUMES", FEW)
    run, known = tmp_path / "run", load_pipeline(base)
    options = ["--size", size, "--output_dir", str(run), "--max_train_steps", "2", "--train_batch_size", "4"]
    quick = ["--report_to", "none", "--mixed_precision", "no", "--pretrained_model_name_or_path", base]
    assert cli.main(["train", "--dataset", data, *options, *quick]) == 0
    pipe, summary = load_pipeline(run / "pipeline"), TrainingSummary.of(run / "pipeline")
    assert pipe.image_shape == shape
    assert pipe.scheduler.config.prediction_type == known.scheduler.config.prediction_type
    assert pipe.image_encoder.encoded_shape[1:] == (grid, grid)
    assert [one.name for one in summary.bases] == [base]
    assert summary.bases[0].adapted
    assert saw_no_patients(summary) == (base == "phantom-28")
    assert f"Its base saw images of {summary.bases[0].trained_on}." in (run / "pipeline" / "README.md").read_text()


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


@pytest.fixture
def coloured_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """RGB images with several labels each."""
    monkeypatch.setattr(phantom, "SPLITS", FEW)
    grey = load_dataset("phantom-multilabel")
    splits = {name: replace(one, images=np.repeat(one.images[:], 3, axis=-1)) for name, one in grey.splits.items()}
    path = tmp_path / "coloured.npz"
    write_npz(path, npz_arrays(splits, grey.conditioning))
    return path


def test_killed_and_resumed_it_is_the_same(
    trained_run: Path, coloured_labels: Path, tmp_path: Path, cli_error: CliError, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To other labels, colours and another task; what was taken over learns slower; the base is gone when the run goes on."""
    base = shutil.copytree(trained_run, tmp_path / "base")
    options = ["--pretrained_model_name_or_path", f"{base}/pipeline", "--pretrained_learning_rate_factor", "0.3"]
    for name in ("whole", "cut"):
        process = start(tmp_path / name, coloured_labels, *options)
        if name == "cut":
            wait_for_checkpoint(tmp_path / "cut", process)
            process.kill()
        process.communicate(timeout=120)
    assert not (tmp_path / "cut" / "pipeline").exists()
    again = ["train", *small_training(coloured_labels, tmp_path / "cut"), *EVERYTHING]
    for other in ("phantom-28", "somebody/else"):
        error = cli_error(*again, "--pretrained_model_name_or_path", other, *options[2:])
        assert f"has begun from pipeline, not from {other}" in error
    shutil.rmtree(base)
    assert cli.main([*again, *options]) == 0
    assert outcome(tmp_path / "cut") == outcome(tmp_path / "whole")
    assert [one.name for one in TrainingSummary.of(tmp_path / "cut" / "pipeline").bases] == ["base"]
    assert cli.main([*again, *options[2:]]) == 0  # it is trained, and needs not even the name
    monkeypatch.setattr(history, "read_state", lambda path: read_state(path).model_copy(update={"bases": []}))
    assert "give that one again" in cli_error(*again, *options[2:])  # as of an older version


def test_what_was_taken_over_learns_slower(
    trained_run: Path, small_npz: Path, tmp_path: Path, cli_error: CliError
) -> None:
    """AdamW's first step is as long as its rate, whatever the gradient."""
    network = load_pipeline(trained_run / "pipeline").unet
    adamw, muon = build_optimizers(network, "muon", 1e-3, 0.02, 0.0, inner=0.25)
    before = {name: one.detach().clone() for name, one in network.named_parameters()}
    for parameter in network.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(parameter.numel()))
    for optimizer in (adamw, muon):
        optimizer.step()
    moved = {name: float((one.detach() - before[name]).abs().max()) for name, one in network.named_parameters()}
    for name in ("conv_in.weight", "conv_out.bias", "class_embedding.weight"):
        assert moved[name] == pytest.approx(1e-3, rel=1e-3)
    assert moved["time_embedding.linear_1.weight"] == pytest.approx(0.25e-3, rel=1e-3)
    assert muon.param_groups[0]["lr"] == 0.005
    alone = ["train", *small_training(small_npz, tmp_path / "run"), "--pretrained_learning_rate_factor", "0.3"]
    assert "is for what is taken over" in cli_error(*alone)


def test_bases_of_bases_are_known(trained_run: Path, small_npz: Path, tmp_path: Path) -> None:
    for before, run in ((trained_run, tmp_path / "first"), (tmp_path / "first", tmp_path / "second")):
        assert cli.main(started(before, str(small_npz), run, "--max_train_steps", "1")) == 0
    summary = TrainingSummary.of(tmp_path / "second" / "pipeline")
    assert len(summary.bases) == 2
    assert summary.bases[1] == TrainingSummary.of(tmp_path / "first" / "pipeline").bases[0]
    assert f"That one started from {trained_run.name}" in (tmp_path / "second" / "pipeline" / "README.md").read_text()
    with pytest.raises(UserError, match=r"the licence of small, which the base .* was trained on, is 'unknown'"):
        check_data("CC0 1.0", None, summary.bases)
    check_data("unknown", "CC BY 4.0", summary.bases)  # images of one's own


@pytest.mark.parametrize(
    ("own", "base", "unlabeled_of_base", "all_of_it"),
    [
        ("CC0 1.0", "CC BY 4.0", None, "CC BY 4.0"),
        ("CC BY 4.0", "CC0 1.0", None, "CC BY 4.0"),
        ("CC BY 4.0", "CC BY-NC 4.0", None, "CC BY-NC 4.0"),
        ("CC0 1.0", "CC0 1.0", "CC BY-NC 4.0", "CC BY-NC 4.0"),
        ("CC BY-NC 4.0", "CC0 1.0", "unknown", "unknown"),
        ("unknown", "CC BY-NC 4.0", None, "unknown"),
    ],
)
def test_the_strictest_licence_holds(
    own: str, base: str, unlabeled_of_base: str | None, all_of_it: str, trained_run: Path
) -> None:
    summary = TrainingSummary.of(trained_run / "pipeline")
    beside = unlabeled_of_base and UnlabeledRecord(
        name="more", images=9, content_hash="0", license=unlabeled_of_base, left_out=0, citation="Nobody 2020"
    )
    record = BaseRecord(
        name="b", weights_sha256="0", trained_on="t", content_hash="1", license=base, citation="Somebody 2019",
        unlabeled=beside or None, adapted=[],
    )  # fmt: skip
    dataset = summary.dataset.model_copy(update={"license": own})
    whole = summary.model_copy(update={"dataset": dataset, "bases": [record]})
    assert license_of(whole) == all_of_it
    assert "Somebody 2019" in citations_of(whole)
    if all_of_it == "unknown":
        with pytest.raises(UserError, match="Publishing needs one that permits it"):
            check_data(own, None, whole.bases)
    assert license_of(with_license(whole, "CC BY 4.0")) in ("CC BY 4.0", "CC BY-NC 4.0")
    assert set(STRICTEST_FIRST) == set(OPEN_LICENSES)


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
    assert f"the licence of small, which the base {trained_run.name} was trained on, is 'unknown'" in error
    assert not (tmp_path / "run" / "checkpoints").exists()
