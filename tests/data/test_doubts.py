"""What could be read in two ways, or as classes where it is people, sites or masks: refused, or read as a person would."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.data import get_testdata_file

from medmnist_diffusion.data import ImageDataset, load_dataset
from medmnist_diffusion.data.audit import describe
from medmnist_diffusion.data.medical import Values, medical_values
from tests.data.test_what_people_have import (
    Tree,
    classes_of,
    levels_by_class,
    made,  # noqa: F401 (a fixture)
    said,
)
from tests.data.test_what_strangers_bring import A, B, disjoint, frame, patients_in, refusal, table


def class_of(level: int) -> str:
    return {A: "a", B: "b"}[level]


@pytest.mark.parametrize(
    "name", ["Patient_{:03}", "P{:02}", "sub-{:02}", "p1{}", "LIDC-IDRI-00{:02}", "IMD{:03}", "1.2.840.10008.{}"]
)
def test_persons_are_no_classes(name: str, made: Any) -> None:  # noqa: F811
    tree = {f"{name.format(person)}/{i}.png": A for person in range(12) for i in range(4)}
    assert "look like persons, or like single images, and not like classes" in refusal(made(tree))


@pytest.mark.parametrize("name", ["grade {}", "stage_{}", "{}", "G{}", "BI-RADS {}", "class{:02}"])
def test_numbered_grades_are_classes(name: str, made: Any) -> None:  # noqa: F811
    levels = {name.format(number): 10 * number for number in range(11)}
    assert levels_by_class(load_dataset(str(made(classes_of(levels, 4))))) == {
        key: {one} for key, one in levels.items()
    }


def test_classes_below_persons(made: Any) -> None:  # noqa: F811
    """The breast slides of IDC: a folder a patient, in each the classes 0 and 1."""
    tree = {f"{person}/{label}_x/{i}.png": A for person in range(10250, 10265) for label in "01" for i in range(2)}
    assert "The folders in them (0_x, 1_x) could be the classes" in refusal(made(tree))


@pytest.mark.parametrize("tops", [("Charite", "Mainz"), ("left", "right"), ("T1", "T2")])
def test_sites_and_sides_above_classes(tops: tuple[str, str], made: Any) -> None:  # noqa: F811
    tree = {f"{top}/{label}/{i}.png": A for top in tops for label in ("normal", "tumor") for i in range(8)}
    assert f"{tops[0]} and {tops[1]} hold the same folders (normal, tumor). Which are the classes?" in refusal(
        made(tree)
    )


@pytest.mark.parametrize("inner", [("left", "right"), ("T1", "FLAIR"), ("40X", "100X"), ("images", "masks")])
def test_views_and_versions_below_classes(inner: tuple[str, str], made: Any) -> None:  # noqa: F811
    tree = {
        f"{label}/{one}/{i}{one}.png": level
        for label, level in (("a", A), ("b", B))
        for one in inner
        for i in range(8)
    }
    assert levels_by_class(load_dataset(str(made(tree)))) == {"a": {A}, "b": {B}}


def test_masks_in_a_folder_beside_that_of_the_images(made: Any) -> None:  # noqa: F811
    """PH2 has a folder for each image, its lesion and its region; others have folders `pictures` and `drawn`."""
    tree: Tree = {}
    for label, level in (("a", A), ("b", B)):
        for i in range(12):
            case = f"{label}/IMD{i:03}"
            tree |= {
                f"{case}/IMD{i:03}_Dermoscopic_Image/IMD{i:03}.png": level,
                f"{case}/IMD{i:03}_lesion/IMD{i:03}_lesion.png": 255,
                f"{case}/IMD{i:03}_roi/IMD{i:03}_R1_Label4.png": 255,
                f"{label}/pictures/{label}{i}.png": level,
                f"{label}/drawn/{label}{i}_mask.png": 255,
            }
    dataset = load_dataset(str(made(tree)))
    assert levels_by_class(dataset) == {"a": {A}, "b": {B}}
    assert said(dataset, "72 masks were left out")


def chexpert(count: int = 14) -> dict[str, int]:
    """Path → level, as CheXpert names them."""
    return {
        f"train/patient{person:05}/study1/view{view}_frontal.png": A if person % 2 else B
        for person in range(count)
        for view in (1, 2)
    }


def test_persons_in_the_paths_of_a_table(made: Any) -> None:  # noqa: F811
    images = chexpert()
    rows = [(f"CheXpert/{name}", class_of(level)) for name, level in images.items()]
    dataset = load_dataset(str(made({**images, "train.csv": table(rows, "Path", "label")})))
    assert said(dataset, "14 folders (patient00000, patient00001, patient00002, …) were taken for patients")
    assert disjoint(dataset)


def test_slides_of_tcga_within_names(made: Any) -> None:  # noqa: F811
    names = [
        f"blk-{code}{tile}-TCGA-AD-69{case:02}-01Z-00-DX1.png"
        for case in range(12)
        for tile, code in enumerate("AHQXZ")
    ]
    tree = {f"{label}/{label}{name}": level for label, level in (("a", A), ("b", B)) for name in names}
    dataset = load_dataset(str(made(tree)))
    assert said(dataset, "perhaps of one person")
    assert disjoint(dataset)


def test_two_versions_of_each_picture(made: Any) -> None:  # noqa: F811
    tree = {
        f"{label}/{version}/{i}.png": level
        for label, level in (("a", A), ("b", B))
        for version in ("raw", "CLAHE")
        for i in range(20)
    }
    dataset = load_dataset(str(made(tree)))
    assert said(dataset, "taken for versions of one picture")
    assert disjoint(dataset)
    pairs = [name for split in dataset.splits.values() for name in split.groups or []]
    assert len(pairs) == 2 * len(set(pairs)) == 80


def test_the_column_that_names_files_is_that_of_files(made: Any) -> None:  # noqa: F811
    """MIMIC's: `subject_id` is a patient, and `dicom_id` names the files."""
    images = {f"files/{at:03}ab-cd.png": A if at % 2 else B for at in range(36)}
    rows = [(name[6:-4], 1000 + at // 2, class_of(level)) for at, (name, level) in enumerate(images.items())]
    rows = [(name, person, "ab"[person % 2]) for name, person, _ in rows]
    dataset = load_dataset(str(made({**images, "labels.csv": table(rows, "dicom_id", "subject_id", "label")})))
    assert said(dataset, "columns dicom_id, label")
    assert disjoint(dataset)
    assert len(set().union(*patients_in(dataset).values())) == 18


def test_a_table_of_labels_that_names_no_image_is_not_passed_over(made: Any) -> None:  # noqa: F811
    images = {f"{site}/{i}.png": A for site in ("Charite", "Mainz") for i in range(12)}
    rows = [(f"case{i}", "normal" if i % 2 else "tumor") for i in range(24)]
    path = made({**images, "labels.csv": table(rows, "image", "label")})
    assert "none of the files that its column image names is there" in refusal(path)
    (path / "labels.csv").rename(path / "list.csv")
    message = refusal(path)
    assert "list.csv was not used" in message
    assert "It holds other labels (normal, tumor) than the folders (Charite, Mainz)" in message
    assert "none of the files that its column image names is there" in message


@pytest.mark.parametrize("where", ["{}.csv", "{}/_classes.csv"])
def test_a_label_that_a_split_has_not(where: str, made: Any) -> None:  # noqa: F811
    """Zeros and ones: a column that test has not is no column of zeros; one that holds 0 alone is."""
    tree: Tree = {}
    columns = {"train": ("mass", "nodule", "hernia"), "test": ("mass", "nodule")}
    for split, labels in columns.items():
        rows = []
        for i in range(24):
            tree[f"{split}/{split}{i}.png"] = A
            rows.append((f"{split}{i}.png", i % 2, i // 2 % 2, *([i % 3 // 2] if split == "train" else [])))
        tree[where.format(split)] = table(rows, "filename", *labels)
    path = made(tree)
    assert "the column hernia of" in refusal(path)
    tree[where.format("test")] = table(
        [(f"test{i}.png", i % 2, i // 2 % 2, 0) for i in range(24)], "filename", *columns["train"]
    )
    (path / where.format("test")).write_text(str(tree[where.format("test")]))
    dataset = load_dataset(str(path))
    assert dataset.conditioning.names == list(columns["train"])
    assert dataset.conditioning.matrix(dataset.splits["test"].labels).sum(0)[2] == 0


@pytest.mark.parametrize(
    ("columns", "third", "message"),
    [
        (("mass", "nodule", "edema"), lambda i: 2 if i == 7 else i % 2, "its column edema holds 0 and 1, but also '2'"),
        (("gradable", "macula", "dr_grade"), lambda i: i % 5, "its column dr_grade could hold the labels"),
    ],
)  # fmt: skip
def test_columns_beside_zeros_and_ones(columns: tuple[str, ...], third: Any, message: str, made: Any) -> None:  # noqa: F811
    images = {f"{i}.png": A for i in range(40)}
    rows = [(name, i % 2, i // 2 % 2, third(i)) for i, name in enumerate(images)]
    assert message in refusal(made({**images, "labels.csv": table(rows, "image", *columns)}))


def test_a_column_of_one_value_is_said(made: Any) -> None:  # noqa: F811
    images = {f"{i}.png": A for i in range(40)}
    rows = [(name, i % 2, i // 2 % 2, 0) for i, name in enumerate(images)]
    dataset = load_dataset(str(made({**images, "labels.csv": table(rows, "image", "mass", "nodule", "hernia")})))
    assert said(dataset, "hernia holds one value alone, no label")


@pytest.mark.parametrize(
    ("name", "columns", "values"),
    [
        ("metadata.csv", ("smoker", "diabetes"), lambda i: (i % 2, i // 2 % 2)),
        ("labels.csv", ("grade",), lambda i: (f"scanner {i % 2}",)),
        ("predictions.csv", ("label",), lambda i: (i % 2,)),
    ],
)  # fmt: skip
def test_a_table_that_may_not_hold_the_classes(name: str, columns: tuple[str, ...], values: Any, made: Any) -> None:  # noqa: F811
    images = classes_of({"normal": A, "tumor": B}, 20)
    rows = [(one, *values(i)) for i, one in enumerate(images)]
    assert "the classes the folders normal, tumor" in refusal(
        made({**images, name: table(rows, "file_name", *columns)})
    )


def test_numbered_parts_are_no_classes(made: Any) -> None:  # noqa: F811
    """HAM10000: two folders of images, and one table of another name."""
    images = {f"HAM_part_{part}/ISIC_{part}{i:02}.png": A if i % 2 else B for part in (1, 2) for i in range(12)}
    rows = [(Path(name).stem, class_of(level)) for name, level in images.items()]
    dataset = load_dataset(str(made({**images, "HAM_metadata.csv": table(rows, "image_id", "dx")})))
    assert levels_by_class(dataset) == {"a": {A}, "b": {B}}


@pytest.mark.parametrize("odd", ["unlabelled", "Unlabeled", "unknown", "not graded", "-1", "99"])
def test_images_without_a_class_are_no_class(odd: str, made: Any) -> None:  # noqa: F811
    names = ("0", "1", odd) if odd.lstrip("-").isdigit() else ("a", "b", odd)
    assert f"{odd!r} seems to mean that the class is not known" in refusal(made(classes_of(dict.fromkeys(names, A))))


def test_rows_that_name_folders(made: Any) -> None:  # noqa: F811
    """A label a patient: BIDS, and folders P00, P01, …"""
    images = {
        f"sub-{person:02}/anat/sub-{person:02}_{i}.png": A if person % 2 else B
        for person in range(12)
        for i in range(3)
    }
    images |= {f"sub-{person:02}/anat/sub-{person:02}_0_mask.png": 255 for person in range(12)}
    rows = [(f"sub-{person:02}", class_of(A if person % 2 else B)) for person in range(12)]
    dataset = load_dataset(str(made({**images, "labels.csv": table(rows, "participant_id", "diagnosis")})))
    assert levels_by_class(dataset) == {"a": {A}, "b": {B}}
    assert said(dataset, "Its rows name folders: all images in one have the row's label")
    assert disjoint(dataset)
    assert sum(map(len, dataset.splits.values())) == 36


def dicom(path: Path, person: str, seed: int, **tags: Any) -> None:
    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    noise = np.random.default_rng(seed).integers(0, 40, dataset.pixel_array.shape)
    dataset.PixelData = (dataset.pixel_array + noise).astype(np.int16).tobytes()
    dataset.PatientID = person
    for name, value in tags.items():
        setattr(dataset, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path)


def test_classes_that_are_one_patient_each(tmp_path: Path) -> None:
    for name in ("Miller", "Smith", "Jones"):
        for i in range(6):
            dicom(tmp_path / name / f"{i}.dcm", name, i)
    assert "each class (Jones, Miller, Smith) shows one patient alone" in refusal(tmp_path)


def read(path: Path) -> ImageDataset:
    return load_dataset(str(path))


def test_files_that_name_nobody_beside_others(tmp_path: Path) -> None:
    for label in "ab":
        for i in range(40):
            dicom(tmp_path / label / f"{i}.dcm", f"{label}{i // 2}" if i < 20 else "", i + 100 * ord(label))
    dataset = read(tmp_path)
    assert said(dataset, "The DICOM files name 20 patients: images of one belong together", "40 files name nobody")
    assert disjoint(dataset)


def test_localizers_are_said(tmp_path: Path) -> None:
    for label in "ab":
        for i in range(12):
            kind = ["ORIGINAL", "PRIMARY", "LOCALIZER" if i == 0 else "AXIAL"]
            dicom(tmp_path / label / f"{i}.dcm", f"{label}{i}", i + 100 * ord(label), ImageType=kind)
    assert said(read(tmp_path), "2 of", "are localizers")


def test_what_an_enhanced_file_says_of_its_frames(tmp_path: Path) -> None:
    """Slope, intercept and window stand in sequences of all frames, or of each (PS3.3 C.7.6.16)."""

    def group(intercept: int, **window: int) -> pydicom.Dataset:
        values, shown, whole = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        values.RescaleSlope, values.RescaleIntercept, values.RescaleType = 2, intercept, "HU"
        whole.PixelValueTransformationSequence = pydicom.Sequence([values])
        if window:
            shown.WindowCenter, shown.WindowWidth = window["centre"], window["width"]
            shown.VOILUTFunction = "LINEAR_EXACT"
            whole.FrameVOILUTSequence = pydicom.Sequence([shown])
        return whole

    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    for name in ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth", "PixelPaddingValue"):
        if name in dataset:
            delattr(dataset, name)
    pixels = dataset.pixel_array
    dataset.SharedFunctionalGroupsSequence = pydicom.Sequence([group(-1000, centre=40, width=400)])
    dataset.save_as(tmp_path / "shared.dcm")
    values = medical_values({"path": str(tmp_path / "shared.dcm"), "bytes": None}, "here")
    assert isinstance(values, Values)
    np.testing.assert_array_equal(values.values, 2.0 * pixels - 1000)
    assert values.window == (-160, 240)
    dataset.NumberOfFrames, dataset.PixelData = 2, np.stack([pixels, pixels]).astype(np.int16).tobytes()
    dataset.PerFrameFunctionalGroupsSequence = pydicom.Sequence([group(0), group(-500)])
    dataset.save_as(tmp_path / "frames.dcm")
    second = medical_values({"path": f"{tmp_path / 'frames.dcm'}#1of2", "bytes": None}, "here")
    assert isinstance(second, Values)
    np.testing.assert_array_equal(second.values, 2.0 * pixels - 500)


def two_classes(name: str, count: int = 16, **more: int) -> Tree:
    """`name` is formatted with the class and a number; `more`: further names → how many of a class."""
    tree: Tree = {}
    for label, level in (("a", A), ("b", B)):
        for pattern, often in ((name, count), *more.items()):
            tree |= {pattern.format(label=label, i=i): level for i in range(often)}
    return tree


def test_a_folder_below_one_class_is_said(made: Any) -> None:  # noqa: F811
    dataset = load_dataset(str(made(two_classes("{label}/{i}.png", **{"a/excluded/{label}{i}.png": 6}))))
    assert said(
        dataset, "were not taken for classes (excluded, …)", "their 12 images are trained as those of the class"
    )


@pytest.mark.parametrize("split", ["", "train/"])
def test_a_folder_called_like_another_class(split: str, made: Any) -> None:  # noqa: F811
    tree = {f"{split}{label}/{i}.png": A for label in ("normal", "tumour") for i in range(16)}
    tree |= {f"{split}normal/Tumour/later{i}.png": B for i in range(6)}
    tree |= {f"test/{label}/{i}.png": A for label in ("normal", "tumour") for i in range(6)} if split else {}
    assert "normal holds a folder Tumour, which is called like another class" in refusal(made(tree))


def test_what_a_model_drew_is_no_image(made: Any) -> None:  # noqa: F811
    names = {f"{{label}}/{{label}}{{i}}_{word}.png": 16 for word in ("gradcam", "pred", "heatmap")}
    dataset = load_dataset(str(made(two_classes("{label}/{label}{i}.png", **names))))
    assert said(dataset, "96 masks were left out; overlays, heat maps and thumbnails count as such")


@pytest.mark.parametrize(
    "name",
    [
        "slice{1}_patient{0}", "img{1}-pat{0}", "{2}_{0:03}", "{0}{2}", "RET{0:03}{2}", "{1}0586{0}_{0:05x}ab_MG_R_CC_ANON",
        "2019-03-0{1}_40{0:03}", "{3}_Hans_{1}",
    ],
)  # fmt: skip
def test_persons_wherever_they_stand_in_a_name(name: str, made: Any) -> None:  # noqa: F811
    surnames = [
        f"{first}{last}"
        for first in ("Mei", "Schul", "Ber", "Hof")
        for last in ("er", "ze", "mann", "g", "ke", "bach")
    ]
    tree = {
        f"{'ab'[person % 2]}/{name.format(person + 10, at, ['OD', 'OS'][at], surnames[person])}.png": A
        if person % 2
        else B
        for person in range(24)
        for at in range(2)
    }
    assert len(tree) == 48
    dataset = load_dataset(str(made(tree)))
    assert said(dataset, "perhaps of one person")
    assert disjoint(dataset)


def test_sides_in_two_given_splits(made: Any) -> None:  # noqa: F811
    tree = {
        f"{split}/{label}/{side}_{i:03}.png": A
        for split, side in (("train", "OD"), ("test", "OS"))
        for label, start in (("a", 0), ("b", 30))
        for i in range(start, start + 16)
    }
    assert said(load_dataset(str(made(tree))), "32 test images are by their names perhaps of one person")


def test_copies_that_keras_made(made: Any) -> None:  # noqa: F811
    tree = {f"{label}/aug_{i}_{4821 + 97 * i + copy}.png": A for label in "ab" for i in range(12) for copy in range(4)}
    dataset = load_dataset(str(made(tree)))
    assert said(dataset, "made from one picture")
    assert disjoint(dataset)


def test_one_picture_in_two_formats(made: Any) -> None:  # noqa: F811
    tree = {f"{label}/in{i}.{suffix}": A for label in "ab" for i in range(16) for suffix in ("png", "jpg")}
    dataset = load_dataset(str(made(tree)))
    assert said(dataset, "made from one picture")
    assert disjoint(dataset)


@pytest.mark.parametrize("visit", ["P{:03}_V{}", "P{:03}-visit {}", "P{:03}_ses-{:02}"])
def test_visits_are_of_one_person(visit: str, made: Any, tmp_path: Path) -> None:  # noqa: F811
    images = {f"i{i}.png": A if i % 2 else B for i in range(40)}
    rows = [(name, class_of(level), visit.format(i // 2, i % 2)) for i, (name, level) in enumerate(images.items())]
    dataset = load_dataset(str(made({**images, "labels.csv": table(rows, "image", "label", "patient_id")})))
    assert said(dataset, "Visits or sides of one person", "P000, …) belong together")
    assert len(set().union(*patients_in(dataset).values())) == 20
    assert disjoint(dataset)
    for i in range(24):
        dicom(tmp_path / "scans" / "ab"[i // 2 % 2] / f"{i}.dcm", visit.format(i // 2, i % 2), i)
    assert said(read(tmp_path / "scans"), "The DICOM files name 12 patients: images of one belong together")


def test_several_modalities_and_sequences_are_said(made: Any, tmp_path: Path) -> None:  # noqa: F811
    for i in range(24):
        dicom(tmp_path / "scans" / "ab"[i % 2] / f"{i}.dcm", f"p{i}", i, Modality="CT" if i % 3 else "MR")
    assert said(read(tmp_path / "scans"), "of several modalities (MR 8, CT 16)")
    tree = {f"{label}/{label}{i}_{view}.png": A for label in "ab" for i in range(12) for view in ("t1", "t2", "flair")}
    assert said(load_dataset(str(made(tree))), "several views or sequences (flair 24, t1 24, t2 24)")


def test_json_files_beside_classes_are_named(made: Any) -> None:  # noqa: F811
    tree = {**classes_of({"a": A, "b": B}), "patients.json": '{"a/0.png": "p1"}'}
    assert said(load_dataset(str(made(tree))), "patients.json was not used")


def test_a_version_of_a_class_is_no_class(made: Any) -> None:  # noqa: F811
    tree = {
        f"{label}{tail}/{i}{tail}.png": A
        for label in ("normal", "tumour")
        for tail in ("", "_augmented")
        for i in range(8)
    }
    assert "normal_augmented looks like a version of the images of normal" in refusal(made(tree))


def test_suffixes_in_capitals_and_columns_in_other_languages(made: Any) -> None:  # noqa: F811
    images = {f"i{i}.png": A if i % 2 else B for i in range(24)}
    rows = [(name.replace(".png", ".PNG"), class_of(level)) for name, level in images.items()]
    dataset = load_dataset(str(made({**images, "labels.csv": table(rows, "Dateiname", "Diagnose").replace(",", ";")})))
    assert levels_by_class(dataset) == {"a": {A}, "b": {B}}


def test_one_patient_id_for_all(tmp_path: Path) -> None:
    for i in range(24):
        dicom(tmp_path / "ab"[i % 2] / f"{i}.dcm", "ANONYMOUS", i)
    assert said(read(tmp_path), "bear one and the same PatientID")


def parquet(path: Path, count: int = 48, **columns: Any) -> Path:
    path.mkdir(parents=True)
    frame(count, **columns).to_parquet(path / "train.parquet")
    return path


def test_columns_of_parquet_that_were_not_used_are_named(tmp_path: Path) -> None:
    exams = [f"X{at // 6}" for at in range(48)]
    assert said(
        read(parquet(tmp_path / "a", exam_id=exams, age=[50] * 48)),
        "Its other columns were passed over: exam_id, age.",
    )
    people = read(parquet(tmp_path / "b", patientId=[f"p{at // 2}" for at in range(48)]))
    assert said(people, "Images with the same patientId belong together.")


def test_frames_in_colour_are_said(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(get_testdata_file("examples_rgb_color.dcm"))
    pixels = dataset.pixel_array[:64, :64]
    dataset.Rows, dataset.Columns, dataset.NumberOfFrames, dataset.PlanarConfiguration = 64, 64, 3, 0
    for i in range(24):
        noise = np.random.default_rng(i).integers(0, 255, pixels.shape, np.uint8)
        frames = np.stack([pixels // 2 + noise // 2] * 3)
        dataset.PixelData, dataset.PatientID = frames.tobytes(), f"p{i}"
        (tmp_path / "ab"[i % 2]).mkdir(exist_ok=True)
        dataset.save_as(tmp_path / "ab"[i % 2] / f"{i}.dcm")
    assert said(read(tmp_path), "24 of 24 images hold several pages or frames")
    sliced = load_dataset(str(tmp_path), slices=2)
    assert said(sliced, "burnt into the pixels")


def test_patients_of_one_image_each(made: Any) -> None:  # noqa: F811
    images = {
        f"images/{1000 + i // 2}_{side}.png": A if i % 4 < 2 else B
        for i in range(48)
        for side in ["left", "right"][i % 2 :][:1]
    }
    rows = [(Path(name).stem, class_of(level), Path(name).stem) for name, level in images.items()]
    path = made({**images, "metadata.csv": table(rows, "image", "label", "patient_id")})
    assert said(load_dataset(str(path)), "Visits or sides of one person (1000_left and others of 1000, …)")
    rows = [(name, label, f"x{at}") for at, (name, label, _) in enumerate(rows)]
    (path / "metadata.csv").write_text(table(rows, "image", "label", "patient_id"))
    assert said(load_dataset(str(path)), "There are 48 patients for 48 images: none are kept together.")


def test_files_that_say_no_slope_beside_others_that_do(tmp_path: Path) -> None:
    for i in range(24):
        path = tmp_path / "ab"[i % 2] / f"{i}.dcm"
        dicom(path, f"p{i}", i)
        if i < 8:
            dataset = pydicom.dcmread(path)
            del dataset.RescaleSlope, dataset.RescaleIntercept
            dataset.save_as(path)
    assert said(read(tmp_path), "8 of 24 images say no slope and intercept")


def test_nothing_found_beside_something(made: Any) -> None:  # noqa: F811
    images = {f"i{i}.png": A for i in range(48)}
    labels = ("No Finding", "Effusion", "No Finding|Effusion", "Mass")
    rows = [(name, labels[i % 4]) for i, name in enumerate(images)]
    dataset = load_dataset(str(made({**images, "labels.csv": table(rows, "Image Index", "Finding Labels")})))
    assert said(dataset, "No Finding was taken for no label. In 12 rows it stands beside other labels, which count.")


@pytest.mark.parametrize("odd", ["uncertain", "ungradable", "Pneumonia?"])
def test_classes_that_nobody_knows(odd: str, made: Any) -> None:  # noqa: F811
    images = {f"i{i}.png": A for i in range(36)}
    rows = [(name, ("a", "b", odd)[i % 3]) for i, name in enumerate(images)]
    assert "seems to mean that the class is not known" in refusal(
        made({**images, "l.csv": table(rows, "image", "label")})
    )


def test_a_flag_called_test_is_no_finding(made: Any) -> None:  # noqa: F811
    images = {f"i{i}.png": A for i in range(36)}
    rows = [(name, i % 2, i // 2 % 2, int(i > 25)) for i, name in enumerate(images)]
    message = refusal(made({**images, "l.csv": table(rows, "image", "mass", "nodule", "test")}))
    assert "its column test seems to say which split a row is of" in message


def test_persons_in_paths_of_a_small_split(made: Any) -> None:  # noqa: F811
    images = chexpert(19)
    few = {f"valid/patient{person:05}/study1/view1_frontal.png": A if person % 2 else B for person in range(900, 906)}
    tree: Tree = {**images, **few}
    for split, names in (("train", images), ("valid", few)):
        tree[f"{split}.csv"] = table(
            [(f"CheXpert/{name}", class_of(level)) for name, level in names.items()], "Path", "label"
        )
    dataset = load_dataset(str(made(tree)))
    assert said(dataset, "25 folders (patient00000")
    assert len(dataset.splits["val"]) == 6
    assert disjoint(dataset)


def test_a_grade_in_a_table_beside_folders_of_downloads(made: Any) -> None:  # noqa: F811
    """Messidor: folders Base11 and Base12, and a table of grades."""
    images = {f"{base}/{base}_{i}.png": A for base in ("Base11", "Base12") for i in range(18)}
    rows = [(Path(name).name, "A", i % 4) for i, name in enumerate(images)]
    path = made({**images, "Annotation.csv": table(rows, "Image name", "Department", "Retinopathy grade")})
    assert "the labels could be the column Retinopathy grade of Annotation.csv" in refusal(path)


@pytest.mark.parametrize(
    ("tops", "inner"),
    [
        (("Charite", "Mainz"), ("normal", "pneumonia")),
        (("XR_ELBOW", "XR_HAND"), ("study1_negative", "study1_positive")),
    ],
)
def test_classes_below_patients_below_sites(tops: tuple[str, str], inner: tuple[str, str], made: Any) -> None:  # noqa: F811
    tree = {
        f"{top}/patient{at * 12 + person:03}/{inner[person % 2]}/image{i}.png": A
        for at, top in enumerate(tops)
        for person in range(12)
        for i in range(2)
    }
    assert f"the folders below the patients ({', '.join(inner)}) could be the classes, too" in refusal(made(tree))


def test_visits_below_patients_are_said(made: Any) -> None:  # noqa: F811
    tree = {
        f"{label}/patient{label}{person:03}/visit{visit}/{i}.png": level
        for label, level in (("a", A), ("b", B))
        for person in range(12)
        for visit in (1, 2)
        for i in range(2)
    }
    dataset = load_dataset(str(made(tree)))
    assert levels_by_class(dataset) == {"a": {A}, "b": {B}}
    assert said(dataset, "Folders below the patients were not used (visit1, visit2, …)")


def test_splits_that_are_numbered_anew_in_other_formats(made: Any) -> None:  # noqa: F811
    tree = {
        f"{split}/{label}/{i:03}.{suffix}": A
        for split, suffix in (("train", "png"), ("valid", "png"), ("test", "jpg"))
        for label in "ab"
        for i in range(10)
    }
    assert not said(load_dataset(str(made(tree))), "by their names")


@pytest.mark.parametrize("name", ["lesion", "seg", "roi"])
def test_a_class_that_is_called_as_masks_may_be(name: str, made: Any) -> None:  # noqa: F811
    levels = {"healthy": A, name: B}
    assert levels_by_class(load_dataset(str(made(classes_of(levels, under="{0}/{0}{1}.png"))))) == {
        k: {v} for k, v in levels.items()
    }
    tree = {f"../masks/{one}/{i}.png": A for one in levels for i in range(12)}
    assert f"is {name} a class, or does it hold the masks" in refusal(made(tree) / "../masks")


def test_several_columns_that_could_hold_the_labels(made: Any) -> None:  # noqa: F811
    images = {f"i{i}.png": A for i in range(36)}
    rows = [(name, ("AK", "BCC", "NEV")[i % 3], i % 2, i % 4) for i, name in enumerate(images)]
    path = made({**images, "metadata.csv": table(rows, "image", "diagnosis", "target", "grade")})
    assert "its columns target and diagnosis could both hold the labels" in refusal(path)
    (path / "metadata.csv").write_text(table(rows, "image", "label", "target", "grade"))
    assert load_dataset(str(path)).conditioning.names == ["AK", "BCC", "NEV"]
    rows = [(name, label, ("AK", "BCC", "NEV").index(label)) for name, label, *_ in rows]  # type: ignore[misc]
    (path / "metadata.csv").write_text(table(rows, "image", "diagnosis", "target"))
    assert len(load_dataset(str(path)).conditioning.names) == 3


@pytest.mark.parametrize(
    ("column", "values"), [("cohort", ("development", "external validation")), ("set", ("derivation", "validation"))]
)
def test_cohorts_are_splits(column: str, values: tuple[str, str], made: Any) -> None:  # noqa: F811
    images = {f"i{i}.png": A for i in range(36)}
    rows = [(name, "ab"[i % 2], values[int(i > 25)]) for i, name in enumerate(images)]
    message = refusal(made({**images, "metadata.csv": table(rows, "image", "label", column)}))
    assert f"its column {column} seems to say which split a row is of" in message


def test_generated_images_are_said(made: Any) -> None:  # noqa: F811
    images = {f"i{i}.png": A for i in range(36)}
    rows = [(name, "ab"[i % 2], str(i < 12)) for i, name in enumerate(images)]
    dataset = load_dataset(str(made({**images, "metadata.csv": table(rows, "file_name", "label_name", "synthetic")})))
    assert said(dataset, "12 of 36 images are generated, not real")


def test_a_second_table_that_says_whose_the_images_are(made: Any) -> None:  # noqa: F811
    """ISIC 2019: one table of labels, another one of lesions."""
    images = {f"i{i}.png": A if i % 2 else B for i in range(48)}
    labels = [(name, class_of(level)) for name, level in images.items()]
    lesions = [(name, 50, f"L{i // 2}") for i, name in enumerate(images)]
    tables = {
        "labels.csv": table(labels, "image", "label"),
        "lesions.csv": table(lesions, "image", "age", "lesion_id"),
    }
    dataset = load_dataset(str(made({**images, **tables})))
    assert said(dataset, "Images of one patient in lesions.csv belong together")
    assert disjoint(dataset)
    assert levels_by_class(dataset) == {"a": {A}, "b": {B}}


def test_the_list_of_a_cd_is_no_image(tmp_path: Path) -> None:
    for i in range(24):
        dicom(tmp_path / "ab"[i % 2] / f"{i}", f"p{i}", i)
    (tmp_path / "DICOMDIR").write_bytes((tmp_path / "a" / "0").read_bytes())
    dataset = read(tmp_path)
    assert sum(map(len, dataset.splits.values())) == 24
    assert said(dataset, "1 files of other types were passed over")


def test_names_of_people_are_not_published(made: Any) -> None:  # noqa: F811
    """What the notes say of folders and ids stands in brackets that the published description leaves out."""
    images = chexpert()
    rows = [(f"CheXpert/{name}", class_of(level)) for name, level in images.items()]
    by_path = load_dataset(str(made({**images, "train.csv": table(rows, "Path", "label")})))
    people = {f"../b/{label}/Miller/{label}{i}.png": A for label in "ab" for i in range(12)}
    people |= {f"../b/{label}/{label}{i}.png": A for label in "ab" for i in range(12, 24)}
    by_folder = load_dataset(str(made(people) / "../b"))
    for dataset, name in ((by_path, "patient0"), (by_folder, "Miller")):
        assert name in str(dataset.notes)
        assert name not in str(describe(dataset).notes)
