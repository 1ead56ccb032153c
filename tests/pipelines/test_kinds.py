"""Pipelines of several labels an image, of volumes, and of sizes that do not divide: asked as users ask, saved, loaded."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from medmnist_diffusion.data import ImageDataset, Split
from medmnist_diffusion.data.conditioning import Conditioning
from medmnist_diffusion.diffusion.folder_check import check_folder
from medmnist_diffusion.diffusion.samplers import Sampling
from medmnist_diffusion.diffusion.sampling import generate_images, load_pipeline, set_sampler, with_own
from medmnist_diffusion.diffusion.unet import build_noise_scheduler, build_unet
from medmnist_diffusion.pipelines import ClassConditionalDDPMPipeline, PixelUnshuffle
from medmnist_diffusion.publish.pipeline_folder import white_level
from tests.conftest import WITHOUT_US, run_python

FINDINGS = {0: "effusion", 1: "mass", 2: "nodule"}


def made(shape: tuple[int, ...] = (1, 16, 16), multi_label: bool = False, factor: int = 2) -> Any:
    torch.manual_seed(0)
    conditioning = Conditioning(FINDINGS, "multi-label" if multi_label else "multi-class")
    encoder = PixelUnshuffle(factor, shape, 2 * factor)
    unet = build_unet(conditioning, encoder, (16, 32))
    pipe: Any = ClassConditionalDDPMPipeline(
        unet, build_noise_scheduler(), FINDINGS, factor, len(FINDINGS), image_shape=shape
    )
    pipe.set_progress_bar_config(disable=True)
    return pipe


def images(pipe: Any, labels: Any, **options: Any) -> np.ndarray:
    generators = [torch.Generator().manual_seed(0) for _ in range(options.pop("count", 1))]
    return pipe(labels, generator=generators, num_inference_steps=2, output_type="np", **options).images


def test_labels_are_asked_for_by_name_id_or_row() -> None:
    pipe = made(multi_label=True)
    wanted = images(pipe, [["effusion", "nodule"], [], "mass"], count=3)
    np.testing.assert_array_equal(images(pipe, [[0, 2], [], [1]], count=3), wanted)
    np.testing.assert_array_equal(images(pipe, [["nodule", 0], [], 1], count=3), wanted)
    np.testing.assert_array_equal(images(pipe, np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]]), count=3), wanted)
    assert not np.array_equal(wanted[0], wanted[1])
    assert not np.array_equal(wanted[1], wanted[2])
    np.testing.assert_array_equal(images(pipe, "mass"), images(pipe, [["mass"]]))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([["effusion", "cat"]], "'cat' is no label"),
        ([[3]], "3 is no class"),
        ([], r"give \[\[\]\]"),
        (np.array([[1, 0]]), "N×3"),
        (np.array([[2, 0, 0]]), "zeros and ones"),
    ],
)
def test_what_is_no_label_is_named(labels: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        images(made(multi_label=True), labels)


def test_unknown_is_not_no_label() -> None:
    """Guidance goes away from "unknown", which is another condition than "none of the labels"."""
    pipe = made(multi_label=True)
    seen: list[torch.Tensor] = []

    def look(pipe: Any, step: int, timestep: int, tensors: dict[str, Any]) -> dict[str, Any]:
        seen.append(tensors["prompt_embeds"])
        return {}

    images(
        pipe, [[], ["mass"]], count=2, guidance_scale=2.0, callback_on_step_end=look,
        callback_on_step_end_tensor_inputs=["prompt_embeds"],
    )  # fmt: skip
    unknown, asked = seen[0].chunk(2)
    assert unknown[:, 3].tolist() == [4, 4]
    assert unknown[:, [0, 1, 2]].abs().sum() == 0
    assert asked[0].abs().sum() == 0
    assert asked[1].nonzero().tolist() == [[1]]


def test_generate_takes_conditions() -> None:
    pipe, conditioning = made(multi_label=True), Conditioning(FINDINGS, "multi-label")
    both = generate_images(pipe, [5, 0, 5], num_inference_steps=2)
    assert both.shape == (3, 16, 16, 1)
    assert not np.array_equal(both[0], both[2])  # the second image of the same condition
    np.testing.assert_array_equal(generate_images(pipe, [5], num_inference_steps=2)[0], both[0])
    assert conditioning.name_of(5) == "effusion + nodule"


@pytest.mark.parametrize("shape", [(1, 12, 16, 20), (1, 15, 22), (3, 9, 30)])
def test_volumes_and_odd_sizes(shape: tuple[int, ...], tmp_path: Path) -> None:
    pipe = made(shape)
    assert pipe.image_shape == shape
    channels, *sides = shape
    array = images(pipe, [0, 1], count=2)
    assert array.shape == (2, *sides, channels)
    assert pipe([0], num_inference_steps=2, output_type="pt").images.shape == (1, *shape)
    shown = pipe([0], num_inference_steps=2).images[0]
    slices = shown if len(sides) == 3 else [shown]
    assert len(slices) == (sides[0] if len(sides) == 3 else 1)
    assert all(isinstance(one, Image.Image) and one.size == (sides[-1], sides[-2]) for one in slices)
    again = images(pipe, [0, 1], count=2, image=array, strength=0.5)
    assert again.shape == array.shape
    pipe.save_pretrained(tmp_path / "pipeline")
    check_folder(tmp_path / "pipeline")
    loaded = load_pipeline(tmp_path / "pipeline", "ddpm")
    loaded.set_progress_bar_config(disable=True)
    np.testing.assert_array_equal(images(loaded, [0, 1], count=2), array)


def test_several_labels_work_where_we_are_not_installed(tmp_path: Path) -> None:
    pipe = made((1, 8, 16, 16), multi_label=True)
    pipe.save_pretrained(tmp_path / "pipeline")
    np.save(tmp_path / "wanted.npy", images(pipe, [["mass", "nodule"], []], count=2))
    code = WITHOUT_US + (
        "import numpy as np, torch\n"
        "from diffusers import DiffusionPipeline\n"
        "pipe = DiffusionPipeline.from_pretrained('pipeline', trust_remote_code=True)\n"
        "generators = [torch.Generator().manual_seed(0) for _ in range(2)]\n"
        "images = pipe([['mass', 'nodule'], []], generator=generators, num_inference_steps=2, output_type='np').images\n"
        "assert np.abs(images - np.load('wanted.npy')).max() < 1e-5\n"
    )
    done = run_python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_a_folder_of_other_shapes_is_refused(tmp_path: Path) -> None:
    made((1, 12, 16, 20)).save_pretrained(tmp_path / "pipeline")
    index = tmp_path / "pipeline" / "model_index.json"
    values = json.loads(index.read_text())
    for wrong in ([1, 12, 16], [1, 13, 16, 20], [0, 16, 20], "x"):
        index.write_text(json.dumps(values | {"image_shape": wrong}))
        with pytest.raises(Exception, match="cannot be"):
            load_pipeline(tmp_path / "pipeline")


def test_images_of_black_and_white_data_are_black_and_white(tmp_path: Path) -> None:
    grey = made(shape=(1, 8, 16, 16))
    pipe: Any = ClassConditionalDDPMPipeline(
        grey.unet, grey.scheduler, FINDINGS, 2, len(FINDINGS), image_shape=(1, 8, 16, 16), black_and_white=True
    )
    pipe.set_progress_bar_config(disable=True)
    wanted = images(grey, 1) > 0.5
    np.testing.assert_array_equal(images(pipe, 1), wanted)
    pipe.save_pretrained(tmp_path / "pipeline")
    again: Any = load_pipeline(tmp_path / "pipeline")
    again.scheduler = type(pipe.scheduler).from_config(again.scheduler.config)
    again.set_progress_bar_config(disable=True)
    np.testing.assert_array_equal(images(again, 1), wanted)
    assert check_folder(tmp_path / "pipeline").black_and_white
    pipe.register_to_config(white_from=0.7)
    np.testing.assert_array_equal(images(pipe, 1), images(grey, 1) > 0.7)


def test_the_level_of_white_gives_as_much_white_as_in_the_training_images(tmp_path: Path) -> None:
    """Of a network that was never trained: whatever it makes, the share is that of the data."""
    shape, rng = (8, 16, 16, 1), np.random.default_rng(0)
    arrays = (rng.random((40, *shape)) < 0.3).astype(np.uint8) * 255
    split = Split("train", arrays, np.arange(40) % len(FINDINGS))
    dataset = ImageDataset("cubes", dict.fromkeys(("train", "val", "test"), split), FINDINGS)
    grey = made(shape=(1, 8, 16, 16))
    pipe: Any = ClassConditionalDDPMPipeline(
        grey.unet, grey.scheduler, FINDINGS, 2, len(FINDINGS), image_shape=(1, 8, 16, 16), black_and_white=True
    )
    scheduler = pipe.scheduler
    pipe.register_to_config(white_from=white_level(pipe, dataset, seed=0))
    assert pipe.config.black_and_white
    assert pipe.scheduler is scheduler
    set_sampler(pipe)
    drawn = generate_images(pipe, dataset.labels_in_shares(200), seed=1)
    assert np.mean(drawn == 255) == pytest.approx(np.mean(arrays == 255), abs=0.02)
    assert set(np.unique(drawn)) == {0, 255}


def test_classes_called_by_numbers_are_generated_by_their_names() -> None:
    torch.manual_seed(0)
    names, encoder = {0: "1", 1: "2", 2: "3"}, PixelUnshuffle(2, (1, 16, 16), 4)
    unet = build_unet(Conditioning(names), encoder, (16, 32))
    pipe: Any = ClassConditionalDDPMPipeline(unet, build_noise_scheduler(), names, 2, len(names))
    pipe.set_progress_bar_config(disable=True)
    other: Any = ClassConditionalDDPMPipeline(unet, build_noise_scheduler(), FINDINGS, 2, len(FINDINGS))
    other.set_progress_bar_config(disable=True)
    made_here, there = (generate_images(one, np.arange(3), num_inference_steps=2) for one in (pipe, other))
    np.testing.assert_array_equal(made_here, there)


def test_a_pipelines_own_guidance(tmp_path: Path) -> None:
    plain = made()
    pipe: Any = ClassConditionalDDPMPipeline(
        plain.unet, plain.scheduler, FINDINGS, 2, len(FINDINGS), image_shape=(1, 16, 16), default_guidance_scale=1.5
    )
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path / "pipeline")
    again: Any = load_pipeline(tmp_path / "pipeline", "ddpm")
    again.set_progress_bar_config(disable=True)
    wanted = images(plain, 1, guidance_scale=1.5)
    assert not np.array_equal(wanted, images(plain, 1))
    for one in (pipe, again):
        np.testing.assert_allclose(images(one, 1), wanted, atol=1e-4)
        np.testing.assert_allclose(images(one, 1, guidance_scale=1.0), images(plain, 1), atol=1e-4)
    np.testing.assert_array_equal(generate_images(again, [1], 2), generate_images(again, [1], 2, guidance_scale=1.5))
    assert with_own(Sampling(), tmp_path / "pipeline").guidance_scale == 1.5
    assert with_own(Sampling(guidance_scale=1.0), tmp_path / "pipeline").guidance_scale == 1.0
