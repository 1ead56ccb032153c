"""What the tests of stopped and resumed runs share: a run in which everything has a state, and what must be the same."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from medmnist_diffusion.diffusion.checkpoints import newest_checkpoint
from medmnist_diffusion.diffusion.loss_log import read_loss_csv
from medmnist_diffusion.manifest import MANIFEST
from tests.conftest import ROOT, small_training

CliError = Callable[..., str]
STEPS, EVERY = 30, 10
# All that has a state of its own: dropout's random numbers, halves of a batch, rounding to bfloat16, shifted and mirrored images.
EVERYTHING = [
    "--dropout", "0.2", "--gradient_accumulation_steps", "2", "--mixed_precision", "bf16", "--random_shift", "2",
    "--random_flip", "true", "--class_balanced", "true", "--train_batch_size", "8", "--max_train_steps", str(STEPS),
    "--checkpointing_steps", str(EVERY), "--validation_steps", "7", "--logging_steps", "4", "--sample_steps", "15",
]  # fmt: skip
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]


def outcome(run: Path) -> dict[str, object]:
    """All that must be the same: weights, average, optimizers, random states, losses, samples; not what a clock wrote."""
    checkpoint = newest_checkpoint(run / "checkpoints")
    assert checkpoint is not None
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    del manifest["state.json"]
    rows = [
        {k: v for k, v in row.items() if k not in ("seconds", "images_per_second")}
        for row in read_loss_csv(run / "loss.csv")
    ]
    names = ["unet/diffusion_pytorch_model.safetensors", "samples.png", "loss.png"]
    files = {
        f"{folder}/{name}": (run / folder / name).read_bytes()
        for folder in ("pipeline", "pipeline_best")
        for name in names
    }
    grids = {path.name: path.read_bytes() for path in (run / "samples").iterdir()}
    return {"manifest": manifest, "loss": rows, **files, **grids}


def start(run: Path, data: Path, *options: str, launch: tuple[str, ...] = ()) -> "subprocess.Popen[str]":
    arguments = [*small_training(data, run), *EVERYTHING, *options]
    return subprocess.Popen(
        [sys.executable, *launch, str(ROOT / "training" / "train.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        preexec_fn=lambda: signal.signal(
            signal.SIGINT, signal.default_int_handler
        ),  # which a shell's background job ignores
    )


def kill_all(run: Path) -> None:
    """SIGKILL to every process that was started for this run, the launcher first."""
    for entry in sorted(Path("/proc").glob("[0-9]*/cmdline"), key=lambda entry: int(entry.parent.name)):
        try:
            if str(run).encode() in entry.read_bytes():
                os.kill(int(entry.parent.name), signal.SIGKILL)
        except OSError:
            continue  # it ended by itself


def wait_for_checkpoint(run: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not list((run / "checkpoints").glob("step_*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
