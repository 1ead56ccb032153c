"""ONNX: the network gives what torch's gives, and the sampler's table the pipeline's own images."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler

from medmnist_diffusion import cli
from medmnist_diffusion.diffusion.sampling import load_pipeline
from medmnist_diffusion.publish import onnx_export
from medmnist_diffusion.publish.onnx_export import METADATA, export_onnx, sampler_table
from medmnist_diffusion.shipped import pipeline_folder
from tests.conftest import CliError
from tests.pipelines.test_kinds import made


def images_of_table(pipe: Any, predict: Any, labels: list[int], steps: int) -> np.ndarray:
    """What a program makes that has nothing but the file and the table: float N×C×H×W in 0 … 1."""
    table = sampler_table(pipe, steps)
    shape = (1, *pipe.image_encoder.encoded_shape)
    noise = torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(i)) for i in range(len(labels))])
    parts, latents = [noise], noise
    for timestep, weights in zip(table["timesteps"], table["weights"], strict=True):
        parts.append(predict(latents, torch.full((len(labels),), timestep), torch.tensor(labels)))
        latents = torch.stack([weight * part for weight, part in zip(weights, parts, strict=True)]).sum(0)
    return (pipe.image_encoder.decode(latents) / 2 + 0.5).clamp(0, 1).numpy()


@pytest.mark.parametrize("order", [1, 2, 3])
def test_the_table_makes_the_images_of_the_scheduler(order: int) -> None:
    pipe: Any = load_pipeline("pneumoniamnist-28")
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, solver_order=order)

    def predict(latents: torch.Tensor, timesteps: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return pipe.unet(latents, timesteps, class_labels=labels).sample

    found = images_of_table(pipe, predict, [0, 1, 1], 6)
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    wanted = pipe([0, 1, 1], generator=generators, timesteps=pipe.fast_timesteps(6), output_type="pt").images
    np.testing.assert_allclose(found, wanted, atol=2e-3)


def test_the_file_makes_the_images_of_the_pipeline(tmp_path: Path, cli_error: CliError) -> None:
    assert cli.main(["export", "onnx", "pneumoniamnist-28", "--output", str(tmp_path / "network.onnx")]) == 0
    pipe: Any = load_pipeline("pneumoniamnist-28")
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])

    def predict(latents: torch.Tensor, timesteps: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        given = {"sample": latents, "timestep": timesteps, "class_labels": labels}
        return torch.from_numpy(session.run(None, {name: value.numpy() for name, value in given.items()})[0])

    found = images_of_table(pipe, predict, [1, 0, 0], 10)
    generators = [torch.Generator().manual_seed(i) for i in range(3)]
    wanted = pipe([1, 0, 0], generator=generators, timesteps=pipe.fast_timesteps(10), output_type="pt").images
    np.testing.assert_allclose(found, wanted, atol=2e-3)
    weights = pipeline_folder("pneumoniamnist-28") / "unet" / "diffusion_pytorch_model.safetensors"
    assert (tmp_path / "network.onnx").stat().st_size < 1.3 * weights.stat().st_size  # halves stay halves
    known = json.loads(session.get_modelmeta().custom_metadata_map[METADATA])
    assert known["labels"] == [pipe.id2label[0], pipe.id2label[1]]
    assert len(known["weights"]) == len(known["timesteps"]) == 10  # all that a program needs
    assert "exists already" in cli_error("export", "onnx", "phantom-28", "--output", str(tmp_path / "network.onnx"))
    assert b"medmnist_diffusion/" not in (tmp_path / "network.onnx").read_bytes()  # no paths of this machine
    onnx.checker.check_model(tmp_path / "network.onnx", full_check=True)


def test_several_labels(tmp_path: Path) -> None:
    pipe = made(multi_label=True)
    pipe.save_pretrained(tmp_path / "pipeline")
    export_onnx(tmp_path / "pipeline", tmp_path / "network.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "network.onnx", providers=["CPUExecutionProvider"])
    latents = torch.randn(3, *pipe.image_encoder.encoded_shape, generator=torch.Generator().manual_seed(0))
    rows = np.array([[1, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 1]], np.float32)  # two labels, none, unknown
    given = {"sample": latents.numpy(), "timestep": np.full(3, 500), "class_labels": rows}
    labels = pipe._label_tensor([[0, 2], [], []])
    labels[2] = pipe._unknown(labels[2:])[0]
    with torch.no_grad():
        wanted = pipe.unet(latents, 500, class_labels=labels).sample.numpy()
    np.testing.assert_allclose(session.run(None, given)[0], wanted, atol=1e-3)


def test_a_network_that_differs_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli_error: CliError
) -> None:
    monkeypatch.setattr(onnx_export, "TOLERANCE", 1e-12)
    said = cli_error("export", "onnx", "phantom-28", "--output", str(tmp_path / "network.onnx"))
    assert "differs from torch's" in said
    assert not list(tmp_path.iterdir())


def test_no_pipeline(cli_error: CliError) -> None:
    assert "no pipeline folder" in cli_error("export", "onnx", "nowhere", "--output", "x.onnx")
