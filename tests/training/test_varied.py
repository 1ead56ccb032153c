"""Varied images under classes of their own: what they are, that no pipeline has them, and that a run goes on bit by bit."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import InterpolationMode, functional

from medmnist_diffusion import cli
from medmnist_diffusion.data import ImageDataset, phantom
from medmnist_diffusion.data.npz import write_npz
from medmnist_diffusion.diffusion.batches import MOVED, SCALED, TURNED, TrainingBatches, varied_images
from medmnist_diffusion.diffusion.sampling import generate_images, load_pipeline
from tests.conftest import CliError, small_training
from tests.training.resuming import outcome

VARIED = ["--varied_share", "0.5"]


def batches(small: ImageDataset, share: float, **options: Any) -> TrainingBatches:
    return TrainingBatches(small.train, 16, 3, 1000, small.conditioning, varied_share=share, **options)


def test_a_part_of_a_batch_is_varied_and_the_rest_is_as_before(small: ImageDataset) -> None:
    plain, varied, again = batches(small, 0.0)[7], batches(small, 0.5)[7], batches(small, 0.5)[7]
    torch.testing.assert_close(varied.images, again.images)
    torch.testing.assert_close(varied.images[8:], plain.images[8:])
    torch.testing.assert_close(varied.noise, plain.noise)
    assert torch.equal(varied.labels[8:], plain.labels[8:])
    true = torch.from_numpy(small.train.labels[batches(small, 0.5).indices(7)])
    assert torch.equal(varied.labels[:8], true[:8] + small.num_classes + 1)  # never as "unknown"
    assert (varied.images[:8] != plain.images[:8]).flatten(1).any(1).all()
    assert varied.images.abs().max() <= 1


def test_two_processes_see_what_one_sees(small: ImageDataset) -> None:
    one = batches(small, 0.75)[5]
    parts = [batches(small, 0.75, rank=rank, world_size=2)[5] for rank in range(2)]
    for name in ("images", "labels", "noise", "timesteps"):
        torch.testing.assert_close(torch.cat([getattr(part, name) for part in parts]), getattr(one, name))


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 24, 32), (1, 5, 28, 28)])
def test_they_are_turned_moved_scaled_and_mirrored_as_torchvision_does(shape: tuple[int, ...]) -> None:
    height, width = shape[-2:]
    grid = np.stack(np.meshgrid(np.linspace(0, 3, height), np.linspace(0, 2, width), indexing="ij"))
    smooth = torch.from_numpy(np.sin(grid[0] + 2 * grid[1])).float().expand(2, *shape).contiguous()
    for angle, across, down, size in (
        (0.9, 0.5, 0.5, 0.5),
        (0.1, 0.5, 0.5, 0.8),
        (0.5, 0.9, 0.5, 0.5),
        (0.5, 0.5, 0.2, 0.5),
    ):
        ours = varied_images(smooth[:1], torch.tensor([[angle, across, down, size, 0.9]]))
        turn, scale = -TURNED * (2 * angle - 1), 1 + SCALED * (2 * size - 1)
        by = [-MOVED * (2 * across - 1) * width, -MOVED * (2 * down - 1) * height]
        expected = functional.affine(smooth[0].flatten(0, -3), turn, by, scale, [0.0, 0.0], InterpolationMode.BILINEAR)
        inner = (slice(None), slice(height // 4, -height // 4), slice(width // 4, -width // 4))
        torch.testing.assert_close(ours[0].flatten(0, -3)[inner], expected[inner], atol=0.02, rtol=0)
    still = varied_images(smooth[:1], torch.tensor([[0.5, 0.5, 0.5, 0.5, 0.9]]))
    torch.testing.assert_close(still, smooth[:1], atol=1e-4, rtol=1e-4)
    mirrored = varied_images(smooth[:1], torch.tensor([[0.5, 0.5, 0.5, 0.5, 0.1]]))
    torch.testing.assert_close(mirrored, smooth[:1].flip(-1), atol=1e-4, rtol=1e-4)


def test_a_run_resumes_bit_by_bit_and_its_pipeline_knows_no_varied_images(small_npz: Path, tmp_path: Path) -> None:
    whole, halves = tmp_path / "whole", tmp_path / "halves"
    for run in (whole, halves):
        assert cli.main(["train", *small_training(small_npz, run), *VARIED, "--max_train_steps", "40"]) == 0
    shutil.rmtree(halves / "pipeline")
    shutil.rmtree(halves / "checkpoints" / "step_00000040")
    assert cli.main(["train", *small_training(small_npz, halves), *VARIED, "--max_train_steps", "40"]) == 0
    assert outcome(halves) == outcome(whole)
    pipe = load_pipeline(whole / "pipeline")
    assert pipe.unet.config.num_class_embeds == 5
    start = ["--pretrained_model_name_or_path", str(whole / "pipeline"), "--max_train_steps", "3"]
    assert cli.main(["train", *small_training(small_npz, tmp_path / "tuned"), *VARIED, *start]) == 0


def test_several_labels_are_refused(tmp_path: Path, cli_error: CliError) -> None:
    write_npz(
        tmp_path / "l.npz", phantom.make_phantom(form="multi-label", counts={"train": 40, "val": 20, "test": 20})
    )
    error = cli_error(
        "train", *small_training(tmp_path / "l.npz", tmp_path / "run"), *VARIED, "--max_train_steps", "3"
    )
    assert "--varied_share needs one class an image" in error


@pytest.mark.slow
def test_nothing_that_is_sampled_is_mirrored(tmp_path: Path) -> None:
    """All images are bright on the left; half of each batch is varied, of which half is mirrored."""
    rng, arrays = np.random.default_rng(0), {}
    for name, count in (("train", 64), ("val", 32), ("test", 32)):
        base = np.where(np.arange(16) < 6, 200, 60)[None, None]
        arrays[f"{name}_images"] = (base + rng.normal(0, 8, (count, 16, 16))).clip(0, 255).astype(np.uint8)
        arrays[f"{name}_labels"] = (np.arange(count) % 2)[:, None].astype(np.uint8)
    write_npz(tmp_path / "left.npz", arrays)
    arguments = small_training(tmp_path / "left.npz", tmp_path / "run")
    assert cli.main(["train", *arguments, *VARIED, "--max_train_steps", "400", "--train_batch_size", "32"]) == 0
    made = generate_images(load_pipeline(tmp_path / "run" / "pipeline"), np.repeat([0, 1], 32))[..., 0].astype(float)
    assert (made[:, :, :4].mean((1, 2)) > made[:, :, -4:].mean((1, 2)) + 60).mean() > 0.97
