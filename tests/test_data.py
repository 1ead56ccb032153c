"""Sources: what every good input becomes, and that every bad one ends in one line that names it and the remedy."""

import io
import zipfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from medmnist_diffusion.data import Split, load_dataset, phantom, to_model_range, to_uint8
from medmnist_diffusion.data.arrow import ArrowImages
from medmnist_diffusion.data.npz import npz_arrays, read_npz, write_npz
from medmnist_diffusion.errors import UserError


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    return phantom.make_phantom(counts={"train": 40, "val": 20, "test": 20})


# Good input


@pytest.mark.parametrize(
    ("name", "channels", "size"), [("phantom", 1, 28), ("phantom-rgb", 3, 28), ("phantom", 1, 64)]
)
def test_phantom(name, channels, size):
    dataset = load_dataset(name, size=size)
    assert dataset.synthetic
    assert dataset.train.images.shape == (2400, size, size, channels)
    assert dataset.train.images.dtype == np.uint8
    assert dataset.num_classes == 4
    assert "Synthetic" in dataset.description
    assert dataset.content_hash == load_dataset(name, size=size).content_hash


def test_phantom_seeds_differ_and_classes_look_different():
    first, second = phantom.make_phantom(seed=0), phantom.make_phantom(seed=1)
    assert (first["train_images"] != second["train_images"]).mean() > 0.5
    means = [first["train_images"][first["train_labels"][:, 0] == k].mean(0) for k in range(4)]
    for i in range(4):
        for j in range(i):
            assert np.abs(means[i] - means[j]).max() > 3


def test_real_pneumoniamnist(real_data):
    dataset = load_dataset("pneumoniamnist", root=real_data)
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 4708, "val": 524, "test": 624}
    assert np.bincount(dataset.train.labels).tolist() == [1214, 3494]
    assert dataset.id2label == {0: "normal", 1: "pneumonia"}
    assert dataset.license == "CC BY 4.0"
    assert "Yang" in dataset.citation
    assert "unverified copy" in dataset.notes[0]


def test_root_comes_from_the_environment(real_data, monkeypatch):
    monkeypatch.setenv("MEDMNIST_ROOT", str(real_data))
    assert len(load_dataset("pneumoniamnist").train) == 4708


def test_npz_in_memory_and_memory_mapped_are_the_same(tmp_path, arrays):
    write_npz(tmp_path / "x.npz", arrays)
    small = read_npz(tmp_path / "x.npz")
    large = read_npz(tmp_path / "x.npz", in_memory_bytes=1000)
    assert isinstance(large["train"].images, ArrowImages)
    assert large["train"].images[:2].flags.writeable  # torch warns of others
    assert small["train"].images.shape == large["train"].images.shape == (40, 28, 28, 1)
    np.testing.assert_array_equal(small["train"].images, large["train"].images[:])
    np.testing.assert_array_equal(small["train"].images[[5, 2, 39]], large["train"].images[np.array([5, 2, 39])])
    assert small["train"].content_hash == large["train"].content_hash
    np.testing.assert_array_equal(small["train"].images[..., 0], arrays["train_images"])


def test_a_changed_file_is_read_anew_when_memory_mapped(tmp_path, arrays):
    write_npz(tmp_path / "x.npz", arrays)
    before = read_npz(tmp_path / "x.npz", in_memory_bytes=1000)["train"].content_hash
    arrays["train_images"][0, 0, 0] ^= 255
    write_npz(tmp_path / "x.npz", arrays)
    assert read_npz(tmp_path / "x.npz", in_memory_bytes=1000)["train"].content_hash != before


def image_folder(path: Path, mode: str = "L", per_class: int = 20) -> Path:
    rng = np.random.default_rng(0)
    for number, name in enumerate(["benign", "malignant"]):
        (path / name).mkdir(parents=True)
        for i in range(per_class):
            shape = (40, 50) if mode == "L" else (40, 50, 3)
            pixels = (rng.normal(80 + 80 * number, 10, shape)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(path / name / f"{i}.png")
    return path


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGB", 3)])
def test_image_folder(tmp_path, mode, channels):
    dataset = load_dataset(str(image_folder(tmp_path / "mine", mode)), size=32)
    assert dataset.id2label == {0: "benign", 1: "malignant"}
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 32, "val": 4, "test": 4}
    assert dataset.train.images.shape[1:] == (32, 32, channels)
    brightness = dataset.train.images.mean((1, 2, 3))
    np.testing.assert_array_equal(brightness > 120, dataset.train.labels == 1)  # labels stay with their images
    assert "drawn from train" in dataset.notes[1]


def test_image_folder_with_splits_keeps_them(tmp_path):
    for split, count in (("train", 6), ("val", 3), ("test", 2)):
        image_folder(tmp_path / "mine" / split, per_class=count)
    dataset = load_dataset(str(tmp_path / "mine"))
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 12, "val": 6, "test": 4}


def test_parquet_folder_with_image_and_label_columns(tmp_path):
    features = datasets.Features({"picture": datasets.Image(), "diagnosis": datasets.ClassLabel(names=["no", "yes"])})
    pictures = [Image.fromarray(np.full((28, 28), 10 * i, np.uint8)) for i in range(20)]
    table = datasets.Dataset.from_dict({"picture": pictures, "diagnosis": [0, 1] * 10}, features=features)
    (tmp_path / "set").mkdir()
    table.to_parquet(str(tmp_path / "set" / "train.parquet"))
    dataset = load_dataset(str(tmp_path / "set"))
    assert dataset.id2label == {0: "no", 1: "yes"}
    values = np.concatenate([split.images[:, 0, 0, 0] for split in dataset.splits.values()])
    labels = np.concatenate([split.labels for split in dataset.splits.values()])
    np.testing.assert_array_equal(values // 10 % 2, labels)


def test_text_labels_mean_the_same_in_every_split(tmp_path):
    """A split that lacks a class must not shift the ids of the others."""
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    grey = {"a": 40, "b": 120, "c": 200}
    for split, names in (("train", "abc" * 4), ("validation", "abc"), ("test", "aacc")):
        pictures = [Image.fromarray(np.full((28, 28), grey[name], np.uint8)) for name in names]
        table = datasets.Dataset.from_dict({"image": pictures, "label": list(names)}, features=features)
        (tmp_path / "set").mkdir(exist_ok=True)
        table.to_parquet(str(tmp_path / "set" / f"{split}-00000-of-00001.parquet"))
    dataset = load_dataset(str(tmp_path / "set"))
    assert dataset.id2label == {0: "a", 1: "b", 2: "c"}
    for split in dataset.splits.values():
        np.testing.assert_array_equal(split.images[:, 0, 0, 0], [list(grey.values())[k] for k in split.labels])


def test_only_top_level_folders_name_splits(tmp_path):
    """Classes and files whose names hold `test`, `train` or brackets are classes and files; hidden ones are not."""
    folder = image_folder(tmp_path / "mine")
    (folder / "benign").rename(folder / "test_positive")
    (folder / "malignant").rename(folder / "training_artifact")
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints" / "1.png").write_bytes((folder / "test_positive" / "1.png").read_bytes())
    (folder / "test_positive" / "._2.png").write_bytes(b"macOS")
    (folder / "test_positive" / "0.png").rename(folder / "test_positive" / "stress_test_1[0].png")
    dataset = load_dataset(str(folder))
    assert dataset.id2label == {0: "test_positive", 1: "training_artifact"}
    assert {name: len(split) for name, split in dataset.splits.items()} == {"train": 32, "val": 4, "test": 4}


def test_two_folders_for_one_split_are_refused(tmp_path, cli_error):
    for name in ("train", "val", "validation"):
        image_folder(tmp_path / "mine" / name, per_class=3)
    assert "val and validation are both val" in cli_error("audit", str(tmp_path / "mine"))


@pytest.mark.parametrize("classes", [2, 300])
def test_written_splits_are_read_as_they_were(tmp_path, classes):
    """More classes than a byte can count keep their labels."""
    rng = np.random.default_rng(0)
    splits = {}
    for name in ("train", "val", "test"):
        images = rng.integers(0, 256, (classes, 8, 8, 1), np.uint8)
        splits[name] = Split(name, images, np.arange(classes, dtype=np.int64))
    write_npz(tmp_path / "x.npz", npz_arrays(splits, classes))
    again = read_npz(tmp_path / "x.npz")
    assert {name: split.content_hash for name, split in again.items()} == {
        name: split.content_hash for name, split in splits.items()
    }


def test_a_lone_test_folder_becomes_the_set_and_leaks_nowhere(tmp_path):
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "mine" / "test" / name).mkdir(parents=True)
        for i in range(20):
            Image.fromarray(rng.integers(0, 256, (28, 28), np.uint8)).save(
                tmp_path / "mine" / "test" / name / f"{i}.png"
            )
    dataset = load_dataset(str(tmp_path / "mine"))
    pixels = [image.tobytes() for split in dataset.splits.values() for image in split.images]
    assert len(pixels) == len(set(pixels)) == 40


def test_image_tensor_round_trip_is_exact():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    tensor = to_model_range(images)
    assert tensor.min() == -1
    assert tensor.max() == 1
    np.testing.assert_array_equal(to_uint8(tensor), images)


# Bad input: message and exit code


def without(*names):
    return lambda arrays: {key: value for key, value in arrays.items() if key not in names}


def replaced(**changes):
    return lambda arrays: arrays | {key: change(arrays) for key, change in changes.items()}


BAD_ARRAYS = {
    "missing array": (without("val_labels"), "array 'val_labels' is missing"),
    "extra array": (replaced(notes=lambda a: np.zeros(3)), "'notes' does not belong"),
    "wrong dtype": (replaced(train_images=lambda a: a["train_images"] / 255), "dtype float64; uint8"),
    "wrong shape": (replaced(train_images=lambda a: a["train_images"].reshape(40, -1)), "has shape"),
    "not square": (replaced(train_images=lambda a: a["train_images"][:, :20]), "must be square"),
    "3-D": (replaced(train_images=lambda a: np.zeros((40, 28, 28, 28), np.uint8)), "3-D sets are not supported yet"),
    "lengths differ": (replaced(train_labels=lambda a: a["train_labels"][:-1]), "40 images but 39 labels"),
    "multi-label": (replaced(train_labels=lambda a: np.zeros((40, 14), np.uint8)), "multi-label sets are not supported"),
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
def test_bad_npz_content(case, tmp_path, arrays, cli_error):
    change, message = BAD_ARRAYS[case]
    path = tmp_path / "bad.npz"
    np.savez(path, **change(arrays))
    error = cli_error("audit", str(path))
    assert message in error
    assert "bad" in error


def test_pickled_arrays_are_never_unpickled(tmp_path, arrays, cli_error):
    marker = tmp_path / "executed"

    class Trap:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    path = tmp_path / "trap.npz"
    np.savez(path, **(arrays | {"train_labels": np.array([Trap()] * 40, dtype=object)}))
    assert "pickled Python objects, which are never loaded" in cli_error("audit", str(path))
    assert not marker.exists()


@pytest.mark.parametrize("keep", [0.2, 0.7, 0.98])
def test_truncated_npz(tmp_path, arrays, cli_error, keep):
    write_npz(tmp_path / "good.npz", arrays)
    data = (tmp_path / "good.npz").read_bytes()
    (tmp_path / "bad.npz").write_bytes(data[: int(keep * len(data))])
    assert "bad.npz: not a readable npz file, or cut short" in cli_error("audit", str(tmp_path / "bad.npz"))


def test_npz_with_damaged_bytes_inside(tmp_path, arrays, cli_error):
    np.savez(tmp_path / "bad.npz", **arrays)
    data = bytearray((tmp_path / "bad.npz").read_bytes())
    data[5000] ^= 255  # inside train_images: only the checksum can tell
    (tmp_path / "bad.npz").write_bytes(data)
    assert "the file is damaged" in cli_error("audit", str(tmp_path / "bad.npz"))


def test_npz_with_an_absurd_shape_in_its_header(tmp_path, arrays, cli_error):
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        header, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 10**4, 10**4)}
    )
    np.savez(tmp_path / "bad.npz", **without("train_images")(arrays))
    with zipfile.ZipFile(tmp_path / "bad.npz", "a") as archive:
        archive.writestr("train_images.npy", header.getvalue())
    assert "no readable array header" in cli_error("audit", str(tmp_path / "bad.npz"))


def test_not_a_zip(tmp_path, cli_error):
    (tmp_path / "bad.npz").write_text("hello")
    assert "not a readable npz file" in cli_error("audit", str(tmp_path / "bad.npz"))


def test_missing_npz(tmp_path, cli_error):
    assert "no such file" in cli_error("audit", str(tmp_path / "nowhere.npz"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("pneumoniamnst", "Did you mean 'pneumoniamnist'?"),
        ("phantm", "Did you mean 'phantom'?"),
        ("xyzzy", "Known: "),
        ("chestmnist", "multi-label set: not supported yet"),
        ("organmnist3d", "3-D set: not supported yet"),
    ],
)
def test_unknown_and_unsupported_flags(name, message, cli_error):
    assert message in cli_error("audit", name)


def test_unsupported_sizes(tmp_path, small_npz, cli_error):
    assert "comes in sizes 28, 64, 128, 224, not 32" in cli_error("audit", "pneumoniamnist", "--size", "32")
    assert "Use a multiple of 4" in cli_error("audit", "phantom", "--size", "30")
    assert "--size 64 does not fit" in cli_error("audit", str(small_npz), "--size", "64")


def test_missing_medmnist_file_says_how_to_get_it(tmp_path):
    with pytest.raises(
        UserError, match=r"pneumoniamnist\.npz: no such file.*zenodo.*28209eda62fecd6e6a2d98b1501bb15f.*MEDMNIST_ROOT"
    ):
        load_dataset("pneumoniamnist", root=tmp_path, download=False)


def test_a_failed_download_leaves_nothing_behind(tmp_path, monkeypatch, cli_error):
    import medmnist

    monkeypatch.setitem(medmnist.INFO["breastmnist"], "url", "http://127.0.0.1:9/breastmnist.npz")
    error = cli_error("audit", "breastmnist", "--root", str(tmp_path / "root"))
    assert "could not be downloaded" in error
    assert "--root or MEDMNIST_ROOT" in error
    assert not list((tmp_path / "root").glob("*"))


def test_downloaded_file_with_the_wrong_checksum_is_refused(tmp_path, monkeypatch, cli_error, small_npz):
    import http.server
    import threading

    import medmnist

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(small_npz.parent))

        def log_message(self, *args):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/{small_npz.name}"
    monkeypatch.setitem(medmnist.INFO["breastmnist"], "url", url)
    try:
        assert "could not be downloaded" in cli_error("audit", "breastmnist", "--root", str(tmp_path / "root"))
        assert not list((tmp_path / "root").glob("*"))
    finally:
        server.shutdown()


def test_corrupt_image_in_a_folder_is_named(tmp_path, cli_error):
    folder = image_folder(tmp_path / "mine")
    (folder / "benign" / "7.png").write_bytes((folder / "benign" / "7.png").read_bytes()[:60])
    error = cli_error("audit", str(folder))
    assert "7.png" in error
    assert "Replace or remove it" in error


def test_damaged_image_of_every_kind_is_named(tmp_path, cli_error):
    """Pillow raises SyntaxError and ValueError on damaged files, too."""
    folder = image_folder(tmp_path / "mine")
    whole = (folder / "benign" / "7.png").read_bytes()
    at = whole.index(b"IDAT") - 4
    (folder / "benign" / "7.png").write_bytes(whole[:at] + b"\x00\x00\x00\x10" + whole[at + 4 :])
    assert "7.png" in cli_error("audit", str(folder))


def test_labels_that_are_ids_of_something_else(tmp_path, arrays, cli_error):
    labels = arrays["train_labels"].astype(np.int64)
    labels[0] = 30_000_000
    write_npz(tmp_path / "x.npz", {**arrays, "train_labels": labels})
    error = cli_error("audit", str(tmp_path / "x.npz"))
    assert "30000000" in error
    assert "x.npz" in error


def test_folder_with_one_class(tmp_path, cli_error):
    folder = image_folder(tmp_path / "mine")
    (folder / "malignant").rename(tmp_path / "elsewhere")
    error = cli_error("audit", str(folder))
    assert "one class only" in error
    assert str(folder) in error


def test_folder_without_images(tmp_path, cli_error):
    (tmp_path / "empty").mkdir()
    assert "no images found" in cli_error("audit", str(tmp_path / "empty"))


def test_hub_set_out_of_reach(cli_error):
    assert "neither an existing path nor a Hub data set that can be reached" in cli_error(
        "audit", "nobody/nothing-here"
    )
