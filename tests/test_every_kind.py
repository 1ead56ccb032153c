"""From audit to card for every kind of data: several labels an image, grades, colour, 64 pixels, not square, volumes, DICOM."""

import json
from pathlib import Path

import numpy as np
import pytest
from medmnist import Evaluator
from PIL import Image

from medmnist_diffusion import cli
from medmnist_diffusion.artifacts import Metrics
from medmnist_diffusion.data import load_dataset, phantom
from medmnist_diffusion.data.labelled_folder import load_labelled_folder
from tests.conftest import small_training
from tests.data.test_medical import folder_of_dicom

OWN = Path(__file__).resolve().parents[2] / "shared" / "data" / "own"
SMALL = {"train": 400, "val": 120, "test": 120}
EXPECTED = {
    "phantom-multilabel": {"label_auc", "cooccurrence_distance", "classification_auc"},
    "phantom-ordinal": {"label_accuracy", "label_error", "label_kappa", "classification_accuracy"},
    "phantom-rgb": {"label_accuracy", "classification_accuracy"},
    "phantom-3d": {"label_accuracy", "copied_share", "memorized_share"},
}


def whole_line(data: str, folder: Path, monkeypatch: pytest.MonkeyPatch, *size: str, images: int = 150) -> Metrics:
    """Every command, run by a user in a folder of his own."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(phantom, "SPLITS", SMALL)
    monkeypatch.setattr(phantom, "VOLUMES", SMALL)
    given = ["--size", *size] if size else []
    assert cli.main(["audit", data, *given, "--json", "audit.json", "--preview", "preview.png"]) == 0
    training = [*small_training(data, Path("run")), *given, "--max_train_steps", "20"]
    assert cli.main(["train", *training]) == 0
    pipeline = "run/pipeline"
    few = ["--num_inference_steps", "2"]
    assert cli.main(["sample", pipeline, "--num_images", "6", "--output", "samples.npz", *few]) == 0
    assert cli.main(["sample", pipeline, "--num_per_class", "1", "--output", "samples", *few]) == 0
    known = load_dataset(data, size=[int(one) for one in size] or None)
    exported = load_labelled_folder(Path("samples"), data, known.conditioning, known.shape)
    assert sorted(exported.labels.tolist()) == known.conditioning.each(1).tolist()
    evaluated = ["evaluate", pipeline, "--dataset", data, *given, "--num_images", str(images), *few]
    assert cli.main(evaluated) == 0
    assert cli.main(["card", pipeline]) == 0
    assert cli.main(["distill", pipeline, "--output", "student", "--max_train_steps", "2", "--num_pairs", "64"]) == 0
    assert cli.main(["sample", "student", "--num_images", "4", "--output", "of_student.npz"]) == 0
    assert "Not evaluated yet" not in (folder / pipeline / "README.md").read_text()
    for name in ("preview.png", f"{pipeline}/samples.png", f"{pipeline}/ratios.png"):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 30
    return Metrics.read(folder / pipeline / "metrics.json")


@pytest.mark.parametrize("data", EXPECTED)
def test_from_audit_to_card(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics = whole_line(data, tmp_path, monkeypatch, *(["16"] if data == "phantom-3d" else []))
    names = {record.name for record in metrics.metrics}
    assert names >= EXPECTED[data]
    assert metrics.dataset["task"] == load_dataset(data).task
    report = json.loads((tmp_path / "audit.json").read_text())
    if data == "phantom-multilabel":
        assert report["splits"]["train"]["combinations"]["no label"] > 0
        assert "label_accuracy" not in names
        labels = np.load(tmp_path / "samples.npz")["train_labels"]
        assert labels.shape == (6, 3)


@pytest.mark.slow
def test_64_pixels_and_images_that_are_not_square(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for label in ("a", "b"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for number in range(70):
            pixels = rng.integers(0, 128, (70, 50), np.uint8) + np.uint8(90 * (label == "b"))
            Image.fromarray(pixels).save(tmp_path / "set" / label / f"{number}.png")
    whole_line("set", tmp_path, monkeypatch, "64", "45", images=60)
    with Image.open(next((tmp_path / "samples").rglob("*.png"))) as picture:
        assert picture.size == (45, 64)


def test_a_folder_of_dicom_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder_of_dicom(tmp_path / "scans", count=70)
    metrics = whole_line("scans", tmp_path, monkeypatch, "32", images=60)
    assert any("grey levels" in note for note in metrics.dataset["notes"])
    card = (tmp_path / "run" / "pipeline" / "README.md").read_text()
    assert "burnt into the pixels" in card


def test_16_bit_pictures_with_a_table_of_labels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng, lines = np.random.default_rng(0), ["file,diagnosis,patient_id"]
    (tmp_path / "export" / "images").mkdir(parents=True)
    for number in range(140):
        pixels = rng.integers(1000, 2000, (40, 36)) + 800 * (number % 2) * np.eye(40, 36, dtype=int)
        Image.fromarray(pixels.astype(np.uint16)).save(tmp_path / "export" / "images" / f"{number:03}.png")
        lines.append(f"images/{number:03}.png,{('healthy', 'line')[number % 2]},p{number // 2}")
    (tmp_path / "export" / "labels.csv").write_text("\n".join(lines) + "\n")
    metrics = whole_line("export", tmp_path, monkeypatch, "32", images=60)
    notes = " ".join(metrics.dataset["notes"])
    assert "became the grey levels 0 to 255, the same in all images" in notes
    assert "Labels are read from labels.csv" in notes
    assert "Images with the same patient_id belong together" in notes
    assert "0.5 and 99.5 %" in (tmp_path / "run" / "pipeline" / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["nih_chest_subset_28.npz", "pbc_blood_subset_64.npz"])
def test_real_sets(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not (OWN / name).is_file():
        pytest.skip(f"{name} is not there")
    metrics = whole_line(str(OWN / name), tmp_path, monkeypatch, images=300)
    assert {record.name for record in metrics.metrics} & {"label_auc", "label_accuracy"}


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["retinamnist", "adrenalmnist3d"])
def test_real_flags(flag: str, real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDMNIST_ROOT", str(real_data))
    metrics = whole_line(flag, tmp_path, monkeypatch, images=300)
    assert metrics.dataset["source"] == "medmnist"
    monkeypatch.setattr(Evaluator.__init__, "__defaults__", (None, str(real_data)))
    (file,) = (tmp_path / "run" / "evaluator").glob("*@generated-images-seed0.csv")
    score = next(one for one in metrics.metrics if one.name == "classification_accuracy" and one.class_ is None)
    assert pytest.approx(score.value, abs=1e-9) == Evaluator.parse_and_evaluate(str(file)).ACC
    assert len(list(file.parent.iterdir())) == 2  # the other of as many real images
