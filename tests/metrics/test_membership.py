"""Attacks: what a model knows by heart is told from what it does not know, and what it never saw is not."""

from pathlib import Path

import numpy as np
import pytest

from medmnist_diffusion.data import ImageDataset, Split
from medmnist_diffusion.data.npz import write_npz
from medmnist_diffusion.diffusion.sampling import load_pipeline
from medmnist_diffusion.metrics.membership import attack_auc, classifier_familiarity, denoising_familiarity
from medmnist_diffusion.metrics.mixed_training import Mixture, Recipe, fit
from medmnist_diffusion.training.config import training_config
from medmnist_diffusion.training.train import train

MEMBERS = np.arange(32)


@pytest.fixture
def shuffled(small: ImageDataset) -> Split:
    """Images with random labels: what a classifier knows of them it has learned by heart."""
    return Split("train", small.train.images[:], np.random.default_rng(0).permutation(small.train.labels))


def test_a_classifier_that_learned_by_heart_is_found_out(small: ImageDataset, shuffled: Split) -> None:
    members, others = shuffled.subset(MEMBERS), shuffled.subset(np.arange(32, 200))
    recipe = Recipe(steps=150, batch_size=32, learning_rates=(3e-3,))
    model = fit(recipe, Mixture(members, classical=False), members, small.conditioning, 0).model
    known, unknown = (classifier_familiarity(model, split, small.conditioning) for split in (members, others))
    assert attack_auc(known, unknown) > 0.9
    first, second = (
        classifier_familiarity(model, others.subset(rows), small.conditioning) for rows in np.split(np.arange(168), 2)
    )
    assert attack_auc(first, second) == pytest.approx(0.5, abs=0.12)


@pytest.mark.slow
def test_a_generator_that_learned_by_heart_is_found_out(small: ImageDataset, tmp_path: Path) -> None:
    import medmnist_diffusion as md

    arrays = {f"{name}_images": split.images[:][..., 0] for name, split in small.splits.items()}
    arrays |= {f"{name}_labels": split.labels[:, None] for name, split in small.splits.items()}
    arrays |= {"train_images": arrays["train_images"][MEMBERS], "train_labels": arrays["train_labels"][MEMBERS]}
    write_npz(tmp_path / "few.npz", arrays)
    config = training_config(
        dataset=str(tmp_path / "few.npz"), output_dir=str(tmp_path / "run"), max_train_steps=1500, train_batch_size=32,
        block_out_channels=[32, 64], keep="latest", report_to="none",
    )  # fmt: skip
    pipe = load_pipeline(train(config))
    few = md.load_dataset(str(tmp_path / "few.npz"))
    known, unknown = (
        denoising_familiarity(pipe, split) for split in (few.train, small.train.subset(np.arange(32, 200)))
    )
    assert attack_auc(known, unknown) > 0.8
