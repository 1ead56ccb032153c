"""Images without labels: which are read, where they stand in a batch, what is said of them, and that copies of them are found."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import medmnist_diffusion as md
from medmnist_diffusion import cli
from medmnist_diffusion.artifacts import UNLABELED, Metrics, TrainingSummary
from medmnist_diffusion.data import ImageDataset, Split, phantom
from medmnist_diffusion.data.sources import DataSource
from medmnist_diffusion.data.unlabeled import load_unlabeled
from medmnist_diffusion.diffusion.batches import TrainingBatches
from medmnist_diffusion.metrics.evaluation import unlabeled_copies
from medmnist_diffusion.metrics.extractors import make_extractor
from medmnist_diffusion.metrics.real_side import RealSide
from medmnist_diffusion.publish.copies import copy_tests
from medmnist_diffusion.publish.licences import check_data
from tests.conftest import CliError, small_training
from tests.training.resuming import outcome

SOURCE = DataSource("small")
COUNT = 160


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Phantoms of another seed, some of them a folder deeper."""
    folder = tmp_path_factory.mktemp("unlabeled") / "pictures"
    images = phantom.make_phantom(seed=9, counts={"train": COUNT})["train_images"]
    for at, image in enumerate(images):
        path = folder / ("ward" if at % 2 else ".") / f"{at:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return folder


def in_any_order(images: np.ndarray) -> list[bytes]:
    return sorted(image.tobytes() for image in images)


def test_all_images_of_a_folder_are_read(pictures: Path, small: ImageDataset) -> None:
    found = load_unlabeled(str(pictures), small, SOURCE)
    expected = phantom.make_phantom(seed=9, counts={"train": COUNT})["train_images"]
    assert in_any_order(found.split.images[:]) == in_any_order(expected)
    assert set(found.split.labels) == {small.conditioning.null_label}
    assert (found.record.name, found.record.images, found.record.license) == ("pictures", COUNT, "unknown")


def test_images_of_val_and_test_are_left_out(pictures: Path, small: ImageDataset, tmp_path: Path) -> None:
    folder = shutil.copytree(pictures, tmp_path / "mixed")
    for at in range(3):
        Image.fromarray(small.splits["test"].images[:][at, ..., 0]).save(folder / f"test{at}.png")
        Image.fromarray(small.splits["val"].images[:][at, ..., 0]).save(folder / f"val{at}.png")
    found = load_unlabeled(str(folder), small, SOURCE)
    assert found.record.left_out == 6
    assert found.record.images == COUNT
    assert any("6 unlabeled images stand in val or test" in note for note in found.notes)


def test_of_splits_only_training_images_are_taken(pictures: Path, small: ImageDataset, tmp_path: Path) -> None:
    shutil.copytree(pictures, tmp_path / "x" / "train")
    (tmp_path / "x" / "test").mkdir()
    Image.fromarray(np.zeros((28, 28), np.uint8)).save(tmp_path / "x" / "test" / "0.png")
    found = load_unlabeled(str(tmp_path / "x"), small, SOURCE)
    assert found.record.images == COUNT
    assert "Of the splits test, train only the images of train were taken." in found.notes[0]
    (tmp_path / "x" / "train").rename(tmp_path / "x" / "valid")
    with pytest.raises(md.UserError, match="look like splits"):
        load_unlabeled(str(tmp_path / "x"), small, SOURCE)


def test_colours_and_sizes_must_fit(small: ImageDataset, tmp_path: Path) -> None:
    with pytest.raises(md.UserError, match=r"--unlabeled phantom-rgb has images of shape \(28, 28, 3\)"):
        load_unlabeled("phantom-rgb", small, SOURCE)
    (tmp_path / "empty").mkdir()
    with pytest.raises(md.UserError, match="no images found"):
        load_unlabeled(str(tmp_path / "empty"), small, SOURCE)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_batch_has_its_share_of_them(world_size: int) -> None:
    """Each image has a grey level of its own: which ones a batch holds can be read from it."""
    levels = np.arange(30, dtype=np.uint8)
    images = np.broadcast_to(levels[:, None, None, None], (30, 4, 4, 1))
    labelled = Split("train", images[:20], np.arange(20) % 2)
    unlabeled = Split("unlabeled", images[20:], np.full(10, 2))
    conditioning = ImageDataset("x", {"train": labelled}, {0: "a", 1: "b"}).conditioning
    parts = [
        TrainingBatches(
            labelled,
            8,
            0,
            10,
            conditioning,
            0.0,
            unlabeled=unlabeled,
            unlabeled_share=0.25,
            rank=rank,
            world_size=world_size,
        )
        for rank in range(world_size)
    ]
    assert parts[0].labelled == 6
    seen: list[int] = []
    for number in range(10):
        batches = [part[number] for part in parts]
        grey = np.concatenate([((b.images[:, 0, 0, 0] + 1) * 127.5).round().numpy() for b in batches]).astype(int)
        labels = np.concatenate([b.labels.numpy() for b in batches])
        np.testing.assert_array_equal(labels, np.where(grey < 20, grey % 2, 2))
        assert (grey >= 20).sum() == 2
        seen += grey.tolist()
    counts = np.bincount(seen, minlength=30)
    assert set(counts[:20]) == {3}  # 60 of 20 images
    assert set(counts[20:]) == {2}  # 20 of 10


def training(data: Path, pictures: Path, run: Path, *options: str) -> list[str]:
    return ["train", *small_training(data, run), "--unlabeled", str(pictures), "--unlabeled_share", "0.25", *options]


def test_a_run_says_what_it_saw_and_resumes_bit_by_bit(small_npz: Path, pictures: Path, tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    assert cli.main(training(small_npz, pictures, whole, "--max_train_steps", "40")) == 0
    assert cli.main(training(small_npz, pictures, halves, "--max_train_steps", "40", "--lr_scheduler", "cosine")) == 0
    shutil.rmtree(halves / "pipeline")
    shutil.rmtree(halves / "checkpoints" / "step_00000040")
    assert cli.main(training(small_npz, pictures, halves, "--max_train_steps", "40")) == 0
    assert outcome(halves) == outcome(whole)
    summary = TrainingSummary.of(whole / "pipeline")
    assert summary.unlabeled is not None
    assert (summary.unlabeled.name, summary.unlabeled.images, summary.unlabeled.share) == ("pictures", COUNT, 0.25)
    card = (whole / "pipeline" / "README.md").read_text()
    assert "**Unlabeled images**, too: 160 of pictures, licence unknown, 25% of every batch" in card
    with pytest.raises(md.UserError, match="unlabeled images"):
        check_data("CC0 1.0", None, unlabeled=summary.unlabeled)
    check_data("CC0 1.0", "CC0 1.0", unlabeled=summary.unlabeled)


def test_other_unlabeled_images_are_another_run(
    small_npz: Path, pictures: Path, tmp_path: Path, cli_error: CliError
) -> None:
    run = tmp_path / "run"
    assert cli.main(training(small_npz, pictures, run, "--max_train_steps", "30")) == 0
    fewer = shutil.copytree(pictures, tmp_path / "pictures")
    (fewer / "000.png").unlink()
    error = cli_error(*training(small_npz, fewer, run, "--max_train_steps", "40"))
    assert "unlabeled images: " in error


def test_copies_of_unlabeled_images_are_found(small: ImageDataset, pictures: Path) -> None:
    """Half of what is judged are unlabeled images, the other half fresh ones."""
    unlabeled = load_unlabeled(str(pictures), small, SOURCE).split
    fresh = phantom.make_phantom(seed=11, counts={"train": 120})
    labels = fresh["train_labels"][:, 0].astype(np.int64)
    images = fresh["train_images"][..., None]
    spaces, side = [make_extractor("texture", small)], RealSide(small)
    shares = {}
    for copied in (0, 60):
        judged = Split("generated", np.concatenate([unlabeled.images[:copied], images[copied:]]), labels)
        records = unlabeled_copies(small, unlabeled, judged, spaces, side)
        assert {record.reference_split for record in records} == {UNLABELED}
        shares[copied] = next(r for r in records if (r.name, r.extractor) == ("memorized_share", "pixels"))
    assert shares[60].value >= 0.3 > 0.1 > shares[0].value
    assert shares[60].p_value < 1e-3 < shares[0].p_value


def test_an_evaluation_without_them_cannot_say_that_there_are_no_copies(
    small_npz: Path, pictures: Path, tmp_path: Path, cli_error: CliError
) -> None:
    run = tmp_path / "run"
    assert cli.main(training(small_npz, pictures, run, "--max_train_steps", "20")) == 0
    few = [
        "evaluate",
        str(run / "pipeline"),
        "--dataset",
        str(small_npz),
        "--features",
        "texture",
        "--num_images",
        "80",
    ]
    assert cli.main(few) == 0
    tests = copy_tests(Metrics.read(run / "pipeline" / "metrics.json"))
    assert f"{COUNT} unlabeled images" in tests.unjudged
    assert cli.main([*few, "--unlabeled", str(pictures)]) == 0
    metrics = Metrics.read(run / "pipeline" / "metrics.json")
    assert "unlabeled" not in (copy_tests(metrics).unjudged or "")
    assert any(record.reference_split == UNLABELED for record in metrics.metrics)
    assert "an unlabeled training image" in (run / "pipeline" / "README.md").read_text()
    assert "holds other images" in cli_error(*few, "--unlabeled", "phantom")


def test_a_pipeline_without_them_is_not_compared_with_any(
    trained_run: Path, small_npz: Path, pictures: Path, cli_error: CliError
) -> None:
    command = ["evaluate", str(trained_run / "pipeline"), "--dataset", str(small_npz), "--unlabeled", str(pictures)]
    assert "was trained on no unlabeled images" in cli_error(*command)


def test_several_labels_take_them_as_unknown(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phantom, "SPLITS", {"train": 60, "val": 24, "test": 24})
    dataset = md.load_dataset("phantom-multilabel")
    found = load_unlabeled(str(pictures), dataset, SOURCE._replace(dataset="phantom-multilabel"))
    assert set(found.split.labels) == {1 << dataset.num_classes}
