"""The audit: the known facts of the real set, and planted ones."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from medmnist_diffusion import cli
from medmnist_diffusion.artifacts import Audit
from medmnist_diffusion.data import ImageDataset, load_dataset, phantom
from medmnist_diffusion.data import audit as audit_module
from medmnist_diffusion.data.audit import audit, findings
from medmnist_diffusion.data.duplicates import drop_leaks, image_hashes, near_pairs
from medmnist_diffusion.data.npz import write_npz
from tests.conftest import ROOT


def test_real_pneumoniamnist(real_data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report_file = tmp_path / "audit.json"
    assert cli.main(["audit", "pneumoniamnist", "--root", str(real_data), "--json", str(report_file)]) == 0
    report = json.loads(report_file.read_text())
    assert report["splits"]["train"]["repeated_images"] == 18
    assert report["splits"]["test"]["repeated_images"] == 3
    assert report["leaks"]["train-val"]["val_images_in_train"] == 8
    assert report["leaks"]["train-val"]["train_images_in_val"] == 10
    assert report["leaks"]["train-test"]["test_images_in_train"] == 0
    assert report["splits"]["train"]["per_class"] == {"normal": 1214, "pneumonia": 3494}
    out = " ".join(capsys.readouterr().out.split())
    assert "8 val images also stand in train (as 10 rows)" in out
    assert "18 train images repeat an earlier one" in out


def test_drop_leaks_on_the_real_set(real_data: Path) -> None:
    dataset, dropped = drop_leaks(load_dataset("pneumoniamnist", root=real_data))
    assert dropped == 10
    assert len(dataset.train) == 4698
    assert audit(dataset).leaks["train-val"]["val_images_in_train"] == 0


@pytest.fixture
def planted(tmp_path: Path) -> ImageDataset:
    """Known faults: 1 blank, 2 repeats and 1 near-duplicate in train; 1 leak into test, 1 near-leak into val."""
    arrays = phantom.make_phantom(counts={"train": 60, "val": 30, "test": 30})
    train = arrays["train_images"]
    train[0] = 7
    train[1] = train[2] = train[3]
    train[4] = train[5] + 2 * (np.arange(28) % 2).astype(np.uint8)
    arrays["test_images"][0] = train[6]
    arrays["val_images"][0] = train[7] ^ 1
    write_npz(tmp_path / "planted.npz", arrays)
    return load_dataset(str(tmp_path / "planted.npz"))


def test_planted_faults_are_found(planted: ImageDataset) -> None:
    report = audit(planted)
    train = report.splits["train"]
    assert (train.constant_images, train.repeated_images, train.near_duplicate_pairs) == (1, 2, 1)
    assert report.leaks["train-test"] == {
        "train_images_in_test": 1, "test_images_in_train": 1, "near_duplicate_pairs": 0,
        "looked_up_for_near_duplicates": 30,
    }  # fmt: skip
    assert report.leaks["train-val"]["near_duplicate_pairs"] == 1
    assert report.leaks["train-val"]["val_images_in_train"] == 0
    assert len(findings(report)) >= 5


def test_pixel_statistics_against_numpy(planted: ImageDataset) -> None:
    report = audit(planted).splits["val"]
    images = planted.splits["val"].images[:].astype(float)
    assert report.pixel_mean == pytest.approx([images.mean()], abs=0.01)
    assert report.pixel_std == pytest.approx([images.std()], abs=0.01)


def test_a_class_that_its_brightness_gives_away(tmp_path: Path) -> None:
    arrays = phantom.make_phantom(counts={"train": 60, "val": 30, "test": 30})
    write_npz(tmp_path / "plain.npz", arrays)
    plain = audit(load_dataset(str(tmp_path / "plain.npz")))
    labels = arrays["train_labels"].ravel()
    arrays["train_images"][labels == 1] //= 16  # twelve bits read as sixteen
    write_npz(tmp_path / "dark.npz", arrays)
    report = audit(load_dataset(str(tmp_path / "dark.npz")))
    found, means = report.splits["train"].brightness, arrays["train_images"].mean((1, 2))
    assert found is not None
    assert found["1"].mean == pytest.approx(means[labels == 1].mean(), abs=0.01)
    assert found["1"].auc == roc_auc_score(labels == 1, -means) == 1
    assert any("Brightness alone tells these classes from the others: 1 (mean" in line for line in findings(report))
    assert not any("Brightness" in line for line in findings(plain))


def test_an_audit_is_kept_by_content(
    planted: ImageDataset, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another name reads the same counts; a damaged file is made again; other class names are another audit."""
    first = audit(planted)
    (kept,) = (private_cache / "audits").glob(f"{planted.content_hash}-*.json")
    with monkeypatch.context() as patch:
        patch.setattr(audit_module, "image_hashes", None)  # nothing is counted
        again = audit(replace(planted, name="other", license="CC0 1.0"))
    assert again.splits == first.splits
    assert again.leaks == first.leaks
    assert (again.dataset.name, again.dataset.license) == ("other", "CC0 1.0")
    for damage in (kept.read_bytes()[:100], b"{}", b"\xff"):
        kept.write_bytes(damage)
        assert audit(planted) == first
        assert Audit.model_validate_json(kept.read_bytes()) == first
    renamed = audit(replace(planted, id2label={label: f"class {label}" for label in planted.id2label}))
    assert list(renamed.splits["train"].per_class) == [f"class {label}" for label in planted.id2label]


@pytest.mark.parametrize("name", ["phantom-28", "pneumoniamnist-28"])
def test_audits_of_older_runs_are_read(name: str) -> None:
    summary = json.loads((ROOT / "tests" / "older_files" / name / "training_summary.json").read_text())
    report = Audit.model_validate(summary["audit"])
    known = report.model_dump(exclude_none=True)
    assert known["dataset"].pop("task") == "multi-class"
    assert known == summary["audit"]
    for part in [*summary["audit"]["splits"].values(), *summary["audit"]["leaks"].values()]:
        part.pop("looked_up_for_near_duplicates", None)
    assert findings(Audit.model_validate(summary["audit"])) == findings(report)


def test_near_pairs_against_brute_force(planted: ImageDataset) -> None:
    images = planted.train.images[:].reshape(60, -1).astype(float)
    distances = np.sqrt(((images[:, None] - images[None]) ** 2).mean(-1))
    for threshold in (5.0, 20.0):
        expected = {(i, j) for i in range(60) for j in range(i + 1, 60) if 0 < distances[i, j] <= threshold}
        assert set(near_pairs(planted.train, planted.train, threshold)) == expected
        some = np.arange(0, 60, 7)
        found = [tuple(sorted(pair)) for pair in near_pairs(planted.train, planted.train, threshold, some)]
        assert sorted(found) == sorted(pair for pair in expected if {*pair} & {*some.tolist()})
        half = np.arange(0, 60, 2)
        found = [tuple(sorted(pair)) for pair in near_pairs(planted.train, planted.train, threshold, some, half)]
        both = {*some.tolist()}, {*half.tolist()}
        wanted = [(i, j) for i, j in expected if (i in both[0] and j in both[1]) or (j in both[0] and i in both[1])]
        assert sorted(found) == sorted(wanted)


def test_hashes_tell_images_apart_and_nothing_else(planted: ImageDataset) -> None:
    hashes = image_hashes(planted.train)
    assert len(np.unique(hashes)) == len(np.unique(planted.train.images[:].reshape(60, -1), axis=0))
