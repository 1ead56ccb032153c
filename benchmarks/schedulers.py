"""Which of diffusers' schedulers make right images: all of them, in three precisions, plain, with `fast_timesteps`, from an image.

    python benchmarks/schedulers.py

The network is exact: `KnownImages` returns the best prediction for images that are 16 known phantom images a class, blurred by
a little noise, so that the end of sampling is known. Nothing that a training missed can hide a solver's fault. A scheduler is
right where the mean, the spread over images and the grain (differences of neighbouring pixels) are within 2 grey levels of
DDIM's in 1,000 steps from the same noise. Where it is not with its default number of steps, options are tried one after another.
"""

import argparse
import inspect
import json
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import SchedulerMixin, UNet2DModel
from diffusers.models.unets.unet_2d import UNet2DOutput

from medmnist_diffusion.data import phantom
from medmnist_diffusion.diffusion.unet import build_noise_scheduler
from medmnist_diffusion.errors import one_line, run_command
from medmnist_diffusion.files import write_json, write_text
from medmnist_diffusion.pipelines import ClassConditionalDDPMPipeline, PixelUnshuffle, class_conditional_ddpm

RESULT = Path(__file__).parent / "results" / "schedulers.json"
PAGE = Path(__file__).parents[1] / "docs" / "schedulers.md"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
HOW = ("plain", "fast_timesteps", "strength")
TRIES: tuple[tuple[int, dict[str, Any]], ...] = (
    (20, {}), (20, {"use_karras_sigmas": True}), (20, {"skip_prk_steps": True}), (50, {"use_karras_sigmas": True}),
    (50, {"skip_prk_steps": True}), (50, {}), (100, {}),
)  # fmt: skip
TOLERANCE = 2.0  # grey levels
IMAGES = 16  # known ones a class
NOISE = 0.08  # their standard deviation, of −1 … 1
FACTOR = 2  # pixel-unshuffle


class KnownImages(UNet2DModel):
    """The exact velocity for images that are known ones plus normal noise, N(m_k, s²) for a k drawn evenly: Bayes' theorem.

    E[x₀|x] = Σ p_k(x) (m_k + α s² / (α² s² + σ²) · (x − α m_k)), p_k ∝ exp(−|x − α m_k|² / 2(α² s² + σ²)).
    """

    def known(self, images: torch.Tensor, alphas_cumprod: torch.Tensor) -> None:
        """Images K×k×D as the network sees them, for K classes."""
        self._images, self._log_snr = images.double(), torch.logit(alphas_cumprod.double())

    def forward(self, sample: Any, timestep: Any, class_labels: Any = None, return_dict: bool = True) -> UNet2DOutput:
        x, level = sample.double().flatten(1), torch.as_tensor(timestep).double()
        below = int(level.floor().clamp(0, len(self._log_snr) - 1))
        above = min(below + 1, len(self._log_snr) - 1)
        log_snr = torch.lerp(self._log_snr[below], self._log_snr[above], level - below)
        alpha, sigma = torch.sigmoid(log_snr).sqrt(), torch.sigmoid(-log_snr).sqrt()
        variance = alpha**2 * NOISE**2 + sigma**2
        clean = torch.empty_like(x)
        for label in class_labels.unique():
            rows, known = class_labels == label, self._images[label]
            distances = torch.cdist(x[rows], alpha * known) ** 2
            mean = torch.softmax(-distances / (2 * variance), 1) @ known
            clean[rows] = mean + alpha * NOISE**2 / variance * (x[rows] - alpha * mean)
        velocity = alpha * (x - alpha * clean) / sigma - sigma * clean
        return UNet2DOutput(sample=velocity.to(sample.dtype).reshape(sample.shape))


@cache
def known_images() -> torch.Tensor:
    """K×k×1×28×28 in −1 … 1, for K classes."""
    arrays = phantom.make_phantom(counts={"train": 400, "val": 8, "test": 8})
    labels = arrays["train_labels"][:, 0]
    rows = np.stack([np.flatnonzero(labels == label)[:IMAGES] for label in (0, 3)])
    return torch.from_numpy(arrays["train_images"][rows]).unsqueeze(2) / 127.5 - 1


def known_pipeline(dtype: torch.dtype = torch.float32) -> Any:
    """A pipeline with that network."""
    images = known_images()
    scheduler = build_noise_scheduler()
    network = KnownImages(
        sample_size=28 // FACTOR, in_channels=FACTOR**2, out_channels=FACTOR**2, down_block_types=("DownBlock2D",),
        up_block_types=("UpBlock2D",), block_out_channels=(8,), norm_num_groups=4, num_class_embeds=2,
    )  # fmt: skip
    encoded = PixelUnshuffle(FACTOR, images.shape[2:]).encode(images.flatten(0, 1)).reshape(len(images), IMAGES, -1)
    network.known(encoded, scheduler.alphas_cumprod)
    pipe: Any = ClassConditionalDDPMPipeline(network.to(dtype), scheduler, {0: "first", 1: "second"}, FACTOR, None)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stock_schedulers() -> list[str]:
    """All that diffusers exports."""
    kinds = {name: getattr(diffusers, name) for name in dir(diffusers) if name.endswith("Scheduler")}
    return [name for name, kind in kinds.items() if inspect.isclass(kind) and issubclass(kind, SchedulerMixin)]


def figures(name: str, how: str, steps: int, options: dict[str, Any], dtype: torch.dtype, count: int) -> np.ndarray:
    """Mean, spread over images, and grain, in grey levels, of `count` images of each class.

    Raises:
        Exception: whatever the scheduler, or our pipeline about it, has to say.
    """
    pipe, known = known_pipeline(dtype), known_images()
    kind = getattr(diffusers, name)
    if unknown := set(options) - set(inspect.signature(kind.__init__).parameters):
        raise ValueError(f"{name} has no option {min(unknown)}.")
    pipe.scheduler = kind.from_config(pipe.scheduler.config, **options)
    asked: dict[str, Any] = {"num_inference_steps": steps}
    if how == "fast_timesteps":
        asked = {"timesteps": pipe.fast_timesteps(steps)}
    if how == "strength":
        rng = torch.Generator().manual_seed(0)
        drawn = torch.arange(count) % IMAGES
        starts = known[:, drawn].flatten(0, 1) + NOISE * torch.randn(2 * count, 1, 28, 28, generator=rng)
        asked |= {"image": (starts / 2 + 0.5).clamp(0, 1), "strength": 0.6}
    images = pipe(
        class_labels=[0] * count + [1] * count, output_type="np", batch_size=1024,
        generator=[torch.Generator().manual_seed(seed) for seed in range(2 * count)], **asked,
    ).images * 255  # fmt: skip
    return np.array([images.mean(), images.std(0).mean(), np.abs(np.diff(images, axis=2)).mean()])


def tried(name: str, how: str, dtype: str, reference: np.ndarray, count: int, tries: Any = TRIES) -> dict[str, Any]:
    """The first of the tries that is right; else why none is."""
    why = ""
    for steps, options in tries:
        try:
            off = figures(name, how, steps, options, DTYPES[dtype], count) - reference
        except Exception as error:  # whatever diffusers raises
            why = why or one_line(error, 120) or type(error).__name__
            continue
        if np.abs(off).max() <= TOLERANCE:
            found = {"steps": steps, "options": options, "off_grey_levels": np.round(off, 2).tolist()}
            return {"scheduler": name, "how": how, "dtype": dtype, "right": True, **found}
        why = why or f"off by {np.abs(off).max():.1f} grey levels"
    return {"scheduler": name, "how": how, "dtype": dtype, "right": False, "why": why}


def all_tried(count: int, schedulers: Sequence[str]) -> Iterator[dict[str, Any]]:
    reference = {how: figures("DDIMScheduler", how, 1000, {}, torch.float32, count) for how in ("plain", "strength")}
    for name in schedulers:
        tries: Any = TRIES
        for how in HOW:
            for dtype in DTYPES:
                row = tried(name, how, dtype, reference["strength" if how == "strength" else "plain"], count, tries)
                if (how, dtype) == ("plain", "fp32") and not row["right"]:
                    tries = TRIES[:1]  # of a scheduler that is wrong in the simplest way not every option everywhere
                yield row


def page(rows: list[dict[str, Any]]) -> str:
    """docs/schedulers.md."""
    lines = [
        "# Schedulers",
        "",
        "Which of diffusers' schedulers (samplers) make right images with our networks. Made by `python benchmarks/schedulers.py`",
        "([figures](../benchmarks/results/schedulers.json)): the network is exact, the images known.",
        "",
        "*20* means: right with 20 steps, that is, within 2 grey levels of DDIM in 1,000 steps in mean, spread and grain. A",
        "larger number means that so many steps are needed; an option must be given to `from_config`. *no* means that no option",
        "helps, or that the scheduler refuses it. `fast_timesteps` are noise levels of our own choice",
        "(`pipe.fast_timesteps(20)`), `strength` is a start from an image. The pipeline refuses schedulers that are never right,",
        "and missing options, with one line.",
        "",
        "| scheduler | " + " | ".join(f"{how}, {dtype}" for how in HOW for dtype in DTYPES) + " |",
        "| --- |" + " --- |" * len(HOW) * len(DTYPES),
    ]
    refused = []
    for name in dict.fromkeys(row["scheduler"] for row in rows):
        own = [row for row in rows if row["scheduler"] == name]
        if any(row["right"] for row in own):
            lines.append(f"| {name} | " + " | ".join(map(_cell, own)) + " |")
        else:
            refused.append(name)
    lines += [
        "",
        f"Refused in every way: {', '.join(refused)}. They are made for other networks, or run the other way.",
        "",
    ]
    return "\n".join(lines)


def _cell(row: dict[str, Any]) -> str:
    options = ", ".join(f"`{name}={value}`" for name, value in row.get("options", {}).items())
    return f"{row['steps']}{', ' + options if options else ''}" if row["right"] else "no"


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=512, help="Images of each of two classes (default 512).")
    parser.add_argument(
        "--schedulers", nargs="+", default=stock_schedulers(), help="These alone; the file's other rows stay."
    )
    args = parser.parse_args(argv)
    diffusers.utils.logging.set_verbosity_error()
    # What the pipeline refuses is tried as well: that it is wrong must show here.
    class_conditional_ddpm.SCHEDULERS = tuple(stock_schedulers())
    class_conditional_ddpm.NEEDED_OPTIONS = class_conditional_ddpm.NEEDED_WITH_IMAGE = {}
    kept = json.loads(RESULT.read_text())["rows"] if RESULT.is_file() else []
    rows = [row for row in kept if row["scheduler"] not in args.schedulers]
    for row in all_tried(args.count, args.schedulers):
        rows.append(row)
        print(json.dumps(row), flush=True)
    rows.sort(key=lambda row: row["scheduler"])
    write_json(
        RESULT, {"command": "python benchmarks/schedulers.py", "diffusers": diffusers.__version__, "rows": rows}
    )
    write_text(PAGE, page(rows))


if __name__ == "__main__":
    sys.exit(run_command(main))
