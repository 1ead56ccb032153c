"""Training: closed forms of noising, targets, losses and weights; batches by number; runs, resumes, two processes."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from diffusers import UNet2DModel
from safetensors.torch import load_file
from scipy.special import huber
from scipy.stats import kstest, norm

from medmnist_diffusion import cli
from medmnist_diffusion.data import load_dataset, phantom
from medmnist_diffusion.data.npz import write_npz
from medmnist_diffusion.diffusion.batches import LOG_SNR_MEAN, LOG_SNR_STD, TrainingBatches
from medmnist_diffusion.diffusion.checkpoints import newest_checkpoint
from medmnist_diffusion.diffusion.loss_log import LossLog, read_loss_csv
from medmnist_diffusion.diffusion.objectives import log_snr, loss_per_image, min_snr_weights, prediction_target
from medmnist_diffusion.diffusion.optimizers import KernelMuon, build_optimizers
from medmnist_diffusion.diffusion.sampling import generate, load_pipeline
from medmnist_diffusion.diffusion.unet import build_noise_scheduler, build_unet, unshuffle_factor
from medmnist_diffusion.errors import TrainingDivergedError
from medmnist_diffusion.files import file_hash
from medmnist_diffusion.metrics import classifier
from medmnist_diffusion.training.config import parse_config

from .conftest import ROOT, run_python, small_training

LAUNCHES = ROOT / "training" / "configs" / "accelerate"

# Closed forms


def cosine_alpha_bar(timesteps: int = 1000) -> np.ndarray:
    """ᾱ_t of Nichol & Dhariwal 2021 (arXiv 2102.09672), equation 17, with betas clipped at 0.999."""
    f = np.cos((np.arange(timesteps + 1) / timesteps + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.cumprod(1 - np.minimum(1 - f[1:] / f[:-1], 0.999))


def linear_alpha_bar(timesteps: int = 1000) -> np.ndarray:
    return np.cumprod(1 - np.linspace(1e-4, 0.02, timesteps))


@pytest.mark.parametrize(
    ("schedule", "alpha_bar"), [("squaredcos_cap_v2", cosine_alpha_bar()), ("linear", linear_alpha_bar())]
)
def test_noising_and_targets(schedule, alpha_bar):
    rng = torch.Generator().manual_seed(0)
    clean, noise = torch.randn(2, 5, 4, 14, 14, generator=rng).double()
    timesteps = torch.tensor([0, 10, 250, 500, 998])
    a = torch.from_numpy(alpha_bar[timesteps]).sqrt().view(-1, 1, 1, 1)
    s = torch.from_numpy(1 - alpha_bar[timesteps]).sqrt().view(-1, 1, 1, 1)
    targets = {"epsilon": noise, "sample": clean, "v_prediction": a * noise - s * clean}
    for prediction_type, expected in targets.items():
        scheduler = build_noise_scheduler(schedule, prediction_type)
        torch.testing.assert_close(
            scheduler.add_noise(clean, noise, timesteps), a * clean + s * noise, atol=2e-5, rtol=1e-4
        )
        target = prediction_target(scheduler, clean, noise, timesteps)
        torch.testing.assert_close(target, expected, atol=2e-5, rtol=1e-4)


def test_at_the_last_timestep_only_noise_is_left():
    assert build_noise_scheduler().alphas_cumprod[-1] < 1e-6


def test_losses_against_numpy_and_scipy():
    prediction, target = torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(0)).double()
    difference = (prediction - target).numpy()
    expected = {
        ("l2", 1.0): difference**2,
        ("l1", 1.0): np.abs(difference),
        ("huber", 1.0): huber(1.0, difference),
        ("huber", 0.1): huber(0.1, difference),
    }
    for (loss_type, delta), values in expected.items():
        loss = loss_per_image(prediction, target, loss_type, delta)
        np.testing.assert_allclose(loss, values.mean((1, 2, 3)), rtol=1e-6)


def test_min_snr_weights_agree_across_targets():
    """The same x_0 error must weigh the same whatever the target: ε error = SNR · x_0 error, v error = (SNR + 1) · it."""
    timesteps = torch.tensor([5, 100, 500, 900])
    alpha_bar = torch.from_numpy(cosine_alpha_bar()[timesteps])
    snr = alpha_bar / (1 - alpha_bar)
    on_clean = snr.clamp(max=5)
    for prediction_type, factor in (("sample", torch.ones(4)), ("epsilon", snr), ("v_prediction", snr + 1)):
        weights = min_snr_weights(build_noise_scheduler(prediction_type=prediction_type), timesteps, 5.0)
        torch.testing.assert_close(weights.double() * factor, on_clean, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("widths", [(64,), (32, 64), (16, 32, 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_unshuffling_leaves_14_pixels_that_can_be_halved_and_no_more_channels_than_the_last_layer_tells_apart(
    widths, channels
):
    for size in range(14, 257):
        factor = unshuffle_factor(size, channels, widths)
        allowed = [
            f
            for f in (1, 2, 4, 8, 16)
            if size % (f * 2 ** (len(widths) - 1)) == 0 and size / f >= 14 and channels * f**2 <= widths[0]
        ]
        assert factor == max(allowed, default=1)
    assert [unshuffle_factor(size, 1, (32, 64)) for size in (28, 64, 128, 224)] == [2, 4, 4, 4]


# Batches


@pytest.fixture(scope="module")
def split(small_npz):
    return load_dataset(str(small_npz)).train


def make_batches(split, **options):
    return TrainingBatches(split, 32, seed=3, num_train_timesteps=1000, null_label=4, **options)


def test_every_image_once_an_epoch(split):
    batches = make_batches(split)  # 240 images, 32 a batch: 7.5 batches an epoch
    rows = np.concatenate([batches.indices(number) for number in range(15)])
    for epoch in (rows[:240], rows[240:]):
        assert sorted(epoch) == list(range(240))
    assert list(rows[:240]) != list(rows[240:])


def test_a_batch_is_a_function_of_its_number(split):
    forwards, backwards = make_batches(split, random_shift=2), make_batches(split, random_shift=2)
    first = [forwards[number] for number in range(12)]
    second = [backwards[number] for number in reversed(range(12))][::-1]
    for a, b in zip(first, second, strict=True):
        for name in ("images", "labels", "noise", "timesteps"):
            assert torch.equal(getattr(a, name), getattr(b, name))
    assert not torch.equal(first[0].noise, first[1].noise)


def test_processes_share_the_global_batch(split):
    whole = make_batches(split, random_shift=1)[5]
    parts = [make_batches(split, random_shift=1, rank=rank, world_size=2)[5] for rank in range(2)]
    for name in ("images", "labels", "noise", "timesteps"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(whole, name))


def test_timesteps_are_normal_in_log_snr(split):
    """Against the normal distribution itself (Kolmogorov–Smirnov), and every batch covers it evenly."""
    levels = log_snr(build_noise_scheduler())
    batches = TrainingBatches(split, 64, 0, 1000, 4, log_snr=levels)
    drawn = torch.stack([batches[number].timesteps for number in range(60)])
    assert kstest(levels[drawn.flatten()].numpy(), norm(LOG_SNR_MEAN, LOG_SNR_STD).cdf).statistic < 0.02
    medians = levels[drawn].median(1).values
    assert (medians - LOG_SNR_MEAN).abs().max() < 0.25  # of independent draws the median would vary by ± 0.47
    assert len({tuple(row.tolist()) for row in drawn}) == 60


def test_muon_takes_the_hidden_kernels_and_orthogonalizes_them():
    """One step from rest changes each kernel, as a matrix, by learning rate × a matrix with all singular values about 1."""
    torch.manual_seed(0)
    unet = build_unet(28, 1, 4, (16, 32))
    adamw, muon = build_optimizers(unet, "muon", 1e-3, 0.02, 0.0)
    before = {name: parameter.detach().clone() for name, parameter in unet.named_parameters()}
    images, labels = torch.randn(8, 4, 14, 14), torch.arange(8) % 4
    (unet(images, torch.arange(8) * 100, class_labels=labels).sample - images).square().mean().backward()
    for optimizer in (adamw, muon):
        optimizer.step()
        optimizer.zero_grad()
    assert all(parameter.grad is None for parameter in unet.parameters())
    assert all(
        not torch.equal(parameter, before[name]) for name, parameter in unet.named_parameters() if parameter.ndim == 4
    )
    name = "down_blocks.0.resnets.0.conv1.weight"
    change = (dict(unet.named_parameters())[name] - before[name]).flatten(1) / 0.02
    values = torch.linalg.svdvals(change.float())
    assert values.min() > 0.5
    assert values.max() < 1.5
    (only,) = build_optimizers(unet, "adamw", 1e-3, 0.02, 0.0)
    assert len(only.param_groups[0]["params"]) == len(list(unet.parameters()))


def test_muon_does_what_torchs_does_but_for_its_rounding():
    """torch.optim.Muon takes matrices and orthogonalizes in bfloat16, which has a relative error of 2^-8."""
    torch.manual_seed(0)
    kernels = [torch.nn.Parameter(torch.randn(shape)) for shape in ((8, 4, 3, 3), (8, 4, 3, 3), (16, 8, 1, 1))]
    matrices = [torch.nn.Parameter(kernel.detach().flatten(1).clone()) for kernel in kernels]
    before = [kernel.detach().flatten(1).clone() for kernel in kernels]
    ours, theirs = KernelMuon(kernels, 0.1, 0.01), torch.optim.Muon(matrices, 0.1, 0.01)
    for _ in range(4):
        for kernel, matrix in zip(kernels, matrices, strict=True):
            kernel.grad = torch.randn_like(kernel)
            matrix.grad = kernel.grad.flatten(1)
        ours.step()
        theirs.step()
    for kernel, matrix, start in zip(kernels, matrices, before, strict=True):
        assert (kernel.flatten(1) - matrix).norm() < 0.02 * (matrix - start).norm()


def test_label_dropout_has_its_share(split):
    dropped = [(make_batches(split, label_dropout=0.3)[number].labels == 4).float().mean() for number in range(200)]
    assert np.mean(dropped) == pytest.approx(0.3, abs=0.02)
    assert (make_batches(split, label_dropout=0.0)[0].labels < 4).all()


def test_class_balanced_batches(split):
    batches = make_batches(split, class_balanced=True, label_dropout=0.0)
    labels = torch.cat([batches[number].labels for number in range(100)])
    np.testing.assert_allclose(np.bincount(labels) / len(labels), 0.25, atol=0.03)


def test_augmentation_shifts_only_by_so_much(split):
    shifted, plain = make_batches(split, random_shift=1)[0].images, make_batches(split)[0].images
    assert not torch.equal(shifted, plain)
    padded = torch.nn.functional.pad(plain, (1, 1, 1, 1), mode="replicate")
    for image, source in zip(shifted, padded, strict=True):
        windows = [source[:, y : y + 28, x : x + 28] for y in range(3) for x in range(3)]
        assert any(torch.equal(image, window) for window in windows)


# Configuration


def test_yaml_and_command_line_together(tmp_path):
    (tmp_path / "c.yaml").write_text("dataset: phantom\nlearning_rate: 0.005\nmax_train_steps: 7\nloss_type: huber\n")
    config = parse_config(["--config", str(tmp_path / "c.yaml"), "--output_dir", "x", "--max_train_steps", "9"])
    assert (config.dataset, config.learning_rate, config.max_train_steps) == ("phantom", 0.005, 9)
    assert (config.loss_type, config.max_train_minutes) == ("huber", None)


@pytest.mark.parametrize("path", sorted((ROOT / "training" / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_committed_configurations_are_valid(path):
    parse_config(["--config", str(path), "--dataset", "phantom", "--output_dir", "x"])


def test_a_budget_on_the_command_line_replaces_that_of_the_file():
    path = ROOT / "training" / "configs" / "default.yaml"
    config = parse_config(
        ["--config", str(path), "--dataset", "phantom", "--output_dir", "x", "--max_train_steps", "9"]
    )
    assert (config.max_train_steps, config.max_train_minutes) == (9, None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("block_out_channels: 32", "--block_out_channels is 32"),
        ("label_dropout: null", "--label_dropout is None"),
        ("layers_per_block: 1.5", "--layers_per_block is 1.5"),
        ("loss_type: l3", "'l2', 'l1' or 'huber'"),
    ],
)
def test_wrong_types_in_yaml(line, message, tmp_path, cli_error):
    (tmp_path / "c.yaml").write_text(line + "\n")
    assert message in cli_error(
        "train", "--dataset", "phantom", "--output_dir", str(tmp_path / "x"), "--config", str(tmp_path / "c.yaml")
    )


def test_a_bare_no_in_yaml_is_a_precision(tmp_path):
    (tmp_path / "c.yaml").write_text("mixed_precision: no\n")
    arguments = ["--dataset", "phantom", "--output_dir", "x", "--config", str(tmp_path / "c.yaml")]
    assert parse_config(arguments).mixed_precision == "no"


def test_default_configuration_writes_out_the_defaults():
    arguments = ["--dataset", "phantom", "--output_dir", "x"]
    path = ROOT / "training" / "configs" / "default.yaml"
    assert parse_config(["--config", str(path), *arguments]) == parse_config(arguments)


def test_no_budget_means_twenty_minutes():
    assert parse_config(["--dataset", "phantom", "--output_dir", "x"]).max_train_minutes == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "phantom"], "--output_dir is needed"),
        (["--output_dir", "x"], "--dataset is needed"),
        (["--learning_rate", "-1"], "above 0"),
        (["--learning_rate", "nan"], "a finite number"),
        (["--max_train_minutes", "inf"], "a finite number"),
        (["--label_dropout", "1.5"], "share in 0 … 1"),
        (["--block_out_channels", "30"], "multiples of 8"),
        (["--block_out_channels", "0"], "multiples of 8"),
        (["--seed", "-1"], "is possible"),
        (["--seed", str(2**40)], "is possible"),
        (["--layers_per_block", str(10**8)], "1 … 32 is possible"),
        (["--num_train_timesteps", str(10**10)], "10 … 100000 is possible"),
        (["--num_train_timesteps", "3"], "10 … 100000 is possible"),
        (["--report_to", "nothing_such"], "installed trackers are"),
        (["--mixed_precision", "fp16"], "use bf16, or --optimizer adamw"),
        (["--max_train_steps", "5", "--num_train_epochs", "2"], "only one of"),
        (["--config", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        (["--block_out_channels", "16", "32", "32", "32", "--max_train_steps", "1"], "cannot be divided by 8"),
    ],
)
def test_bad_settings(arguments, message, cli_error, tmp_path):
    base = [] if message.endswith("is needed") else ["--dataset", "phantom", "--output_dir", str(tmp_path / "x")]
    assert message in cli_error("train", *base, *arguments)
    assert not (tmp_path / "x" / "pipeline").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [("[" * 3000, "cannot be read as YAML"), ("block_out_channels: &a [*a]", "one value, or a list of them")],
    ids=["deep", "holds itself"],
)
def test_yaml_without_end(text, message, tmp_path, cli_error):
    (tmp_path / "x.yaml").write_text(text)
    arguments = ["--dataset", "phantom", "--output_dir", str(tmp_path / "x"), "--config", str(tmp_path / "x.yaml")]
    assert message in cli_error("train", *arguments)


def test_unknown_setting_in_yaml_names_the_nearest(tmp_path, cli_error):
    (tmp_path / "c.yaml").write_text("learning_rat: 0.1\n")
    assert "Did you mean 'learning_rate'?" in cli_error("train", "--config", str(tmp_path / "c.yaml"))


# Loss log


def row(step, loss, **more):
    return {"step": float(step), "seconds": 1.0, "loss": loss, **more}


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 50.0])
def test_nan_and_exploding_losses_end_the_run(loss):
    log = LossLog(None)
    log.append(row(1, 1.0))
    with pytest.raises(TrainingDivergedError, match=r"at step 2.*checkpoints written before are kept"):
        log.append(row(2, loss))


def test_memorization_warning_needs_both_signs():
    def log_of(*pairs):
        log = LossLog(None)
        for step, (train, val) in enumerate(pairs):
            log.append(row(step, 1.0, train_loss_fixed=train, val_loss=val))
        return log.memorizing()

    assert log_of((0.10, 0.11), (0.08, 0.10)) is None
    assert log_of((0.10, 0.10), (0.05, 0.10)) is None  # parted, but the held-out loss has not risen
    assert "begins to memorize" in log_of((0.10, 0.10), (0.05, 0.13))


# Runs


def test_a_run_leaves_all_its_files(trained_run):
    for name in (
        "loss.csv", "loss.png", "training_config.yaml", "samples/step_00000060.png", "pipeline/README.md",
        "pipeline/pipeline.py", "pipeline/model_index.json", "pipeline/training_config.yaml", "pipeline/loss.png",
        "pipeline/samples.png", "pipeline_best/unet/diffusion_pytorch_model.safetensors",
    ):  # fmt: skip
        assert (trained_run / name).is_file(), name
    assert [path.name for path in sorted((trained_run / "checkpoints").iterdir())] == [
        "step_00000030",
        "step_00000060",
    ]
    assert not [path for path in trained_run.rglob("*") if ".tmp" in path.name]
    with (trained_run / "loss.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["step"]) for row in rows] == [10, 20, 30, 40, 50, 60]
    assert [bool(row["val_loss"]) for row in rows] == [False, True, False, True, False, True]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])


def test_saved_configuration_trains_again_and_names_no_machine(trained_run, small_npz):
    text = (trained_run / "pipeline" / "training_config.yaml").read_text()
    assert str(small_npz.parent) not in text
    assert yaml.safe_load(text)["block_out_channels"] == [16, 32]
    parse_config(["--config", str(trained_run / "training_config.yaml"), "--output_dir", "x"])


def test_ema_moved_and_differs_from_the_raw_weights(trained_run):
    checkpoint = newest_checkpoint(trained_run / "checkpoints")
    raw = load_file(checkpoint / "model.safetensors")
    ema = UNet2DModel.from_pretrained(checkpoint / "unet_ema").state_dict()
    published = UNet2DModel.from_pretrained(trained_run / "pipeline" / "unet").state_dict()
    torch.manual_seed(0)
    start = build_unet(28, 1, 4, (16, 32)).state_dict()
    name = "mid_block.resnets.0.conv1.weight"
    assert torch.equal(published[name], ema[name])
    assert not torch.allclose(ema[name], raw[name])
    assert not torch.allclose(ema[name], start[name])


def test_stopped_and_resumed_equals_never_stopped(trained_run, small_npz, tmp_path, capsys):
    """Stopped after 30 of 60 steps: simulated by removing everything that came after the checkpoint of step 30."""
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    shutil.rmtree(run / "checkpoints" / "step_00000060")
    shutil.rmtree(run / "pipeline")
    assert cli.main(["train", *small_training(small_npz, run), "--max_train_steps", "60"]) == 0
    assert "Resuming at step 30" in capsys.readouterr().out
    weights = "unet/diffusion_pytorch_model.safetensors"
    assert (run / "pipeline" / weights).read_bytes() == (trained_run / "pipeline" / weights).read_bytes()
    ours, theirs = (read_loss_csv(path / "loss.csv") for path in (run, trained_run))
    timing = ("seconds", "images_per_second")
    strip = [[{k: v for k, v in row.items() if k not in timing} for row in rows] for rows in (ours, theirs)]
    assert strip[0] == strip[1]


def test_a_finished_run_is_left_as_it_is(trained_run, small_npz, tmp_path, capsys):
    """The same command again must not replace what was evaluated since."""
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    (run / "pipeline" / "metrics.json").write_text("{}")
    assert cli.main(["train", *small_training(small_npz, run), "--max_train_steps", "60"]) == 0
    assert "trained already (60 steps)" in capsys.readouterr().out
    assert (run / "pipeline" / "metrics.json").is_file()


def test_another_global_batch_does_not_resume(trained_run, small_npz, tmp_path, cli_error):
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    state = run / "checkpoints" / "step_00000060" / "state.json"
    values = json.loads(state.read_text())
    state.write_text(json.dumps({**values, "images_a_step": 32}))
    manifest = state.with_name("manifest.json")
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "state.json": file_hash(state)}))
    error = cli_error("train", *small_training(small_npz, run), "--max_train_steps", "90")
    assert "32 images a step" in error


def test_a_card_of_a_run_without_its_leaks_can_be_made(tmp_path, monkeypatch):
    """What is evaluated is the set as it is given, with or without --drop_leaks in training."""
    monkeypatch.setattr(classifier, "STEPS", 40)  # three of them, with a name of their own in the cache
    monkeypatch.setattr(classifier, "RECIPE", "short")
    arrays = phantom.make_phantom(counts={"train": 240, "val": 80, "test": 80})
    arrays["val_images"][:3] = arrays["train_images"][:3]
    data = tmp_path / "leaky.npz"
    write_npz(data, arrays)
    run = tmp_path / "run"
    assert cli.main(["train", *small_training(data, run), "--max_train_steps", "5", "--drop_leaks", "true"]) == 0
    assert json.loads((run / "pipeline" / "training_summary.json").read_text())["dropped_leaks"] == 3
    assert cli.main(["evaluate", str(run / "pipeline"), "--dataset", str(data), "--features", "texture", "--num_images",
                     "80", "--num_inference_steps", "3"]) == 0  # fmt: skip
    assert cli.main(["card", str(run / "pipeline")]) == 0
    assert "3 that also stand in val or test were removed" in (run / "pipeline" / "README.md").read_text()


def test_a_damaged_checkpoint_is_named_and_passed_over(trained_run, small_npz, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(trained_run, run)
    optimizer = run / "checkpoints" / "step_00000060" / "optimizer.bin"
    optimizer.write_bytes(optimizer.read_bytes()[:-100])
    assert newest_checkpoint(run / "checkpoints").name == "step_00000030"
    assert "step_00000060 is damaged" in capsys.readouterr().out


def test_other_settings_do_not_resume(trained_run, small_npz, cli_error):
    arguments = small_training(small_npz, trained_run)
    error = cli_error("train", *arguments, "--max_train_steps", "60", "--learning_rate", "0.5")
    assert "learning_rate: 0.004 → 0.5" in error


def test_diverging_training_keeps_the_last_checkpoint(small_npz, tmp_path, cli_error):
    run = tmp_path / "run"
    arguments = [*small_training(small_npz, run), "--max_train_steps", "60", "--max_grad_norm", "1e9",
                 "--checkpointing_steps", "5", "--logging_steps", "5", "--validation_steps", "500"]  # fmt: skip
    error = cli_error("train", *arguments, "--learning_rate", "1e4", code=3)
    assert "training diverged" in error
    assert not (run / "pipeline").exists()


def test_minutes_as_a_budget(small_npz, tmp_path):
    run = tmp_path / "run"
    arguments = [*small_training(small_npz, run), "--max_train_minutes", "0.1", "--logging_steps", "1"]
    assert cli.main(["train", *arguments]) == 0
    summary = json.loads((run / "pipeline" / "training_summary.json").read_text())
    assert 6 <= summary["seconds"] < 60
    assert summary["step"] > 10
    assert read_loss_csv(run / "loss.csv")[-1]["learning_rate"] < 0.004 * 0.2  # decayed to its end in the time given


def test_gradient_accumulation_equals_the_large_batch(small_npz, tmp_path):
    """Two halves of 8 a step and one batch of 16 see the same images; without momentum's memory one step compares."""
    losses = []
    for name, extra in (("one", ["--train_batch_size", "16"]),
                        ("two", ["--train_batch_size", "8", "--gradient_accumulation_steps", "2"])):  # fmt: skip
        run = tmp_path / name
        arguments = [*small_training(small_npz, run), "--max_train_steps", "30", *extra]
        assert cli.main(["train", *arguments]) == 0
        assert json.loads((run / "pipeline" / "training_summary.json").read_text())["images_seen"] == 480
        losses.append(read_loss_csv(run / "loss.csv")[-1]["loss"])
    assert losses[0] == pytest.approx(losses[1], rel=0.2)


@pytest.mark.parametrize("optimizer", [pytest.param("adamw", marks=pytest.mark.slow), "muon"])
def test_two_processes_really_run_and_agree_with_one(optimizer, small_npz, tmp_path):
    """The same global batch: 2 × 8 under accelerate launch against 1 × 16; what differs is the order of float32 sums."""
    weights, losses = [], []
    for name, launch, batch in (
        ("one", [], "16"),
        ("two", ["-m", "accelerate.commands.launch", "--config_file", str(LAUNCHES / "two_cpu_processes.yaml")], "8"),
    ):
        arguments = [
            *small_training(small_npz, tmp_path / name), "--max_train_steps", "20", "--train_batch_size", batch,
            "--optimizer", optimizer,
        ]  # fmt: skip
        result = run_python(*launch, str(ROOT / "training" / "train.py"), *arguments, cwd=tmp_path)
        assert result.returncode == 0, result.stderr[-2000:]
        summary = json.loads((tmp_path / name / "pipeline" / "training_summary.json").read_text())
        assert summary["processes"] == (1 if name == "one" else 2)
        assert summary["images_seen"] == 320
        weights.append(load_file(tmp_path / name / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors"))
        losses.append(read_loss_csv(tmp_path / name / "loss.csv")[-1]["val_loss"])
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    for key, value in weights[0].items():
        torch.testing.assert_close(weights[1][key], value, rtol=1e-3, atol=1e-4)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the launcher's arguments are read from /proc")
def test_one_process_where_two_were_asked_for_is_an_error(small_npz, tmp_path):
    arguments = [*small_training(small_npz, tmp_path / "run"), "--max_train_steps", "5"]
    launch = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    result = run_python(*launch, str(ROOT / "training" / "train.py"), *arguments, cwd=tmp_path)
    assert result.returncode != 0
    assert "--multi_gpu --num_processes 2" in result.stderr


def test_the_same_seed_gives_the_same_weights(trained_run, small_npz, tmp_path):
    assert cli.main(["train", *small_training(small_npz, tmp_path / "again"), "--max_train_steps", "60"]) == 0
    weights = Path("pipeline/unet/diffusion_pytorch_model.safetensors")
    assert (tmp_path / "again" / weights).read_bytes() == (trained_run / weights).read_bytes()


@pytest.mark.slow
def test_two_machines_are_two_launchers_that_find_each_other(small_npz, tmp_path):
    """Two nodes of one process each, both on this machine: one run, of the same losses as two processes of one launcher."""
    arguments = [*small_training(small_npz, tmp_path / "nodes"), "--max_train_steps", "10", "--train_batch_size", "8"]
    configuration = tmp_path / "two_nodes.yaml"
    values = yaml.safe_load((LAUNCHES / "multi_node.yaml").read_text())
    configuration.write_text(yaml.safe_dump({**values, "num_processes": 2, "mixed_precision": "no"}))
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(configuration),
        "--machine_rank",
    ]
    nodes = [
        subprocess.Popen(
            [*launch, rank, str(ROOT / "training" / "train.py"), *arguments], stderr=subprocess.PIPE, text=True
        )
        for rank in ("0", "1")
    ]
    for node in nodes:
        _, errors = node.communicate(timeout=300)
        assert node.returncode == 0, errors[-2000:]
    summary = json.loads((tmp_path / "nodes" / "pipeline" / "training_summary.json").read_text())
    assert (summary["processes"], summary["images_seen"]) == (2, 160)
    one = [*small_training(small_npz, tmp_path / "one"), "--max_train_steps", "10"]
    assert cli.main(["train", *one]) == 0
    losses = [read_loss_csv(tmp_path / name / "loss.csv")[-1]["val_loss"] for name in ("nodes", "one")]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_launch_configurations_are_read_by_accelerate():
    said = {path.name: load_config_from_file(str(path)) for path in LAUNCHES.glob("*.yaml")}
    launches = {
        name: (config.distributed_type.value, config.num_machines, config.num_processes)
        for name, config in said.items()
    }
    assert launches == {
        "two_cpu_processes.yaml": ("MULTI_GPU", 1, 2),
        "bf16.yaml": ("NO", 1, 1),
        "multi_gpu.yaml": ("MULTI_GPU", 1, 4),
        "multi_node.yaml": ("MULTI_GPU", 2, 8),
    }


# Conditioning


def test_labels_decide_what_is_generated(tmp_path):
    """Two classes that differ in brightness alone, bright and dark: a model that ignored labels would mix them."""
    from medmnist_diffusion.data.npz import write_npz

    rng, arrays = np.random.default_rng(0), {}
    for name, count in (("train", 256), ("val", 64), ("test", 64)):
        labels = np.arange(count) % 2
        base = np.where(labels == 0, 60, 190)[:, None, None]
        arrays[f"{name}_images"] = (base + rng.normal(0, 8, (count, 16, 16))).clip(0, 255).astype(np.uint8)
        arrays[f"{name}_labels"] = labels[:, None].astype(np.uint8)
    write_npz(tmp_path / "bright.npz", arrays)
    arguments = small_training(tmp_path / "bright.npz", tmp_path / "run")
    assert cli.main(["train", *arguments, "--max_train_steps", "250", "--train_batch_size", "32"]) == 0
    pipe = load_pipeline(tmp_path / "run" / "pipeline")
    pipe.set_progress_bar_config(disable=True)
    labels = np.repeat([0, 1], 32)
    brightness = generate(pipe, labels, num_inference_steps=10).mean((1, 2, 3))
    assert ((brightness > 125) == (labels == 1)).mean() >= 0.95
