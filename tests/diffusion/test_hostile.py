"""Hostile and broken pipeline folders (docs/robustness.md): each ends in one line, with a non-zero code, and runs nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DModel
from safetensors.torch import load_file, save_file

from medmnist_diffusion import cli
from medmnist_diffusion.diffusion.sampling import generate_images, load_pipeline
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.manifest import MANIFEST
from tests.conftest import CliError
from tests.pipeline_folders import WEIGHTS, edit_json, sampling, without_manifest


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
    file: str, changes: dict[str, Any], pipeline: Path, cli_error: CliError
) -> None:
    edit_json(without_manifest(pipeline) / file, **changes)
    error = cli_error(*sampling(pipeline))
    assert "makes no images" in error or "cannot be" in error
    assert not Path(f"{pipeline}.npz").exists()


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
def test_gigantic_or_impossible_network(
    changes: dict[str, Any], message: str, pipeline: Path, cli_error: CliError
) -> None:
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
        def __reduce__(self) -> tuple[Any, ...]:
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
    changes: dict[str, Any], pipeline: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli_error: CliError
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


def test_stock_unet_of_the_pipeline_is_what_the_check_builds(trained_run: Path) -> None:
    """The check's network without memory has the very shapes of the real one."""
    real = UNet2DModel.from_pretrained(trained_run / "pipeline" / "unet").state_dict()
    with torch.device("meta"):
        planned = UNet2DModel.from_config(UNet2DModel.load_config(trained_run / "pipeline" / "unet")).state_dict()
    assert {k: v.shape for k, v in real.items()} == {k: v.shape for k, v in planned.items()}


def test_images_that_are_not_finite_end_in_one_line(pipeline: Path) -> None:
    pipe = load_pipeline(pipeline)
    pipe.unet.conv_out.bias.data[0] = float("nan")
    with pytest.raises(UserError, match=r"not finite.*another guidance"):
        generate_images(pipe, [0], num_inference_steps=2)
