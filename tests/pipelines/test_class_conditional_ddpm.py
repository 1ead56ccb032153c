"""The pipeline: labels, guidance, seeds, schedulers, and loading where the package is not installed."""

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    HeunDiscreteScheduler,
    UNet2DModel,
)
from diffusers.callbacks import SDCFGCutoffCallback

from medmnist_diffusion.diffusion.unet import build_noise_scheduler
from medmnist_diffusion.pipelines import ClassConditionalDDPMPipeline
from tests.conftest import WITHOUT_US, run_python, small_unet

NAMES = {0: "normal", 1: "pneumonia"}


@pytest.fixture
def pipe() -> ClassConditionalDDPMPipeline:
    torch.manual_seed(0)
    unet = small_unet(classes=2).eval()
    torch.nn.init.normal_(unet.class_embedding.weight, std=3.0)
    pipe: Any = ClassConditionalDDPMPipeline(unet, build_noise_scheduler(), NAMES, pixel_unshuffle=2, null_label=2)
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def grey(pipe: Any, **options: Any) -> np.ndarray:
    """uint8-scaled output, so that differences are in grey levels."""
    return pipe(num_inference_steps=5, output_type="np", **options).images * 255


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def test_names_and_ids_mean_the_same(pipe: Any) -> None:
    by_id = grey(pipe, class_labels=[1, 0], generator=seeded(1, 2))
    by_name = grey(pipe, class_labels=["pneumonia", 0], generator=seeded(1, 2))
    np.testing.assert_array_equal(by_id, by_name)
    assert pipe.get_label_ids("pneumonia") == [1]
    assert pipe.labels == {"normal": 0, "pneumonia": 1}


def test_the_label_changes_the_image(pipe: Any) -> None:
    normal, pneumonia = grey(pipe, class_labels=[0, 1], generator=seeded(5, 5))
    assert np.abs(normal - pneumonia).max() > 5


@pytest.mark.parametrize("scheduler", [DDPMScheduler, DDIMScheduler, DPMSolverMultistepScheduler])
def test_an_image_does_not_depend_on_its_batch(pipe: Any, scheduler: Any) -> None:
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    together = grey(pipe, class_labels=[0, 1, 1], generator=seeded(7, 8, 9))
    split = grey(pipe, class_labels=[0, 1, 1], generator=seeded(7, 8, 9), batch_size=2)
    alone = grey(pipe, class_labels=1, generator=seeded(8))
    assert np.abs(together - split).max() <= 1
    assert np.abs(together[1] - alone[0]).max() <= 1


def test_one_generator_gives_the_same_first_images_whatever_their_number(pipe: Any) -> None:
    few = grey(pipe, class_labels=0, num_images_per_label=2, generator=torch.Generator().manual_seed(3))
    many = grey(pipe, class_labels=0, num_images_per_label=6, generator=torch.Generator().manual_seed(3), batch_size=4)
    assert np.abs(few - many[:2]).max() <= 1
    assert np.abs(many[0] - many[1]).max() > 5


def test_guidance_follows_its_formula(pipe: Any) -> None:
    """One step of a deterministic sampler with w against unconditional + w (conditional − unconditional), by hand."""
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    w, generators = 3.0, seeded(4)
    images = pipe(
        class_labels=1, guidance_scale=w, num_inference_steps=1, generator=generators, output_type="pt"
    ).images
    noise = torch.randn(1, 4, 14, 14, generator=seeded(4)[0])
    pipe.scheduler.set_timesteps(1)
    t = pipe.scheduler.timesteps[0]
    with torch.no_grad():
        conditional = pipe.unet(noise, t, class_labels=torch.tensor([1])).sample
        unconditional = pipe.unet(noise, t, class_labels=torch.tensor([2])).sample
    guided = unconditional + w * (conditional - unconditional)
    expected = F.pixel_shuffle(pipe.scheduler.step(guided, t, noise).prev_sample, 2)
    torch.testing.assert_close(images, (expected / 2 + 0.5).clamp(0, 1))


def test_output_types_agree_and_grey_stays_grey(pipe: Any) -> None:
    options = {"class_labels": [0, 1], "num_inference_steps": 3}
    pil = pipe(**options, generator=seeded(1, 2)).images
    array = pipe(**options, generator=seeded(1, 2), output_type="np", return_dict=False)[0]
    tensor = pipe(**options, generator=seeded(1, 2), output_type="pt").images
    assert [image.mode for image in pil] == ["L", "L"]
    assert array.shape == (2, 28, 28, 1)
    assert tensor.shape == (2, 1, 28, 28)
    np.testing.assert_allclose(array, tensor.permute(0, 2, 3, 1), atol=1e-6)
    np.testing.assert_allclose(np.asarray(pil[1]), array[1, :, :, 0] * 255, atol=0.51)


def test_rgb_has_three_channels() -> None:
    unet = small_unet(32, 3)
    pipe: Any = ClassConditionalDDPMPipeline(unet, build_noise_scheduler(), None, 2, 4)
    pipe.set_progress_bar_config(disable=True)
    image = pipe(class_labels=3, num_inference_steps=2).images[0]
    assert image.mode == "RGB"
    assert image.size == (32, 32)


def test_callback_sees_every_step_and_may_change_latents(pipe: Any) -> Any:
    seen = []

    def callback(pipe: Any, step: Any, timestep: Any, tensors: Any) -> Any:
        seen.append((step, timestep))
        ramp = torch.linspace(-1, 1, tensors["latents"][0].numel())
        return {"latents": ramp.reshape_as(tensors["latents"])}

    images = pipe(class_labels=0, num_inference_steps=4, callback_on_step_end=callback, output_type="np").images
    assert [step for step, _ in seen] == [0, 1, 2, 3]
    np.testing.assert_allclose(np.sort(images.ravel()), np.linspace(0, 1, images.size), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_labels": "tuberculosis"}, "'tuberculosis' is no label.*normal.*pneumonia"),
        ({"class_labels": 2}, "2 is no class"),
        ({"class_labels": []}, "empty"),
        ({"class_labels": [0, 1], "generator": [torch.Generator()]}, "1 generators were given for 2 images"),
        ({"class_labels": 0, "output_type": "latents"}, "output_type"),
        ({"class_labels": [1.7]}, "1.7 is no class"),
        ({"class_labels": True}, "True is no class"),
        ({"class_labels": torch.eye(2, dtype=torch.long)}, "no one-hot rows"),
        ({"class_labels": torch.tensor([1.0])}, "1.0 is no class"),
        ({"class_labels": 0, "num_inference_steps": 0}, r"num_inference_steps is 0; it must be in 1 … 1000"),
        ({"class_labels": 0, "num_inference_steps": 1001}, r"1 … 1000"),
        ({"class_labels": 0, "timesteps": [20, 500, 999]}, "each below the one before"),
        ({"class_labels": 0, "timesteps": [999, 500, 500]}, "each below the one before"),
        ({"class_labels": 0, "timesteps": [1000, 500]}, "0 … 999"),
        ({"class_labels": 0, "timesteps": [999.5, 3.0]}, "whole numbers"),
        ({"class_labels": 0, "timesteps": []}, "whole numbers"),
        ({"class_labels": 0, "guidance_scale": 0.5}, "at least 1"),
        ({"class_labels": 0, "guidance_scale": float("nan")}, "at least 1"),
        ({"class_labels": 0, "latents": torch.zeros(1, 1, 28, 28)}, r"latents has the shape \(1, 1, 28, 28\)"),
        ({"class_labels": 0, "callback_on_step_end_tensor_inputs": ["noise"]}, "callbacks get"),
        ({"class_labels": 0, "latents": torch.full((1, 4, 14, 14), torch.nan)}, "finite numbers"),
        ({"class_labels": 0, "eta": 2.0}, "eta is 2.0"),
        ({"class_labels": 0, "generator": 0}, "must be a torch.Generator"),
        ({"class_labels": [0, 1], "generator": [torch.Generator()] * 2}, "a stream of its own"),
        ({"class_labels": 0, "timesteps": [500], "num_inference_steps": 3}, "not both"),
        ({"class_labels": 0, "callback_on_step_end": lambda *_: {"latent": 1}}, "must return a dict"),
        ({"class_labels": 0, "image": []}, "image is empty"),
        ({"class_labels": 0, "image": np.zeros((1, 28, 28, 1)), "strength": 1.5}, "strength 1.5"),
        ({"class_labels": 0, "num_images_per_label": 0}, "at least 1"),
    ],
)
def test_wrong_arguments_are_refused(pipe: Any, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe(**options)


@pytest.mark.parametrize("schedule", ["squaredcos_cap_v2", "linear"])
def test_fast_timesteps_are_those_of_karras(pipe: Any, schedule: Any) -> None:
    pipe.scheduler = build_noise_scheduler(schedule)
    alpha_bar = pipe.scheduler.alphas_cumprod.double()
    noise = (1 / alpha_bar - 1).sqrt()
    for steps in (*range(1, 61), 500, 1000):
        levels = pipe.fast_timesteps(steps)
        assert len(levels) == steps
        assert levels[0] == 999
        assert levels[-1] >= 0
        assert all(later < earlier for earlier, later in pairwise(levels))
    ramp = np.linspace(0, 1, 9)
    expected = (20 ** (1 / 7) + ramp * (float(noise[0]) ** (1 / 7) - 20 ** (1 / 7))) ** 7
    nearest = np.abs(noise.numpy()[:, None] - expected).argmin(0)
    assert np.abs(np.array(pipe.fast_timesteps(10)[1:]) - nearest).max() <= 1
    with pytest.raises(ValueError, match=r"1 … 1000"):
        pipe.fast_timesteps(0)


def test_fast_timesteps_converge_to_a_known_solution(pipe: Any) -> Any:
    """Images that are normal with deviation 0.5: the best prediction, and where sampling must end, have closed forms."""
    deviation, start = 0.5, torch.linspace(-3, 3, 13)

    def error(steps: int) -> float:
        scheduler = DPMSolverMultistepScheduler.from_config(build_noise_scheduler().config)
        scheduler.set_timesteps(timesteps=pipe.fast_timesteps(steps))
        x = start.clone()
        for timestep in scheduler.timesteps:
            alpha = float(scheduler.alphas_cumprod[int(timestep)] ** 0.5)
            sigma = (1 - alpha**2) ** 0.5
            clean = alpha * deviation**2 * x / (alpha**2 * deviation**2 + sigma**2)
            x = scheduler.step((alpha * x - clean) / sigma, timestep, x).prev_sample
        return float((x - deviation * start).abs().max())

    errors = [error(steps) for steps in (10, 20, 50)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.01


def test_timesteps_are_visited_as_given(pipe: Any) -> None:
    seen = []
    grey_levels = pipe(
        class_labels=0,
        timesteps=[999, 500, 20],
        generator=seeded(1),
        output_type="np",
        callback_on_step_end=lambda _, step, timestep, tensors: seen.append(timestep) or {},
    ).images
    assert seen == [999, 500, 20]
    assert np.isfinite(grey_levels).all()


def test_names_that_are_numbers_are_no_ids() -> None:
    """Grades 1 to 2 have the ids 0 and 1: `1` could mean either."""
    pipe: Any = ClassConditionalDDPMPipeline(small_unet(classes=2), build_noise_scheduler(), {0: "1", 1: "2"}, 2, 2)
    assert pipe._label_tensor(["1", "2"]).tolist() == [0, 1]
    assert pipe._label_tensor([0]).tolist() == [0]
    with pytest.raises(ValueError, match="1 is the id of '2' and the name of another class"):
        pipe(class_labels=1)


def test_given_noise_is_where_sampling_starts(pipe: Any) -> None:
    noise = torch.randn(2, 4, 14, 14, generator=seeded(3)[0])
    images = [grey(pipe, class_labels=[0, 1], latents=noise, generator=seeded(*seeds)) for seeds in ((1, 2), (3, 4))]
    np.testing.assert_array_equal(images[0], images[1])
    assert np.abs(images[0] - grey(pipe, class_labels=[0, 1], latents=noise.flip(0))).max() > 5


def test_latents_decode_to_the_images(pipe: Any) -> None:
    options = {"class_labels": [0, 1], "num_inference_steps": 3}
    latents = pipe(**options, generator=seeded(1, 2), output_type="latent").images
    images = pipe(**options, generator=seeded(1, 2), output_type="pt").images
    assert latents.shape == (2, 4, 14, 14)
    torch.testing.assert_close((F.pixel_shuffle(latents, 2) / 2 + 0.5).clamp(0, 1), images)


def test_a_callback_ends_the_work(pipe: Any) -> None:
    steps = []

    def stop(pipe: Any, step: int, timestep: int, tensors: Any) -> dict:
        steps.append(step)
        pipe._interrupt = step == 1
        return {}

    images = pipe(class_labels=[0] * 4, batch_size=2, num_inference_steps=5, callback_on_step_end=stop).images
    assert steps == [0, 1]
    assert len(images) == 2  # of the batch that was begun
    assert (
        len(pipe(class_labels=[0] * 4, batch_size=2, num_inference_steps=5).images) == 4
    )  # and is begun anew next time


def test_guidance_can_be_cut_off_as_diffusers_does(pipe: Any) -> None:
    """SDCFGCutoffCallback at once: as without guidance from the second step on."""
    batches = []
    pipe.unet.register_forward_pre_hook(lambda unet, arguments: batches.append(len(arguments[0])))
    options = {"class_labels": 1, "num_inference_steps": 4, "guidance_scale": 3.0}
    pipe(**options, callback_on_step_end=SDCFGCutoffCallback(cutoff_step_ratio=None, cutoff_step_index=0))
    assert batches == [2, 1, 1, 1]
    assert pipe.num_timesteps == 4
    pipe(**options, callback_on_step_end=SDCFGCutoffCallback(cutoff_step_ratio=0.5))
    assert batches[4:] == [2, 2, 2, 1]


def test_components_alone_make_no_pipeline_but_from_pipe_does(pipe: Any) -> None:
    with pytest.raises(ValueError, match=r"from_pipe\(pipe\)"):
        ClassConditionalDDPMPipeline(**pipe.components)
    again: Any = ClassConditionalDDPMPipeline.from_pipe(pipe)
    again.set_progress_bar_config(disable=True)
    assert (again.id2label, again.config.null_label, again.image_shape) == (NAMES, 2, (1, 28, 28))
    np.testing.assert_array_equal(
        grey(pipe, class_labels=1, generator=seeded(1)), grey(again, class_labels=1, generator=seeded(1))
    )


def test_weights_that_are_not_finite_are_an_error_and_no_black_image(pipe: Any) -> None:
    pipe.unet.conv_out.bias.data[0] = float("nan")
    with pytest.raises(RuntimeError, match=r"not finite.*DPMSolverMultistepScheduler, network in float32"):
        pipe(class_labels=0, num_inference_steps=2)


def test_flat_images_are_an_error(pipe: Any) -> None:
    with pytest.raises(RuntimeError, match="one grey"):
        pipe(
            class_labels=[0, 1],
            num_inference_steps=2,
            callback_on_step_end=lambda _, step, timestep, tensors: {
                "latents": torch.full_like(tensors["latents"], 9.0)
            },
        )


def test_a_scheduler_of_another_training_is_refused(pipe: Any) -> None:
    pipe.scheduler = DPMSolverMultistepScheduler()  # epsilon, linear betas
    with pytest.raises(ValueError, match="trained with prediction_type='v_prediction'"):
        pipe(class_labels=0)


def test_a_schedulers_subclass_is_held_to_the_same(pipe: Any) -> None:
    class Mine(HeunDiscreteScheduler):
        """A stock one with changes."""

    pipe.scheduler = Mine.from_config(pipe.scheduler.config)
    with pytest.raises(ValueError, match="Mine needs use_karras_sigmas"):
        pipe(class_labels=0)


@pytest.mark.parametrize("scheduler", [DDPMScheduler, EulerAncestralDiscreteScheduler])
def test_ancestral_schedulers_take_more_steps(pipe: Any, scheduler: Any) -> None:
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    pipe(class_labels=0)
    assert pipe.num_timesteps == 100


def test_a_call_within_a_call_is_refused(pipe: Any) -> None:
    def preview(pipe: Any, step: int, timestep: int, tensors: Any) -> dict:
        pipe(class_labels=0, num_inference_steps=2)
        return {}

    with pytest.raises(RuntimeError, match="is running"):
        pipe(class_labels=0, num_inference_steps=3, callback_on_step_end=preview)
    pipe(class_labels=0, num_inference_steps=3)  # and the next one is not hindered


def test_names_twice_and_numbers_that_are_none(pipe: Any) -> None:
    for names in ({0: "a", 1: "a"}, {0: "a", "0": "b", 1: "c"}):
        with pytest.raises(ValueError, match="twice"):
            ClassConditionalDDPMPipeline(pipe.unet, pipe.scheduler, names, 2, 2)
    with pytest.raises(ValueError, match="whole numbers"):
        ClassConditionalDDPMPipeline(pipe.unet, pipe.scheduler, NAMES, 2, 2.0)  # type: ignore[arg-type]
    made: Any = ClassConditionalDDPMPipeline(pipe.unet, pipe.scheduler, NAMES, 2, np.int64(2))  # type: ignore[arg-type]
    json.dumps(made.config.null_label)


def test_a_unet_that_would_ignore_labels_is_refused() -> None:
    blocks = {"down_block_types": ("DownBlock2D",), "up_block_types": ("UpBlock2D",), "block_out_channels": (32,)}
    unet = UNet2DModel(sample_size=14, in_channels=4, out_channels=4, **blocks)
    with pytest.raises(ValueError, match="silently ignore every class label"):
        ClassConditionalDDPMPipeline(unet, DDPMScheduler(), NAMES)


def test_guidance_needs_a_null_class() -> None:
    unet = small_unet(classes=1)  # embeds 2 labels: here both are classes
    pipe: Any = ClassConditionalDDPMPipeline(unet, DDPMScheduler(), NAMES, 2, null_label=None)
    with pytest.raises(ValueError, match="without a null class"):
        pipe(class_labels=0, guidance_scale=2.0)


def test_saved_folder_loads_with_our_class_and_gives_the_same_image(pipe: Any, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "saved")
    index = json.loads((tmp_path / "saved" / "model_index.json").read_text())
    assert index["_class_name"] == ["pipeline", "ClassConditionalDDPMPipeline"]
    assert not [path for path in (tmp_path / "saved").rglob("*") if path.suffix in (".bin", ".pt", ".pkl", ".ckpt")]
    loaded = ClassConditionalDDPMPipeline.from_pretrained(tmp_path / "saved")
    loaded.set_progress_bar_config(disable=True)
    assert loaded.id2label == NAMES
    assert loaded.config.null_label == 2
    before, after = (grey(p, class_labels=[0, 1], generator=seeded(1, 2)) for p in (pipe, loaded))
    np.testing.assert_array_equal(before, after)


def test_what_is_saved_is_our_own_source(pipe: Any, tmp_path: Path) -> None:
    """Not that of another folder's pipeline.py, loaded since; nor a script that holds a subclass."""
    pipe.save_pretrained(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    with (tmp_path / "b" / "pipeline.py").open("a") as file:
        file.write("\n# another project\n")
    program = """
import sys
from diffusers import DiffusionPipeline
first = DiffusionPipeline.from_pretrained(sys.argv[1] + "/a", trust_remote_code=True)
second = DiffusionPipeline.from_pretrained(sys.argv[1] + "/b", trust_remote_code=True)
first.save_pretrained(sys.argv[1] + "/a_again")
second.save_pretrained(sys.argv[1] + "/b_again")
"""
    result = run_python("-c", program, str(tmp_path), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    for name in "ab":
        assert (tmp_path / f"{name}_again/pipeline.py").read_text() == (tmp_path / name / "pipeline.py").read_text()


def test_a_subclass_is_not_saved(pipe: Any, tmp_path: Path) -> None:
    class Mine(ClassConditionalDDPMPipeline):
        """With code that no folder would hold."""

    with pytest.raises(ValueError, match="Mine is a subclass"):
        Mine.from_pipe(pipe).save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


def test_half_precision_and_variants_load(pipe: Any, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "full")
    half: Any = ClassConditionalDDPMPipeline.from_pretrained(tmp_path / "full", dtype=torch.float16)
    half.save_pretrained(tmp_path / "half", variant="fp16")
    assert (tmp_path / "half/unet/diffusion_pytorch_model.fp16.safetensors").is_file()
    loaded: Any = ClassConditionalDDPMPipeline.from_pretrained(tmp_path / "half", variant="fp16", dtype=torch.float16)
    for one in (half, loaded):
        one.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
        one.set_progress_bar_config(disable=True)
        assert one.unet.dtype == torch.float16
        off = grey(one, class_labels=[0, 1], generator=seeded(1, 2)) - grey(
            pipe, class_labels=[0, 1], generator=seeded(1, 2)
        )
        assert np.abs(off).mean() < 1


STRANGER = (
    WITHOUT_US
    + """
import numpy as np, torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
images = pipe(class_labels=["pneumonia", 0], num_inference_steps=5, output_type="np",
              generator=[torch.Generator().manual_seed(s) for s in (1, 2)]).images
np.save(sys.argv[2], images)
pipe.save_pretrained(sys.argv[1] + "_again")
assert "medmnist_diffusion" not in sys.modules
"""
)


def test_saved_folder_loads_without_this_package(pipe: Any, tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    pipe.save_pretrained(folder)
    result = run_python("-c", STRANGER, str(folder), str(tmp_path / "images.npy"), cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    expected = grey(pipe, class_labels=["pneumonia", 0], generator=seeded(1, 2))
    assert np.abs(np.load(tmp_path / "images.npy") * 255 - expected).max() <= 1
    # What the stranger saves again is as complete.
    again = Path(f"{folder}_again")
    assert (again / "pipeline.py").read_text() == (folder / "pipeline.py").read_text()
    shutil.rmtree(again)


def test_without_trust_diffusers_refuses_to_run_the_folders_code(pipe: Any, tmp_path: Path) -> None:
    pipe.save_pretrained(tmp_path / "saved")
    code = "import sys; from diffusers import DiffusionPipeline; DiffusionPipeline.from_pretrained(sys.argv[1])"
    result = run_python("-c", code, str(tmp_path / "saved"), cwd=tmp_path)
    assert result.returncode != 0
    assert "trust_remote_code" in result.stderr
