"""Every scheduler that diffusers exports makes right images, or is refused in one line; as the committed table says."""

import importlib
import json
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from medmnist_diffusion.pipelines import class_conditional_ddpm

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def schedulers(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("schedulers")


def made_right(schedulers: Any, name: str, how: str, dtype: torch.dtype, reference: np.ndarray) -> bool:
    """False where it is refused; wrong images fail."""
    needed = class_conditional_ddpm.NEEDED_OPTIONS | class_conditional_ddpm.NEEDED_WITH_IMAGE
    options = {needed[name]: True} if name in needed else {}
    try:
        off = schedulers.figures(name, how, 50, options, dtype, count=64) - reference
    except (ValueError, TypeError, KeyError, ImportError):
        return False
    assert np.abs(off).max() < 4, (name, how, off)  # 64 images a class: chance alone makes up to 2.5
    return True


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_right_or_refused(schedulers: Any, dtype: torch.dtype) -> None:
    diffusers.utils.logging.set_verbosity_error()
    plain = schedulers.figures("DDIMScheduler", "plain", 500, {}, torch.float32, count=64)
    started = schedulers.figures("DDIMScheduler", "strength", 500, {}, torch.float32, count=64)
    right = set()
    for name in schedulers.stock_schedulers():
        if made_right(schedulers, name, "plain", dtype, plain):
            right.add(name)
            if dtype == torch.float32:
                assert made_right(schedulers, name, "strength", dtype, started), name
                made_right(schedulers, name, "fast_timesteps", dtype, plain)
    missing = set(class_conditional_ddpm.SCHEDULERS) - right
    assert missing <= {"DPMSolverSDEScheduler"}  # where torchsde is not installed
    assert right <= set(class_conditional_ddpm.SCHEDULERS)


def test_refusals_are_one_line_that_names_the_remedy(schedulers: Any) -> None:
    pipe = schedulers.known_pipeline()
    for name, message in (
        ("EDMEulerScheduler", "EDMEulerScheduler does not fit this kind of network. Use one of DDIMScheduler"),
        (
            "HeunDiscreteScheduler",
            "HeunDiscreteScheduler needs use_karras_sigmas: make it by HeunDiscreteScheduler.from_config",
        ),
    ):
        pipe.scheduler = getattr(diffusers, name).from_config(schedulers.known_pipeline().scheduler.config)
        with pytest.raises(ValueError, match=message):
            pipe(class_labels=0)
    pipe.scheduler = diffusers.PNDMScheduler.from_config(schedulers.known_pipeline().scheduler.config)
    with pytest.raises(ValueError, match="needs skip_prk_steps to start from an image"):
        pipe(class_labels=0, image=np.zeros((28, 28)), strength=0.5)


def test_two_equal_calls_are_equal_with_every_scheduler(schedulers: Any) -> None:
    """DPMSolverSDE takes no generators: its own noise gets their seeds."""
    for name in class_conditional_ddpm.SCHEDULERS:
        option = class_conditional_ddpm.NEEDED_OPTIONS.get(name)
        images = []
        for seeds in ((1, 2), (1, 2), (2, 1)):
            pipe = schedulers.known_pipeline()
            pipe.scheduler = getattr(diffusers, name).from_config(
                pipe.scheduler.config, **({option: True} if option else {})
            )
            generators = [torch.Generator().manual_seed(seed) for seed in seeds]
            try:
                images.append(
                    pipe(class_labels=[0, 0], num_inference_steps=8, generator=generators, output_type="np").images
                )
            except ImportError:
                assert name == "DPMSolverSDEScheduler"
        if images:
            np.testing.assert_array_equal(images[0], images[1], err_msg=name)
            assert np.abs(images[0] - images[2]).max() > 0.1, name
            if name != "SASolverScheduler":
                np.testing.assert_allclose(
                    images[0], images[2][::-1], atol=0.02, err_msg=name
                )  # each image its own stream


def test_the_committed_table_is_what_the_pipeline_allows() -> None:
    committed = json.loads((BENCHMARKS / "results" / "schedulers.json").read_text())
    rows = committed["rows"]
    right = {row["scheduler"] for row in rows if row["how"] == "plain" and row["right"]}
    assert right == set(class_conditional_ddpm.SCHEDULERS)
    for row in rows:
        if row["scheduler"] in class_conditional_ddpm.NEEDED_OPTIONS and row["right"]:
            assert (
                class_conditional_ddpm.NEEDED_OPTIONS[row["scheduler"]] in row["options"] or row["how"] == "strength"
            )
