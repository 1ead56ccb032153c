"""Hostile and broken input: the rows of docs/robustness.md. Each ends in one line, with a non-zero code, and runs nothing."""

import errno
import json
import os
import shutil
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pyarrow.parquet
import pytest
import torch
from diffusers import UNet2DModel
from PIL import Image
from safetensors.torch import load_file, save_file

from medmnist_diffusion import cli
from medmnist_diffusion.data import load_dataset, npz, phantom
from medmnist_diffusion.data.npz import write_npz
from medmnist_diffusion.diffusion import machine
from medmnist_diffusion.errors import DEBUG
from medmnist_diffusion.files import MANIFEST
from medmnist_diffusion.training import evaluate_fid

from .conftest import small_training

CliError = Callable[..., str]
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture
def pipeline(trained_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained_run / "pipeline", tmp_path / "pipeline")


@pytest.fixture
def arrays() -> dict[str, np.ndarray]:
    return phantom.make_phantom(counts={"train": 40, "val": 20, "test": 20})


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def without_manifest(pipeline: Path) -> Path:
    """As somebody who changes a folder on purpose leaves it."""
    (pipeline / MANIFEST).unlink()
    return pipeline


# Data files


def test_zip_bomb(arrays: dict[str, np.ndarray], tmp_path: Path, cli_error: CliError) -> None:
    """Two terabytes that the archive itself admits to: refused before a byte of it is unpacked."""
    rows = 2 * 2**40 // 28**2
    header = tmp_path / "header"
    with header.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (rows, 28, 28)})
    npz = tmp_path / "bomb.npz"
    np.savez(npz, **{k: v for k, v in arrays.items() if k not in ("train_images", "train_labels")})
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
    np.savez(tmp_path / "x.npz", **arrays)
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr(member, b"x")
    assert "does not belong to MedMNIST's layout" in cli_error("audit", str(tmp_path / "x.npz"))


def test_a_member_that_is_a_symbolic_link(arrays: dict[str, np.ndarray], tmp_path: Path, cli_error: CliError) -> None:
    """What it points to is not opened; its own bytes are no array."""
    np.savez(tmp_path / "target.npz", **arrays)
    np.save(tmp_path / "secret.npy", arrays["train_images"])
    np.savez(tmp_path / "x.npz", **{name: array for name, array in arrays.items() if name != "train_images"})
    link = zipfile.ZipInfo("train_images.npy")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "x.npz", "a") as archive:
        archive.writestr(link, str(tmp_path / "secret.npy"))
    assert "no readable array header" in cli_error("audit", str(tmp_path / "x.npz"))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_an_array_that_is_there_twice(arrays: dict[str, np.ndarray], tmp_path: Path, cli_error: CliError) -> None:
    np.savez(tmp_path / "x.npz", **arrays)
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
    np.savez(tmp_path / "x.npz", **(arrays | change))
    assert message in cli_error("audit", str(tmp_path / "x.npz"))


def test_wrong_extensions(small_npz: Path, tmp_path: Path, cli_error: CliError) -> None:
    shutil.copy(small_npz, tmp_path / "data.zip")
    assert "no such file or folder" in cli_error("audit", str(tmp_path / "data.zip"))
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
        ([5, 7], [[0], [1]], "not one per image"),
    ],
    ids=["no image", "no label", "NaN label", "several labels"],
)
def test_a_table_with_holes(images: list, labels: list, message: str, tmp_path: Path, cli_error: CliError) -> None:
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
    for name in ("1.dcm", "2.dcm", "3.psd", "notes.txt", ".hidden.xyz"):
        (tmp_path / "mine" / "b" / name).write_text("")
    dataset = load_dataset(str(tmp_path / "mine"))
    assert sum(map(len, dataset.splits.values())) == 12
    assert "3 files of other types were passed over (.dcm 2, .psd 1)." in dataset.notes


def test_many_images_that_are_all_alike(tmp_path: Path) -> None:
    """Their pairs are as many as the square of their number."""
    rng = np.random.default_rng(0)
    arrays = {}
    for split, count in (("train", 20_000), ("val", 2000), ("test", 2000)):
        images = np.full((count, 28, 28), 100, np.uint8)
        images[: count // 2, 0, 0] = rng.integers(0, 256, count // 2)  # half of them alike, half the very same
        arrays |= {f"{split}_images": images, f"{split}_labels": np.arange(count) % 2}
    np.savez_compressed(tmp_path / "alike.npz", **arrays)
    began = time.monotonic()
    assert cli.main(["audit", str(tmp_path / "alike.npz")]) == 0
    assert time.monotonic() - began < 120


# Pipeline folders


def sampling(pipeline: Path, **options: str) -> list[str]:
    extra = [part for name, value in options.items() for part in (f"--{name}", value)]
    return [
        "sample", str(pipeline), "--num_per_class", "1", "--num_inference_steps", "1", "--output", str(pipeline) + ".npz", *extra
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["model_index.json", "unet/config.json", "scheduler/scheduler_config.json", WEIGHTS])
def test_missing_part(name: str, pipeline: Path, cli_error: CliError) -> None:
    (pipeline / name).unlink()
    assert f"{name} is missing" in cli_error(*sampling(pipeline))


def test_changed_weights_against_the_manifest(pipeline: Path, cli_error: CliError) -> None:
    data = bytearray((pipeline / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (pipeline / WEIGHTS).write_bytes(data)
    assert "is not what manifest.json says" in cli_error(*sampling(pipeline))


def test_emptied_manifest(pipeline: Path, cli_error: CliError) -> None:
    (pipeline / MANIFEST).write_text("{}")
    assert "does not name model_index.json" in cli_error(*sampling(pipeline))


def test_a_folder_that_diffusers_saved_has_no_manifest_and_loads(pipeline: Path) -> None:
    assert cli.main(sampling(without_manifest(pipeline))) == 0


@pytest.mark.parametrize("value", ["nope", None, 7])
def test_a_scheduler_that_cannot_work(value: object, pipeline: Path, cli_error: CliError) -> None:
    edit_json(without_manifest(pipeline) / "scheduler/scheduler_config.json", prediction_type=value)
    assert "prediction_type" in cli_error(*sampling(pipeline))
    edit_json(
        pipeline / "scheduler/scheduler_config.json",
        prediction_type="epsilon",
        algorithm_type=value,
        solver_type=value,
    )
    assert "cannot be loaded" in cli_error(*sampling(pipeline))


@pytest.mark.parametrize(
    ("file", "changes"),
    [
        ("unet/config.json", {"norm_eps": "x"}),
        ("unet/config.json", {"freq_shift": "x"}),
        ("unet/config.json", {"mid_block_scale_factor": 0}),  # NaN everywhere
        ("unet/config.json", {"downsample_padding": 10**7}),  # 25 petabytes
        ("scheduler/scheduler_config.json", {"use_karras_sigmas": True}),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_configuration_that_fails_when_images_are_made(
    file: str, changes: dict, pipeline: Path, cli_error: CliError
) -> None:
    edit_json(without_manifest(pipeline) / file, **changes)
    error = cli_error(*sampling(pipeline))
    assert "makes no images" in error or "cannot be" in error
    assert not Path(f"{pipeline}.npz").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("training_config.yaml", "{"),
        ("training_config.yaml", "seed: 1"),
        ("metrics.json", '{"metrics": []}'),
    ],
    ids=["broken", "incomplete", "other figures"],
)
def test_no_card_of_odd_files(name: str, text: str, pipeline: Path, cli_error: CliError) -> None:
    before = (without_manifest(pipeline) / "README.md").read_text()
    (pipeline / name).write_text(text)
    assert name in cli_error("card", str(pipeline)) or "no card can be made" in cli_error("card", str(pipeline))
    assert (pipeline / "README.md").read_text() == before


@pytest.mark.parametrize("text", ["{}", "[]", '{"a": ' * 5000])
def test_a_summary_that_says_nothing(text: str, pipeline: Path, cli_error: CliError) -> None:
    (without_manifest(pipeline) / "training_summary.json").write_text(text)
    assert "no training summary" in cli_error("card", str(pipeline))
    assert "no training summary" in cli_error("publish", str(pipeline), "a/b", "--dry_run")
    assert "training_summary.json" in cli_error(*sampling(pipeline))


def test_every_command_refuses_what_is_changed(
    pipeline: Path, small_npz: Path, tmp_path: Path, cli_error: CliError
) -> None:
    data = bytearray((pipeline / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (pipeline / WEIGHTS).write_bytes(data)
    for command in (
        ["evaluate", str(pipeline), "--dataset", str(small_npz), "--features", "texture"],
        ["augment", str(pipeline), "--dataset", str(small_npz), "--output", str(tmp_path / "more.npz")],
        ["card", str(pipeline)],
        ["publish", str(pipeline), "a/b", "--dry_run"],
        ["publish-dataset", str(small_npz), "a/b", "--pipeline", str(pipeline), "--dry_run"],
    ):
        assert "is not what manifest.json says" in cli_error(*command), command


def test_every_command_refuses_a_damaged_data_set(
    pipeline: Path, small_npz: Path, tmp_path: Path, cli_error: CliError
) -> None:
    damaged = tmp_path / "damaged.npz"
    damaged.write_bytes(small_npz.read_bytes()[:-500])
    for command in (
        ["audit", str(damaged)],
        ["train", *small_training(damaged, tmp_path / "run"), "--max_train_steps", "5"],
        ["evaluate", str(pipeline), "--dataset", str(damaged), "--features", "texture"],
        ["evaluate", str(damaged), "--dataset", str(small_npz), "--features", "texture"],
        ["augment", str(pipeline), "--dataset", str(damaged), "--output", str(tmp_path / "more.npz")],
        ["study", "loss", str(damaged), "--output", str(tmp_path / "loss")],
        ["study", "augmentation", str(damaged), "--output", str(tmp_path / "augmentation")],
    ):
        assert "not a readable npz file, or cut short" in cli_error(*command), command


def test_classes_that_the_network_does_not_know(pipeline: Path, cli_error: CliError) -> None:
    edit_json(
        without_manifest(pipeline) / "model_index.json", id2label={str(i): str(i) for i in range(7)}, null_label=7
    )
    assert "does not fit id2label" in cli_error(*sampling(pipeline))


def test_channels_that_do_not_fit(pipeline: Path, cli_error: CliError) -> None:
    edit_json(without_manifest(pipeline) / "unet/config.json", in_channels=3, out_channels=3)
    assert "3 and 3 channels do not fit unshuffle 2" in cli_error(*sampling(pipeline))


def test_weights_of_another_network(pipeline: Path, cli_error: CliError) -> None:
    edit_json(without_manifest(pipeline) / "unet/config.json", block_out_channels=[16, 40])
    assert "the network of unet/config.json has" in cli_error(*sampling(pipeline))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"block_out_channels": [10**7, 10**7]}, "the network of unet/config.json has"),
        ({"layers_per_block": 10**9}, "more layers than there are weights"),
        ({"sample_size": 10**6}, "1024 at most"),
        ({"num_class_embeds": 10**12}, "the network of unet/config.json has"),
        ({"sample_size": -14}, "greater than 0"),
        ({"down_block_types": ["Trojan", "DownBlock2D"]}, "cannot be used"),
    ],
    ids=["wide", "deep", "large images", "many classes", "negative", "unknown block"],
)
def test_gigantic_or_impossible_network(changes: dict, message: str, pipeline: Path, cli_error: CliError) -> None:
    edit_json(without_manifest(pipeline) / "unet/config.json", **changes)
    assert message in cli_error(*sampling(pipeline))


def test_a_billion_noise_levels(pipeline: Path, cli_error: CliError) -> None:
    edit_json(without_manifest(pipeline) / "scheduler/scheduler_config.json", num_train_timesteps=10**9)
    assert "less than or equal to 100000" in cli_error(*sampling(pipeline))


def test_nan_weights(pipeline: Path, cli_error: CliError) -> None:
    weights = load_file(without_manifest(pipeline) / WEIGHTS)
    weights["conv_in.weight"][0, 0, 0, 0] = torch.nan
    save_file(weights, pipeline / WEIGHTS)
    assert "conv_in.weight is not finite" in cli_error(*sampling(pipeline))


def test_pickled_weights_are_not_read(pipeline: Path, tmp_path: Path, cli_error: CliError) -> None:
    """A .bin beside or instead of the safetensors: a trap that writes a file when it is unpickled."""
    marker = tmp_path / "executed"

    class Trap:
        def __reduce__(self):
            return (open, (str(marker), "w"))

    without_manifest(pipeline)
    for name in ("unet/diffusion_pytorch_model.bin", "unet/pytorch_model.bin"):
        torch.save({"conv_in.weight": Trap()}, pipeline / name)
    assert cli.main(sampling(pipeline)) == 0
    (pipeline / WEIGHTS).unlink()
    assert "safetensors is missing" in cli_error(*sampling(pipeline, output=str(tmp_path / "again.npz")))
    assert not marker.exists()


def test_the_folders_own_code_is_not_run(pipeline: Path, tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    (without_manifest(pipeline) / "pipeline.py").write_text(f"open({str(marker)!r}, 'w')\nraise SystemExit('trap')\n")
    assert cli.main(sampling(pipeline)) == 0
    assert not marker.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"unet": ["trap", "UNet2DModel"]},
        {"scheduler": ["trap", "DDPMScheduler"]},
        {"scheduler": ["diffusers", "DiffusionPipeline"]},
        {"scheduler": ["diffusers", "no_such_thing"]},
        {"safety_checker": ["trap", "Trap"]},
        {"unet": ["diffusers", "UNet2DConditionModel"]},
    ],
    ids=lambda changes: " ".join(map(str, next(iter(changes.items())))),
)
def test_components_that_are_not_ours(
    changes: dict, pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli_error: CliError
) -> None:
    """diffusers imports the module that model_index.json names: here one that leaves a trace."""
    marker = tmp_path / "executed"
    (tmp_path / "trap.py").write_text(f"open({str(marker)!r}, 'w')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    edit_json(without_manifest(pipeline) / "model_index.json", **changes)
    assert "model_index.json cannot be used" in cli_error(*sampling(pipeline))
    assert not marker.exists()


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"a": ' * 5000, "\x00"], ids=["empty", "list", "cut", "deep", "binary"]
)
def test_broken_configuration(text: str, pipeline: Path, cli_error: CliError) -> None:
    (without_manifest(pipeline) / "unet/config.json").write_text(text)
    assert "unet/config.json cannot be used" in cli_error(*sampling(pipeline))


def test_class_names_that_are_paths_stay_inside_the_output(pipeline: Path, tmp_path: Path) -> None:
    names = {str(i): f"../../escaped{i}/\x00" for i in range(4)}
    edit_json(without_manifest(pipeline) / "model_index.json", id2label=names)
    output = tmp_path / "out" / "images"
    assert cli.main([*sampling(pipeline)[:-1], str(output)]) == 0
    assert {path.name for path in output.parent.iterdir()} == {"images"}
    assert len([path for path in output.rglob("*.png")]) == 4


# Arguments and environments


def test_what_no_machine_has_memory_for(pipeline: Path, small_npz: Path, tmp_path: Path, cli_error: CliError) -> None:
    many = sampling(pipeline)
    many[many.index("--num_per_class") + 1] = str(10**10)
    error = cli_error(*many)
    assert "GiB of memory" in error
    arguments = [*small_training(small_npz, tmp_path / "run"), "--max_train_steps", "5"]
    arguments[arguments.index("--train_batch_size") + 1] = str(10**8)
    error = cli_error("train", *arguments)
    assert "smaller --train_batch_size" in error


def test_the_trial_of_precisions_counts_as_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` tries float32, too: what does not fit in float32 is refused before the trial."""
    needed = {}
    monkeypatch.setattr(machine, "check_memory", lambda bytes_, *_: needed.setdefault(precision, bytes_))
    for precision in ("no", "auto", "bf16"):
        machine.check_training_memory(torch.nn.Linear(2, 2), 1000, 64, precision)  # type: ignore[arg-type]
    assert needed["auto"] == needed["no"] == needed["bf16"] + 0.5 * 64 * 1000


def test_no_place_to_write(small_npz: Path, pipeline: Path, cli_error: CliError, tmp_path: Path) -> None:
    """A file where a folder is needed: what root, too, cannot write to."""
    (tmp_path / "file").write_text("")
    inside = tmp_path / "file" / "run"
    assert "cannot be written" in cli_error("train", *small_training(small_npz, inside), "--max_train_steps", "5")
    assert "Not a directory" in cli_error(*sampling(pipeline)[:-1], str(inside / "x.npz"))
    assert ". exists already" in cli_error(*sampling(pipeline)[:-1], ".")


def test_an_evaluation_that_cannot_be_written_leaves_the_one_before(
    pipeline: Path, small_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli_error: CliError
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = {name: f"old {name}" for name in ("metrics.json", "ratios.png", "closest_generated.png")}
    for name, text in before.items():
        (pipeline / name).write_text(text)
    command = ["evaluate", str(pipeline), "--dataset", str(small_npz), "--features", "texture", "--num_images", "120"]
    assert "does not end with .json" in cli_error(*command, "--output", str(small_npz))
    monkeypatch.setattr(evaluate_fid, "plot_closest", full)
    assert "No space left on device" in cli_error(*command, "--num_inference_steps", "2")
    assert {name: (pipeline / name).read_text() for name in before} == before
    assert not list(pipeline.glob(".evaluation-*"))


def test_images_that_do_not_fit_leave_no_record(
    pipeline: Path, monkeypatch: pytest.MonkeyPatch, cli_error: CliError
) -> None:
    """Or the same command, when there is room again, would refuse to write over it."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(npz, "write_npz", full)
        assert "No space left" in cli_error(*sampling(pipeline))
    assert not Path(f"{pipeline}.json").exists()
    assert cli.main(sampling(pipeline)) == 0
    Path(f"{pipeline}.npz").unlink()
    assert "exists already" in cli_error(*sampling(pipeline))  # the record is somebody's


def test_a_terminal_that_knows_no_such_character(small_npz: Path) -> None:
    command = [sys.executable, "-m", "medmnist_diffusion.cli", "audit", str(small_npz)]
    result = subprocess.run(command, env=os.environ | {"PYTHONIOENCODING": "ascii"}, capture_output=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, b"")
    assert b"28\\xd728" in result.stdout


def test_a_fault_of_ours_is_one_line_without_debug(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from medmnist_diffusion.data import audit

    def broken(argv: list[str]) -> None:
        raise KeyError("surprise")

    monkeypatch.setattr(audit, "main", broken)
    assert cli.main(["audit", "phantom"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "KeyError: 'surprise'" in error
    assert DEBUG in error
    with pytest.raises(KeyError):
        cli.main(["audit", "phantom", DEBUG])


def test_contradictory_and_unknown_arguments(capsys: pytest.CaptureFixture[str], cli_error: CliError) -> None:
    """argparse's own: exit code 2 and no traceback; with the nearest option where one is near."""
    for arguments in (["sample"], ["train", "--no_such_option", "1"], ["evaluate", "x", "--seed", "many"]):
        with pytest.raises(SystemExit) as stop:
            cli.main(arguments)
        assert stop.value.code == 2
        assert "Did you mean" not in capsys.readouterr().err
    both = ["train", "--dataset", "phantom", "--output_dir", "x", "--max_train_steps", "5", "--max_train_minutes", "5"]
    assert "only one of" in cli_error(*both)
    for size in ("-5", "0", "2", "10000000"):
        assert f"--size is {size}; from 8 to 1024 pixels" in cli_error("audit", "phantom", "--size", size)
    nan = ["sample", "x", "--num_per_class", "1", "--output", "y", "--guidance_scale", "nan"]
    assert "a finite number" in cli_error(*nan)
    assert "more than 0" in cli_error("demo", "--output", "x", "--minutes", "nan")


@pytest.mark.parametrize(
    ("arguments", "nearest"),
    [
        (["train", "--learnin_rate", "1"], "--learning_rate"),
        (["evaluate", "x", "--dataset", "phantom", "--num_imags", "5"], "--num_images"),
        (["sample", "x", "--num_per_class", "1", "--output", "y", "--guidence_scale", "2"], "--guidance_scale"),
        (["study", "augmentation", "phantom", "--sharse", "0.5"], "--shares"),
        (["study", "loss", "phantom", "--sedes", "2"], "--seeds"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_misspelt_option_gets_a_suggestion(
    arguments: list[str], nearest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2
    assert f"Did you mean {nearest}?" in capsys.readouterr().err


def test_stock_unet_of_the_pipeline_is_what_the_check_builds(trained_run: Path) -> None:
    """The check's network without memory has the very shapes of the real one."""
    real = UNet2DModel.from_pretrained(trained_run / "pipeline" / "unet").state_dict()
    with torch.device("meta"):
        planned = UNet2DModel.from_config(UNet2DModel.load_config(trained_run / "pipeline" / "unet")).state_dict()
    assert {k: v.shape for k, v in real.items()} == {k: v.shape for k, v in planned.items()}


def test_good_files_still_load(small_npz: Path, tmp_path: Path) -> None:
    with np.load(small_npz) as arrays:
        write_npz(tmp_path / "marked.npz", {**arrays, "train_synthetic": np.zeros(240, bool)})
    assert cli.main(["audit", str(tmp_path / "marked.npz")]) == 0
