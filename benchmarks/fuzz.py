"""Mutated data sets and pipeline folders against their loaders: never a hang, a crash, code that runs, or changed weights taken.

    python benchmarks/fuzz.py                 # 3,600 mutations, about 10 minutes of one core

A mutation is a function of its number, so that a finding can be made again (`--only npz:17`). Each is loaded in a worker process
with a time limit: a worker that dies or does not answer is a finding, not the end. Flipped bits rarely get past a checksum, so
half of the npz mutations rewrite an array's header or the archive's list with valid checksums, and half of the pipelines come
without their manifest, as from somebody who changed them on purpose. Of folders one file is changed: a picture (PNG, JPEG, TIFF,
GIF, DICOM), a table of labels, a parquet file.
"""

import argparse
import io
import json
import os
import pickle
import random
import shutil
import sys
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, TimeoutError
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from judging import RESULTS
from PIL import Image

from medmnist_diffusion.data import ImageDataset, load_dataset, phantom
from medmnist_diffusion.data.npz import write_npz
from medmnist_diffusion.diffusion.folder_check import FIXED, WEIGHTS, write_manifest
from medmnist_diffusion.diffusion.loss import Objective
from medmnist_diffusion.diffusion.sampling import load_pipeline
from medmnist_diffusion.diffusion.unet import build_noise_scheduler, build_unet
from medmnist_diffusion.errors import UserError, run_command
from medmnist_diffusion.files import write_json
from medmnist_diffusion.manifest import MANIFEST
from medmnist_diffusion.pipelines import PixelUnshuffle
from medmnist_diffusion.publish.pipeline_folder import build_pipeline

SECONDS = 20  # a loader that takes longer hangs
NUMBERS = [0, 1, -1, 2, 255, 256, 2**15, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30]
VALUES: list[Any] = [
    None,
    True,
    "",
    "x" * 10_000,
    [],
    {},
    [[]],
    1e308,
    float("nan"),
    *NUMBERS,
    ["os", "system"],
    "../../x",
    "\x00",
]


class Trap:
    """Unpickled, it leaves a file behind."""

    def __init__(self, marker: str) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str, str]]:
        return (open, (self.marker, "w"))


# Mutations: bytes → bytes


def flip(data: bytearray, rng: random.Random) -> bytearray:
    for _ in range(rng.choice([1, 1, 8, 100])):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def cut(data: bytearray, rng: random.Random) -> bytearray:
    at = rng.randrange(len(data))
    return data[:at] if rng.random() < 0.5 else data[:at] + data[at + rng.randrange(1, 500) :]


def insert(data: bytearray, rng: random.Random) -> bytearray:
    at = rng.randrange(len(data))
    piece = rng.choice([rng.randbytes(50), b"\x00" * 200, bytes(data[:300])])
    return data[:at] + piece + data[at:]


def overwrite(data: bytearray, rng: random.Random) -> bytearray:
    at, piece = rng.randrange(len(data)), rng.choice([b"\xff" * 8, b"\x00" * 8, rng.randbytes(16)])
    data[at : at + len(piece)] = piece
    return data


BYTES = (flip, cut, insert, overwrite)


def mutate_npz(path: Path, rng: random.Random, marker: str) -> None:
    if rng.random() < 0.5:
        path.write_bytes(rng.choice(BYTES)(bytearray(path.read_bytes()), rng))
        return
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    name = rng.choice(sorted(members))
    match rng.randrange(5):
        case 0:  # another header
            text = bytearray(members[name][:128])
            for _ in range(rng.choice([1, 1, 3])):
                at = rng.randrange(10, len(text))
                text[at] = rng.choice(b"0123456789,()'<>|uifOSVbc-:{} \n\xff")
            members[name] = bytes(text) + members[name][128:]
        case 1:  # a header made up whole
            header = io.BytesIO()
            shape = tuple(rng.choice([0, 1, 3, 28, 40, 240, 2**31, 2**40]) for _ in range(rng.randrange(0, 5)))
            kind = rng.choice(["|u1", "<i8", "<f8", "|O", "<U9", "|V3", "<c16", "<M8[s]", "|b1", ">u2"])
            values = {"descr": kind, "fortran_order": rng.random() < 0.3, "shape": shape}
            np.lib.format.write_array_header_1_0(header, values)
            members[name] = header.getvalue() + members[name][128:]
        case 2:  # pickles, as an array and as a file
            array = np.empty(240, object)
            array[:] = [Trap(marker)] * 240
            buffer = io.BytesIO()
            np.save(buffer, array, allow_pickle=True)  # the attack; reading must refuse it
            members[name] = rng.choice([buffer.getvalue(), pickle.dumps(Trap(marker))])
        case 3:  # other names
            members[rng.choice(["../" + name, "x.npy", name.upper(), name + ".npy", " ", "train_synthetic.npy"])] = (
                members.pop(name)
            )
        case 4:  # bytes of one member
            members[name] = bytes(rng.choice(BYTES)(bytearray(members[name]), rng))
    with zipfile.ZipFile(path, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
        for member, content in members.items():
            archive.writestr(member, content)


def mutate_file(path: Path, rng: random.Random) -> None:
    """Another content, and now and then another suffix."""
    content = bytearray(path.read_bytes())
    if path.suffix == ".csv" and rng.random() < 0.7:
        lines = content.decode().split("\n")
        at = rng.randrange(len(lines))
        words = lines[at].split(",")
        words[rng.randrange(len(words))] = rng.choice(
            ["", "nan", '"', "0", "-1", "../x", "image", "\x00", "é" * 300, "a;b", "=1+1"]
        )
        lines[at] = rng.choice([",".join(words), lines[at - 1], ""])
        content = bytearray("\n".join(lines).encode())
    else:
        content = rng.choice(BYTES)(content, rng)
    path.unlink()
    if rng.random() < 0.1:
        path = path.with_suffix(
            rng.choice([".png", ".jpg", ".tif", ".dcm", ".nii.gz", ".csv", ".parquet", ".webp", ""])
        )
    path.write_bytes(content)


def mutate_json(path: Path, rng: random.Random) -> None:
    values = json.loads(path.read_text())
    key = rng.choice([*values, "extra"])
    action = rng.randrange(3)
    if action == 0:
        values.pop(key, None)
    elif action == 1:
        values[key] = rng.choice(VALUES)
    elif isinstance(values.get(key), list) and values[key]:
        values[key][rng.randrange(len(values[key]))] = rng.choice(VALUES)
    else:
        values = {rng.choice(list(values)): value for value in values.values()}
    path.write_text(json.dumps(values))


def mutate_pipeline(folder: Path, rng: random.Random, marker: str) -> None:
    if rng.random() < 0.5:
        (folder / MANIFEST).unlink()
    name = rng.choice([name for name in FIXED if (folder / name).is_file()])
    path = folder / name
    match rng.randrange(5):
        case 0 | 1 if name.endswith(".json"):
            mutate_json(path, rng)
        case 2:
            path.unlink()
        case 3:
            (folder / "pipeline.py").write_text(f"open({marker!r}, 'w')\n")
            torch.save({"x": Trap(marker)}, folder / "unet" / rng.choice(["diffusion_pytorch_model.bin", "x.pt"]))
            if rng.random() < 0.5:
                (folder / WEIGHTS).write_bytes(pickle.dumps(Trap(marker)))
        case _:
            path.write_bytes(rng.choice(BYTES)(bytearray(path.read_bytes()), rng))


# One mutation in a worker


def run_npz(number: int, good: Path) -> str:
    rng = random.Random(f"npz {number}")  # noqa: S311
    with tempfile.TemporaryDirectory() as temporary:
        path, marker = Path(temporary) / "data.npz", Path(temporary) / "executed"
        shutil.copy(good, path)
        mutate_npz(path, rng, str(marker))
        outcome = _outcome(lambda: load_dataset(str(path)).content_hash)
        return "executed" if marker.exists() else outcome


def run_pipeline(number: int, good: Path) -> str:
    rng = random.Random(f"pipeline {number}")  # noqa: S311
    with tempfile.TemporaryDirectory() as temporary:
        folder, marker = Path(temporary) / "pipeline", Path(temporary) / "executed"
        shutil.copytree(good, folder)
        mutate_pipeline(folder, rng, str(marker))
        outcome = _outcome(lambda: load_pipeline(folder))
        if marker.exists():
            return "executed"
        changed = (folder / WEIGHTS).is_file() and (folder / WEIGHTS).read_bytes() != (good / WEIGHTS).read_bytes()
        return "took changed weights" if outcome == "taken" and changed and (folder / MANIFEST).is_file() else outcome


def run_folder(number: int, good: Path) -> str:
    rng = random.Random(f"{good.name} {number}")  # noqa: S311
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "data"
        shutil.copytree(good, folder)
        mutate_file(rng.choice(sorted(path for path in folder.rglob("*") if path.is_file())), rng)
        return _outcome(lambda: load_dataset(str(folder)).content_hash)


def _outcome(load: Callable[[], object]) -> str:
    try:
        load()
    except UserError as error:
        return "refused" if "\n" not in str(error) else "refused in several lines"
    except Exception as error:
        return f"crashed: {type(error).__name__}: {str(error)[:150]}"
    return "taken"


RUNS = {"npz": run_npz, "pipeline": run_pipeline, "pictures": run_folder, "table": run_folder, "parquet": run_folder}


def good_inputs(folder: Path) -> dict[str, Path]:
    """A small data set and a small pipeline, both whole."""
    write_npz(folder / "good.npz", phantom.make_phantom(counts={"train": 240, "val": 80, "test": 80}))
    dataset = load_dataset(str(folder / "good.npz"))
    objective = Objective(build_noise_scheduler(), PixelUnshuffle(2, (1, 28, 28), 4), dataset.conditioning)
    unet = build_unet(dataset.conditioning, objective.encoder, (16, 32))
    build_pipeline(unet, objective, dataset).save_pretrained(folder / "good")
    write_manifest(folder / "good")
    load_pipeline(folder / "good")
    good = {"npz": folder / "good.npz", "pipeline": folder / "good"}
    return good | {name: make(dataset, folder / name) for name, make in FOLDERS.items()}


def pictures_in_folders(dataset: ImageDataset, folder: Path) -> Path:
    """Twelve pictures of each class, of all kinds of files."""
    images, labels = dataset.train.images[:][..., 0], dataset.train.labels
    for class_, name in dataset.id2label.items():
        (folder / name).mkdir(parents=True)
        for number, image in enumerate(images[labels == class_][:12]):
            Image.fromarray(image).save(folder / name / f"{number}.{KINDS[number % len(KINDS)]}")
    return folder


def pictures_and_a_table(dataset: ImageDataset, folder: Path) -> Path:
    """Forty DICOM files, and a table with labels, splits and patients."""
    from pydicom.dataset import FileDataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

    folder.mkdir()
    lines = ["image,label,split,patient"]
    for row, image in enumerate(dataset.train.images[:40][..., 0]):
        meta = FileMetaDataset()
        meta.TransferSyntaxUID, meta.MediaStorageSOPClassUID = ExplicitVRLittleEndian, SecondaryCaptureImageStorage
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(row)])
        file = FileDataset(str(folder / f"{row}.dcm"), {}, file_meta=meta, preamble=b"\0" * 128)
        file.Rows, file.Columns = image.shape
        file.SamplesPerPixel, file.PixelRepresentation = 1, 0
        file.BitsAllocated, file.BitsStored, file.HighBit = 16, 12, 11
        file.PhotometricInterpretation, file.RescaleSlope, file.RescaleIntercept = "MONOCHROME2", 2, -1000
        file.PixelData = (16 * image.astype("<u2")).tobytes()
        file.save_as(folder / f"{row}.dcm", enforce_file_format=True)
        split = ("train", "train", "val", "test")[row % 4]
        lines.append(f"{row}.dcm,{dataset.id2label[int(dataset.train.labels[row])]},{split},p{row}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


def parquet_files(dataset: ImageDataset, folder: Path) -> Path:
    """A parquet file for each split, as `datasets` writes them."""
    folder.mkdir()
    for name, split in dataset.splits.items():
        images = [Image.fromarray(image[..., 0]) for image in split.images[:]]
        labels = [dataset.id2label[int(label)] for label in split.labels]
        datasets.Dataset.from_dict({"image": images, "label": labels}).cast_column(
            "image", datasets.Image()
        ).to_parquet(folder / f"{name}.parquet")
    return folder


KINDS = ("png", "jpg", "tif", "gif", "webp", "bmp")
FOLDERS = {"pictures": pictures_in_folders, "table": pictures_and_a_table, "parquet": parquet_files}


def fuzz(kind: str, numbers: Sequence[int], good: Path) -> dict[int, str]:
    """The outcome of each mutation."""
    outcomes: dict[int, str] = {}
    left = list(numbers)
    while left:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn"), initializer=_quiet) as pool:
            try:
                while left:
                    outcomes[left[0]] = pool.submit(RUNS[kind], left[0], good).result(
                        timeout=SECONDS + 30 * (left[0] == numbers[0])
                    )
                    if outcomes[left[0]] not in ("taken", "refused"):
                        print(f"{kind}:{left[0]}: {outcomes[left[0]]}", flush=True)
                    left.pop(0)
            except (TimeoutError, BrokenProcessPool) as error:
                outcomes[left[0]] = "hung" if isinstance(error, TimeoutError) else "killed the process"
                print(f"{kind}:{left.pop(0)}: {next(reversed(outcomes.values()))}", flush=True)
                for process in (pool._processes or {}).values():
                    process.kill()
    return outcomes


def _quiet() -> None:
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    os.environ["HF_HUB_OFFLINE"] = "1"


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--npz", type=int, default=1400, help="mutations of the npz")
    parser.add_argument("--pipelines", type=int, default=1000, help="mutations of the pipeline folder")
    parser.add_argument("--folders", type=int, default=400, help="mutations of each folder of data")
    parser.add_argument("--only", help="one mutation, in this process, as npz:17")
    parser.add_argument("--output", type=Path, default=RESULTS / "fuzz.json")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as temporary:
        good = good_inputs(Path(temporary))
        if args.only:
            kind, number = args.only.split(":")
            print(RUNS[kind](int(number), good[kind]))
            return
        result: dict[str, object] = {"command": "python benchmarks/fuzz.py"}
        for kind, count in (
            ("npz", args.npz),
            ("pipeline", args.pipelines),
            *((name, args.folders) for name in FOLDERS),
        ):
            outcomes = fuzz(kind, range(count), good[kind])
            findings = {f"{kind}:{n}": what for n, what in outcomes.items() if what not in ("taken", "refused")}
            result[kind] = {"mutations": count, "outcomes": dict(Counter(outcomes.values())), "findings": findings}
            print(kind, dict(Counter(what.split(":")[0] for what in outcomes.values())))
    write_json(args.output, result)


if __name__ == "__main__":
    sys.exit(run_command(main))
