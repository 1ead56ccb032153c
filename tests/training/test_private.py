"""Private training: the gradients against one backward pass an image, the price against a closed form, the draws, and a run."""

import json
import sys
from math import sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import binom, kstest, norm

from medmnist_diffusion import cli
from medmnist_diffusion.artifacts import PrivacyRecord, TrainingSummary
from medmnist_diffusion.data import ImageDataset
from medmnist_diffusion.data.unlabeled import unlabeled_images
from medmnist_diffusion.diffusion.batches import LOG_SNR_MEAN, LOG_SNR_STD, Batch, TrainingBatches
from medmnist_diffusion.diffusion.dp_sgd import PrivateBatches, PrivateGradients, privacy_of
from medmnist_diffusion.diffusion.loss import diffusion_loss, log_snr
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.manifest import MANIFEST, folder_manifest
from medmnist_diffusion.training.config import training_config
from medmnist_diffusion.training.setup import build_network, build_objective
from medmnist_diffusion.training.train import train
from tests.conftest import CliError, small_training

PRIVATE = ["--target_epsilon", "8", "--train_batch_size", "32"]


def one_batch(small: ImageDataset, **settings: Any) -> tuple[Any, Any, Batch]:
    config = training_config(dataset="d", output_dir="r", max_train_steps=3, **settings)
    torch.manual_seed(0)
    network, objective = build_network(config, small), build_objective(config, small)
    batch = TrainingBatches(small.train, 12, 3, 1000, small.conditioning, noise_shape=objective.encoder.padded_shape)[
        0
    ]
    return network.train(), objective, batch


@pytest.mark.parametrize("settings", [{}, {"attention": True}, {"layers_per_block": 2, "prediction_type": "sample"}])
def test_gradients_are_clipped_an_image_each(settings: dict[str, Any], small: ImageDataset) -> None:
    """Against one backward pass for every image, by itself."""
    network, objective, batch = one_batch(small, **settings)
    parameters, clip = list(network.parameters()), 0.4
    expected, clipped = [torch.zeros_like(one) for one in parameters], 0
    for at in range(12):
        one = Batch(*(getattr(batch, name)[at : at + 1] for name in ("images", "labels", "noise", "timesteps")))
        grads = torch.autograd.grad(diffusion_loss(network, one, objective).weighted.mean(), parameters)
        length = float(torch.cat([grad.flatten() for grad in grads]).norm())
        clipped += length > clip
        for total, grad in zip(expected, grads, strict=True):
            total += grad * min(1.0, clip / length) / 16  # the batch that was asked for has 16, this one has 12
    assert clipped > 0
    quiet = PrivacyRecord(epsilon=1, delta=1e-5, noise_multiplier=0, max_grad_norm=clip, sample_rate=0.1, steps=1)
    private = PrivateGradients(network, quiet, 16)
    for _ in range(2):  # nothing of the first pass is left in the second
        diffusion_loss(network, batch, objective).weighted.mean().backward()
        length = float(private.put_in_place())
        for parameter, wanted in zip(parameters, expected, strict=True):
            torch.testing.assert_close(parameter.grad, wanted, rtol=1e-3, atol=1e-6)
    assert length == pytest.approx(float(torch.cat([one.flatten() for one in expected]).norm()), rel=1e-3)


def test_the_noise_is_as_strong_as_it_says_and_never_the_same(small: ImageDataset) -> None:
    network, objective, batch = one_batch(small)
    loud = PrivacyRecord(epsilon=1, delta=1e-5, noise_multiplier=1e4, max_grad_norm=0.5, sample_rate=0.1, steps=1)
    private, drawn = PrivateGradients(network, loud, 16), []
    for _ in range(2):
        diffusion_loss(network, batch, objective).weighted.mean().backward()
        private.put_in_place()
        drawn.append(torch.cat([one.grad.flatten() for one in network.parameters() if one.grad is not None]))
    for noise in drawn:
        assert float(noise.std()) == pytest.approx(1e4 * 0.5 / 16, rel=0.02)
    assert abs(float(torch.corrcoef(torch.stack(drawn))[0, 1])) < 0.01


def test_the_price_is_that_of_the_gaussian_mechanism_where_every_image_is_drawn() -> None:
    """Theorem 8 of Balle & Wang 2018 (arXiv 1805.06530): δ = Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ), μ = √steps ÷ noise."""
    for epsilon, steps in ((1.0, 1), (2.0, 50)):
        privacy = privacy_of(epsilon, 1e-5, 1.0, images=50_000, batch_size=49_999, steps=steps)

        def too_much(noise: float, epsilon: float = epsilon, steps: int = steps) -> float:
            mu = sqrt(steps) / noise
            return float(norm.cdf(mu / 2 - epsilon / mu) - np.exp(epsilon) * norm.cdf(-mu / 2 - epsilon / mu) - 1e-5)

        assert privacy.noise_multiplier == pytest.approx(brentq(too_much, 0.3, 1000), rel=0.03)
    assert privacy_of(2.0, None, 1.0, 50_000, 500, 50).delta == pytest.approx(1 / 500_000)


def test_an_image_comes_by_a_chance_of_its_own(small: ImageDataset) -> None:
    """How many images a batch has is binomial; noise levels are distributed as without privacy, each for itself."""
    objective = build_objective(training_config(dataset="d", output_dir="r", max_train_steps=3), small)
    levels = log_snr(objective.scheduler)
    batches = PrivateBatches(small.train, 32, 0, 1000, small.conditioning, log_snr=levels, label_dropout=0.1)
    drawn = [batches[number % 2] for number in range(300)]  # the number does not matter
    counts, of_split = np.array([len(one.labels) for one in drawn]), binom(len(small.train), 32 / len(small.train))
    assert abs(counts.mean() - 32) < 5 * of_split.std() / sqrt(300)
    assert counts.var() == pytest.approx(of_split.var(), rel=0.5)
    seen = levels[torch.cat([one.timesteps for one in drawn])].double().numpy()
    inside = seen[(seen > -6) & (seen < 8)]
    low, high = norm.cdf([-6, 8], LOG_SNR_MEAN, LOG_SNR_STD)
    assert len(inside) / len(seen) == pytest.approx(high - low, abs=0.02)
    assert kstest(inside, lambda x: (norm.cdf(x, LOG_SNR_MEAN, LOG_SNR_STD) - low) / (high - low)).statistic < 0.02
    first = torch.stack([one.noise[0] for one in drawn]).flatten(1)
    assert len(first.unique(dim=0)) == 300
    dropped = torch.cat([one.labels for one in drawn]) == small.conditioning.null_label
    assert float(dropped.float().mean()) == pytest.approx(0.1, abs=0.02)


def test_a_private_run_says_so_and_ends_as_it_was_begun(
    small_npz: Path, tmp_path: Path, cli_error: CliError, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    command = ["train", *small_training(small_npz, run), "--max_train_steps", "5", *PRIVATE]
    assert cli.main(command) == 0
    privacy = TrainingSummary.of(run / "pipeline").privacy
    assert privacy is not None
    assert (privacy.epsilon, privacy.max_grad_norm) == (8, 1)
    assert privacy.noise_multiplier > 0
    assert "privacy: ε = 8" in capsys.readouterr().out
    card = " ".join((run / "pipeline" / "README.md").read_text(encoding="utf-8").split())
    assert "differential privacy" in card
    longer = [word if word != "5" else "9" for word in command]
    assert "must end as it was begun (step 5: max_train_steps: 5 → 9" in cli_error(*longer)
    other = [word if word != "8" else "16" for word in command]
    assert "target_epsilon: 8.0 → 16.0" in cli_error(*other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--max_train_minutes", "1"], "give --max_train_steps"),
        (["--class_balanced"], "does not go with --class_balanced"),
        (["--random_flip"], "does not go with --random_flip"),
        (["--dropout", "0.1"], "does not go with --dropout"),
        (["--drop_leaks", "twins"], "Give --drop_leaks exact"),
        (["--gradient_accumulation_steps", "2"], "does not go with --gradient_accumulation_steps"),
        (["--mixed_precision", "bf16"], "--mixed_precision no"),
        (["--train_batch_size", "8"], "32 or more"),
        (["--train_batch_size", "4000"], "no draws from"),
        (["--target_delta", "0.5"], "could be given away whole"),
        (["--varied_share", "0.5"], "--varied_share"),
        (["--target_epsilon", "0.0000001"], "cannot be had"),
        (["--target_epsilon", "51"], "less than or equal to 50"),
    ],
)
def test_what_does_not_go_with_it(
    options: list[str], message: str, small_npz: Path, tmp_path: Path, cli_error: CliError
) -> None:
    base = [] if "--max_train_minutes" in options else ["--max_train_steps", "3"]
    command = ["train", "--dataset", str(small_npz), "--output_dir", str(tmp_path / "run"), "--report_to", "none"]
    given = {name: value for name, value in zip(PRIVATE[::2], PRIVATE[1::2], strict=True) if name not in options}
    words = [word for pair in given.items() for word in pair]
    assert message in cli_error(*command, *base, *words, *options)


def test_one_image_changes_the_clipped_sum_by_no_more_than_the_norm(small: ImageDataset) -> None:
    """The sensitivity on which the accounting rests."""
    network, objective, batch = one_batch(small)
    quiet, sums = (
        PrivacyRecord(epsilon=1, delta=1e-5, noise_multiplier=0, max_grad_norm=0.4, sample_rate=0.1, steps=1),
        [],
    )
    private = PrivateGradients(network, quiet, 1)
    for count in (12, 11):
        fewer = Batch(*(getattr(batch, name)[:count] for name in ("images", "labels", "noise", "timesteps")))
        diffusion_loss(network, fewer, objective).weighted.mean().backward()
        private.put_in_place()
        sums.append(torch.cat([one.grad.flatten() for one in network.parameters()]))
    assert 0.1 < float((sums[0] - sums[1]).norm()) <= 0.4 * (1 + 1e-4)


def test_nothing_is_promised_after_a_training_without_it(
    small: ImageDataset, small_npz: Path, trained_run: Path, tmp_path: Path, cli_error: CliError
) -> None:
    base = str(trained_run / "pipeline")
    start = ["train", *small_training(small_npz, tmp_path / "a"), "--max_train_steps", "5", *PRIVATE]
    assert "without a promise" in cli_error(*start, "--pretrained_model_name_or_path", base)
    config = training_config(
        dataset="d",
        output_dir=str(tmp_path / "b"),
        max_train_steps=5,
        target_epsilon=8,
        train_batch_size=32,
        report_to="none",
    )
    beside = unlabeled_images(small.train.images[:9], small, "others", "as the others", [])
    with pytest.raises(UserError, match="--unlabeled"):
        train(config, small, beside)
    # A run of a version that knew no promise has no word of it in its checkpoints.
    config = training_config(**{**vars(config), "target_epsilon": None, "mixed_precision": "no"})
    train(config, small)
    (saved,) = (tmp_path / "b" / "checkpoints").glob("*/state.json")
    state = json.loads(saved.read_text())
    state["config"] = {name: value for name, value in state["config"].items() if "target" not in name}
    saved.write_text(json.dumps(state))
    (saved.parent / MANIFEST).write_text(json.dumps(folder_manifest(saved.parent)))
    with pytest.raises(UserError, match="begun without this --target_epsilon"):
        train(training_config(**{**vars(config), "target_epsilon": 8.0}), small)


def test_delta_alone_and_a_missing_opacus(
    small_npz: Path, tmp_path: Path, cli_error: CliError, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["train", *small_training(small_npz, tmp_path / "run"), "--max_train_steps", "5"]
    assert "give --target_epsilon, too" in cli_error(*command, "--target_delta", "0.001")
    for name in ("opacus", "opacus.accountants"):
        monkeypatch.setitem(sys.modules, name, None)
    assert "medmnist-diffusion[private]" in cli_error(*command, *PRIVATE)
