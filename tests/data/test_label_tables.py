"""Labels beside images: the layouts that people have, what is said about them, and what is refused."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medmnist_diffusion.data import ImageDataset, load_dataset
from medmnist_diffusion.data.audit import audit, findings
from medmnist_diffusion.data.duplicates import independent_rows
from medmnist_diffusion.data.table_rows import read_rows
from tests.conftest import CliError

RNG = np.random.default_rng(0)


def pictures(folder: Path, names: list[str]) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(RNG.integers(0, 256, (28, 28), np.uint8)).save(path)


def table(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def shown(dataset: ImageDataset) -> dict[str, str]:
    """File → its labels in words."""
    found: dict[str, str] = {}
    for split in dataset.splits.values():
        names = [dataset.conditioning.name_of(int(label)) for label in split.labels]
        found |= dict(zip(split.files or [], names, strict=True))
    return found


def test_names_with_and_without_suffix_and_folder(tmp_path: Path) -> None:
    names = [f"images/{number:02d}.png" for number in range(24)]
    pictures(tmp_path, [*names, "images/extra.png"])
    rows = [{"image_id": Path(name).stem, "dx": "nv" if number % 2 else "mel"} for number, name in enumerate(names)]
    table(tmp_path / "HAM10000_metadata.csv", [*rows, {"image_id": "gone", "dx": "nv"}])
    dataset = load_dataset(str(tmp_path))
    assert dataset.conditioning.names == ["mel", "nv"]
    assert shown(dataset) == {name: "nv" if number % 2 else "mel" for number, name in enumerate(names)}
    notes = " ".join(dataset.notes)
    assert "Labels are read from HAM10000_metadata.csv (columns image_id, dx)" in notes
    assert "1 rows of HAM10000_metadata.csv name files that are not there" in notes
    assert "1 images are not named in the table and were left out" in notes


@pytest.mark.parametrize("layout", ["separator", "columns", "jsonl"])
def test_several_labels_an_image(tmp_path: Path, layout: str) -> None:
    names, kinds = [f"{number:02d}.png" for number in range(40)], [[], ["a"], ["b"], ["a", "b"]]
    pictures(tmp_path, names)
    if layout == "separator":
        rows: list[dict[str, Any]] = [
            {"Image Index": name, "Finding Labels": "|".join(kinds[number % 4]) or "No Finding"}
            for number, name in enumerate(names)
        ]
        table(tmp_path / "Data_Entry_2017.csv", rows)
    elif layout == "columns":
        rows = [{"file_name": name, "a": number % 2, "b": number // 2 % 2} for number, name in enumerate(names)]
        table(tmp_path / "labels.csv", rows, ";")
    else:
        lines = [json.dumps({"file_name": name, "labels": kinds[number % 4]}) for number, name in enumerate(names)]
        (tmp_path / "metadata.jsonl").write_text("\n".join(lines))
    dataset = load_dataset(str(tmp_path))
    assert dataset.task == "multi-label"
    assert dataset.conditioning.names == ["a", "b"]
    words = ["no label", "a", "b", "a + b"]
    assert shown(dataset) == {name: words[number % 4] for number, name in enumerate(names)}
    assert any("any number of labels" in note for note in dataset.notes)


def test_splits_and_patients_from_the_table(tmp_path: Path) -> None:
    names = [f"{number:02d}.png" for number in range(30)]
    pictures(tmp_path, names)
    splits = ["train"] * 18 + ["valid"] * 6 + ["test"] * 6
    rows = [
        {"filename": name, "label": "xy"[number % 2], "split": splits[number], "patient_id": number // 2}
        for number, name in enumerate(names)
    ]
    table(tmp_path / "metadata.csv", rows)
    dataset = load_dataset(str(tmp_path))
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 18, "val": 6, "test": 6}
    assert dataset.train.groups == [str(number // 2) for number in range(18)]


def test_drawn_splits_keep_a_patient_together(tmp_path: Path) -> None:
    names = [f"{number:03d}.png" for number in range(120)]
    pictures(tmp_path, names)
    rows = [
        {"file": name, "label": "xy"[number % 2], "patient": f"p{number // 4}"} for number, name in enumerate(names)
    ]
    table(tmp_path / "metadata.csv", rows)
    dataset = load_dataset(str(tmp_path))
    people = {name: set(split.groups or []) for name, split in dataset.splits.items()}
    assert sum(map(len, people.values())) == 30
    assert len(set.union(*people.values())) == 30
    assert all(len(split) for split in dataset.splits.values())


MISTAKES: dict[str, tuple[list[dict[str, Any]], str]] = {
    "no label": ([{"file": "0.png", "label": ""}, {"file": "1.png", "label": "a"}], "line 2 has no label"),
    "two labels": (
        [{"file": "0.png", "label": "a"}, {"file": "0.png", "label": "b"}],
        "two rows with different labels",
    ),
    "no file": ([{"file": "x.png", "label": "a"}, {"file": "y.png", "label": "b"}], "none of the files"),
    "odd split": ([{"file": "0.png", "label": "a", "split": "fold3"}] * 2, "train, val and test are needed"),
    "two splits": (
        [{"file": "0.png", "label": "a", "split": "train"}, {"file": "0.png", "label": "a", "split": "test"}],
        "two rows with different splits",
    ),
    "a list as text": ([{"file": f"{n}.png", "label": "['a', 'b']"} for n in range(2)], "a list written as text"),
    "a hole among several": (
        [{"file": "0.png", "label": "a|b"}, {"file": "1.png", "label": ""}],
        "line 3 has no label",
    ),
    "unsure": (
        [{"file": f"{n}.png", "mass": n % 2, "nodule": ["0", "1", "-1"][n % 3]} for n in range(6)],
        "line 4: nodule is '-1', neither 0 nor 1",
    ),
    "no patient": ([{"file": "0.png", "label": "a", "patient": ""}] * 2, "who the image is of is missing"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_mistakes_are_named(tmp_path: Path, cli_error: CliError, kind: str) -> None:
    pictures(tmp_path, [f"{number}.png" for number in range(8)])
    rows, words = MISTAKES[kind]
    table(tmp_path / "metadata.csv", rows)
    assert words in cli_error("audit", str(tmp_path))


def test_a_name_that_means_two_files_is_refused(tmp_path: Path, cli_error: CliError) -> None:
    pictures(tmp_path, ["a/0.png", "b/0.png"])
    table(tmp_path / "metadata.csv", [{"file": "0.png", "label": "x"}, {"file": "b/0.png", "label": "y"}])
    assert "could mean a/0.png and b/0.png" in cli_error("audit", str(tmp_path))


def test_a_table_without_labels_leaves_the_folders_as_classes(tmp_path: Path) -> None:
    pictures(tmp_path, [f"{label}/{number}.png" for label in "ab" for number in range(12)])
    table(tmp_path / "metadata.csv", [{"file_name": "a/0.png", "text": "a chest"}] * 2)
    assert load_dataset(str(tmp_path)).conditioning.names == ["a", "b"]


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r\n", exclude_categories=["C"]), max_size=12)


@given(st.lists(st.tuples(TEXT, TEXT), min_size=1, max_size=8), st.sampled_from(",;\t"))
def test_whatever_the_csv_module_writes_is_read(rows: list[tuple[str, str]], delimiter: str) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "metadata.csv"
        table(path, [{"file": one, "label": other} for one, other in rows], delimiter)
        assert read_rows(path) == [{"file": one, "label": other} for one, other in rows]


def test_patients_in_two_splits_are_counted_and_left_out(tmp_path: Path) -> None:
    names = [f"{number:02d}.png" for number in range(60)]
    pictures(tmp_path, names)
    splits = ["train"] * 40 + ["val"] * 10 + ["test"] * 10
    rows = [
        {"file": name, "label": "xy"[number % 2], "split": splits[number], "patient": number % 45}
        for number, name in enumerate(names)
    ]
    table(tmp_path / "metadata.csv", rows)
    dataset = load_dataset(str(tmp_path))
    report = audit(dataset)
    assert report.shared_groups == {"train-val": 5, "train-test": 10, "val-test": 0}
    assert any(line.startswith("5 patients (or lesions) have images in train and in val") for line in findings(report))
    assert independent_rows(dataset).tolist() == [0, 1, 2, 3, 4]  # 40 … 44; the other five are patients 0 … 4


def test_another_csv_is_no_table_of_labels(tmp_path: Path) -> None:
    pictures(tmp_path, [f"{label}/{number}.png" for label in "ab" for number in range(12)])
    table(tmp_path / "patients.csv", [{"id": "p1", "diagnosis": "flu"}, {"id": "p2", "diagnosis": "cold"}])
    table(tmp_path / "classes.csv", [{"name": "a", "label": "0"}, {"name": "b", "label": "1"}])
    (tmp_path / "notes.csv").write_text("Export of the ward\nfile,label\na,b,c\n")
    assert load_dataset(str(tmp_path)).conditioning.names == ["a", "b"]


def test_json_lines_that_differ_or_hold_numbers(tmp_path: Path, cli_error: CliError) -> None:
    pictures(tmp_path, ["0.png", "1.png"])
    path = tmp_path / "metadata.jsonl"
    path.write_text('{"file_name": "0.png", "label": "a"}\n{"file_name": "1.png"}\n')
    assert "line 2 has other fields" in cli_error("audit", str(tmp_path))
    path.write_text('{"file_name": "0.png", "labels": [0, 1]}\n{"file_name": "1.png", "labels": [1, 0]}\n')
    assert "holds a list of numbers" in cli_error("audit", str(tmp_path))


def test_large_groups_get_their_share_only(tmp_path: Path) -> None:
    names = [f"{number:03d}.png" for number in range(600)]
    pictures(tmp_path, names)
    rows = [
        {"file": name, "label": "xy"[number // 10 % 2], "patient": number // 10} for number, name in enumerate(names)
    ]
    table(tmp_path / "metadata.csv", rows)
    sizes = {name: len(split) for name, split in load_dataset(str(tmp_path)).splits.items()}
    assert sizes == {"train": 480, "val": 60, "test": 60}


def test_a_table_that_is_not_understood_is_named(tmp_path: Path, cli_error: CliError) -> None:
    pictures(tmp_path, [f"{site}/{number}.png" for site in ("site0", "site1") for number in range(12)])
    table(tmp_path / "metadata.csv", [{"file_name": "site0/0.png", "malignant": "1"}])
    (tmp_path / "more.xlsx").write_text("")
    notes = load_dataset(str(tmp_path)).notes
    assert any(note.startswith("metadata.csv was not used") and "file_name, malignant" in note for note in notes)
    assert any(note.startswith("more.xlsx was not used") for note in notes)
    one = tmp_path / "one"
    pictures(one, [f"images/{number}.png" for number in range(12)])
    table(one / "metadata.csv", [{"file_name": "0.png", "malignant": "1"}])
    assert "metadata.csv was not used" in cli_error("audit", str(one))


def test_a_missing_file_takes_no_other_of_its_name(tmp_path: Path) -> None:
    pictures(tmp_path, [f"patient{number}/scan.png" for number in range(24)])
    rows = [{"file": f"CheXpert/patient{number}/scan.png", "label": "xy"[number % 2]} for number in range(23)]
    table(tmp_path / "metadata.csv", [*rows, {"file": "CheXpert/patient99/scan.png", "label": "x"}])
    dataset = load_dataset(str(tmp_path))
    assert shown(dataset) == {f"patient{number}/scan.png": "xy"[number % 2] for number in range(23)}
    assert any("1 rows of metadata.csv name files that are not there" in note for note in dataset.notes)


def test_a_column_called_label_comes_before_zeros_and_ones(tmp_path: Path) -> None:
    names = [f"{number:02d}.png" for number in range(24)]
    pictures(tmp_path, names)
    habits = [{"file": name, "smoker": n % 2, "male": n // 2 % 2} for n, name in enumerate(names)]
    table(tmp_path / "metadata.csv", habits)
    table(tmp_path / "labels.csv", [{"image_id": name, "diagnosis": "ab"[n % 2]} for n, name in enumerate(names)])
    dataset = load_dataset(str(tmp_path))
    assert dataset.conditioning.names == ["a", "b"]
    assert any(note.startswith("metadata.csv was not used") for note in dataset.notes)


def test_one_table_over_folders_of_splits(tmp_path: Path) -> None:
    names = [f"{split}/{n}.png" for split, count in (("train", 12), ("val", 4), ("test", 4)) for n in range(count)]
    pictures(tmp_path / "data", names)
    rows = [{"file_name": name, "label": "ab"[n % 2]} for n, name in enumerate(names)]
    table(tmp_path / "data" / "metadata.csv", rows)
    dataset = load_dataset(str(tmp_path))  # from the folder above it
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 12, "val": 4, "test": 4}


def test_a_person_with_most_of_the_images_is_trained_on(tmp_path: Path) -> None:
    names = [f"{number:02d}.png" for number in range(60)]
    pictures(tmp_path, names)
    rows = [
        {"file": name, "label": "xy"[n % 2], "Subject ID": n if n < 20 else "much"} for n, name in enumerate(names)
    ]
    table(tmp_path / "metadata.csv", rows)
    dataset = load_dataset(str(tmp_path))
    assert len(dataset.train) >= 48
    assert "much" in dataset.train.groups


def test_files_that_are_named_by_their_patient(tmp_path: Path) -> None:
    """The layout of the RSNA pneumonia challenge: a row a box, several of them for some files."""
    names = [f"{number:04x}" for number in range(24)]
    pictures(tmp_path, [f"train_images/{name}.png" for name in names])
    boxes = [{"patientId": name, "x": at, "Target": number % 2} for number, name in enumerate(names) for at in (1, 2)]
    table(tmp_path / "stage_2_train_labels.csv", boxes)
    dataset = load_dataset(str(tmp_path))
    assert shown(dataset) == {f"train_images/{name}.png": str(number % 2) for number, name in enumerate(names)}
    assert any("24 rows of stage_2_train_labels.csv repeat another one" in note for note in dataset.notes)


def test_a_table_of_patients_beside_class_folders(tmp_path: Path, cli_error: CliError) -> None:
    names = [f"{'ab'[number % 2]}/{number:02d}.png" for number in range(40)]
    pictures(tmp_path, names)
    rows = [{"file_name": name, "patient_id": f"p{number // 4}"} for number, name in enumerate(names)]
    table(tmp_path / "patients.csv", rows)
    dataset = load_dataset(str(tmp_path))
    assert any("Images of one patient in patients.csv belong together" in note for note in dataset.notes)
    assert not any("was not used" in note for note in dataset.notes)
    groups = [set(split.groups or []) for split in dataset.splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 10
    table(tmp_path / "patients.csv", rows[1:])
    assert any("patients.csv was not used" in note for note in load_dataset(str(tmp_path)).notes)
    table(tmp_path / "patients.csv", [*rows, {"file_name": names[0], "patient_id": "p9"}])
    assert "is of two patients" in cli_error("audit", str(tmp_path))
