"""The arms of benchmarks/recipe.py: each changes what it says, and the published ideas are those of their equations."""

import importlib
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medmnist_diffusion.data import ImageDataset, load_dataset, phantom
from medmnist_diffusion.data.npz import write_npz
from medmnist_diffusion.diffusion.batches import Batch, TrainingBatches
from medmnist_diffusion.diffusion.loss import Objective, diffusion_loss, prediction_target
from medmnist_diffusion.diffusion.sampling import generate_images, load_pipeline
from medmnist_diffusion.diffusion.unet import build_noise_scheduler
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.pipelines import PixelUnshuffle
from medmnist_diffusion.training.arguments import parse_config
from medmnist_diffusion.training.config import training_config
from medmnist_diffusion.training.setup import build_network, with_choices
from medmnist_diffusion.training.train import train

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def recipe(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("recipe")


@pytest.fixture
def changes(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("changes")


@pytest.mark.parametrize(("channels", "size"), [(1, 28), (3, 28), (3, 64)])
def test_an_arm_changes_what_it_says_and_nothing_else(channels: int, size: int, recipe: Any, tmp_path: Path) -> None:
    counts = {"train": 8, "val": 4, "test": 4}
    write_npz(tmp_path / "d.npz", phantom.make_phantom(channels, size, counts=counts))
    dataset = load_dataset(str(tmp_path / "d.npz"))
    args = Namespace(dataset=str(tmp_path / "d.npz"), root=None, size=None, arms=list(recipe.ARMS), seeds=1)
    default = recipe.chosen_by_default(args)
    for arm in recipe.ARMS:
        of_arm = Namespace(**{**vars(args), "arms": [arm]})
        if arm != "default" and recipe.is_default(arm, default):
            with pytest.raises(UserError, match="is the default of"):
                recipe.cells_of(of_arm)
            continue
        (cell,) = recipe.cells_of(of_arm)
        words = recipe.options_of(cell)
        config = parse_config(["--dataset", "d", "--output_dir", "r", "--max_train_minutes", "1", *words])
        chosen = with_choices(config, dataset)
        wanted = {**default, **recipe.ARMS[arm].settings(default)}
        assert {name: getattr(chosen, name) for name in wanted} == wanted, arm
    assert (
        len({str(cell) for cell in recipe.cells_of(Namespace(**{**vars(args), "arms": ["default", "contrastive"]}))})
        == 2
    )


def objective_and_batch(prediction_type: str, dataset: ImageDataset) -> tuple[Objective, Batch]:
    encoder = PixelUnshuffle(2, (1, 28, 28), 4)
    objective = Objective(
        build_noise_scheduler("squaredcos_cap_v2", prediction_type, 1000), encoder, dataset.conditioning
    )
    generator = torch.Generator().manual_seed(0)
    images, noise = (torch.randn(6, 1, 28, 28, generator=generator) for _ in range(2))
    return objective, Batch(images, torch.arange(6) % 4, noise, torch.tensor([5, 200, 400, 600, 800, 990]))


class Says:
    """A network that says velocity v, or the image which that velocity means."""

    def __init__(self, velocity: torch.Tensor, objective: Objective) -> None:
        self.velocity, self.objective = velocity, objective

    def __call__(self, noisy: torch.Tensor, timesteps: torch.Tensor, class_labels: Any) -> Any:
        of_image = self.objective.scheduler.alphas_cumprod[timesteps].sqrt().view(-1, 1, 1, 1)
        image = of_image * noisy - (1 - of_image**2).sqrt() * self.velocity
        said = image if self.objective.scheduler.config.prediction_type == "sample" else self.velocity
        return Namespace(sample=said)


def test_the_contrastive_term_is_in_velocity_whatever_the_network_says(changes: Any, small: ImageDataset) -> None:
    """Equation 6 of arXiv 2506.05350; counted in the image it is σ² times as much, as the loss itself is."""
    found = {}
    for kind in ("v_prediction", "sample"):
        objective, batch = objective_and_batch(kind, small)
        velocity = torch.randn(6, 4, 14, 14, generator=torch.Generator().manual_seed(1))
        losses = changes.contrastive_loss(Says(velocity, objective), batch, objective)
        plain = diffusion_loss(Says(velocity, objective), batch, objective)
        torch.testing.assert_close(losses.per_image, plain.per_image)  # what is logged
        found[kind] = losses
    sigma_squared = (1 - objective.scheduler.alphas_cumprod[batch.timesteps]).float()
    for name in ("per_image", "apart", "weighted"):
        in_image, in_velocity = (getattr(found[kind], name) for kind in ("sample", "v_prediction"))
        torch.testing.assert_close(in_image, sigma_squared * in_velocity, rtol=1e-3, atol=1e-5)
    other = replace(batch, images=batch.images.roll(1, 0), noise=batch.noise.roll(1, 0))
    objective, _ = objective_and_batch("v_prediction", small)
    expected = diffusion_loss(Says(velocity, objective), other, objective).per_image
    torch.testing.assert_close(found["v_prediction"].apart, expected)


def test_noise_is_coupled_within_classes_and_nothing_is_lost(changes: Any, small: ImageDataset) -> None:
    """Over five batches the noise of a class is that of the plain batches in another order, and nearer to its images."""
    options: dict[str, Any] = {
        "batch_size": 32,
        "seed": 3,
        "num_train_timesteps": 1000,
        "conditioning": small.conditioning,
    }
    plain, coupled, whole = (
        kind(small.train, **options) for kind in (TrainingBatches, changes.CoupledByClass, changes.CoupledNoise)
    )
    before, after = ([batches[number] for number in range(5, 10)] for batches in (plain, coupled))
    labels = torch.cat([one.labels for one in before])
    far, sums = [], []
    for batches in (before, after):
        noise, images = (torch.cat([getattr(one, part) for one in batches]).flatten(1) for part in ("noise", "images"))
        far.append(float((noise - images).square().sum()))
        sums.append([np.sort(noise[labels == label].sum(1).numpy()) for label in labels.unique()])
    assert far[1] < far[0]
    for one_before, one_after in zip(*sums, strict=True):
        np.testing.assert_allclose(one_after, one_before, rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(coupled[7].noise, after[2].noise)  # in whatever order batches are asked for
    one, other = plain[3], whole[3]
    torch.testing.assert_close(one.images, other.images)
    assert sorted(one.noise.flatten(1).sum(1).tolist()) == pytest.approx(
        sorted(other.noise.flatten(1).sum(1).tolist())
    )


def test_self_conditioning_starts_as_the_plain_network_and_sees_what_it_said(
    changes: Any, small: ImageDataset, tmp_path: Path
) -> None:
    """With new weights it says what the plain network says; later its second look depends on what it said in the first."""
    options: dict[str, Any] = {"output_dir": str(tmp_path / "run"), "max_train_steps": 6, "report_to": "none"}
    config = training_config(dataset="d", train_batch_size=8, **options)
    torch.manual_seed(0)
    objective, batch = objective_and_batch("v_prediction", small)
    plainly = diffusion_loss(build_network(config, small), batch, objective).prediction
    with changes.with_room():
        torch.manual_seed(0)
        said = diffusion_loss(build_network(config, small), batch, objective).prediction
        torch.testing.assert_close(said, plainly)
    change = changes.Change(loss=changes.seeing_what_it_said, network=changes.with_room, pipe=changes.see_what_it_said)
    with change.made():
        pipe = load_pipeline(train(config, small))
        assert pipe.unet.conv_in.in_channels == 2 * pipe.unet.config.in_channels
        labels, seen = np.arange(4), []
        with_nothing = generate_images(pipe, labels, seed=0)
        change.pipe(pipe)
        pipe.unet.conv_in.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
        images = generate_images(pipe, labels, seed=0)
    added = [float(one[:, pipe.unet.config.in_channels :].abs().sum()) for one in seen]
    assert added[0] == 0
    assert min(added[1:]) > 0
    assert len(added) == 10
    assert not np.array_equal(images, with_nothing)


def test_the_image_that_a_prediction_means(changes: Any, small: ImageDataset) -> None:
    for kind in ("v_prediction", "sample"):
        objective, batch = objective_and_batch(kind, small)
        clean, noise = (objective.encoder.encode(one) for one in (batch.images, batch.noise))
        noisy = objective.scheduler.add_noise(clean, noise, batch.timesteps)
        said = prediction_target(objective.scheduler, clean, noise, batch.timesteps)
        meant = changes.image_of(objective.scheduler, said, noisy, batch.timesteps)
        torch.testing.assert_close(meant, clean, rtol=1e-3, atol=1e-3)
