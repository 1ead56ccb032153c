"""Batches by number: order, shares of processes, timesteps, dropped labels, augmentation."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import kstest, norm

from medmnist_diffusion.data import Split, load_dataset
from medmnist_diffusion.data.conditioning import Conditioning
from medmnist_diffusion.diffusion.batches import LOG_SNR_MEAN, LOG_SNR_STD, TrainingBatches
from medmnist_diffusion.diffusion.loss import log_snr
from medmnist_diffusion.diffusion.unet import build_noise_scheduler
from tests.conftest import ROOT

LAUNCHES = ROOT / "training" / "configs" / "accelerate"


CLASSES = Conditioning({label: str(label) for label in range(4)})


@pytest.fixture(scope="module")
def split(small_npz: Path) -> Any:
    return load_dataset(str(small_npz)).train


def make_batches(split: Split, **options: Any) -> Any:
    return TrainingBatches(split, 32, seed=3, num_train_timesteps=1000, conditioning=CLASSES, **options)


def test_every_image_once_an_epoch(split: Split) -> None:
    batches = make_batches(split)  # 240 images, 32 a batch: 7.5 batches an epoch
    rows = np.concatenate([batches.indices(number) for number in range(15)])
    for epoch in (rows[:240], rows[240:]):
        assert sorted(epoch) == list(range(240))
    assert list(rows[:240]) != list(rows[240:])


def test_a_batch_is_a_function_of_its_number(split: Split) -> None:
    forwards, backwards = make_batches(split, random_shift=2), make_batches(split, random_shift=2)
    first = [forwards[number] for number in range(12)]
    second = [backwards[number] for number in reversed(range(12))][::-1]
    for a, b in zip(first, second, strict=True):
        for name in ("images", "labels", "noise", "timesteps"):
            assert torch.equal(getattr(a, name), getattr(b, name))
    assert not torch.equal(first[0].noise, first[1].noise)


def test_processes_share_the_global_batch(split: Split) -> None:
    whole = make_batches(split, random_shift=1)[5]
    parts = [make_batches(split, random_shift=1, rank=rank, world_size=2)[5] for rank in range(2)]
    for name in ("images", "labels", "noise", "timesteps"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


def test_timesteps_are_normal_in_log_snr(split: Split) -> None:
    """Against the normal distribution itself (Kolmogorov–Smirnov), and every batch covers it evenly."""
    levels = log_snr(build_noise_scheduler())
    batches = TrainingBatches(split, 64, 0, 1000, CLASSES, log_snr=levels)
    drawn = torch.stack([batches[number].timesteps for number in range(60)])
    assert kstest(levels[drawn.flatten()].numpy(), norm(LOG_SNR_MEAN, LOG_SNR_STD).cdf).statistic < 0.02
    medians = levels[drawn].median(1).values
    assert (medians - LOG_SNR_MEAN).abs().max() < 0.25  # of independent draws the median would vary by ± 0.47
    assert len({tuple(row.tolist()) for row in drawn}) == 60


def test_label_dropout_has_its_share(split: Split) -> None:
    dropped = [(make_batches(split, label_dropout=0.3)[number].labels == 4).float().mean() for number in range(200)]
    assert np.mean(dropped) == pytest.approx(0.3, abs=0.02)
    assert (make_batches(split, label_dropout=0.0)[0].labels < 4).all()


def test_class_balanced_batches(split: Split) -> None:
    batches = make_batches(split, class_balanced=True, label_dropout=0.0)
    labels = torch.cat([batches[number].labels for number in range(100)])
    np.testing.assert_allclose(np.bincount(labels) / len(labels), 0.25, atol=0.03)


def test_augmentation_shifts_only_by_so_much(split: Split) -> None:
    shifted, plain = make_batches(split, random_shift=1)[0].images, make_batches(split)[0].images
    assert not torch.equal(shifted, plain)
    padded = torch.nn.functional.pad(plain, (1, 1, 1, 1), mode="replicate")
    for image, source in zip(shifted, padded, strict=True):
        windows = [source[:, y : y + 28, x : x + 28] for y in range(3) for x in range(3)]
        assert any(torch.equal(image, window) for window in windows)
