"""Several processes: they really run, agree with one, and are refused where they were not started."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from safetensors.torch import load_file

from medmnist_diffusion import cli
from medmnist_diffusion.diffusion.loss_log import read_loss_csv
from tests.conftest import ROOT, run_python, small_training

LAUNCHES = ROOT / "training" / "configs" / "accelerate"


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_two_processes_really_run_and_agree_with_one(optimizer: Any, small_npz: Path, tmp_path: Path) -> None:
    """The same global batch: 2 × 8 under accelerate launch against 1 × 16; what differs is the order of float32 sums."""
    weights, losses = [], []
    for name, launch, batch in (
        ("one", [], "16"),
        ("two", ["-m", "accelerate.commands.launch", "--config_file", str(LAUNCHES / "two_cpu_processes.yaml")], "8"),
    ):
        arguments = [
            *small_training(small_npz, tmp_path / name), "--max_train_steps", "20", "--train_batch_size", batch,
            "--optimizer", optimizer,
        ]  # fmt: skip
        result = run_python(*launch, str(ROOT / "training" / "train.py"), *arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stderr[-2000:]
        summary = json.loads((tmp_path / name / "pipeline" / "training_summary.json").read_text())
        assert summary["processes"] == (1 if name == "one" else 2)
        assert summary["images_seen"] == 320
        weights.append(load_file(tmp_path / name / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors"))
        losses.append(read_loss_csv(tmp_path / name / "loss.csv")[-1]["val_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the launcher's arguments are read from /proc")
def test_one_process_where_two_were_asked_for_is_an_error(small_npz: Path, tmp_path: Path) -> None:
    arguments = [*small_training(small_npz, tmp_path / "run"), "--max_train_steps", "5"]
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    result = run_python(*launch, str(ROOT / "training" / "train.py"), *arguments, cwd=tmp_path)
    assert result.returncode != 0
    assert "--multi_gpu --num_processes 2" in result.stderr


@pytest.mark.slow
def test_two_machines_are_two_launchers_that_find_each_other(small_npz: Path, tmp_path: Path) -> None:
    """Two nodes of one process each, both on this machine: one run, of the same losses as two processes of one launcher."""
    arguments = [*small_training(small_npz, tmp_path / "nodes"), "--max_train_steps", "10", "--train_batch_size", "8"]
    configuration = tmp_path / "two_nodes.yaml"
    values = yaml.safe_load((LAUNCHES / "multi_node.yaml").read_text())
    configuration.write_text(yaml.safe_dump({**values, "num_processes": 2, "mixed_precision": "no"}))
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(configuration),
        "--machine_rank",
    ]
    nodes = [
        subprocess.Popen(
            [*launch, rank, str(ROOT / "training" / "train.py"), *arguments], stderr=subprocess.PIPE, text=True
        )
        for rank in ("0", "1")
    ]
    for node in nodes:
        _, errors = node.communicate(timeout=300)
        assert node.returncode == 0, errors[-2000:]
    summary = json.loads((tmp_path / "nodes" / "pipeline" / "training_summary.json").read_text())
    assert (summary["processes"], summary["images_seen"]) == (2, 160)
    one = [*small_training(small_npz, tmp_path / "one"), "--max_train_steps", "10"]
    assert cli.main(["train", *one]) == 0
    losses = [read_loss_csv(tmp_path / name / "loss.csv")[-1]["val_loss"] for name in ("nodes", "one")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_launch_configurations_are_read_by_accelerate() -> None:
    said = {path.name: load_config_from_file(str(path)) for path in LAUNCHES.glob("*.yaml")}
    launches = {
        name: (config.distributed_type.value, config.num_machines, config.num_processes)
        for name, config in said.items()
    }
    assert launches == {
        "two_cpu_processes.yaml": ("MULTI_GPU", 1, 2),
        "bf16.yaml": ("NO", 1, 1),
        "multi_gpu.yaml": ("MULTI_GPU", 1, 4),
        "multi_node.yaml": ("MULTI_GPU", 2, 8),
    }
