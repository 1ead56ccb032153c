"""Hostile and broken data files: the rows of docs/robustness.md. Each ends in one line, with a non-zero code, and runs nothing."""

import os
import re
import shutil
import time
import zipfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow.parquet
import pytest
from PIL import Image

from medmnist_diffusion import cli
from medmnist_diffusion.data import load_dataset
from medmnist_diffusion.data.npz import write_npz
from tests.conftest import CliError


def test_zip_bomb(arrays: dict[str, np.ndarray], tmp_path: Path, cli_error: CliError) -> None:
    """Two terabytes that the archive itself admits to: refused before a byte of it is unpacked."""
    rows = 2 * 2**40 // 28**2
    header = tmp_path / "header"
    with header.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (rows, 28, 28)})
    npz = tmp_path / "bomb.npz"
    np.savez(npz, allow_pickle=False, **{k: v for k, v in arrays.items() if k not in ("train_images", "train_labels")})
    with zipfile.ZipFile(npz, "a", allowZip64=True) as archive:
        archive.writestr("train_images.npy", header.read_bytes())
        archive.writestr("train_labels.npy", header.read_bytes().replace(b", 28, 28)", b",)        "))
        for info in archive.infolist()[-2:]:
            info.file_size += rows * (784 if "images" in info.filename else 1)
    assert "GiB on the disk" in cli_error("audit", str(npz))


@pytest.mark.parametrize("member", ["../train_images.npy", "/etc/passwd.npy", "a/b.npy"])
def test_members_outside_the_layout(
    member: str, arrays: dict[str, np.ndarray], tmp_path: Path, cli_error: CliError
) -> None:
    np.savez(tmp_path / "x.npz", allow_pickle=False, **arrays)
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr(member, b"x")
    assert "does not belong to MedMNIST's layout" in cli_error("audit", str(tmp_path / "x.npz"))


def test_a_member_that_is_a_symbolic_link(arrays: dict[str, np.ndarray], tmp_path: Path, cli_error: CliError) -> None:
    """What it points to is not opened; its own bytes are no array."""
    np.savez(tmp_path / "target.npz", allow_pickle=False, **arrays)
    np.save(tmp_path / "secret.npy", arrays["train_images"])
    np.savez(
        tmp_path / "x.npz",
        allow_pickle=False,
        **{name: array for name, array in arrays.items() if name != "train_images"},
    )
    link = zipfile.ZipInfo("train_images.npy")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr(link, str(tmp_path / "secret.npy"))
    assert "no readable array header" in cli_error("audit", str(tmp_path / "x.npz"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_array_that_is_there_twice(arrays: dict[str, np.ndarray], tmp_path: Path, cli_error: CliError) -> None:
    np.savez(tmp_path / "x.npz", allow_pickle=False, **arrays)
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr("train_images.npy", b"x")
    assert "an array is there twice" in cli_error("audit", str(tmp_path / "x.npz"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train_labels": np.array([["x" * 1000]] * 40)}, "integer class ids are needed"),
        ({"train_images": np.zeros((40, 2, 2), np.uint8)}, "from 8 to 1024 pixels"),
        ({"train_images": np.zeros((40, 0, 0), np.uint8)}, "from 8 to 1024 pixels"),
        ({"train_synthetic": np.array([{}] * 40)}, "pickled Python objects, which are never loaded"),
        ({"train_labels": np.zeros((40, 0), np.uint8)}, "labels has 0 columns"),
        ({"train_synthetic": np.zeros(3, bool)}, "a 0 or 1 for each training image"),
    ],
    ids=[
        "text labels",
        "tiny images",
        "images of no pixels",
        "pickled marks",
        "labels of no column",
        "marks of another length",
    ],
)
def test_arrays_that_are_no_images_or_labels(
    change: dict[str, np.ndarray], message: str, arrays: dict[str, np.ndarray], tmp_path: Path, cli_error: CliError
) -> None:
    np.savez(tmp_path / "x.npz", allow_pickle=True, **(arrays | change))  # one of them is a pickle: the attack
    assert message in cli_error("audit", str(tmp_path / "x.npz"))


def test_wrong_extensions(small_npz: Path, tmp_path: Path, cli_error: CliError) -> None:
    shutil.copy(small_npz, tmp_path / "data.zip")
    assert "is a file that is no npz" in cli_error("audit", str(tmp_path / "data.zip"))
    Image.new("L", (28, 28)).save(tmp_path / "picture.npz", "PNG")
    assert "not a readable npz file" in cli_error("audit", str(tmp_path / "picture.npz"))


def test_a_folder_or_a_pipe_in_the_place_of_a_file(tmp_path: Path, cli_error: CliError) -> None:
    (tmp_path / "folder.npz").mkdir()
    os.mkfifo(tmp_path / "pipe.npz")  # opening it would wait for ever
    for name in ("folder.npz", "pipe.npz"):
        assert "no such file" in cli_error("audit", str(tmp_path / name))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(small_npz: Path, tmp_path: Path, cli_error: CliError) -> None:
    shutil.copy(small_npz, tmp_path / "x.npz")
    (tmp_path / "x.npz").chmod(0)
    assert "x.npz" in cli_error("audit", str(tmp_path / "x.npz"))


def test_picture_that_unpacks_to_gigabytes(tmp_path: Path, cli_error: CliError) -> None:
    for name in ("a", "b"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for i in range(6):
            Image.new("L", (28, 28), 10 * i).save(tmp_path / "mine" / name / f"{i}.png")
    bomb = tmp_path / "mine" / "a" / "bomb.png"
    Image.new("L", (30_000, 30_000)).save(bomb)  # 100 kB on disk
    error = cli_error("audit", str(tmp_path / "mine"))
    assert "bomb.png" in error
    assert "Replace or remove it" in error


def test_a_second_page_without_a_size(tmp_path: Path, cli_error: CliError) -> None:
    """Pillow raises a TypeError when the pages are counted."""
    for label in "ab":
        (tmp_path / "set" / label).mkdir(parents=True)
        for number in range(12):
            page = Image.new("L", (28, 28), number)
            page.save(tmp_path / "set" / label / f"{number}.tif", save_all=True, append_images=[page])
    path = tmp_path / "set/a/0.tif"
    *before, last = re.split(rb"\x00\x01(?=[\x03\x04]\x00\x01)", path.read_bytes())  # at the tags of the widths
    path.write_bytes(b"\x00\x01".join(before) + b"\xff\xfe" + last)
    assert "a/0.tif" in cli_error("audit", str(tmp_path / "set"))


def test_a_table_that_names_files_of_this_machine(tmp_path: Path, cli_error: CliError) -> None:
    """A parquet row without bytes but with a path would read whatever lies there into the set."""
    secret = tmp_path / "secret.png"
    Image.new("L", (28, 28), 7).save(secret)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["a", "b"])})
    rows = [{"bytes": secret.read_bytes(), "path": None}] * 19 + [{"bytes": None, "path": str(secret)}]
    table = datasets.Dataset.from_dict({"image": rows, "label": [0, 1] * 10}, features=features)
    (tmp_path / "set").mkdir()
    pyarrow.parquet.write_table(table.data.table, tmp_path / "set" / "train.parquet")
    assert "the path of a file, which is not read" in cli_error("audit", str(tmp_path / "set"))


def test_a_picture_for_another_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli_error: CliError) -> None:
    """Pillow hands EPS, whatever the file is called, to a Ghostscript that it finds."""
    (tmp_path / "bin").mkdir()
    ghostscript = tmp_path / "bin" / "gs"
    ghostscript.write_text(f"#!/bin/sh\ntouch {tmp_path / 'run'}\n")
    ghostscript.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)  # looked for again
    for name in ("a", "b"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for i in range(6):
            Image.new("L", (28, 28), 10 * i).save(tmp_path / "mine" / name / f"{i}.png")
    Image.new("L", (28, 28)).save(tmp_path / "mine" / "a" / "x.eps")
    (tmp_path / "mine" / "a" / "x.eps").rename(tmp_path / "mine" / "a" / "x.png")
    assert "x.png" in cli_error("audit", str(tmp_path / "mine"))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        ([None, 7], ["a", "b"], "a row has no image"),
        ([5, 7], [None, "b"], "some images have no label"),
        ([5, 7], [float("nan"), 1.0], "some images have no label"),
    ],
    ids=["no image", "no label", "NaN label"],
)
def test_a_table_with_holes(
    images: list[Any], labels: list[Any], message: str, tmp_path: Path, cli_error: CliError
) -> None:
    pictures = [None if grey is None else Image.new("L", (28, 28), grey) for grey in images]
    table = datasets.Dataset.from_dict({"image": pictures * 10, "label": labels * 10})
    (tmp_path / "set").mkdir()
    table.cast_column("image", datasets.Image()).to_parquet(str(tmp_path / "set" / "train.parquet"))
    assert message in cli_error("audit", str(tmp_path / "set"))


def test_a_pipe_and_other_files_among_the_pictures(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "mine" / name).mkdir(parents=True)
        for i in range(6):
            Image.new("L", (28, 28), 10 * i).save(tmp_path / "mine" / name / f"{i}.png")
    os.mkfifo(tmp_path / "mine" / "a" / "pipe.png")
    for name in ("1.xcf", "2.xcf", "3.psd", "notes.txt", ".hidden.xyz"):
        (tmp_path / "mine" / "b" / name).write_text("")
    dataset = load_dataset(str(tmp_path / "mine"))
    assert sum(map(len, dataset.splits.values())) == 12
    assert "3 files of other types were passed over (.xcf 2, .psd 1)." in dataset.notes


def test_many_images_that_are_all_alike(tmp_path: Path) -> None:
    """Their pairs are as many as the square of their number."""
    rng = np.random.default_rng(0)
    arrays: dict[str, np.ndarray] = {}
    for split, count in (("train", 20_000), ("val", 2000), ("test", 2000)):
        images = np.full((count, 28, 28), 100, np.uint8)
        images[: count // 2, 0, 0] = rng.integers(0, 256, count // 2)  # half of them alike, half the very same
        arrays |= {f"{split}_images": images, f"{split}_labels": np.arange(count) % 2}
    np.savez_compressed(tmp_path / "alike.npz", allow_pickle=False, **arrays)
    began = time.monotonic()
    assert cli.main(["audit", str(tmp_path / "alike.npz")]) == 0
    assert time.monotonic() - began < 120


def test_good_files_still_load(small_npz: Path, tmp_path: Path) -> None:
    with np.load(small_npz) as arrays:
        write_npz(tmp_path / "marked.npz", {**arrays, "train_synthetic": np.zeros(240, bool)})
    assert cli.main(["audit", str(tmp_path / "marked.npz")]) == 0
