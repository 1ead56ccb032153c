"""`medmnist-diffusion study loss`: which loss, which recipe? The source study's table, redone with floors, seeds and tests.

Four parts: `losses` (L1, L2 and Huber at equal optimizer steps), `waterfall` (from the source's own recipe to our default, one
change at a time, at equal time), `parameters` (one change at a time around the default, at equal time), `robustness` (the losses
on training images of which some are spoiled).
"""

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medmnist_diffusion.data import ImageDataset, load_dataset
from medmnist_diffusion.data.audit import add_dataset_arguments
from medmnist_diffusion.diffusion.machine import probe_precision, start_processes
from medmnist_diffusion.diffusion.unet import build_unet
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.metrics.inception import cached_weights
from medmnist_diffusion.studies.cells import (
    Arm,
    CellResult,
    Protocol,
    cell_config,
    finished_cell,
    run_cell,
    run_folder,
)
from medmnist_diffusion.studies.loss_report import PartResult, figures_of, write_report
from medmnist_diffusion.training.config import preset

PARTS = ("losses", "waterfall", "parameters", "robustness")
OFFLINE_PAIR = ("classifier", "texture")
LOSSES: dict[str, dict[str, Any]] = {
    "L1": {"loss_type": "l1"},
    "L2": {"loss_type": "l2"},
    "Huber, δ = 1": {"loss_type": "huber", "huber_delta": 1.0},
    "Huber, δ = 0.1": {"loss_type": "huber", "huber_delta": 0.1},
}
SNR_GAMMA = 5.0
NUM_IMAGES, FEW_IMAGES = (
    2100,
    500,
)  # more than 2,048 for that column; where only the offline pair is measured, fewer do
SECONDS_AN_IMAGE = {"inception": 0.3, "random": 0.05}  # on two cores, to plan with
SPOILED = (0.05, 0.2)
SOURCE = "source's recipe"
SOURCE_STEPS: dict[str, Any] = {"sampler": "ddpm", "num_inference_steps": 200}

# From the source's recipe to the default: each step adds its change to all before it. None: the default's own setting.
WATERFALL: tuple[tuple[str, dict[str, Any]], ...] = (
    ("+ no flips", {"random_flip": False}),
    ("+ 20 DPM-Solver++ steps", {}),  # sampling alone; see waterfall()
    ("+ T = 1000, cosine schedule", {"num_train_timesteps": 1000, "beta_schedule": "squaredcos_cap_v2"}),
    ("+ v-prediction", {"prediction_type": "v_prediction"}),
    ("+ L2 loss", {"loss_type": "l2"}),
    ("+ average of the weights", {"use_ema": True}),
    ("+ unshuffled images, small network", {"pixel_unshuffle": None, "attention": False, "layers_per_block": 1,
                                            "block_out_channels": None}),
    ("+ batch 64, rate that decays", {"train_batch_size": 64, "lr_scheduler": "cosine", "lr_warmup_steps": 100,
                                      "max_grad_norm": 1.0, "adam_weight_decay": 0.01, "learning_rate": 4e-3}),
    ("+ Muon", {"optimizer": "muon"}),
    ("+ noise levels by log SNR", {"timestep_sampling": "log_snr"}),
    ("+ label dropout", {"label_dropout": 0.1}),
)  # fmt: skip

# One change at a time around the default.
PARAMETERS: dict[str, dict[str, Any]] = {
    "target: epsilon": {"prediction_type": "epsilon"},
    "target: image": {"prediction_type": "sample"},
    "schedule: linear": {"beta_schedule": "linear"},
    "noise levels: uniform": {"timestep_sampling": "uniform"},
    "weighting: min-SNR 5": {"snr_gamma": SNR_GAMMA},
    "average: none": {"use_ema": False},
    "average: short": {"ema_decay": 0.99},
    "optimizer: AdamW": {"optimizer": "adamw"},
    "label dropout: none": {"label_dropout": 0.0},
    "batch: 128": {"train_batch_size": 128},
    "width: narrower": {"block_out_channels": [16, 32]},
    "width: wider": {"block_out_channels": [48, 64]},
}
SAMPLING: dict[str, dict[str, Any]] = {  # changes of sampling share the default's training
    "steps: 10": {"num_inference_steps": 10},
    "steps: 50": {"num_inference_steps": 50},
    "guidance: 1.5": {"guidance_scale": 1.5},
}


@dataclass(frozen=True)
class Part:
    """A group of arms under one protocol; `reference` is the arm that the others are compared with, None: all pairs."""

    name: str
    protocol: Protocol
    arms: tuple[Arm, ...]
    reference: str | None = None


def plan_parts(args: argparse.Namespace) -> list[Part]:
    """The parts that are asked for, most important first."""
    by_steps = {"max_train_steps": args.max_train_steps}
    by_time = {"max_train_minutes": args.max_train_minutes}
    few = min(args.num_images, FEW_IMAGES)
    pair = Protocol(base=by_time, features=OFFLINE_PAIR, num_images=few)
    parts = {
        "losses": Part(
            "losses",
            Protocol(base=by_steps, features=(*OFFLINE_PAIR, *args.features), num_images=args.num_images),
            tuple(Arm(name=name, options=options) for name, options in LOSSES.items()),
        ),
        "waterfall": Part("waterfall", pair, tuple(waterfall(preset("annotated"))), SOURCE),
        "parameters": Part("parameters", pair, tuple(parameters()), "default"),
        "robustness": Part(
            "robustness",
            Protocol(base=by_steps, features=OFFLINE_PAIR, num_images=few),
            tuple(
                Arm(name=f"{name}, {share:.0%} spoiled" if share else name, options=options, corrupted_share=share)
                for share in (0.0, *SPOILED)
                for name, options in LOSSES.items()
            ),
        ),
    }
    return [parts[name] for name in PARTS if name in args.parts]


def waterfall(source: dict[str, Any]) -> Iterator[Arm]:
    """The source's recipe, then each change on top of those before it. Its own 200 sampling steps are used until they change."""
    options, sampling = source, SOURCE_STEPS
    yield Arm(name=SOURCE, options=options, **sampling)
    for name, changes in WATERFALL:
        sampling = sampling if changes else {}
        options = {key: value for key, value in {**options, **changes}.items() if value is not None}
        yield Arm(name=name, options=options, **sampling)


def parameters() -> Iterator[Arm]:
    yield Arm(name="default")
    for name, options in PARAMETERS.items():
        yield Arm(name=name, options=options)
    for name, sampling in SAMPLING.items():
        yield Arm(name=name, **sampling)


def best_arm(part: Part, results: Sequence[CellResult]) -> Arm:
    """The arm with the lowest distance ÷ floor over the offline pair of spaces (geometric mean)."""

    def score(arm: Arm) -> float:
        ratios = [
            record.ratio
            for result in results
            for record in result.records
            if result.arm.name == arm.name and record.name == "frechet_distance" and record.extractor in OFFLINE_PAIR
        ]
        return float(np.mean(np.log([ratio for ratio in ratios if ratio]))) if any(ratios) else float("inf")

    return min(part.arms, key=score)


def best_with_min_snr(part: Part, results: Sequence[CellResult]) -> Arm:
    """The best loss with min-SNR weighting on top: which one it is, is known only after the others."""
    best = best_arm(part, results)
    return Arm(name=f"{best.name}, min-SNR", options={**best.options, "snr_gamma": SNR_GAMMA})


class Clock:
    """Expected seconds of a cell, by a trial of about two seconds for each network."""

    def __init__(self, dataset: ImageDataset) -> None:
        self.dataset = dataset
        self._speeds: dict[str, float] = {}

    def seconds(self, arm: Arm, protocol: Protocol) -> float:
        from medmnist_diffusion.training.train import unet_arguments

        config = cell_config(arm, 0, protocol, self.dataset, Path("unused"))
        network = unet_arguments(config, self.dataset)
        key = repr((network, config.train_batch_size))
        if key not in self._speeds:
            _, speeds = probe_precision(build_unet(**network), config.train_batch_size)
            self._speeds[key] = max(speeds.values(), default=10_000.0)
        speed = self._speeds[key]
        if config.max_train_minutes is not None:
            training = 60 * config.max_train_minutes
        else:
            training = 1.3 * (config.max_train_steps or 0) * config.train_batch_size / speed
        forward = protocol.num_images * arm.num_inference_steps * (2 if arm.guidance_scale != 1 else 1)
        features = sum(SECONDS_AN_IMAGE.get(name, 0.0) for name in protocol.features)
        return training + forward / (3 * speed) + features * protocol.num_images + 20


def run_study(folder: Path, parts: Sequence[Part], seeds: int, dataset: ImageDataset, budget: float | None) -> tuple[
    list[PartResult], list[str]
]:  # fmt: skip
    """All cells of all parts, seed by seed, as far as the budget (seconds) goes; and what was dropped for it."""
    clock, planned, dropped = Clock(dataset), 0.0, []
    kept: list[tuple[Part, list[tuple[Arm, int]]]] = []
    for part in parts:
        cells = [(arm, seed) for seed in range(seeds) for arm in part.arms]
        cost = sum(
            clock.seconds(arm, part.protocol)
            for arm, seed in cells
            if finished_cell(folder, arm, seed, part.protocol, dataset) is None
        )
        if part.name == "losses":
            cost *= 1 + 1 / len(part.arms)  # the best loss with min-SNR comes on top
        fits = budget is None or planned + cost <= budget
        print(
            f"{part.name}: {len(part.arms)} arms × {seeds} seeds, about {cost / 60:.0f} minutes{'' if fits else ': dropped'}"
        )
        if fits:
            kept.append((part, cells))
            planned += cost
        else:
            dropped.append(f"{part.name}: about {cost / 60:.0f} minutes did not fit the budget")
    results = []
    for part, cells in kept:
        done = [run_cell(folder, arm, seed, part.protocol, dataset) for arm, seed in cells]
        arms = part.arms
        if part.name == "losses":
            more = best_with_min_snr(part, done)
            done += [run_cell(folder, more, seed, part.protocol, dataset) for seed in range(seeds)]
            arms = (*arms, more)
        results.append(PartResult(name=part.name, protocol=part.protocol, reference=part.reference,
                                  arms=[arm.name for arm in arms], cells=done))  # fmt: skip
    return results, dropped


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="medmnist-diffusion study loss", description=__doc__.split(": ", 1)[1].split("\n", 1)[0]
    )
    add_dataset_arguments(parser, positional=True)
    parser.add_argument("--output", type=Path, help="a folder (default runs/loss-DATASET); the same one goes on")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max_train_steps", type=int, default=2000, help="of each cell in losses and robustness")
    parser.add_argument(
        "--max_train_minutes", type=float, default=3.0, help="of each cell in waterfall and parameters"
    )
    parser.add_argument(
        "--num_images",
        type=int,
        default=NUM_IMAGES,
        help=f"generated images that are judged, a cell (default {NUM_IMAGES}; beside losses at most {FEW_IMAGES})",
    )
    parser.add_argument(
        "--features", nargs="*", choices=("inception", "random"),
        help="the four Inception dimensions, beside classifier and texture in the part losses (default: the official weights "
        "where they are at hand, else seeded random ones; give nothing for none)",
    )  # fmt: skip
    parser.add_argument("--budget", help="as much of the study as fits into this time: 90m, 2h")
    parser.add_argument(
        "--rate", action="store_true", help="rate the finished study's images in a browser: real or generated?"
    )
    args = parser.parse_args(sys.argv[1:] if argv is None else argv)
    for name in ("seeds", "max_train_steps", "max_train_minutes", "num_images"):
        if getattr(args, name) <= 0:
            raise UserError(f"--{name} is {getattr(args, name):g}; more than 0 is needed.")
    if args.features is None:
        args.features = ["inception" if cached_weights().is_file() else "random"]
    start_processes()
    dataset = load_dataset(args.dataset, args.root, args.size)
    folder = args.output or Path("runs") / f"loss-{dataset.name}"
    if args.rate:
        rate_best(folder, plan_parts(args)[0], args.seeds, dataset)
        return
    (folder / "grids").mkdir(parents=True, exist_ok=True)
    results, dropped = run_study(folder, plan_parts(args), args.seeds, dataset, _seconds(args.budget))
    command = "medmnist-diffusion study loss " + " ".join(argv or sys.argv[1:])
    write_report(folder, dataset, results, dropped, command)
    for result in results:
        for line in figures_of(result).verdicts:
            print(f"- {line}")
    print(f"Written to {folder}: report.md, results.json and plots.")


def rate_best(folder: Path, part: Part, seeds: int, dataset: ImageDataset) -> None:
    """Rate images of the best arm that is finished, without knowing which is which."""
    from medmnist_diffusion.studies.rating import rate

    cells = [finished_cell(folder, arm, seed, part.protocol, dataset) for arm in part.arms for seed in range(seeds)]
    done = [cell for cell in cells if cell is not None]
    if not done:
        raise UserError(
            f"{folder} holds no finished cell of the part {part.name}. Run the study first, with the same arguments."
        )
    best = best_arm(part, done)
    seed = next(cell.seed for cell in done if cell.arm == best)
    rate(run_folder(folder, best, seed, part.protocol, dataset) / "pipeline", dataset, folder / "ratings.json")


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", text.strip())
    if not match:
        raise UserError(f"--budget is {text!r}; a number with s, m or h is needed: 90m, 2h.")
    return float(match[1]) * {"s": 1, "m": 60, "h": 3600}[match[2]]
