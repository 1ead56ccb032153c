"""Runs: the files that they leave, what they repeat, resume and refuse, and that labels decide what is generated."""

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from diffusers import UNet2DModel
from safetensors.torch import load_file

from medmnist_diffusion import cli
from medmnist_diffusion.data import phantom
from medmnist_diffusion.data.npz import write_npz
from medmnist_diffusion.diffusion.checkpoints import newest_checkpoint
from medmnist_diffusion.diffusion.loss_log import read_loss_csv
from medmnist_diffusion.diffusion.sampling import generate_images, load_pipeline
from medmnist_diffusion.files import file_hash
from medmnist_diffusion.training.arguments import parse_config
from medmnist_diffusion.training.train import train
from tests.conftest import ROOT, small_training, small_unet

LAUNCHES = ROOT / "training" / "configs" / "accelerate"


def test_a_run_leaves_all_its_files(trained_run: Path) -> None:
    for name in (
        "loss.csv", "loss.png", "training_config.yaml", "samples/step_00000060.png", "pipeline/README.md",
        "pipeline/pipeline.py", "pipeline/model_index.json", "pipeline/training_config.yaml", "pipeline/loss.png",
        "pipeline/samples.png", "pipeline_best/unet/diffusion_pytorch_model.safetensors",
    ):  # fmt: skip
        assert (trained_run / name).is_file(), name
    assert [path.name for path in sorted((trained_run / "checkpoints").iterdir())] == [
        "step_00000030",
        "step_00000060",
    ]
    assert not [path for path in trained_run.rglob("*") if ".tmp" in path.name]
    with (trained_run / "loss.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [10, 20, 30, 40, 50, 60]
    assert [bool(row["val_loss"]) for row in rows] == [False, True, False, True, False, True]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


def test_saved_configuration_trains_again_and_names_no_machine(trained_run: Path, small_npz: Path) -> None:
    text = (trained_run / "pipeline" / "training_config.yaml").read_text()
    assert str(small_npz.parent) not in text
    assert yaml.safe_load(text)["block_out_channels"] == [16, 32]
    parse_config(["--config", str(trained_run / "training_config.yaml"), "--output_dir", "x"])


def test_ema_moved_and_differs_from_the_raw_weights(trained_run: Path) -> None:
    checkpoint = newest_checkpoint(trained_run / "checkpoints")
    raw = load_file(checkpoint / "model.safetensors")
    ema = UNet2DModel.from_pretrained(checkpoint / "unet_ema").state_dict()
    published = UNet2DModel.from_pretrained(trained_run / "pipeline" / "unet").state_dict()
    torch.manual_seed(0)
    start = small_unet().state_dict()
    name = "mid_block.resnets.0.conv1.weight"
    assert torch.equal(published[name], ema[name])
    assert not torch.allclose(ema[name], raw[name])
    assert not torch.allclose(ema[name], start[name])


def test_stopped_and_resumed_equals_never_stopped(
    trained_run: Path, small_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stopped after 30 of 60 steps: simulated by removing everything that came after the checkpoint of step 30."""
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    shutil.rmtree(run / "checkpoints" / "step_00000060")
    shutil.rmtree(run / "pipeline")
    assert cli.main(["train", *small_training(small_npz, run), "--max_train_steps", "60"]) == 0
    assert "Resuming at step 30" in capsys.readouterr().out
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (run / "pipeline" / weights).read_bytes() == (trained_run / "pipeline" / weights).read_bytes()
    ours, theirs = (read_loss_csv(path / "loss.csv") for path in (run, trained_run))
    timing = ("seconds", "images_per_second")
    strip = [[{k: v for k, v in row.items() if k not in timing} for row in rows] for rows in (ours, theirs)]
    assert strip[0] == strip[1]


def test_a_finished_run_is_left_as_it_is(
    trained_run: Path, small_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The same command again must not replace what was evaluated since."""
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    (run / "pipeline" / "metrics.json").write_text("{}")
    assert cli.main(["train", *small_training(small_npz, run), "--max_train_steps", "60"]) == 0
    assert "trained already (60 steps)" in capsys.readouterr().out
    assert (run / "pipeline" / "metrics.json").is_file()


def test_another_global_batch_does_not_resume(
    trained_run: Path, small_npz: Path, tmp_path: Path, cli_error: Callable[..., str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    state = run / "checkpoints" / "step_00000060" / "state.json"
    values = json.loads(state.read_text())
    state.write_text(json.dumps({**values, "images_a_step": 32}))
    manifest = state.with_name("manifest.json")
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "state.json": file_hash(state)}))
    error = cli_error("train", *small_training(small_npz, run), "--max_train_steps", "90")
    assert "32 images a step" in error


def test_a_card_of_a_run_without_its_leaks_can_be_made(tmp_path: Path) -> None:
    """What is evaluated is the set as it is given, with or without --drop_leaks in training."""
    arrays = phantom.make_phantom(counts={"train": 240, "val": 80, "test": 80})
    arrays["val_images"][:3] = arrays["train_images"][:3]
    data = tmp_path / "leaky.npz"
    write_npz(data, arrays)
    run = tmp_path / "run"
    assert cli.main(["train", *small_training(data, run), "--max_train_steps", "5", "--drop_leaks", "true"]) == 0
    assert json.loads((run / "pipeline" / "training_summary.json").read_text())["dropped_leaks"] == 3
    assert cli.main(["evaluate", str(run / "pipeline"), "--dataset", str(data), "--features", "texture", "--num_images",
                     "80", "--num_inference_steps", "3"]) == 0  # fmt: skip
    assert cli.main(["card", str(run / "pipeline")]) == 0
    assert "3 that also stand in val or test were removed" in (run / "pipeline" / "README.md").read_text()


def test_a_damaged_checkpoint_is_named_and_passed_over(
    trained_run: Path, small_npz: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    optimizer = run / "checkpoints" / "step_00000060" / "optimizer.bin"
    optimizer.write_bytes(optimizer.read_bytes()[:-100])
    assert newest_checkpoint(run / "checkpoints").name == "step_00000030"
    assert "step_00000060 is damaged" in caplog.text


def test_other_settings_do_not_resume(trained_run: Path, small_npz: Path, cli_error: Callable[..., str]) -> None:
    arguments = small_training(small_npz, trained_run)
    error = cli_error("train", *arguments, "--max_train_steps", "60", "--learning_rate", "0.5")
    assert "learning_rate: 0.004 → 0.5" in error


def test_diverging_training_keeps_the_last_checkpoint(
    small_npz: Path, tmp_path: Path, cli_error: Callable[..., str]
) -> None:
    run = tmp_path / "run"
    arguments = [*small_training(small_npz, run), "--max_train_steps", "60", "--max_grad_norm", "1e9",
                 "--checkpointing_steps", "5", "--logging_steps", "5", "--validation_steps", "500"]  # fmt: skip
    error = cli_error("train", *arguments, "--learning_rate", "1e4", code=3)
    assert "training diverged" in error
    assert not (run / "pipeline").exists()


def test_minutes_as_a_budget(small_npz: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = [*small_training(small_npz, run), "--max_train_minutes", "0.1", "--logging_steps", "1"]
    assert cli.main(["train", *arguments]) == 0
    summary = json.loads((run / "pipeline" / "training_summary.json").read_text())
    assert 6 <= summary["seconds"] < 60
    assert summary["step"] > 10
    assert read_loss_csv(run / "loss.csv")[-1]["learning_rate"] < 0.004 * 0.2  # decayed to its end in the time given


def test_gradient_accumulation_equals_the_large_batch(small_npz: Path, tmp_path: Path) -> None:
    """Two halves of 8 a step and one batch of 16 see the same images; without momentum's memory one step compares."""
    losses = []
    for name, extra in (("one", ["--train_batch_size", "16"]),
                        ("two", ["--train_batch_size", "8", "--gradient_accumulation_steps", "2"])):  # fmt: skip
        run = tmp_path / name
        arguments = [*small_training(small_npz, run), "--max_train_steps", "30", *extra]
        assert cli.main(["train", *arguments]) == 0
        assert json.loads((run / "pipeline" / "training_summary.json").read_text())["images_seen"] == 480
        losses.append(read_loss_csv(run / "loss.csv")[-1]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.2)


def test_the_same_seed_gives_the_same_weights(trained_run: Path, small_npz: Path, tmp_path: Path) -> None:
    assert cli.main(["train", *small_training(small_npz, tmp_path / "again"), "--max_train_steps", "60"]) == 0
    weights = Path("pipeline/unet/diffusion_pytorch_model.safetensors")
    assert (tmp_path / "again" / weights).read_bytes() == (trained_run / weights).read_bytes()


def above(event: Any) -> set[str]:
    """Names of the operations within which a profiled one was called."""
    parent = event.cpu_parent
    return set() if parent is None else {parent.name, *above(parent)}


def test_steps_wait_for_no_number_from_the_device(small_npz: Path, tmp_path: Path) -> None:
    """Reading a number (`.item()`) makes a GPU's queue run dry. A profiler sees as many of 12 steps as of 24: none is a step's.

    On a CPU the fused AdamW itself reads its step numbers; on a GPU it is a kernel that does not.
    """
    counts = []
    for steps in (12, 24):
        arguments = [*small_training(small_npz, tmp_path / str(steps)), "--max_train_steps", str(steps)]
        config = parse_config([*arguments, "--logging_steps", "1000", "--validation_steps", "1000"])
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as trace:
            train(config)
        read = [event for event in trace.events() if event.name == "aten::_local_scalar_dense"]
        counts.append(sum("aten::_fused_adamw_" not in above(event) for event in read))
    assert counts[0] == counts[1] > 0


def test_labels_decide_what_is_generated(tmp_path: Path) -> None:
    """Two classes that differ in brightness alone, bright and dark: a model that ignored labels would mix them."""
    from medmnist_diffusion.data.npz import write_npz

    rng, arrays = np.random.default_rng(0), {}
    for name, count in (("train", 256), ("val", 64), ("test", 64)):
        labels = np.arange(count) % 2
        base = np.where(labels == 0, 60, 190)[:, None, None]
        arrays[f"{name}_images"] = (base + rng.normal(0, 8, (count, 16, 16))).clip(0, 255).astype(np.uint8)
        arrays[f"{name}_labels"] = labels[:, None].astype(np.uint8)
    write_npz(tmp_path / "bright.npz", arrays)
    arguments = small_training(tmp_path / "bright.npz", tmp_path / "run")
    assert cli.main(["train", *arguments, "--max_train_steps", "250", "--train_batch_size", "32"]) == 0
    pipe = load_pipeline(tmp_path / "run" / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    labels = np.repeat([0, 1], 32)
    brightness = generate_images(pipe, labels, num_inference_steps=10).mean((1, 2, 3))
    assert ((brightness > 125) == (labels == 1)).mean() >= 0.95
