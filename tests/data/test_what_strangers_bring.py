"""Folders, tables and files as strangers bring them: read as a person would read them, said, or refused in a line."""

import re
import unicodedata
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pytest
from PIL import Image

from medmnist_diffusion import cli
from medmnist_diffusion.data import ImageDataset, load_dataset
from medmnist_diffusion.data.audit import audit, describe, findings
from medmnist_diffusion.data.conditioning import Conditioning
from medmnist_diffusion.data.labelled_folder import load_labelled_folder
from medmnist_diffusion.data.parquet import hub_parts
from medmnist_diffusion.errors import UserError
from tests.data.test_what_people_have import (
    UP,
    Tree,
    classes_of,
    levels_by_class,
    made,  # noqa: F401 (a fixture)
    picture,
    said,
)

A, B = 10, 20  # grey levels of the classes


def patients_in(dataset: ImageDataset) -> dict[str, set[str]]:
    """Split → whom its images are of."""
    return {name: set(split.groups or []) for name, split in dataset.splits.items()}


def disjoint(dataset: ImageDataset) -> bool:
    people = list(patients_in(dataset).values())
    return all(people) and not (people[0] & people[1] or people[0] & people[2] or people[1] & people[2])


def table(rows: list[tuple[Any, ...]], *columns: str) -> str:
    return "\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)])


def refusal(path: Path) -> str:
    with pytest.raises(UserError) as error:
        load_dataset(str(path))
    return str(error.value)


def test_splits_in_a_folder_below_the_first_one(made: Any) -> None:  # noqa: F811
    """`images/train/…` in a table: official test images stay test images."""
    names = [f"images/{split}/{i}.png" for split, count in (("train", 24), ("test", 8)) for i in range(count)]
    tree: Tree = {name: A if at % 2 else B for at, name in enumerate(names)}
    rows = [(name, "a" if at % 2 else "b") for at, name in enumerate(names)]
    dataset = load_dataset(str(made({**tree, "metadata.csv": table(rows, "file_name", "label")})))
    assert len(dataset.splits["test"]) == 8
    assert said(dataset, "Splits from the folders")


def test_a_file_outside_the_splits_is_refused(made: Any) -> None:  # noqa: F811
    names = [*(f"train/{i}.png" for i in range(12)), *(f"test/{i}.png" for i in range(6)), "extra/0.png"]
    rows = [(name, "ab"[at % 2]) for at, name in enumerate(names)]
    path = made({**dict.fromkeys(names, A), "metadata.csv": table(rows, "file_name", "label")})
    assert "extra/0.png lies in no folder of a split" in refusal(path)


def frame(count: int, **columns: Any) -> pd.DataFrame:
    levels = [A if at % 2 else B for at in range(count)]
    labels = ["a" if at % 2 else "b" for at in range(count)]
    return pd.DataFrame(
        {"image": [{"bytes": picture(one), "path": None} for one in levels], "label": labels, **columns}
    )


@pytest.mark.parametrize("name", ["split", "set", "part_of"])
@pytest.mark.parametrize("third", ["unlabeled", None])
def test_a_column_of_splits_is_never_passed_over(name: str, third: str | None, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    frame(24, **{name: ["train"] * 14 + ["test"] * 8 + [third] * 2}).to_parquet(tmp_path / "set/all.parquet")
    assert f"its column {name} says which split a row is of" in refusal(tmp_path / "set")


def test_the_hub_has_patients_and_splits_too(monkeypatch: pytest.MonkeyPatch) -> None:
    text = datasets.Value("string")
    features = datasets.Features({"image": datasets.Image(), "label": text, "Patient ID": text, "split": text})
    whole = frame(12, **{"Patient ID": [f"p{at}" for at in range(12)], "split": ["train"] * 8 + ["test"] * 4})
    tables = {"train": datasets.Dataset.from_dict(whole.to_dict("list"), features=features)}
    monkeypatch.setattr(datasets, "load_dataset", lambda name: tables)
    with pytest.raises(UserError, match="its column split says which split a row is of"):
        hub_parts("somebody/set")
    tables["train"] = tables["train"].remove_columns("split")
    assert hub_parts("somebody/set")[0]["train"][0].groups == [f"p{at}" for at in range(12)]


def test_parquet_files_that_look_like_splits(tmp_path: Path) -> None:
    for folder, names in (
        ("one", ("trainset", "testset")),
        ("two", ("entrenamiento", "prueba")),
        ("three", ("test-run/train", "test-run/test")),
    ):
        for name, count in zip(names, (16, 6), strict=True):
            path = tmp_path / folder / f"{name}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            frame(count).to_parquet(path)
    assert len(load_dataset(str(tmp_path / "one")).splits["test"]) == 6
    assert "is it a split?" in refusal(tmp_path / "two")
    assert "is it of test or of train?" in refusal(tmp_path / "three")


def test_a_patient_spelled_two_ways(made: Any, tmp_path: Path) -> None:  # noqa: F811
    """pandas makes floats of numbers with holes; people write p1 and P1."""
    (tmp_path / "set").mkdir()
    frame(16, patient=[float(at) for at in range(16)]).to_parquet(tmp_path / "set/train.parquet")
    frame(6, patient=list(range(3, 9))).to_parquet(tmp_path / "set/test.parquet")
    people = patients_in(load_dataset(str(tmp_path / "set")))
    assert people["test"] <= people["train"] | people["val"]
    rows = [(f"{i}.png", "ab"[i % 2], f"{'pP'[i > 11]}{i % 12}") for i in range(24)]
    path = made({**{f"{i}.png": A for i in range(24)}, "metadata.csv": table(rows, "file_name", "label", "patient")})
    assert "differ only in how they are written. Are they one?" in refusal(path)


@pytest.mark.parametrize("layer", ["", "images/"])
def test_folders_of_patients_with_a_stray_image_or_below_a_layer(layer: str, made: Any) -> None:  # noqa: F811
    tree = {
        f"{name}/{layer}patient{name}{i // 3}/{i}.png": level
        for name, level in (("a", A), ("b", B))
        for i in range(36)
    }
    if not layer:
        tree["a/cover.png"] = A
    dataset = load_dataset(str(made(tree)))
    assert disjoint(dataset)
    assert said(dataset, "The 24 folders below the classes", "were taken for patients")


def test_folders_below_the_classes_that_are_no_patients_are_said(made: Any) -> None:  # noqa: F811
    dataset = load_dataset(str(made({f"{name}/case{i // 6}/{i}.png": A for name in "ab" for i in range(12)})))
    assert said(dataset, "were not taken for classes (case0, case1, …), nor for patients")


def test_a_missing_file_is_not_another_folders(made: Any) -> None:  # noqa: F811
    tree: Tree = {f"a/{i}.png": A for i in range(10)} | {f"b/{i}.png": B for i in range(10, 18)}
    rows = [(f"b/{i}.png", "xy"[i % 2]) for i in range(18)]
    dataset = load_dataset(str(made({**tree, "metadata.csv": table(rows, "file_name", "label")})))
    assert sum(map(len, dataset.splits.values())) == 8
    assert set.union(*levels_by_class(dataset).values()) == {B}
    assert said(dataset, "10 rows of metadata.csv name files that are not there")


def test_files_found_by_name_alone_are_said(made: Any) -> None:  # noqa: F811
    rows = [(f"their/disk/{i}.png", "ab"[i % 2]) for i in range(24)]
    dataset = load_dataset(
        str(made({**{f"here/{i}.png": A for i in range(24)}, "metadata.csv": table(rows, "file_name", "label")}))
    )
    assert said(dataset, "24 rows of metadata.csv name a folder that is not there (their/disk/0.png)")


@pytest.mark.parametrize(
    ("names", "masks"),
    [
        (("{i}_image.png", "{i}_mask.png"), 12),
        (("{i}.png", "mask_{i}.png"), 12),
        (("{i}.png", "{i}.mask.png"), 12),
        (("{i}.png", "{i}_superpixels.png"), 12),
        (("{i}.png", "{i}_roi.png"), 12),
        (("images/{i}.png", "binary_masks/{i}.png"), 12),
    ],
)
def test_masks_in_more_spellings(names: tuple[str, str], masks: int, made: Any) -> None:  # noqa: F811
    tree = {
        f"{label}/{name.format(i=i)}": level
        for label in "ab"
        for i in range(6)
        for name, level in zip(names, (A, 255), strict=True)
    }
    dataset = load_dataset(str(made(tree)))
    assert set.union(*levels_by_class(dataset).values()) == {A}
    assert said(dataset, f"{masks} masks were left out")


def test_versions_of_the_same_images_are_no_classes(made: Any) -> None:  # noqa: F811
    tree = {
        f"{top}/{name}/{i}.png": A
        for top in ("Original Dataset", "Augmented Dataset")
        for name in "ab"
        for i in range(6)
    }
    assert "Are they versions of the same images?" in refusal(made(tree))


def test_a_split_below_the_classes_by_another_word(made: Any) -> None:  # noqa: F811
    tree = {f"{name}/{split}/{i}.png": A for name in "ab" for split in ("train", "holdout") for i in range(6)}
    assert "which look like splits. Turn it round" in refusal(made(tree))


def test_links_to_folders_in_every_reader(made: Any, tmp_path: Path) -> None:  # noqa: F811
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    frame(16).to_parquet(elsewhere / "a.parquet")
    (tmp_path / "set/test").mkdir(parents=True)
    frame(6).to_parquet(tmp_path / "set/test/a.parquet")
    (tmp_path / "set/train").symlink_to(elsewhere, target_is_directory=True)
    dataset = load_dataset(str(tmp_path / "set"))
    assert (len(dataset.train) + len(dataset.splits["val"]), len(dataset.splits["test"])) == (16, 6)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for i in range(24):
        Image.new("L", (28, 28), A).save(pictures / f"{i}.png")
    path = made({"metadata.csv": table([(f"images/{i}.png", "ab"[i % 2]) for i in range(24)], "file_name", "label")})
    (path / "images").symlink_to(pictures, target_is_directory=True)
    (path / "images" / "back").symlink_to(path, target_is_directory=True)
    assert sum(map(len, load_dataset(str(path)).splits.values())) == 24


def test_no_list_of_labels_is_not_no_label(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    labels = [["a"], ["b"], ["a", "b"], None] * 6
    pd.DataFrame({"image": [{"bytes": picture(A), "path": None}] * 24, "labels": labels}).to_parquet(
        tmp_path / "set/all.parquet"
    )
    assert "some images have no list of labels" in refusal(tmp_path / "set")


@pytest.mark.parametrize("odd", [float("inf"), 0.5])
def test_odd_numbers_as_labels(odd: float, tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    frame(12).assign(label=[0.0, odd] * 6).to_parquet(tmp_path / "set/all.parquet")
    assert "is no class" in refusal(tmp_path / "set")


@pytest.mark.parametrize("spellings", [("1", "1.0"), ("non-tumor", "non_tumor"), ("Non tumor", "non-tumor")])
def test_a_class_in_two_spellings(spellings: tuple[str, str], made: Any) -> None:  # noqa: F811
    rows = [(f"{i}.png", [*spellings, "other"][i % 3]) for i in range(24)]
    path = made({**{f"{i}.png": A for i in range(24)}, "metadata.csv": table(rows, "file_name", "label")})
    assert "differ only in how they are written" in refusal(path)


def test_holes_are_no_class(made: Any) -> None:  # noqa: F811
    rows = [(f"{i}.png", ["a", "b", "N/A"][i % 3]) for i in range(24)]
    path = made({**{f"{i}.png": A for i in range(24)}, "metadata.csv": table(rows, "file_name", "label")})
    assert "line 4 has no label" in refusal(path)


def test_a_table_that_contradicts_the_folders(made: Any) -> None:  # noqa: F811
    rows = [(f"{name}/{i}.png", "ba"["ab".index(name)]) for name in "ab" for i in range(12)]
    path = made({**classes_of({"a": A, "b": B}), "labels.csv": table(rows, "file_name", "label")})
    assert "says 'b', but 0.png lies in the folder 'a'" in refusal(path)


def test_a_table_of_some_images_beside_class_folders_is_no_table_of_labels(made: Any) -> None:  # noqa: F811
    rows = [(f"a/{i}.png", "b") for i in range(6)]
    dataset = load_dataset(
        str(made({**classes_of({"a": A, "b": B}), "predictions.csv": table(rows, "file_name", "label")}))
    )
    assert levels_by_class(dataset) == {"a": {A}, "b": {B}}
    assert said(dataset, "predictions.csv was not used")


def test_a_table_in_one_split_alone(made: Any) -> None:  # noqa: F811
    rows = [(f"{i}.png", "ab"[i % 2]) for i in range(12)]
    tree: Tree = {**{f"train/{i}.png": A for i in range(12)}, "train/metadata.csv": table(rows, "file_name", "label")}
    path = made({**tree, **{f"test/{name}/{i}.png": A for name in "ab" for i in range(3)}})
    assert "test has no such table" in refusal(path)


def test_coordinates_are_no_labels(made: Any) -> None:  # noqa: F811
    rows = [(f"{name}/{i}.png", i, i % 2) for name in "ab" for i in range(12)]
    dataset = load_dataset(
        str(made({**classes_of({"a": A, "b": B}), "places.csv": table(rows, "file_name", "x", "y")}))
    )
    assert levels_by_class(dataset) == {"a": {A}, "b": {B}}


def test_two_columns_or_rows_that_say_different_things(made: Any) -> None:  # noqa: F811
    images = {f"{i}.png": A for i in range(24)}
    rows: list[tuple[Any, ...]] = [(f"{i}.png", "ab"[i % 2], "ba"[i % 2]) for i in range(24)]
    assert "two columns are called label" in refusal(
        made({**images, "metadata.csv": table(rows, "file_name", "label", "label")})
    )
    rows = [*((f"{i}.png", "ab"[i % 2], f"p{i}") for i in range(24)), ("0.png", "a", "p7")]
    path = made({"metadata.csv": table(rows, "file_name", "label", "patient")})
    assert "stands in two rows with different patients" in refusal(path)


def test_some_images_on_another_scale_are_found(made: Any) -> None:  # noqa: F811
    rng, tree = np.random.default_rng(0), dict[str, Any]()
    for name in "ab":
        for i in range(20):
            pixels = rng.integers(0, 256, (28, 28), np.uint8)
            tree[f"{name}/{i}.png"] = Image.fromarray(pixels if i % 2 else (pixels > 128).astype(np.uint8))
    dataset = load_dataset(str(made(tree)))
    assert any("images are nearly black, others are not" in line for line in findings(audit(dataset)))
    assert not any("nearly black" in line for line in findings(audit(load_dataset("phantom"))))


def test_what_is_judged_is_judged_whole(made: Any) -> None:  # noqa: F811
    """`evaluate FOLDER` leaves out no image, and turns none."""
    classes = Conditioning({0: "a", 1: "b"})
    path = made({**classes_of({"a": A, "b": B}, 4), "a/0_mask.png": 255})
    with pytest.raises(UserError, match=r"1 masks were left out.*All images of the folder are to be judged"):
        load_labelled_folder(path, "set", classes, (28, 28, 1))
    (path / "a/0_mask.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(UP).save(path / "a/0.png", exif=exif)
    with pytest.raises(UserError, match="1 images have an orientation in their EXIF"):
        load_labelled_folder(path, "set", classes, (28, 28, 1))


def test_signed_bytes_are_refused(made: Any, tmp_path: Path) -> None:  # noqa: F811
    """−100 would become 156."""
    path = made(classes_of({"a": A, "b": B}, under="{}/{}.tif"))
    Image.fromarray(np.full((28, 28), 156, np.uint8)).save(path / "a/0.tif", tiffinfo={339: 2})
    assert "signed" in refusal(path)


def test_transparency_of_deep_pictures_is_refused(made: Any) -> None:  # noqa: F811
    path = made(classes_of({"a": A, "b": B}))
    Image.fromarray(np.full((28, 28), 30000, np.uint16)).save(path / "a/0.png", transparency=30000)
    assert "transparent" in refusal(path)


def test_a_table_of_a_third_of_the_images_where_no_folders_are_classes(made: Any) -> None:  # noqa: F811
    """As competitions have it: `train.csv` beside pictures, many of which are for the test and have no label."""
    rows = [(f"{i}.png", "ab"[i % 2]) for i in range(24)]
    tree: Tree = {f"pictures/{i}.png": A for i in range(72)}
    dataset = load_dataset(str(made({**tree, "study.csv": table(rows, "id", "label")})))
    assert sum(map(len, dataset.splits.values())) == 24
    assert said(dataset, "48 images are not named in the table and were left out")


def test_lists_of_splits_are_named(made: Any) -> None:  # noqa: F811
    tree: Tree = {f"{label}/{number}.png": level for label, level in (("a", A), ("b", B)) for number in range(12)}
    dataset = load_dataset(str(made({**tree, "test_list.txt": "a/0.png\nb/3.png\n", "notes.txt": "none"})))
    assert said(dataset, "test_list.txt was not used, though it may list a split")
    assert not said(dataset, "notes.txt")


def test_folders_below_a_common_one_are_said(made: Any) -> None:  # noqa: F811
    """BreakHis: benign/SOB/adenosis/PATIENT/40X/x.png."""
    tree: Tree = {
        f"{label}/SOB/adenosis/{label}-{patient}/40X/{number}.png": A
        for label in "ab"
        for patient in range(4)
        for number in range(4)
    }
    assert said(load_dataset(str(made(tree))), "nor for patients")


def test_a_table_in_utf16_and_names_that_macos_wrote(made: Any) -> None:  # noqa: F811
    names = [unicodedata.normalize("NFD", f"Müller {number}.png") for number in range(24)]
    rows = [f"{unicodedata.normalize('NFC', name)}\t{'ab'[at % 2]}" for at, name in enumerate(names)]
    path = made({name: (A, B)[at % 2] for at, name in enumerate(names)})
    (path / "labels.csv").write_bytes("\r\n".join(["image\tlabel", *rows, ""]).encode("utf-16"))
    dataset = load_dataset(str(path))
    assert levels_by_class(dataset) == {"a": {A}, "b": {B}}


def test_pictures_made_from_one_stay_in_one_split(made: Any) -> None:  # noqa: F811
    """A set that somebody augmented before: else test images would be training images turned by a right angle."""
    rng = np.random.default_rng(0)
    tree: Tree = {}
    for label in "ab":
        for case in range(15):
            whole = Image.fromarray(rng.integers(0, 255, (28, 28), np.uint8))
            tree[f"{label}/{label}case{case}.png"] = whole
            tree[f"{label}/{label}case{case}_rot90.png"] = whole.transpose(Image.Transpose.ROTATE_90)
            tree[f"{label}/aug_{label}case{case}.png"] = Image.fromarray(np.asarray(whole) // 2)
    dataset = load_dataset(str(made(tree)))
    cases = {
        name: {re.search(r"[ab]case\d+", file)[0] for file in split.files or []}
        for name, split in dataset.splits.items()
    }
    assert {name: len(split) for name, split in dataset.splits.items()} == {
        name: 3 * len(of) for name, of in cases.items()
    }
    assert disjoint(dataset)
    assert said(dataset, "made from one picture", "of 30 such names all images stay in one split")
    assert not any("case" in note for note in describe(dataset).notes)  # names of files can be names of people


def test_pictures_of_one_in_given_splits_are_counted(made: Any) -> None:  # noqa: F811
    tree: Tree = {f"train/{label}/s{at}.png": level for label, level in (("a", A), ("b", B)) for at in range(14)}
    tree |= {f"test/{label}/s{at}_rot90.png": 30 for label in "ab" for at in range(6)}
    tree |= {f"test/a/{at}_flip.png": 40 for at in range(4)}  # of no training image
    assert said(
        load_dataset(str(made(tree))),
        "12 test images are by their names made from one picture",
        "with training images",
    )


def test_equal_names_in_two_splits_say_nothing(made: Any) -> None:  # noqa: F811
    """Somebody numbered the augmented images of each split anew."""
    tree: Tree = {
        f"{split}/{label}/{at}_aug.png": A for split in ("train", "test") for label in "ab" for at in range(12)
    }
    assert not said(load_dataset(str(made(tree))), "by their names")


def test_persons_in_names(made: Any) -> None:  # noqa: F811
    """OCT images of Kermany et al. are called CLASS-PATIENT-NUMBER."""
    names = [(label, f"{label}-{1000 + at // 3}-{at % 3 + 1}.png") for label in ("CNV", "NORMAL") for at in range(36)]
    apart = load_dataset(str(made({f"{label}/{name}": A for label, name in names})))
    assert disjoint(apart)
    assert said(apart, "perhaps of one person (CNV-1000-1.png and CNV-1000-2.png, …)", "of 24 such names")
    splits = ("test", "train", "train")
    given = load_dataset(
        str(
            made({f"../given/{splits[at % 3]}/{label}/{name}": A for at, (label, name) in enumerate(names)})
            / "../given"
        )
    )
    assert said(given, "24 test images are by their names perhaps of one person", "with training images")
    assert given.splits["test"].groups is None


@pytest.mark.parametrize(
    "name",
    [
        "{}_idx5_x1001_y{}_class0",  # IDC
        "TCGA-A1-A{:03d}-01Z-00-DX1_x{}_y2048",
        "OAS1_{:04d}_MR1_mpr-1_{}",
        "ADNI_002_S_{:04d}_MR_S134_I{}",
        "slide{}_r0_c{}",
        "{}_T{}",
    ],
)
def test_persons_and_slides_in_names_of_known_sets(name: str, made: Any) -> None:  # noqa: F811
    tree: Tree = {f"{'ab'[at % 2]}/{name.format(10 + at // 3, at % 3)}.png": A for at in range(72)}
    dataset = load_dataset(str(made(tree)))
    assert disjoint(dataset)
    assert said(dataset, "perhaps of one person", "of 24 such names")


@pytest.mark.parametrize("name", ["img_{:03d}", "{}", "scan ({})", "a1b2c{}", "2024-01-01_{:04d}"])
def test_names_that_say_nothing_of_persons(name: str, made: Any) -> None:  # noqa: F811
    tree: Tree = {f"{label}/{name.format(at)}.png": A for label in "ab" for at in range(24)}
    dataset = load_dataset(str(made(tree)))
    assert not said(dataset, "by their names")
    assert dataset.train.groups is None


def test_numbers_of_classes_in_names_are_no_persons(made: Any) -> None:  # noqa: F811
    tree: Tree = {f"{label}/{label}_{at}.png": 20 * label for label in range(11) for at in range(9)}
    assert not said(load_dataset(str(made(tree))), "by their names")


def test_persons_of_a_class_with_too_few_are_said(made: Any) -> None:  # noqa: F811
    tree: Tree = {f"a/{at // 2}-{at % 2}.png": A for at in range(48)} | {
        f"b/{900 + at // 10}-{at}.png": B for at in range(30)
    }
    dataset = load_dataset(str(made(tree)))
    assert dataset.train.groups is None
    assert said(dataset, "a class has too few such names to keep each in one split")


def test_masks_of_pascal_voc_are_no_classes(made: Any) -> None:  # noqa: F811
    folders = ("JPEGImages", "SegmentationClass", "SegmentationObject")
    tree: Tree = {f"{folder}/{at}.png": A for folder in folders for at in range(12)}
    assert "is SegmentationClass a class, or does it hold the masks" in refusal(made(tree))


def test_a_copy_of_the_whole_set_is_no_class(made: Any) -> None:  # noqa: F811
    """As downloads from Kaggle have it: `chest_xray/chest_xray` is `chest_xray` again."""
    brains: Tree = {
        f"{top}{label}/{at}.png": A for top in ("", "whole/") for label in ("no", "yes") for at in range(12)
    }
    assert "whole holds folders that also stand beside it (no, yes)" in refusal(made(brains))
    chests = {
        f"../chests/{top}{split}/{label}/{at}.png": A
        for top in ("", "chests/") for split in ("train", "test") for label in "ab" for at in range(12)
    }  # fmt: skip
    assert "chests holds folders that also stand beside it (test, train)" in refusal(made(chests) / "../chests")


@pytest.mark.parametrize(
    ("table_name", "columns", "name", "said_of_it"),
    [
        (
            "study.csv",
            ("picture", "label"),
            "{}.png",
            "study.csv was not used: none of its columns is called file_name",
        ),
        (
            "study.csv",
            ("file", "finding_code"),
            "{}.png",
            "study.csv was not used: none of its columns is called label",
        ),
        (
            "study.csv",
            ("file", "label"),
            "other{}.png",
            "study.csv was not used: none of the files that its column file names",
        ),
        ("study.csv", ("image_id", "grade"), "P{}", "(P0 is not there, p000.png is, …)"),
        ("labels.csv", ("image_id", "grade"), "p{}", "(p0 is not there, p000.png is, …)"),
        (
            "study.tsv",
            ("file", "finding"),
            "{}.png",
            "study.tsv was not used: none of the files that its column file names",
        ),
        ("study.xlsx", ("file", "label"), "{}.png", "study.xlsx was not used: it is no CSV"),
    ],
)
def test_a_table_that_could_not_be_used_is_named(
    table_name: str,
    columns: tuple[str, str],
    name: str,
    said_of_it: str,
    made: Any,  # noqa: F811
) -> None:
    rows = [(name.format(at), "ab"[at % 2]) for at in range(24)]
    tree: Tree = {f"images/p{at:03d}.png": A for at in range(24)}
    assert said_of_it in refusal(made({**tree, table_name: table(rows, *columns)}))


def test_a_table_with_the_line_ends_of_an_old_mac(made: Any) -> None:  # noqa: F811
    path = made({f"{at}.png": (A, B)[at % 2] for at in range(24)})
    rows = ["file;label", *(f"{at}.png;{'ab'[at % 2]}" for at in range(24))]
    (path / "labels.csv").write_bytes("\r".join(rows).encode())
    assert levels_by_class(load_dataset(str(path))) == {"a": {A}, "b": {B}}


def test_rows_that_are_written_otherwise_are_said(made: Any) -> None:  # noqa: F811
    rows = [(f"{at:03d}.png" if at > 3 else f"{at}.png", "ab"[at % 2]) for at in range(24)]
    dataset = load_dataset(
        str(made({**{f"{at:03d}.png": A for at in range(24)}, "labels.csv": table(rows, "id", "label")}))
    )
    assert said(dataset, "4 rows of labels.csv name files that are not there", "(0.png is not there, 000.png is, …)")


def test_tables_of_roboflow_kaggle_and_label_studio(made: Any) -> None:  # noqa: F811
    splits = {"train": 24, "valid": 8, "test": 8}
    tree: Tree = {
        f"roboflow/{split}/{split}{at}_jpg.rf.{at:032x}.jpg": (A, B)[at % 2]
        for split, count in splits.items()
        for at in range(count)
    }
    for split, count in splits.items():
        rows = [f"{split}{at}_jpg.rf.{at:032x}.jpg, {1 - at % 2}, {at % 2}" for at in range(count)]
        tree[f"roboflow/{split}/_classes.csv"] = "\n".join(["filename, a, b", *rows, ""])
    tree |= {f"aptos/train_images/{at:04x}f.png": (A, B)[at % 2] for at in range(40)}
    tree |= {f"aptos/test_images/{at:04x}e.png": A for at in range(9)}
    tree["aptos/train.csv"] = table([(f"{at:04x}f", at % 2) for at in range(40)], "id_code", "diagnosis")
    tree["aptos/sample_submission.csv"] = table([(f"{at:04x}e", 0) for at in range(9)], "id_code", "diagnosis")
    tree["aptos/test.csv"] = table([(f"{at:04x}e",) for at in range(9)], "id_code")
    tree |= {f"studio/img{at}.png": (A, B)[at % 2] for at in range(24)}
    uploads = [(at, "ab"[at % 2], f"/data/upload/3/{at:08x}-img{at}.png") for at in range(24)]
    tree["studio/project-3.csv"] = table(uploads, "annotation_id", "choice", "image")
    path = made(tree)
    roboflow, aptos, studio = (load_dataset(str(path / name)) for name in ("roboflow", "aptos", "studio"))
    assert {name: len(split) for name, split in roboflow.splits.items()} == {"train": 24, "val": 8, "test": 8}
    for dataset in (roboflow, studio):
        assert {name: {round(one, -1) for one in levels} for name, levels in levels_by_class(dataset).items()} == {
            "a": {A},
            "b": {B},
        }
    assert levels_by_class(aptos) == {"0": {A}, "1": {B}}
    assert said(aptos, "9 images are not named in the table")
    assert said(aptos, "test.csv was not used: none of its columns is called label")
    assert said(studio, "24 rows of project-3.csv name a folder that is not there")


@pytest.mark.parametrize("label", ["Mass, Nodule", "nodule/mass", "Mass and Nodule", "mass nodule"])
def test_a_class_that_looks_like_two_is_refused(label: str, made: Any) -> None:  # noqa: F811
    labels = ["Mass", "Nodule", label]
    rows = [f'{at}.png,"{labels[at % 3]}"' for at in range(36)]
    path = made({**{f"{at}.png": A for at in range(36)}, "labels.csv": "\n".join(["file,label", *rows])})
    assert f"the class {label!r} looks like several of the others" in refusal(path)
    others = [
        row.replace("Nodule", "Cyst").replace("nodule", "cyst") if at % 3 == 1 else row for at, row in enumerate(rows)
    ]
    (path / "labels.csv").write_text("\n".join(["file,label", *others]))
    assert label in load_dataset(str(path)).id2label.values()


@pytest.mark.parametrize("mask", ["mask", "seg", "Segmentation", "label", "gt", "label_viz"])
def test_masks_that_are_called_nothing_else(mask: str, made: Any) -> None:  # noqa: F811
    tree: Tree = {
        f"{label}/case{at}/{name}.png": level
        for label in "ab"
        for at in range(12)
        for name, level in (("image", A), (mask, 255))
    }
    dataset = load_dataset(str(made(tree)))
    assert said(dataset, "24 masks were left out")
    assert sum(map(len, dataset.splits.values())) == 24


@pytest.mark.parametrize("name", ["lesion{}", "lesion_{:03d}", "seg{}", "roi ({})", "mask{}"])
def test_images_that_are_called_like_masks_and_have_no_others_are_images(name: str, made: Any) -> None:  # noqa: F811
    tree: Tree = {f"{label}/{name.format(at)}.png": A for label in "ab" for at in range(12)}
    assert sum(map(len, load_dataset(str(made(tree))).splits.values())) == 24


@pytest.mark.parametrize(
    "folders",
    [
        ("trainA", "trainB", "testA", "testB"),  # CycleGAN
        ("a. Training Set", "b. Testing Set"),  # IDRiD
        ("benign_train", "benign_test", "malignant_train", "malignant_test"),
    ],
)
def test_splits_in_the_names_of_classes_are_refused(folders: tuple[str, ...], made: Any) -> None:  # noqa: F811
    tree: Tree = {f"{folder}/{at}.png": A for folder in folders for at in range(12)}
    assert "look like splits" in refusal(made(tree))


def test_versions_by_their_size(made: Any) -> None:  # noqa: F811
    tree: Tree = {
        f"{size}/{label}/{at}.png": A for size in ("224x224", "512x512") for label in "ab" for at in range(9)
    }
    assert "Are they versions of the same images?" in refusal(made(tree))


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("Usage", ("Training", "Training", "PublicTest")),  # FER2013
        ("is_valid", ("False", "False", "True")),  # fastai
        ("is_test", ("0", "0", "1")),
    ],
)
@pytest.mark.parametrize("several", [False, True])
def test_columns_that_say_splits_in_other_words(
    column: str,
    values: tuple[str, ...],
    several: bool,
    made: Any,  # noqa: F811
) -> None:
    """And are no labels, where labels are columns of zeros and ones."""
    labels = ("mass", "nodule") if several else ("label",)
    truth = [[at % 2 == of for of in range(2)] if several else [at % 2 == 0] for at in range(36)]
    rows = [(f"{at}.png", *map(int, truth[at]), values[at % 3]) for at in range(36)]
    path = made({**{f"{at}.png": A for at in range(36)}, "labels.csv": table(rows, "file", *labels, column)})
    assert f"its column {column} seems to say which split a row is of" in refusal(path)


def test_a_table_and_folders_that_say_different_splits(made: Any) -> None:  # noqa: F811
    names = [f"{'train' if at < 24 else 'test'}/{at}.png" for at in range(32)]
    rows = [(name, "ab"[at % 2], "test" if at == 5 else name.partition("/")[0]) for at, name in enumerate(names)]
    path = made({**dict.fromkeys(names, A), "labels.csv": table(rows, "file", "label", "split")})
    assert "line 7: split is test, but train/5.png lies in the folder of train" in refusal(path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [(at, at % 5, 25 - at, "ab"[at % 2]) for at in range(1, 25)],
            "its columns id and picture could both name the files",
        ),
        (
            [(f"{at}.png", "unknown" if at % 2 else at, 0, "ab"[at % 2]) for at in range(1, 25)],
            "who the image is of is missing ('unknown')",
        ),
        ([(f"{at}.png", at, 0, "1|0") for at in range(1, 25)], "is a row of zeros and ones (1|0)"),
        (
            [(f"{at}.png", ("PAT 1", "pat1", "2")[at % 3], 0, "ab"[at % 2]) for at in range(1, 25)],
            "differ only in how they are written",
        ),
    ],
)
def test_rows_that_could_mean_two_things(rows: list[tuple[Any, ...]], message: str, made: Any) -> None:  # noqa: F811
    path = made(
        {**{f"{at}.png": A for at in range(1, 25)}, "labels.csv": table(rows, "id", "patient", "picture", "label")}
    )
    assert message in refusal(path)


def test_a_class_that_only_the_test_split_has(made: Any) -> None:  # noqa: F811
    tree: Tree = {
        f"{split}/{label}/{at}.png": A
        for split, labels in (("train", "ab"), ("test", "abc"))
        for label in labels
        for at in range(9)
    }
    assert "class c stands in test alone" in refusal(made(tree))


def test_what_lies_there_instead_of_images_is_named(made: Any, tmp_path: Path) -> None:  # noqa: F811
    assert "(files of other types: .npy 2)" in refusal(made({"a/0.npy": "", "b/0.npy": ""}))
    assert "unpack images.zip first" in refusal(made({"a/images.zip": ""}))


def test_pictures_of_any_proportions(made: Any) -> None:  # noqa: F811
    tree: Tree = {
        f"{label}/{at}.png": Image.new("L", ((1, 1), (3, 200), (48, 48))[at % 3], at)
        for label in "ab"
        for at in range(12)
    }
    assert load_dataset(str(made(tree))).shape == (28, 28, 1)


def test_a_first_line_that_excel_writes_for_itself(made: Any) -> None:  # noqa: F811
    rows = "\n".join(["sep=;", "file;label", *(f"{at}.png;{'ab'[at % 2]}" for at in range(24))])
    dataset = load_dataset(str(made({**{f"{at}.png": (A, B)[at % 2] for at in range(24)}, "labels.csv": rows})))
    assert levels_by_class(dataset) == {"a": {A}, "b": {B}}


def test_a_preview_of_long_and_odd_class_names(made: Any, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:  # noqa: F811
    path = made(classes_of({"🤒" + "x" * 190: A, "y": B}))
    assert cli.main(["audit", str(path), "--preview", str(tmp_path / "preview.png")]) == 0
    assert Image.open(tmp_path / "preview.png").size[0] > 500
    assert not [warning for warning in recwarn if issubclass(warning.category, UserWarning)]
