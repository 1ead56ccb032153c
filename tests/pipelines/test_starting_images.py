"""`image=`: whatever a picture comes in means the same grey levels, or is refused."""

import io
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from medmnist_diffusion.diffusion.unet import build_noise_scheduler
from medmnist_diffusion.pipelines import ClassConditionalDDPMPipeline
from tests.conftest import small_unet

LEVELS = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)


def kind_of(value: Any) -> str:
    """A test's name, the same in every process: no memory addresses."""
    return value[:20] if isinstance(value, str) else type(value).__name__


@pytest.fixture(scope="module")
def pipe() -> Any:
    pipe: Any = ClassConditionalDDPMPipeline(small_unet(classes=2), build_noise_scheduler(), None, 2, 2)
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def started(pipe: Any, image: Any, count: int = 1) -> np.ndarray:
    """What the pipeline takes the image for, in grey levels N×H×W."""
    latents = pipe._starting_latents(image, count, 1)
    return ((pipe.image_encoder.decode(latents) + 1) * 127.5).squeeze(1).numpy()


def sideways() -> Image.Image:
    """As phones save it: lying, with the remark how it is to be turned."""
    exif = Image.Exif()
    exif[0x0112] = 6
    file = io.BytesIO()
    Image.fromarray(np.rot90(LEVELS)).save(file, "PNG", exif=exif)
    return Image.open(file)


@pytest.mark.parametrize(
    "image",
    [
        Image.fromarray(LEVELS),
        [Image.fromarray(LEVELS)],
        Image.fromarray(LEVELS).convert("RGB"),
        Image.fromarray(LEVELS).convert("RGBA"),
        sideways(),
        Image.fromarray(LEVELS.astype(np.uint16) * 257),
        LEVELS,
        LEVELS[None, :, :, None],
        LEVELS[:, :, None],
        [LEVELS],
        LEVELS.astype(np.uint16) * 257,
        LEVELS / 255,
        [LEVELS / 255],
        (LEVELS / 255)[None].astype(np.float32),
        torch.from_numpy(LEVELS),
        torch.from_numpy(LEVELS)[None],
        torch.from_numpy(LEVELS)[None, None],
        torch.from_numpy(LEVELS / 255)[None, None],
        [torch.from_numpy(LEVELS / 255)[None]],
    ],
    ids=kind_of,
)
def test_all_that_means_the_same_picture(pipe: Any, image: Any) -> None:
    np.testing.assert_allclose(started(pipe, image)[0], LEVELS, atol=1e-3)


def test_two_levels_are_black_and_white(pipe: Any) -> None:
    expected = (LEVELS > 127) * 255.0
    np.testing.assert_allclose(started(pipe, LEVELS > 127)[0], expected, atol=1e-4)
    np.testing.assert_allclose(started(pipe, Image.fromarray(LEVELS > 127))[0], expected, atol=1e-4)


def test_several_pictures_keep_their_order(pipe: Any) -> None:
    several = [Image.fromarray(LEVELS), Image.fromarray(255 - LEVELS)]
    expected = np.stack([LEVELS, 255 - LEVELS])
    for images in (several, expected, expected / 255, torch.from_numpy(expected)[:, None]):
        np.testing.assert_allclose(started(pipe, images, 2), expected, atol=1e-3)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (LEVELS.astype(np.float32), r"floats in 0 … 255; 0 … 1 is needed"),
        (LEVELS / 127.5 - 1, r"floats in -1 … 1"),
        (np.where(LEVELS > 250, np.nan, 0.5), "floats in nan"),
        (LEVELS.astype(np.int64), "int64"),
        (Image.fromarray(LEVELS.astype(np.float32)), "mode F"),
        (Image.fromarray(LEVELS.astype(np.int32)), "mode I "),
        (Image.merge("LA", [Image.fromarray(LEVELS)] * 2), "transparent"),
        (Image.merge("RGB", [Image.fromarray(layer) for layer in (LEVELS, LEVELS, 255 - LEVELS)]), "colours"),
        (LEVELS[:14], r"image has the shape \(1, 1, 14, 28\)"),
        ([Image.fromarray(LEVELS)] * 2, r"image has the shape \(2, 1, 28, 28\)"),
    ],
    ids=kind_of,
)
def test_what_is_unclear_is_refused(pipe: Any, image: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pipe(class_labels=0, image=image)


def test_colours_keep_their_places() -> None:
    pipe: Any = ClassConditionalDDPMPipeline(small_unet(28, 3), build_noise_scheduler(), None, 2, 4)
    colours = np.stack([LEVELS, LEVELS // 2, 255 - LEVELS], -1)
    for image in (Image.fromarray(colours), colours, colours / 255, torch.from_numpy(colours).permute(2, 0, 1)):
        latents = pipe._starting_latents(image, 1, 1)
        found = ((pipe.image_encoder.decode(latents)[0] + 1) * 127.5).permute(1, 2, 0).numpy()
        np.testing.assert_allclose(found, colours, atol=1e-3)
    grey = ((pipe.image_encoder.decode(pipe._starting_latents(Image.fromarray(LEVELS), 1, 1))[0] + 1) * 127.5).numpy()
    np.testing.assert_allclose(grey, np.stack([LEVELS] * 3), atol=1e-3)
