"""Folders, pictures and tables as people have them: what is read, what is said about it, and what is refused."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, PngImagePlugin

from medmnist_diffusion.data import ImageDataset, load_dataset
from medmnist_diffusion.data.audit import audit, findings
from medmnist_diffusion.data.conditioning import Conditioning
from medmnist_diffusion.data.images import read_image
from medmnist_diffusion.data.labelled_folder import load_labelled_folder
from medmnist_diffusion.data.npz import SPLITS
from tests.conftest import CliError

Tree = dict[str, Any]  # path → a grey level, an image, or a text
# A picture that says which side is up and left.
UP = np.zeros((28, 28), np.uint8)
UP[:14], UP[:, :7] = 200, 90


@pytest.fixture
def made(tmp_path: Path) -> Callable[[Tree], Path]:
    def make(tree: Tree) -> Path:
        for name, content in tree.items():
            path = tmp_path / "mine" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, str):
                path.write_text(content)
            else:
                picture = content if isinstance(content, Image.Image) else Image.new("L", (28, 28), content)
                picture.save(path)
        return tmp_path / "mine"

    return make


def classes_of(levels: dict[str, int], count: int = 12, under: str = "{}/{}.png") -> Tree:
    """`count` pictures of a class, each of its grey level."""
    return {under.format(name, i): level for name, level in levels.items() for i in range(count)}


def levels_by_class(dataset: ImageDataset) -> dict[str, set[int]]:
    """Which grey levels stand under which class name, over all splits."""
    found: dict[str, set[int]] = {name: set() for name in dataset.id2label.values()}
    for split in dataset.splits.values():
        for image, label in zip(split.images[:], split.labels, strict=True):
            found[dataset.id2label[int(label)]].add(int(image[0, 0, 0]))
    return found


def said(dataset: ImageDataset, *words: str) -> bool:
    return any(all(word in note for word in words) for note in dataset.notes)


def test_classes_that_are_numbers_are_in_the_order_of_numbers(made: Any) -> None:
    levels = {str(number): 10 * number for number in range(11)}
    dataset = load_dataset(str(made(classes_of(levels))))
    assert dataset.id2label == {number: str(number) for number in range(11)}
    assert levels_by_class(dataset) == {name: {level} for name, level in levels.items()}


def test_a_number_that_names_a_class_is_no_other_class_id(made: Any) -> None:
    path = made(classes_of({"2": 20, "3": 30}, 2))
    split = load_labelled_folder(path, "grades", Conditioning({0: "1", 1: "2", 2: "3"}), (28, 28, 1))
    assert {(int(image[0, 0, 0]), int(label)) for image, label in zip(split.images[:], split.labels, strict=True)} == {
        (20, 1),
        (30, 2),
    }


def test_the_first_folder_is_the_class_whatever_lies_deeper(made: Any) -> None:
    tree = classes_of({"benign/p1": 10, "benign/p2": 12, "malignant/p1": 100, "malignant/p1/left": 102})
    dataset = load_dataset(str(made(tree)))
    assert levels_by_class(dataset) == {"benign": {10, 12}, "malignant": {100, 102}}


@pytest.mark.parametrize(
    ("image", "mask"), [("images/{}.png", "masks/{}.png"), ("{}.png", "{}_mask.png"), ("v/{}.png", "v/{}_mask_1.png")]
)
def test_masks_are_left_out_and_counted(made: Any, image: str, mask: str) -> None:
    tree = classes_of({"benign": 10, "malignant": 100}, under="{}/" + image)
    tree |= classes_of({"benign": 255, "malignant": 255}, 5, under="{}/" + mask)
    dataset = load_dataset(str(made(tree)))
    assert levels_by_class(dataset) == {"benign": {10}, "malignant": {100}}
    assert said(dataset, "10 masks were left out")


@pytest.mark.parametrize("names", [("images", "masks"), ("benign", "malignant", "segmentations")])
def test_masks_are_no_class(made: Any, names: tuple[str, ...], cli_error: CliError) -> None:
    assert f"is {names[-1]} a class, or does it hold the masks" in cli_error(
        "audit", str(made(classes_of(dict.fromkeys(names, 50))))
    )


def test_strays_system_folders_and_links_that_lead_nowhere_are_said(made: Any) -> None:
    tree = classes_of({"a": 10, "b": 100}) | {
        "cover.png": 250,
        "a/@eaDir/0.png": 251,
        "b/.ipynb_checkpoints/0.png": 252,
    }
    path = made(tree)
    (path / "a" / "gone.png").symlink_to(path / "nowhere.png")
    (path / "docs").mkdir()
    dataset = load_dataset(str(path))
    assert levels_by_class(dataset) == {"a": {10}, "b": {100}}
    assert said(dataset, "1 images lie beside the class folders", "cover.png")
    assert said(dataset, "2 images with hidden names", "@eaDir")
    assert said(dataset, "1 links lead nowhere", "gone.png")
    assert said(dataset, "hold no images", "docs")


@pytest.mark.parametrize(
    "names",
    [
        ("Training", "Testing"), ("train", "valid", "test"), ("TRAIN", "validation", "testing"),
        ("train_set", "val-set", "test set"),
    ]
)  # fmt: skip
def test_the_usual_names_of_splits(made: Any, names: tuple[str, ...]) -> None:
    tree: Tree = {}
    for place, name in enumerate(names):
        tree |= classes_of({"a": 10 + place, "b": 100 + place}, under=name + "/{}/{}.png")
    dataset = load_dataset(str(made(tree)))
    official = {"test": len(names) - 1} | ({"val": 1} if len(names) == 3 else {})
    for split, place in official.items():
        assert set(np.unique(dataset.splits[split].images[:])) == {10 + place, 100 + place}
    assert set(np.unique(dataset.train.images[:])) == {10, 100}
    assert said(dataset, "Splits from the folders", f"{names[0]} (train)")


def test_a_wrapper_is_looked_into(made: Any) -> None:
    tree = {f"archive/chest/{name}": content for name, content in _three_splits().items()}
    dataset = load_dataset(str(made(tree | {"archive/readme.md": "x"})))
    assert said(dataset, "Read from archive/chest")
    assert set(np.unique(dataset.splits["test"].images[:])) == {12, 102}


def _three_splits() -> Tree:
    tree: Tree = {}
    for place, name in enumerate(("train", "val", "test")):
        tree |= classes_of({"a": 10 + place, "b": 100 + place}, under=name + "/{}/{}.png")
    return tree


def test_folders_beside_the_splits_are_left_out_and_counted(made: Any) -> None:
    dataset = load_dataset(str(made(_three_splits() | classes_of({"a": 200}, 7, under="extra/{}/{}.png"))))
    assert said(dataset, "7 images are in no split and class", "extra/a/0.png")
    assert 200 not in np.unique(dataset.train.images[:])


def test_test_images_without_classes_are_left_out_and_counted(made: Any) -> None:
    tree = classes_of({"a": 10, "b": 100}, under="train/{}/{}.png") | {f"test/{i}.png": 200 for i in range(5)}
    with pytest.raises(Exception, match="hold images themselves") as error:
        load_dataset(str(made({f"test/{i}.png": 200 for i in range(5)} | {"train/0.png": 3})))
    assert "subfolder a class" in str(error.value)
    (made({}) / "train" / "0.png").unlink()
    dataset = load_dataset(str(made(tree)))
    assert said(dataset, "5 images are in no split and class", "test/0.png")
    assert 200 not in np.unique(np.concatenate([split.images[:].ravel() for split in dataset.splits.values()]))


def test_classes_called_train_and_test(made: Any, cli_error: CliError) -> None:
    dataset = load_dataset(str(made(classes_of({"bus": 10, "test": 50, "train": 100}))))
    assert levels_by_class(dataset) == {"bus": {10}, "test": {50}, "train": {100}}
    tree = {f"{name}/p1/{i}.png": 60 for name in ("tram", "train") for i in range(9)}
    path = made({}) / "second"
    for name, level in tree.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (28, 28), level).save(path / name)
    assert "train looks like a split and tram like a class" in cli_error("audit", str(path))


def test_a_class_folder_that_is_a_link(made: Any) -> None:
    path = made(classes_of({"a": 10, "b": 100}))
    (path / "b").rename(path.parent / "elsewhere")
    (path / "b").symlink_to(path.parent / "elsewhere", target_is_directory=True)
    (path / "a" / "round").symlink_to(path, target_is_directory=True)
    dataset = load_dataset(str(path))
    assert levels_by_class(dataset) == {"a": {10}, "b": {100}}
    assert said(dataset, "links lead back", "a/round")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_pictures_lie_as_viewers_show_them(made: Any, kind: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    path = made(classes_of({"a": 10, "b": 100}, under="{}/{}.png"))
    options = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    for name in "ab":
        for file in (path / name).iterdir():
            file.unlink()
        for i in range(8):
            Image.fromarray(np.rot90(UP)).save(path / name / f"{i}.{kind.lower()}", kind, exif=exif, **options)
    dataset = load_dataset(str(path))
    assert np.abs(dataset.train.images[:][0, :, :, 0].astype(int) - UP).mean() < 4
    assert said(dataset, "16 of 16 images were turned upright", "EXIF")


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "I;16", "F"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_a_turned_file_that_is_not_square(mode: str, turn: int, tmp_path: Path) -> None:
    """Uncompressed TIFFs on disk, where EXIF's table says which stored rows and columns are to be seen."""
    stored = np.arange(6 * 4, dtype=np.uint8).reshape(6, 4) * 9
    pixels: dict[str, Any] = {"L": stored, "I;16": stored.astype(np.uint16) * 200, "F": stored.astype(np.float32)}
    image = Image.fromarray(pixels[mode]) if mode in pixels else Image.fromarray(stored).convert(mode)
    image.save(tmp_path / "x.tif", tiffinfo={274: turn})
    turned = {1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1], 5: stored.T}
    turned |= {6: np.rot90(stored, -1), 7: np.rot90(stored, 2).T, 8: np.rot90(stored)}
    shown = turned[turn]
    seen, _ = read_image(tmp_path / "x.tif", (*shown.shape, 1))
    grey = seen[..., 0].astype(float)
    assert np.corrcoef(grey.ravel(), shown.ravel())[0, 1] > 0.999


def test_hidden_colours_and_shapes_of_transparency(made: Any) -> None:
    """Red under alpha 0 is not trained, and a black shape that stands in alpha alone is seen."""
    hidden = Image.fromarray(
        np.dstack([np.full_like(UP, 255), np.zeros_like(UP), np.zeros_like(UP), np.zeros_like(UP)])
    )
    shape = Image.merge("LA", [Image.new("L", (28, 28), 0), Image.fromarray(UP)])
    tree: Tree = {f"{split}/a/{i}.png": shape for split in SPLITS for i in range(4)}
    tree |= {f"{split}/b/{i}.png": hidden for split in SPLITS for i in range(4)}
    dataset = load_dataset(str(made(tree)))
    assert dataset.channels == 1
    label = dataset.train.labels
    np.testing.assert_allclose(dataset.train.images[label == 0][0, :, :, 0], 255 - UP, atol=1)
    assert (dataset.train.images[label == 1] == 255).all()
    assert said(dataset, "24 of 24 images have transparent parts", "laid on white")


def test_light_shapes_are_laid_on_black(made: Any) -> None:
    shape = Image.merge("LA", [Image.new("L", (28, 28), 255), Image.fromarray(UP)])
    dataset = load_dataset(str(made({f"{name}/{i}.png": shape for name in "ab" for i in range(8)})))
    np.testing.assert_allclose(dataset.train.images[:][0, :, :, 0], UP, atol=1)
    assert said(dataset, "laid on black")


def test_one_transparent_colour_of_a_palette(made: Any) -> None:
    palette = Image.fromarray((UP > 150).astype(np.uint8), "P")
    palette.putpalette([9, 9, 9, 30, 30, 30])
    file = io.BytesIO()
    palette.save(file, "PNG", transparency=1)
    pictures = {f"{name}/{i}.png": Image.open(io.BytesIO(file.getvalue())) for name in "ab" for i in range(8)}
    dataset = load_dataset(str(made(pictures)))
    expected = np.where(UP > 150, 255, 9)
    np.testing.assert_array_equal(dataset.train.images[:][0, :, :, 0], expected)


def test_grey_is_grey_however_it_is_stored(made: Any) -> None:
    palette = Image.fromarray(UP).quantize(8)
    stored = [Image.fromarray(UP), Image.fromarray(UP).convert("RGB"), palette, Image.fromarray(UP).convert("RGBA")]
    tree = {f"{name}/{i}.png": stored[i % 4] for name in "ab" for i in range(12)}
    dataset = load_dataset(str(made(tree)))
    assert dataset.channels == 1
    assert said(dataset, "18 of 24 images are stored in colour but are grey everywhere")


def test_the_first_colour_image_is_named(made: Any) -> None:
    red = Image.merge("RGB", [Image.new("L", (28, 28), level) for level in (200, 0, 0)])
    dataset = load_dataset(str(made(classes_of({"a": 10, "b": 100}) | {"b/marked.png": red})))
    assert dataset.channels == 3
    assert said(dataset, "1 of 25 images hold colour", "marked.png", "RGB")


def test_masks_with_levels_0_and_1_are_named(made: Any) -> None:
    mask = Image.fromarray((UP > 150).astype(np.uint8))
    dataset = load_dataset(str(made({f"{name}/{i}.png": mask for name in "ab" for i in range(12)})))
    assert said(dataset, "very dark in train (1)", "multiply them by 255")


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP", "PNG"])
def test_pages_and_frames_are_counted(made: Any, kind: str) -> None:
    path = made(classes_of({"a": 10, "b": 100}))
    pages = [Image.new("L", (28, 28), level) for level in (10, 60, 70)]
    pages[0].save(
        path / "a" / f"several.{kind.lower()}",
        kind,
        save_all=True,
        append_images=pages[1:],
        **({"lossless": True} if kind == "WEBP" else {}),
    )
    dataset = load_dataset(str(path))
    assert said(dataset, "1 of 25 images hold several pages or frames", "several", "the first one was read")
    assert levels_by_class(dataset)["a"] == {10}


def test_a_picture_in_two_classes_is_named(made: Any) -> None:
    rng = np.random.default_rng(0)
    tree: Tree = {
        f"{name}/{i}.png": Image.fromarray(rng.integers(0, 255, (28, 28), np.uint8))
        for name in "ab"
        for i in range(20)
    }
    tree["b/other.png"] = tree["a/3.png"]
    report = audit(load_dataset(str(made(tree))))
    assert report.label_conflicts == 1
    assert set(report.conflicts[0].files) == {"a/3.png", "b/other.png"}
    assert set(report.conflicts[0].classes) == {"a", "b"}
    assert any("1 picture stands in two classes: " in line and "a/3.png (a)" in line for line in findings(report))


def picture(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (28, 28), level).save(file, "PNG")
    return file.getvalue()


def write_parquet(
    path: Path, levels: list[int], labels: list[Any], feature: Any = None, names: tuple[str, str] = ("image", "label")
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    columns = {names[0]: [{"bytes": picture(level), "path": None} for level in levels], names[1]: labels}
    features = None if feature is None else datasets.Features({names[0]: datasets.Image(), names[1]: feature})
    datasets.Dataset.from_dict(columns, features=features).to_parquet(str(path))


def test_numbers_of_classes_mean_their_own_files_names(tmp_path: Path) -> None:
    three, two = (
        datasets.ClassLabel(names=names) for names in (["benign", "malignant", "normal"], ["normal", "benign"])
    )
    write_parquet(tmp_path / "set/train-00000-of-00002.parquet", [10, 20, 30] * 4, [0, 1, 2] * 4, three)
    write_parquet(tmp_path / "set/train-00001-of-00002.parquet", [30, 10] * 4, [0, 1] * 4, two)
    write_parquet(tmp_path / "set/test-00000-of-00001.parquet", [30, 10] * 2, [0, 1] * 2, two)
    dataset = load_dataset(str(tmp_path / "set"))
    assert levels_by_class(dataset) == {"benign": {10}, "malignant": {20}, "normal": {30}}
    assert len(dataset.splits["test"]) == 4


def test_names_here_and_numbers_there_are_refused(tmp_path: Path, cli_error: CliError) -> None:
    write_parquet(tmp_path / "set/train.parquet", [10, 20] * 6, [0, 1] * 6, datasets.ClassLabel(names=["a", "b"]))
    write_parquet(tmp_path / "set/test.parquet", [10, 20], [0, 1], datasets.Value("int64"))
    assert "labels are names in one file and numbers in another" in cli_error("audit", str(tmp_path / "set"))


@pytest.mark.parametrize(
    ("labels", "feature", "names"),
    [
        ([True, False], datasets.Value("bool"), ["False", "True"]),
        ([b"sick", b"well"], datasets.Value("binary"), ["sick", "well"]),
        ([10, 9], datasets.Value("int64"), ["9", "10"]),
        (["10", "9"], datasets.Value("string"), ["9", "10"]),
        ([1.0, 0.0], datasets.Value("float32"), ["0", "1"]),
        ([-1, 1], datasets.Value("int8"), ["-1", "1"]),
    ],
)
def test_labels_of_every_type_become_names(tmp_path: Path, labels: Any, feature: Any, names: Any) -> None:
    write_parquet(tmp_path / "set/all.parquet", [10, 20] * 12, labels * 12, feature)
    dataset = load_dataset(str(tmp_path / "set"))
    assert list(dataset.id2label.values()) == names
    first = names[1] if labels[0] in (True, 10, "10") else names[0]  # by value: 1.0 is True
    assert levels_by_class(dataset)[first] == {10}


@pytest.mark.parametrize(
    ("labels", "feature", "message"),
    [
        ([0, -1], datasets.ClassLabel(names=["a", "b"]), "some images have no label"),
        (["a", None], datasets.Value("string"), "some images have no label"),
        ([0.5, 1.0], datasets.Value("float32"), "label 0.5 is no class"),
        (["a", ""], datasets.Value("string"), "some images have no label"),
        (["a", "nan"], datasets.Value("string"), "some images have no label"),
        ([[1, 0], [0, 1]], datasets.Sequence(datasets.Value("int64")), "labels are lists of numbers"),
    ],
)
def test_labels_that_say_no_class_are_refused(
    tmp_path: Path, cli_error: CliError, labels: Any, feature: Any, message: str
) -> None:
    write_parquet(tmp_path / "set/all.parquet", [10, 20] * 6, labels * 6, feature)
    assert message in cli_error("audit", str(tmp_path / "set"))


def test_tables_of_pandas_and_of_arrow(tmp_path: Path) -> None:
    """A struct of bytes and path, categories, bytes alone; the usual names of label columns."""
    (tmp_path / "set").mkdir()
    rows = [{"bytes": picture(level), "path": None} for level in [10, 20] * 12]
    pd.DataFrame({"image": rows, "dx": pd.Categorical(["nevus", "melanoma"] * 12)}).to_parquet(
        tmp_path / "set/a.parquet"
    )
    pq.write_table(
        pa.table(
            {"img": [picture(level) for level in [20, 10] * 3], "Target": ["melanoma", "nevus"] * 3, "age": range(6)}
        ),
        tmp_path / "set/b.parquet",
    )
    dataset = load_dataset(str(tmp_path / "set"))
    assert levels_by_class(dataset) == {"nevus": {10}, "melanoma": {20}}
    assert sum(map(len, dataset.splits.values())) == 30


def test_parquet_files_of_no_split_are_left_out_and_said(tmp_path: Path) -> None:
    for split in ("train", "test", "unlabeled"):
        write_parquet(tmp_path / f"set/{split}-00000-of-00001.parquet", [10, 20] * 8, ["a", "b"] * 8)
    dataset = load_dataset(str(tmp_path / "set"))
    assert sum(map(len, dataset.splits.values())) == 32
    assert said(dataset, "1 parquet files are of no split", "unlabeled")


def test_splits_below_the_classes_are_refused(made: Any, cli_error: CliError) -> None:
    path = made(classes_of({"benign/train": 1, "benign/test": 2, "malignant/train": 3, "malignant/test": 4}))
    assert "benign holds the splits test, train. Turn it round" in cli_error("audit", str(path))


def test_folders_that_look_like_splits_are_refused(made: Any, cli_error: CliError) -> None:
    path = made(classes_of({"seg_train/a": 1, "seg_train/b": 2, "seg_test/a": 3, "seg_test/b": 4}))
    assert "Are they splits?" in cli_error("audit", str(path))


def test_views_below_the_classes_are_said(made: Any) -> None:
    tree = classes_of({"benign/left": 1, "benign/right": 2, "malignant/left": 3, "malignant/right": 4})
    assert said(load_dataset(str(made(tree))), "Folders below the classes were not taken for classes (left, right, …)")


def test_folders_of_patients_stay_in_one_split(made: Any) -> None:
    levels = {f"{label}/{person:02}": 10 * index + person for index, label in enumerate("ab") for person in range(12)}
    dataset = load_dataset(str(made(classes_of(levels, count=3))))
    assert said(dataset, "The 12 folders below the classes (00, 01, 02, …) were taken for patients")
    groups = [set(split.groups or []) for split in dataset.splits.values()]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 12


@pytest.mark.parametrize("names", [("Normal", "normal"), ("tumor", "tumor "), ("01", "1"), ("u\u0308", "\u00fc")])
def test_names_that_are_nearly_equal_are_refused(names: tuple[str, str], tmp_path: Path, cli_error: CliError) -> None:
    write_parquet(tmp_path / "set/all.parquet", [10, 20, 30] * 6, [*names, "other"] * 6, datasets.Value("string"))
    assert "differ only in how they are written" in cli_error("audit", str(tmp_path / "set"))


def test_class_numbers_of_a_table_are_kept(tmp_path: Path) -> None:
    feature = datasets.ClassLabel(names=["zeta", "alpha"])
    write_parquet(tmp_path / "set/all.parquet", [10, 20] * 12, [0, 1] * 12, feature)
    dataset = load_dataset(str(tmp_path / "set"))
    assert dataset.id2label == {0: "zeta", 1: "alpha"}
    assert levels_by_class(dataset) == {"zeta": {10}, "alpha": {20}}
    assert said(dataset, "train is read from all.parquet")
    assert said(dataset, "from the column image, labels from label")


def test_parquet_files_that_would_be_lost(tmp_path: Path, cli_error: CliError) -> None:
    for name, level in (("TRAIN.PARQUET", 1), ("val.pq", 2), ("test.parquet", 3)):
        write_parquet(tmp_path / "suffixes" / name, [level, level] * 6, ["a", "b"] * 6)
    (tmp_path / "suffixes" / "more.parquet.gz").write_bytes(b"x")
    dataset = load_dataset(str(tmp_path / "suffixes"))
    assert [int(dataset.splits[split].images[:].max()) for split in SPLITS] == [1, 2, 3]
    assert said(dataset, "1 files of other types", "more.parquet.gz")
    for name in ("train-00000-of-00003", "train-00002-of-00003"):
        write_parquet(tmp_path / "shards" / f"{name}.parquet", [10, 20], ["a", "b"])
    assert "parts of train are not complete, or of several versions" in cli_error("audit", str(tmp_path / "shards"))
    for name in ("default", "binary"):
        write_parquet(tmp_path / "two" / name / "train.parquet", [10, 20], ["a", "b"])
    assert "train lies in several folders, binary and default" in cli_error("audit", str(tmp_path / "two"))
    (tmp_path / "column").mkdir()
    rows = {"image": [picture(1)] * 4, "label": ["a", "b"] * 2, "split": ["train", "test"] * 2}
    pq.write_table(pa.table(rows), tmp_path / "column/all.parquet")
    assert "its column split says which split a row is of" in cli_error("audit", str(tmp_path / "column"))


def test_sixteen_bits_are_refused_in_colour_and_beside_eight(made: Any, cli_error: CliError) -> None:
    path = made(classes_of({"a": 10, "b": 100}))
    for mode, header, values, words in (("grey", b"P5", 1, "more than 8 bits"), ("colour", b"P6", 3, "of 16 bits")):
        (path / "a" / f"{mode}.pgm").write_bytes(header + b" 28 28 65535\n" + bytes(2 * 28 * 28 * values))
        assert words in cli_error("audit", str(path))
        (path / "a" / f"{mode}.pgm").unlink()


def test_messages_name_the_cause(tmp_path: Path, made: Any, cli_error: CliError, small_npz: Path) -> None:
    assert "no data set was named" in cli_error("audit", "")
    write_parquet(tmp_path / "p/a.parquet", [10], ["a"], names=("image", "outcome"))
    assert "no label column was found among ['image', 'outcome']" in cli_error("audit", str(tmp_path / "p"))
    write_parquet(tmp_path / "q/a.parquet", [10], ["a"], names=("scan_file", "label"))
    pq.write_table(pa.table({"scan": ["x.png"], "label": ["a"]}), tmp_path / "q/a.parquet")
    assert "no image column was found among ['scan', 'label']" in cli_error("audit", str(tmp_path / "q"))
    pq.write_table(pa.table({"image": [picture(1)], "label": ["a"], "target": [1]}), tmp_path / "q/a.parquet")
    assert "label and target could all be the label column" in cli_error("audit", str(tmp_path / "q"))
    path = made(classes_of({"a": 10, "b": 100}) | {"b/2.png": 3})
    write_parquet(path / "stray.parquet", [10], ["a"])
    assert "holds parquet files (stray.parquet) and images" in cli_error("audit", str(path))
    rare = tmp_path / "rare"
    for name, count in (("a", 9), ("b", 2)):
        (rare / name).mkdir(parents=True)
        for i in range(count):
            Image.new("L", (28, 28), i).save(rare / name / f"{i}.png")
    assert "class b has 2 images; 3 are needed: val and test must be drawn from them" in cli_error("audit", str(rare))
    flat = tmp_path / "flat"
    flat.mkdir()
    Image.new("L", (28, 28)).save(flat / "0.png")
    (flat / "labels.csv").write_text("number,outcome\n0.png,a\n")
    error = cli_error("audit", str(flat))
    assert "its 1 images have no class" in error
    assert "labels.csv was not used: none of its columns is called label" in error
    packed = tmp_path / "packed"
    packed.mkdir()
    os.link(small_npz, packed / "small.npz")
    assert "npz files. Give the path of one: small.npz" in cli_error("audit", str(packed))
    for name in ("x.npy", "x.parquet", "x.png"):
        (tmp_path / name).write_bytes(b"x")
        assert "is a file that is no npz" in cli_error("audit", str(tmp_path / name))


def test_two_colons_in_a_path(made: Any) -> None:
    dataset = load_dataset(str(made(classes_of({"x::a": 10, "b": 100}))))
    assert levels_by_class(dataset) == {"b": {100}, "x::a": {10}}


def test_capital_letters_in_a_suffix(small_npz: Path, tmp_path: Path) -> None:
    os.link(small_npz, tmp_path / "SMALL.NPZ")
    assert load_dataset(str(tmp_path / "SMALL.NPZ")).content_hash == load_dataset(str(small_npz)).content_hash


def test_labels_and_arrays_that_lie_otherwise(small_npz: Path, tmp_path: Path) -> None:
    with np.load(small_npz) as arrays:
        given = dict(arrays)
    expected = load_dataset(str(small_npz))
    one_hot = {
        name: np.eye(4, dtype=np.uint8)[array[:, 0]] if "labels" in name else array for name, array in given.items()
    }
    lying = {name: array.T if "labels" in name else array for name, array in given.items()}
    fortran = {name: np.asfortranarray(array) for name, array in given.items()}
    for name, arrays in (("one_hot", one_hot), ("lying", lying), ("fortran", fortran)):
        np.savez(tmp_path / f"{name}.npz", **arrays)
        dataset = load_dataset(str(tmp_path / f"{name}.npz"))
        assert dataset.content_hash == expected.content_hash, name
        assert said(dataset, "one-hot rows") == (name == "one_hot")


def test_a_medmnist_file_by_its_path_is_that_set(real_data: Path, tmp_path: Path) -> None:
    dataset = load_dataset(str(real_data / "pneumoniamnist.npz"))
    assert dataset.id2label == {0: "normal", 1: "pneumonia"}
    assert dataset.license == "CC BY 4.0"
    assert said(dataset, "taken for it")
    assert said(dataset, "unverified copy")
    assert dataset.content_hash == load_dataset("pneumoniamnist", root=real_data).content_hash


def test_another_npz_with_a_medmnist_name_is_not(small_npz: Path, tmp_path: Path) -> None:
    os.link(small_npz, tmp_path / "pneumoniamnist.npz")
    dataset = load_dataset(str(tmp_path / "pneumoniamnist.npz"))
    assert dataset.license == "unknown"
    assert dataset.num_classes == 4


def test_texts_in_a_picture_do_not_matter(made: Any, tmp_path: Path) -> None:
    path = made(classes_of({"a": 10, "b": 100}))
    notes = PngImagePlugin.PngInfo()
    notes.add_text("comment", "x")
    Image.new("L", (28, 28), 10).save(path / "a" / "0.png", pnginfo=notes)
    assert levels_by_class(load_dataset(str(path))) == {"a": {10}, "b": {100}}


@pytest.mark.parametrize("names", [("entrenamiento", "prueba"), ("fold1", "fold2"), ("development", "holdout")])
def test_splits_in_other_words_are_no_classes(names: tuple[str, str], made: Any, cli_error: CliError) -> None:
    images = {
        f"{name}/{label}/{n}.png": 40 * n for name in names for label in ("benign", "malignant") for n in range(3)
    }
    assert "Are they splits?" in cli_error("audit", str(made(images)))
