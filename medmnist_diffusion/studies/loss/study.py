"""`medmnist-diffusion study loss`: which loss, which recipe? The source study's table, redone with floors, seeds and tests.

Four parts: `losses` (L1, L2 and Huber at equal optimizer steps), `waterfall` (from the source's own recipe to our default, one
change at a time), `parameters` (one change at a time around the default, the losses again among them), both at equal training
time, and `robustness` (the losses on training images of which some are spoiled).
"""

import argparse
import shlex
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from medmnist_diffusion.arguments import CommandParser
from medmnist_diffusion.data import ImageDataset, Split, load_dataset
from medmnist_diffusion.data.audit import add_dataset_arguments
from medmnist_diffusion.diffusion.machine import probe_precision
from medmnist_diffusion.diffusion.stopping import exclusive
from medmnist_diffusion.diffusion.unet import build_unet
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.metrics.extractors import OFFLINE_PAIR, Extractor, make_extractor
from medmnist_diffusion.metrics.inception import weights_at_hand
from medmnist_diffusion.metrics.memorization import clean_held_out
from medmnist_diffusion.metrics.plan import plan_comparison
from medmnist_diffusion.processes import start_processes
from medmnist_diffusion.studies.budget import first_precision, seconds_of
from medmnist_diffusion.studies.loss.cells import Arm, Bench, CellResult, generate_cell, run_cell
from medmnist_diffusion.studies.loss.report import PartResult, geometric_ratio, proposed_settings, write_report
from medmnist_diffusion.training.config import preset

PARTS = ("losses", "waterfall", "parameters", "robustness")
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
OVERHEAD_SECONDS = 20.0
FEWEST_SEEDS = 2
FOLLOWED = ("losses", "parameters")  # parts with an arm that is known only after the others
SPOILED = (0.05, 0.2)
SOURCE = "source's recipe"
SOURCE_STEPS: dict[str, Any] = {"sampler": "ddpm", "num_inference_steps": 200}

# From the source's recipe to the default: each step adds its change to all before it, and is compared with the one before it, so
# its effect is the one at this place in the order. The small network comes first: in the same time it is trained ten times as many
# steps, and what the other settings do cannot be seen in a network that has hardly been trained. None: the default's own setting.
WATERFALL: tuple[tuple[str, dict[str, Any]], ...] = (
    ("+ small network on unshuffled images", {"pixel_unshuffle": None, "attention": False, "layers_per_block": 1,
                                              "block_out_channels": None}),
    ("+ no flips", {"random_flip": False}),
    ("+ 10 DPM-Solver++ steps", {}),  # sampling alone
    ("+ v-prediction", {"prediction_type": "v_prediction"}),
    ("+ T = 1000", {"num_train_timesteps": 1000}),
    ("+ cosine schedule", {"beta_schedule": "squaredcos_cap_v2"}),
    ("+ L2 loss", {"loss_type": "l2"}),
    ("+ average of the weights", {"use_ema": True}),
    ("+ batch 64", {"train_batch_size": 64}),
    ("+ warm-up, decay, clipping", {"lr_scheduler": "cosine", "lr_warmup_steps": 100, "max_grad_norm": 1.0,
                                    "adam_weight_decay": 0.01, "learning_rate": 4e-3}),
    ("+ Muon", {"optimizer": "muon"}),
    ("+ noise levels by log SNR", {"timestep_sampling": "log_snr"}),
    ("+ label dropout", {"label_dropout": 0.1}),
)  # fmt: skip

# One change at a time around the default: `setting: value`.
DEFAULT = "default"
PARAMETERS: dict[str, dict[str, Any]] = {
    "loss: L1": LOSSES["L1"],
    "loss: Huber, δ = 0.1": LOSSES["Huber, δ = 0.1"],
    "target: epsilon": {"prediction_type": "epsilon"},
    "target: image": {"prediction_type": "sample"},
    "schedule: linear": {"beta_schedule": "linear"},
    "noise levels: uniform": {"timestep_sampling": "uniform"},
    "weighting: min-SNR 5": {"snr_gamma": SNR_GAMMA},
    "average: none": {"use_ema": False},
    "average: 20 steps": {"ema_decay": 0.95},
    "optimizer: AdamW": {"optimizer": "adamw"},
    "label dropout: none": {"label_dropout": 0.0},
    "batch: 128": {"train_batch_size": 128},
    "width: 16, 32": {"block_out_channels": [16, 32]},
    "width: 48, 64": {"block_out_channels": [48, 64]},
}
SAMPLING: dict[str, dict[str, Any]] = {  # these share the default's training
    "sampling steps: 6": {"num_inference_steps": 6},
    "sampling steps: 20": {"num_inference_steps": 20},
    "guidance: 1.5": {"guidance_scale": 1.5},
}


@dataclass(frozen=True)
class Part:
    """A group of arms on one bench; `pairs` are the arms that are compared (None: all)."""

    name: str
    bench: Bench
    arms: tuple[Arm, ...]
    pairs: tuple[tuple[str, str], ...] | None = None


def plan_parts(args: argparse.Namespace, folder: Path, dataset: ImageDataset) -> list[Part]:
    """All parts, most important first."""
    precision = first_precision(folder, dataset)
    by_steps = {"max_train_steps": args.max_train_steps, "mixed_precision": precision}
    by_time = {"max_train_minutes": args.max_train_minutes, "mixed_precision": precision}
    pair = tuple(make_extractor(name, dataset) for name in OFFLINE_PAIR)
    slow: tuple[Extractor, ...] = ()
    if "losses" in args.parts:  # Inception takes its time to load
        slow = tuple(make_extractor(name, dataset, args.inception_weights) for name in args.features)
    many = Bench(folder, dataset, by_steps, pair, slow, args.num_images)
    few = replace(many, slow_extractors=(), num_images=min(args.num_images, FEW_IMAGES))
    timed = replace(few, base=by_time)
    falling, around = tuple(waterfall(preset("annotated"))), tuple(parameters())
    spoiled = tuple(
        Arm(name=f"{name}, {share:.0%} spoiled" if share else name, options=options, corrupted_share=share)
        for share in (0.0, *SPOILED)
        for name, options in LOSSES.items()
    )
    return [
        Part("losses", many, tuple(Arm(name=name, options=options) for name, options in LOSSES.items())),
        Part(
            "waterfall",
            timed,
            falling,
            tuple((new.name, old.name) for old, new in pairwise(falling)),
        ),
        Part("parameters", timed, around, tuple((arm.name, DEFAULT) for arm in around if arm.name != DEFAULT)),
        Part("robustness", few, spoiled),
    ]


def waterfall(source: dict[str, Any]) -> Iterator[Arm]:
    """The source's recipe, then each change on top of those before it. Its own 200 sampling steps are used until they change."""
    options, sampling = source, SOURCE_STEPS
    yield Arm(name=SOURCE, options=options, **sampling)
    for name, change in WATERFALL:
        sampling = sampling if change else {}
        options = {key: value for key, value in {**options, **change}.items() if value is not None}
        yield Arm(name=name, options=options, **sampling)


def parameters() -> Iterator[Arm]:
    yield Arm(name=DEFAULT)
    for name, options in PARAMETERS.items():
        yield Arm(name=name, options=options)
    for name, sampling in SAMPLING.items():
        yield Arm(name=name, **sampling)


def best_arm(arms: Sequence[Arm], cells: Sequence[CellResult]) -> Arm | None:
    """The arm with the lowest distance ÷ floor over the offline pair of spaces that never diverged; None if there is none."""
    scores: dict[str, float] = {}
    failed = {cell.arm.name for cell in cells if cell.failed}
    for arm in arms:
        if arm.name in failed:
            continue
        ratios = [geometric_ratio(cell) for cell in cells if cell.arm.name == arm.name]
        known = [ratio for ratio in ratios if ratio is not None]
        if known:
            scores[arm.name] = float(np.mean(np.log(known)))
    return min((arm for arm in arms if arm.name in scores), key=lambda arm: scores[arm.name], default=None)


def follow_ups(part: Part, cells: Sequence[CellResult]) -> list[tuple[Arm, str]]:
    """Arms that are known only after the others, with what they are compared with: the best loss with min-SNR weighting, and the
    proposed settings together where they are several."""
    if part.name == "losses" and (best := best_arm(part.arms, cells)):
        return [(Arm(name=f"{best.name}, min-SNR", options={**best.options, "snr_gamma": SNR_GAMMA}), best.name)]
    if part.name == "parameters":
        settings, sampling = proposed_settings(_result(part, cells))
        if len(settings) + len(sampling) > 1:
            return [(Arm(name="proposed", options=settings, **sampling), DEFAULT)]
    return []


class Clock:
    """Expected seconds of cells, by a trial of about two seconds for each network."""

    def __init__(self) -> None:
        self._speeds: dict[str, float] = {}
        self._counted: set[Path] = set()

    def seconds(self, bench: Bench, arm: Arm, seed: int) -> float:
        """Of one more cell; a training that several cells share is counted once."""
        from medmnist_diffusion.training.train import unet_arguments

        if bench.finished(arm, seed):
            return 0.0
        config = bench.config(arm, seed)
        network = unet_arguments(config, bench.dataset)
        key = repr((network, config.train_batch_size))
        if key not in self._speeds:
            precision = config.mixed_precision
            _, speeds = probe_precision(build_unet(**network), config.train_batch_size, precision)
            self._speeds[key] = max(speeds.values(), default=10_000.0)
        speed, training, run = self._speeds[key], 0.0, bench.run_folder(arm, seed)
        if run not in self._counted:
            self._counted.add(run)
            images = 1.3 * (config.max_train_steps or 0) * config.train_batch_size
            training = 60 * config.max_train_minutes if config.max_train_minutes is not None else images / speed
        forward = bench.num_images * arm.num_inference_steps * (2 if arm.guidance_scale != 1 else 1) / (3 * speed)
        features = sum(SECONDS_AN_IMAGE.get(name.name.split("-")[0], 0.0) for name in bench.slow_extractors)
        return training + forward + features * bench.num_images + OVERHEAD_SECONDS


def plan_seeds(parts: Sequence[Part], seeds: int, budget: float | None) -> tuple[dict[str, int], list[str]]:
    """How many seeds of each part fit into the budget (seconds), and what was left out for it; printed as a plan."""
    clock, left, chosen, dropped = Clock(), budget, {}, []
    for part in parts:
        costs = []  # of so many seeds
        for seed in range(seeds):
            arms = [clock.seconds(part.bench, arm, seed) for arm in part.arms]
            costs.append(sum(arms) + (max(arms) if part.name in FOLLOWED else 0.0))
        totals = np.cumsum(costs)
        fitting = [n for n in range(min(FEWEST_SEEDS, seeds), seeds + 1) if left is None or totals[n - 1] <= left]
        count = max(fitting, default=0)
        cost = float(totals[count - 1]) if count else 0.0
        print(f"{part.name}: {len(part.arms)} arms × {count} seeds, about {cost / 60:.0f} minutes")
        if count < seeds:
            what = f"{seeds - count} of {seeds} seeds" if count else "all of it"
            dropped.append(f"{part.name}: {what} (all would take about {totals[-1] / 60:.0f} minutes)")
        chosen[part.name] = count
        left = None if left is None else left - cost
    return chosen, dropped


def run_part(part: Part, seeds: int, deadline: float) -> tuple[PartResult, list[str]]:
    """The part's cells, seed by seed, then its follow-ups; no cell starts after the deadline (of time.monotonic)."""
    cells: list[CellResult] = []
    late: list[str] = []

    def run_all(arms: Sequence[Arm]) -> None:
        for seed in range(seeds):
            for arm in arms:
                if time.monotonic() > deadline and not part.bench.finished(arm, seed):
                    late.append(f"{part.name}: {arm.name}, seed {seed} (the time was over)")
                else:
                    cells.append(run_cell(part.bench, arm, seed))

    run_all(part.arms)
    more = follow_ups(part, cells)
    run_all([arm for arm, _ in more])
    return _result(part, cells, more), late


def _result(part: Part, cells: Sequence[CellResult], more: Sequence[tuple[Arm, str]] = ()) -> PartResult:
    made = {cell.arm.name for cell in cells}
    return PartResult(
        name=part.name,
        base=part.bench.base,
        num_images=part.bench.num_images,
        arms=[arm.name for arm in (*part.arms, *(arm for arm, _ in more)) if arm.name in made],
        pairs=None if part.pairs is None else list(part.pairs),
        follow_ups=[(arm.name, other) for arm, other in more],
        cells=list(cells),
    )


def check_early(bench: Bench) -> None:
    """What would otherwise be found after the first training: a set that is too small to judge."""
    labels = bench.dataset.labels_in_shares(bench.num_images)
    empty = np.empty((len(labels), 0), np.uint8)
    plan_comparison(bench.dataset, clean_held_out(bench.dataset), Split("planned", empty, labels), None, 0)


def main(argv: Sequence[str]) -> None:
    parser = CommandParser(
        prog="medmnist-diffusion study loss", description=__doc__.split(": ", 1)[1].split("\n", 1)[0]
    )
    add_dataset_arguments(parser, positional=True)
    parser.add_argument("--output", type=Path, help="a folder (default runs/loss-DATASET); the same one goes on")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="default: all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--max_train_steps", type=int, default=2000, help="of each cell in losses and robustness")
    parser.add_argument("--max_train_minutes", type=float, default=3.0, help="of each cell in the other two")
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
    parser.add_argument("--inception_weights", type=Path, help="the official weights file")
    parser.add_argument("--budget", help="as many seeds and parts as fit into this time: 90m, 2h")
    parser.add_argument(
        "--rate",
        action="store_true",
        help="rate images of the finished study's best loss in a browser: real or generated?",
    )
    args = parser.parse_args(argv)
    for name in ("seeds", "max_train_steps", "max_train_minutes", "num_images"):
        if getattr(args, name) <= 0:
            raise UserError(f"--{name} is {getattr(args, name):g}; more than 0 is needed.")
    budget = seconds_of(args.budget)
    if args.features is None:
        args.features = ["inception" if weights_at_hand(args.inception_weights) else "random"]
    start_processes()
    if PartialState().num_processes > 1:
        raise UserError("the study runs in one process: start it without a launcher.")
    began = time.monotonic()
    dataset = load_dataset(args.dataset, args.root, args.size)
    folder = args.output or Path("runs") / f"loss-{dataset.name}"
    if args.rate:
        if not (folder / "cells").is_dir():
            raise UserError(f"{folder} holds no finished cell. Run the study first, with the same arguments.")
        _rate(folder, plan_parts(args, folder, dataset)[0], args.seeds)
        return
    with exclusive(folder, "--output"):
        _run(args, argv, folder, dataset, budget, began)


def _run(
    args: argparse.Namespace,
    argv: Sequence[str],
    folder: Path,
    dataset: ImageDataset,
    budget: float | None,
    began: float,
) -> None:
    """Plan, run what is missing, and report."""
    parts = [part for part in plan_parts(args, folder, dataset) if part.name in args.parts]
    for part in parts:
        check_early(part.bench)
    seeds, dropped = plan_seeds(parts, args.seeds, budget)
    deadline = float("inf") if budget is None else began + budget
    command = "medmnist-diffusion study loss " + shlex.join(argv)
    results: list[PartResult] = []
    for part in parts:
        result, late = run_part(part, seeds[part.name], deadline)
        dropped += late
        if result.cells:
            results.append(result)
            write_report(folder, dataset, results, dropped, command)  # after every part: nothing waits for the last
    print(f"Written to {folder}: report.md, results.json and plots." if results else "Nothing fitted the budget.")


def _rate(folder: Path, part: Part, seeds: int) -> None:
    from medmnist_diffusion.studies.loss.rating import rate

    done = [cell for seed in range(seeds) for arm in part.arms if (cell := part.bench.finished(arm, seed))]
    best = best_arm(part.arms, done)
    if best is None:
        raise UserError(
            f"{folder} holds no finished cell of the losses. Run the study first, with the same arguments."
        )
    seed = next(cell.seed for cell in done if cell.arm == best)
    pipeline = part.bench.run_folder(best, seed) / "pipeline"
    of_cell = part.bench.fingerprint(best, seed)
    rate(
        part.bench.dataset,
        lambda labels: generate_cell(pipeline, labels, best, seed),
        folder / f"ratings_{of_cell}.json",
    )
