"""What benchmarks/time_to_quality.py compares: ways to train on the same images for the same time.

Each is a function `(images uint8 N×H×W×C, labels N, seconds, folder) → (sample, facts)`: `sample(n, seed)` gives uint8 images of
the trained model. The peers are unconditional, as their documentation sets them up; they get the faster of float32 and bfloat16
autocast on their own network, as ours does.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UNet2DModel
from diffusers.optimization import get_cosine_schedule_with_warmup
from diffusers.training_utils import EMAModel
from judging import drawn_labels, train_quietly
from torch.utils.flop_counter import FlopCounterMode

from medmnist_diffusion.data.dataset import to_model_range, to_uint8, without_grey_axis
from medmnist_diffusion.data.npz import write_npz
from medmnist_diffusion.diffusion.sampling import generate_images, load_pipeline
from medmnist_diffusion.training.config import read_config_file

Sample = Callable[[int, int], np.ndarray]
SAMPLE_BATCH = 64


def ours(images: np.ndarray, labels: np.ndarray, seconds: float, folder: Path) -> tuple[Sample, dict[str, Any]]:
    """Our defaults with a budget of so many seconds; 10 DPM-Solver++ steps, labels in the training images' shares."""
    arrays = {"train_images": without_grey_axis(images), "train_labels": labels[:, None]}
    for split in ("val", "test"):  # held-out losses are not looked at here, and no pipeline is chosen by them
        arrays |= {f"{split}_images": arrays["train_images"][-64:], f"{split}_labels": arrays["train_labels"][-64:]}
    write_npz(folder / "data.npz", arrays)
    budget = ["--max_train_minutes", str(seconds / 60)]
    pipeline, summary = train_quietly(str(folder / "data.npz"), folder / "run", budget)
    pipe = load_pipeline(pipeline)
    pipe.set_progress_bar_config(disable=True)
    precision = read_config_file(pipeline / "training_config.yaml")["mixed_precision"]

    def sample(n: int, seed: int) -> np.ndarray:
        return generate_images(pipe, drawn_labels(labels, n, seed), seed=seed)

    return sample, {
        "parameters": summary["parameters"],
        "precision": precision,
        "images_per_second": summary["images_seen"] / summary["seconds"],
        "steps_per_second": summary["step"] / summary["seconds"],
        "training_gflop_per_image": summary["training_gflop_per_image"],
        "sampler": "DPM-Solver++, 10 steps",
    }


def lucidrains(
    images: np.ndarray, labels: np.ndarray, seconds: float, folder: Path, immiscible: bool = False
) -> tuple[Sample, dict[str, Any]]:
    """denoising-diffusion-pytorch as its README sets it up (Adam 8e-5, batch 32 accumulated twice, EMA 0.995 every 10 steps), with
    dim 32 and three levels for small images, 50 DDIM steps; on request with its own coupling of a batch's images and noise."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet
    from ema_pytorch import EMA

    size = images.shape[1]
    torch.manual_seed(0)
    network = Unet(dim=32, dim_mults=(1, 2, 4), channels=images.shape[3])
    diffusion = GaussianDiffusion(
        network, image_size=size, timesteps=1000, sampling_timesteps=50, immiscible=immiscible
    )
    optimizer = torch.optim.Adam(diffusion.parameters(), lr=8e-5, betas=(0.9, 0.99))
    ema = EMA(diffusion, beta=0.995, update_every=10)
    pixels = to_model_range(images) / 2 + 0.5

    def step(dtype: torch.dtype | None, rng: np.random.Generator) -> None:
        for _ in range(2):
            with torch.autocast("cpu", dtype, enabled=dtype is not None):
                loss = diffusion(pixels[rng.integers(len(pixels), size=32)]) / 2
            loss.backward()
        torch.nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        ema.update()

    facts = _train_for(seconds, step, diffusion, 64)
    facts |= {
        "sampler": "its own DDIM, 50 steps",
        "training_gflop_per_image": _gflop(lambda: diffusion(pixels[:1]).backward()),
    }

    def sample(n: int, seed: int) -> np.ndarray:
        torch.manual_seed(seed)
        blocks = [ema.ema_model.sample(batch_size=min(SAMPLE_BATCH, n - at)) for at in range(0, n, SAMPLE_BATCH)]
        return to_uint8(torch.cat(blocks) * 2 - 1)

    return sample, facts


def diffusers_example(
    images: np.ndarray, labels: np.ndarray, seconds: float, folder: Path
) -> tuple[Sample, dict[str, Any]]:
    """A stand-in for diffusers' unconditional training example: its UNet, AdamW, cosine rate with 500 warm-up steps, batch 16,
    EMA, epsilon, 1,000 linear steps; images padded to 32 pixels. Judged by `_by_solver`."""
    size, channels = images.shape[1], images.shape[3]
    pad = -size % 32
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=size + pad,
        in_channels=channels,
        out_channels=channels,
        layers_per_block=2,
        block_out_channels=(128, 128, 256, 256, 512, 512),
        down_block_types=("DownBlock2D",) * 4 + ("AttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "AttnUpBlock2D") + ("UpBlock2D",) * 4,
    )
    scheduler = DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear")
    optimizer = torch.optim.AdamW(unet.parameters(), lr=1e-4, betas=(0.95, 0.999), weight_decay=1e-6, eps=1e-8)
    rate = get_cosine_schedule_with_warmup(
        optimizer, 500, 100 * len(images) // 16
    )  # its 100 epochs, whatever the time allows
    ema = EMAModel(unet.parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0, power=3 / 4)
    pixels = F.pad(to_model_range(images), (pad // 2, pad - pad // 2) * 2, mode="replicate")

    loss_of = _noise_loss(
        pixels, lambda clean, noise, timesteps: unet(scheduler.add_noise(clean, noise, timesteps), timesteps).sample
    )

    def step(dtype: torch.dtype | None, rng: np.random.Generator) -> None:
        loss_of(rng.integers(len(pixels), size=16), dtype).backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        rate.step()
        optimizer.zero_grad()
        ema.step(unet.parameters())

    facts = _train_for(seconds, step, unet, 16)
    facts["training_gflop_per_image"] = _gflop(lambda: loss_of(np.arange(1), None).backward())
    ema.copy_to(unet.parameters())
    unet.eval()
    draw, own_speed = _by_solver(lambda latents, timesteps: unet(latents, timesteps).sample, tuple(pixels.shape[1:]))

    def sample(n: int, seed: int) -> np.ndarray:
        return to_uint8(draw(n, seed)[..., pad // 2 : pad // 2 + size, pad // 2 : pad // 2 + size])

    return sample, facts | own_speed


def monai_tutorial(
    images: np.ndarray, labels: np.ndarray, seconds: float, folder: Path
) -> tuple[Sample, dict[str, Any]]:
    """MONAI's 2D DDPM tutorial: its network (128, 256 and 256 channels, attention in two levels), inferer and 1,000 linear steps,
    Adam 2.5e-5, batch 128, pixels in 0 … 1, no average of the weights; without its augmentation by turns and shifts. Judged by
    `_by_solver`."""
    from monai.inferers import DiffusionInferer
    from monai.networks import schedulers
    from monai.networks.nets import DiffusionModelUNet

    channels = images.shape[3]
    torch.manual_seed(0)
    network = DiffusionModelUNet(
        spatial_dims=2, in_channels=channels, out_channels=channels, channels=(128, 256, 256),
        attention_levels=(False, True, True), num_res_blocks=1, num_head_channels=256,
    )  # fmt: skip
    inferer = DiffusionInferer(schedulers.DDPMScheduler(num_train_timesteps=1000))
    optimizer = torch.optim.Adam(network.parameters(), lr=2.5e-5)
    pixels = to_model_range(images) / 2 + 0.5

    loss_of = _noise_loss(pixels, lambda clean, noise, timesteps: inferer(clean, network, noise, timesteps))

    def step(dtype: torch.dtype | None, rng: np.random.Generator) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_of(rng.integers(len(pixels), size=128), dtype).backward()
        optimizer.step()

    facts = _train_for(seconds, step, network, 128)
    facts["training_gflop_per_image"] = _gflop(lambda: loss_of(np.arange(1), None).backward())
    network.eval()
    draw, own_speed = _by_solver(
        lambda latents, timestep: network(latents, timesteps=timestep.expand(len(latents))), tuple(pixels.shape[1:])
    )
    return lambda n, seed: to_uint8(draw(n, seed) * 2 - 1), facts | own_speed


def _noise_loss(
    pixels: torch.Tensor, predict: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
) -> Callable[[np.ndarray, torch.dtype | None], torch.Tensor]:
    """The squared error in the noise of so many rows of the images, each at one of 1,000 levels, in a precision."""

    def loss_of(rows: np.ndarray, dtype: torch.dtype | None) -> torch.Tensor:
        clean = pixels[rows]
        noise, timesteps = torch.randn_like(clean), torch.randint(1000, (len(rows),))
        with torch.autocast("cpu", dtype, enabled=dtype is not None):
            prediction = predict(clean, noise, timesteps)
        return F.mse_loss(prediction.float(), noise)

    return loss_of


def _by_solver(
    predict: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], shape: tuple[int, ...]
) -> tuple[Callable[[int, int], torch.Tensor], dict[str, Any]]:
    """`draw(n, seed)` of a network that predicts the noise of 1,000 linear steps, by 20 DPM-Solver++ steps, since its own
    1,000 DDPM steps would take hours; the speed of these is measured on a few."""
    solver = DPMSolverMultistepScheduler.from_config(
        DDPMScheduler(num_train_timesteps=1000, beta_schedule="linear").config,
        timestep_spacing="trailing",
        use_lu_lambdas=True,
    )

    @torch.no_grad()
    def denoise(count: int, steps: int) -> torch.Tensor:
        solver.set_timesteps(20)
        latents = torch.randn(count, *shape)
        for timestep in solver.timesteps[:steps]:
            latents = solver.step(predict(latents, timestep), timestep, latents).prev_sample
        return latents

    def draw(n: int, seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.cat([denoise(min(SAMPLE_BATCH, n - at), 20) for at in range(0, n, SAMPLE_BATCH)])

    denoise(SAMPLE_BATCH, 1)
    began = time.monotonic()
    denoise(SAMPLE_BATCH, 4)
    return draw, {
        "sampler": "DPM-Solver++, 20 steps (its own: DDPM, 1,000)",
        "own_sampling_images_per_second": SAMPLE_BATCH * 4 / (time.monotonic() - began) / 1000,
    }


def _train_for(
    seconds: float,
    step: Callable[[torch.dtype | None, np.random.Generator], None],
    model: torch.nn.Module,
    images_a_step: int,
) -> dict[str, Any]:
    """Run steps for so many seconds, in the precision that a trial of two steps each finds faster (the trial counts)."""
    rng, began, steps = np.random.default_rng(0), time.monotonic(), 0
    trial: dict[torch.dtype | None, float] = {}
    for dtype in (None, torch.bfloat16):
        for _ in range(2):
            start = time.monotonic()
            step(dtype, rng)
            trial[dtype] = time.monotonic() - start
    fastest = min(trial, key=lambda dtype: trial[dtype])
    while time.monotonic() - began < seconds:
        step(fastest, rng)
        steps += 1
    elapsed = time.monotonic() - began
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "precision": "no" if fastest is None else "bf16",
        "images_per_second": (steps + 4) * images_a_step / elapsed,
        "steps_per_second": (steps + 4) / elapsed,
    }


def _gflop(run: Callable[[], Any]) -> float:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 1e9


CONTENDERS: dict[str, Callable[[np.ndarray, np.ndarray, float, Path], tuple[Sample, dict[str, Any]]]] = {
    "ours": ours,
    "denoising-diffusion-pytorch": lucidrains,
    "denoising-diffusion-pytorch, immiscible": partial(lucidrains, immiscible=True),
    "diffusers example": diffusers_example,
    "MONAI tutorial": monai_tutorial,
}
