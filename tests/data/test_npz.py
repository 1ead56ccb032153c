"""MedMNIST's npz layout: what is read, and that every broken file ends in one line that names it and the remedy."""

import io
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medmnist_diffusion.data import Conditioning, Split
from medmnist_diffusion.data.arrow import ArrowImages
from medmnist_diffusion.data.npz import npz_arrays, read_npz, write_npz
from medmnist_diffusion.data.sources import load_dataset
from tests.conftest import CliError

Arrays = dict[str, np.ndarray]
NAMED = {0: "a", 1: "b", 2: "c", 3: "d"}


def test_npz_in_memory_and_memory_mapped_are_the_same(tmp_path: Path, arrays: Arrays) -> None:
    write_npz(tmp_path / "x.npz", arrays)
    small = read_npz(tmp_path / "x.npz")
    large = read_npz(tmp_path / "x.npz", in_memory_bytes=1000)
    in_memory, on_disk = small["train"].images, large["train"].images
    assert isinstance(in_memory, np.ndarray)
    assert isinstance(on_disk, ArrowImages)
    assert on_disk[:2].flags.writeable  # torch warns of others
    assert in_memory.shape == on_disk.shape == (40, 28, 28, 1)
    np.testing.assert_array_equal(in_memory, on_disk[:])
    np.testing.assert_array_equal(in_memory[[5, 2, 39]], on_disk[np.array([5, 2, 39])])
    assert small["train"].content_hash == large["train"].content_hash
    np.testing.assert_array_equal(in_memory[..., 0], arrays["train_images"])


def test_the_content_hash_of_images_on_disk_is_kept_beside_them(
    tmp_path: Path, arrays: Arrays, private_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is of these labels; a damaged one is made again."""
    arrays["train_images"][0, 0, :2] = 1, 2  # content that no other test has
    write_npz(tmp_path / "kept.npz", arrays)
    split = read_npz(tmp_path / "kept.npz", in_memory_bytes=1000)["train"]
    expected = split.content_hash
    (kept,) = (private_cache / "arrow").glob("kept-train-*/content_hash-*.json")
    for damage in (None, "{}", '{"sha256": "1"}'):
        if damage is not None:
            kept.write_text(damage)
        assert read_npz(tmp_path / "kept.npz", in_memory_bytes=1000)["train"].content_hash == expected
    relabelled = Split("train", split.images, 1 - split.labels.clip(max=1))
    in_memory = Split("train", split.images[:], relabelled.labels)
    assert relabelled.content_hash == in_memory.content_hash != expected
    monkeypatch.setattr(Split, "chunks", None)  # nothing is read
    assert read_npz(tmp_path / "kept.npz", in_memory_bytes=1000)["train"].content_hash == expected


def test_a_changed_file_is_read_anew_when_memory_mapped(tmp_path: Path, arrays: Arrays) -> None:
    write_npz(tmp_path / "x.npz", arrays)
    before = read_npz(tmp_path / "x.npz", in_memory_bytes=1000)["train"].content_hash
    arrays["train_images"][0, 0, 0] ^= 255
    write_npz(tmp_path / "x.npz", arrays)
    assert read_npz(tmp_path / "x.npz", in_memory_bytes=1000)["train"].content_hash != before


@pytest.mark.parametrize("classes", [2, 300])
def test_written_splits_are_read_as_they_were(tmp_path: Path, classes: int) -> None:
    """More classes than a byte can count keep their labels."""
    rng = np.random.default_rng(0)
    splits = {}
    for name in ("train", "val", "test"):
        images = rng.integers(0, 256, (classes, 8, 8, 1), np.uint8)
        splits[name] = Split(name, images, np.arange(classes, dtype=np.int64))
    write_npz(tmp_path / "x.npz", npz_arrays(splits, Conditioning({label: str(label) for label in range(classes)})))
    again = read_npz(tmp_path / "x.npz")
    assert {name: split.content_hash for name, split in again.items()} == {
        name: split.content_hash for name, split in splits.items()
    }


Change = Callable[[Arrays], Arrays]


def without(*names: str) -> Change:
    return lambda arrays: {key: value for key, value in arrays.items() if key not in names}


def replaced(**changes: Callable[[Arrays], np.ndarray]) -> Change:
    return lambda arrays: arrays | {key: change(arrays) for key, change in changes.items()}


BAD_ARRAYS = {
    "missing array": (without("val_labels"), "array 'val_labels' is missing"),
    "extra array": (replaced(notes=lambda a: np.zeros(3)), "'notes' does not belong"),
    "wrong dtype": (replaced(train_images=lambda a: a["train_images"] / 255), "dtype float64; uint8"),
    "wrong shape": (replaced(train_images=lambda a: a["train_images"].reshape(40, -1)), "has shape"),
    "other sides": (replaced(train_images=lambda a: a["train_images"][:, :20]), "the splits' images differ in shape"),
    "volumes and images": (replaced(train_images=lambda a: np.zeros((40, 28, 28, 28), np.uint8)), "differ in shape"),
    "large volumes": (replaced(train_images=lambda a: np.zeros((40, 8, 8, 130), np.uint8)), "of volumes to 128"),
    "lengths differ": (replaced(train_labels=lambda a: a["train_labels"][:-1]), "40 images but 39 labels"),
    "several labels in one split": (
        replaced(train_labels=lambda a: np.zeros((40, 14), np.uint8)), "all splits need rows of zeros and ones",
    ),
    "negative label": (replaced(train_labels=lambda a: a["train_labels"].astype(int) - 1), "outside the classes"),
    "label only in test": (replaced(test_labels=lambda a: a["test_labels"] + 9), "outside the classes"),
    "gap in the labels": (replaced(train_labels=lambda a: a["train_labels"] * 2), "no training image"),
    "empty split": (replaced(val_images=lambda a: a["val_images"][:0], val_labels=lambda a: a["val_labels"][:0]), "val is empty"),
    "one class": (
        replaced(**{f"{s}_labels": lambda a, s=s: a[f"{s}_labels"] * 0 for s in ("train", "val", "test")}),
        "one class only",
    ),
    "NaN labels": (replaced(train_labels=lambda a: np.full((40, 1), np.nan)), "holds NaN"),
    "float labels": (replaced(train_labels=lambda a: a["train_labels"] / 2), "integer class ids"),
    "sizes differ": (replaced(val_images=lambda a: np.zeros((20, 32, 32), np.uint8)), "differ in shape"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_bad_npz_content(case: str, tmp_path: Path, arrays: Arrays, cli_error: CliError) -> None:
    change, message = BAD_ARRAYS[case]
    path = tmp_path / "bad.npz"
    np.savez(path, allow_pickle=False, **change(arrays))
    error = cli_error("audit", str(path))
    assert message in error
    assert "bad" in error


def test_pickled_arrays_are_never_unpickled(tmp_path: Path, arrays: Arrays, cli_error: CliError) -> None:
    marker = tmp_path / "executed"

    class Trap:
        def __reduce__(self) -> tuple[Any, ...]:
            return (open, (str(marker), "w"))

    path = tmp_path / "trap.npz"
    labels = np.array([Trap()] * 40, dtype=object)
    np.savez(
        path, allow_pickle=True, **(arrays | {"train_labels": labels})
    )  # writing the attack; reading must refuse it
    assert "pickled Python objects, which are never loaded" in cli_error("audit", str(path))
    assert not marker.exists()


@pytest.mark.parametrize("keep", [0.2, 0.7, 0.98])
def test_truncated_npz(tmp_path: Path, arrays: Arrays, cli_error: CliError, keep: float) -> None:
    write_npz(tmp_path / "good.npz", arrays)
    data = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "bad.npz").write_bytes(data[: int(keep * len(data))])
    assert "bad.npz: not a readable npz file, or cut short" in cli_error("audit", str(tmp_path / "bad.npz"))


def test_npz_with_damaged_bytes_inside(tmp_path: Path, arrays: Arrays, cli_error: CliError) -> None:
    np.savez(tmp_path / "bad.npz", allow_pickle=False, **arrays)
    data = bytearray((tmp_path / "bad.npz").read_bytes())
    data[5000] ^= 255  # inside train_images: only the checksum can tell
    (tmp_path / "bad.npz").write_bytes(data)
    assert "the file is damaged" in cli_error("audit", str(tmp_path / "bad.npz"))


@pytest.mark.parametrize("name", ["train_images", "train_labels", "test_labels"])
@pytest.mark.parametrize(
    "header",
    [
        {"descr": "|u1", "fortran_order": False, "shape": (10**9, 10**4, 10**4)},
        {"descr": "<U9", "fortran_order": False, "shape": (10**12,)},
        "(",
        "",
    ],
)
def test_npz_with_an_absurd_header(
    name: str, header: Any, tmp_path: Path, arrays: Arrays, cli_error: CliError
) -> None:
    """Whichever array it is of: the first reader looks at the labels."""
    content = io.BytesIO()
    if isinstance(header, dict):
        np.lib.format.write_array_header_1_0(content, header)
    else:
        content.write(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode())
    np.savez(tmp_path / "bad.npz", allow_pickle=False, **without(name)(arrays))
    with zipfile.ZipFile(tmp_path / "bad.npz", "a") as archive:
        archive.writestr(f"{name}.npy", content.getvalue())
    assert f"{name} has no readable array header" in cli_error("audit", str(tmp_path / "bad.npz"))


def test_not_a_zip(tmp_path: Path, cli_error: CliError) -> None:
    (tmp_path / "bad.npz").write_text("hello")
    assert "not a readable npz file" in cli_error("audit", str(tmp_path / "bad.npz"))


def test_missing_npz(tmp_path: Path, cli_error: CliError) -> None:
    assert "no such file" in cli_error("audit", str(tmp_path / "nowhere.npz"))


def test_labels_that_are_ids_of_something_else(tmp_path: Path, arrays: Arrays, cli_error: CliError) -> None:
    labels = arrays["train_labels"].astype(np.int64)
    labels[0] = 30_000_000
    write_npz(tmp_path / "x.npz", {**arrays, "train_labels": labels})
    error = cli_error("audit", str(tmp_path / "x.npz"))
    assert "30000000" in error
    assert "x.npz" in error


def test_a_json_file_beside_an_npz_says_what_its_numbers_mean(tmp_path: Path, arrays: Arrays) -> None:
    """In the spelling of medmnist.INFO, which has keys of its own besides."""
    write_npz(tmp_path / "x.npz", arrays)
    said = {
        "python_class": "X",
        "label": {"1": "b", "0": "a", "3": "d", "2": "c"},
        "task": "ordinal-regression",
        "license": "CC0 1.0",
    }
    (tmp_path / "x.json").write_text(json.dumps(said))
    dataset = load_dataset(str(tmp_path / "x.npz"))
    assert list(dataset.id2label.items()) == [(0, "a"), (1, "b"), (2, "c"), (3, "d")]
    assert (dataset.task, dataset.license, dataset.citation) == ("ordinal", "CC0 1.0", "")
    assert any("x.json" in note for note in dataset.notes)


def test_a_json_file_can_say_that_one_hot_rows_are_labels(tmp_path: Path, arrays: Arrays) -> None:
    """An image never has two of them here: only its owner knows that it could."""
    hot = {name: np.eye(4, dtype=np.uint8)[rows.reshape(-1)] for name, rows in arrays.items() if "labels" in name}
    write_npz(tmp_path / "x.npz", {**arrays, **hot})
    assert load_dataset(str(tmp_path / "x.npz")).task == "multi-class"
    (tmp_path / "x.json").write_text(json.dumps({"label": NAMED, "task": "multi-label, binary-class"}))
    dataset = load_dataset(str(tmp_path / "x.npz"))
    assert (dataset.task, dataset.id2label) == ("multi-label", NAMED)
    np.testing.assert_array_equal(dataset.conditioning.matrix(dataset.train.labels), hot["train_labels"])


@pytest.mark.parametrize(
    ("text", "outcome"),
    [
        ('{"label": {"0": "a", "2": "b"}}', "x.json names the classes 0, 2; x.npz has 0 … 3"),
        ('{"id2label": {"0": "a"}}', "x.json names the classes 0; x.npz has 0 … 3"),
        ('{"label": {"normal": "0"}}', "x.json: id2label.normal"),
        ('{"label": {"0": 1, "1": 2}}', "x.json: id2label.0"),
        ('{"label": {"0": "a", "1": "b"}, "license": 4}', "x.json: license"),
    ],
)
def test_a_json_file_that_names_other_classes_is_refused(
    tmp_path: Path, arrays: Arrays, cli_error: CliError, text: str, outcome: str
) -> None:
    write_npz(tmp_path / "x.npz", arrays)
    (tmp_path / "x.json").write_text(text)
    assert outcome in cli_error("audit", str(tmp_path / "x.npz"))


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"splits": {}}', '{"label": "lung"}', "\xff", "[" * 9999])
def test_a_json_file_of_another_kind_is_left_out_and_that_is_said(tmp_path: Path, arrays: Arrays, text: str) -> None:
    write_npz(tmp_path / "x.npz", arrays)
    (tmp_path / "x.json").write_text(text, encoding="latin-1")
    dataset = load_dataset(str(tmp_path / "x.npz"))
    assert list(dataset.id2label.values()) == ["0", "1", "2", "3"]
    assert dataset.notes == ["x.json, beside it, was not used: it names no classes (`label`, as in medmnist.INFO)."]


@pytest.mark.parametrize("shape", [(40, 3, 28, 28), (40, 28, 28, 4)])
def test_colours_in_another_place_are_named(shape: tuple[int, ...], tmp_path: Path, cli_error: CliError) -> None:
    arrays: dict[str, Any] = {f"{split}_images": np.zeros(shape, np.uint8) for split in ("train", "val", "test")}
    arrays |= {f"{split}_labels": np.arange(40) % 2 for split in ("train", "val", "test")}
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    assert "Put the colours last, three or none" in cli_error("audit", str(tmp_path / "x.npz"))
