"""`medmnist-diffusion study augmentation`: do generated images help a classifier? For every amount of real data: a generator
trained on those images alone, classifiers with and without its images, over seeds, and a verdict.

A seed is a draw of its own: another subset, another generator, another first state of the classifiers. All arms of a draw share
them, so that they are compared in pairs.
"""

import argparse
import shlex
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from tqdm import tqdm

from medmnist_diffusion.arguments import CommandParser
from medmnist_diffusion.data import ImageDataset, load_dataset
from medmnist_diffusion.data.audit import add_dataset_arguments
from medmnist_diffusion.diffusion.machine import probe_precision
from medmnist_diffusion.diffusion.sampling import DEFAULT_SAMPLER, DEFAULT_STEPS
from medmnist_diffusion.diffusion.stopping import exclusive
from medmnist_diffusion.diffusion.unet import build_unet
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.processes import start_processes
from medmnist_diffusion.studies.augmentation.arms import (
    ARMS,
    BY_NAME,
    CLASSICAL,
    LEAKY,
    PRIMARY,
    Arm,
    arm_named,
    with_controls,
)
from medmnist_diffusion.studies.augmentation.classifiers import NETWORKS, Mixture, Recipe, timed_step
from medmnist_diffusion.studies.augmentation.effects import smallest_detectable
from medmnist_diffusion.studies.augmentation.generators import FRACTION, STRENGTH, DiffusionSource
from medmnist_diffusion.studies.augmentation.regimes import LEAST, Regime
from medmnist_diffusion.studies.augmentation.report import write_report
from medmnist_diffusion.studies.augmentation.units import Study, UnitResult, measure_unit, run_unit
from medmnist_diffusion.studies.augmentation.workers import available_cores, run_in_processes
from medmnist_diffusion.studies.budget import precisions, seconds_of
from medmnist_diffusion.training.config import TrainingConfig

SHARES = (0.01, 0.05, 0.25, 1.0)
IMBALANCE = 0.05
FEWEST_SEEDS = 3
METRICS_SECONDS = 8.0  # of one pool's metrics, to plan with
ASSUMED_AUC, ASSUMED_CORRELATION, ASSUMED_SPREAD = 0.95, 0.9, 0.01
LOG = "log.txt"


def make_study(args: argparse.Namespace, folder: Path, dataset: ImageDataset) -> Study:
    """The study that the command line describes, in this machine's precision and in those of the machines before it."""
    studies = []
    for precision in (args.precision, *args.earlier_precisions):
        options = {"max_train_steps": args.max_train_steps, "mixed_precision": precision}
        recipe = Recipe(network=args.classifier, steps=args.classifier_steps, precision=precision)
        source = DiffusionSource(folder, dataset, options, args.num_images)
        studies.append(Study(folder, dataset, source, recipe, chosen_arms(args)))
    here, *earlier = studies
    return replace(here, earlier=tuple(earlier))


def chosen_arms(args: argparse.Namespace) -> tuple[Arm, ...]:
    """The primary arm, those that were asked for, and their controls."""
    asked = list(args.arms or [arm.name for arm in ARMS])
    return with_controls([*asked, *([LEAKY.name] if args.leaky else [])])


def chosen_regimes(args: argparse.Namespace) -> list[Regime]:
    imbalanced = [Regime(1.0, args.imbalance)] if args.imbalance else []
    return [*(Regime(share) for share in args.shares), *imbalanced]


class Clock:
    """Expected seconds of a unit on one core, from a trial of a few seconds."""

    def __init__(self, study: Study, max_train_steps: int, num_images: int) -> None:
        from medmnist_diffusion.training.train import unet_arguments

        self.study, self.num_images, threads = study, num_images, torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            config = TrainingConfig()
            unet = build_unet(**unet_arguments(config, study.dataset))
            _, speeds = probe_precision(unet, config.train_batch_size, study.recipe.precision)
            self.images_per_second = max(speeds.values(), default=10_000.0)
            self.leaky_done: set[int] = set()
            self.generator_seconds = 1.3 * max_train_steps * config.train_batch_size / self.images_per_second
            self.classifier_seconds = (
                timed_step(study.recipe, Mixture(study.dataset.train), study.dataset.num_classes)
                * study.recipe.steps
                * len(study.recipe.learning_rates)
            )
        finally:
            torch.set_num_threads(threads)

    def seconds(self, regime: Regime, seed: int) -> float:
        """What the unit still lacks."""
        missing = self.study.of(regime, seed).missing(regime, seed)
        if not missing:
            return 0.0
        passes = {"plain": 1.0, "leaky": 1.0, "guided": 2.0, "variants": STRENGTH}
        pools = {arm.pool for arm in missing if arm.generated}
        steps = DEFAULT_STEPS[DEFAULT_SAMPLER]
        sampling = (
            sum(self.num_images * FRACTION[pool] * passes[pool] for pool in pools)
            * steps
            / (3 * self.images_per_second)
        )
        generator = self.generator_seconds if pools else 0.0
        if "leaky" in pools and seed not in self.leaky_done:
            self.leaky_done.add(seed)  # one for all regimes
            generator += self.generator_seconds
        return generator + sampling + len(missing) * self.classifier_seconds + METRICS_SECONDS * len(pools)


def plan(
    study: Study, clock: Clock, regimes: Sequence[Regime], seeds: int, processes: int, budget: float | None
) -> tuple[list[Regime], int, list[str]]:
    """Which regimes and how many seeds fit into the budget (seconds), and what was left out for it; printed."""
    cost = np.array([[clock.seconds(regime, seed) for seed in range(seeds)] for regime in regimes])  # regime × seed
    kept, count, dropped = len(regimes), seeds, []
    if budget is not None:

        def fits(kept: int, count: int) -> bool:
            return float(cost[:kept, :count].sum()) / processes <= budget

        fewest = min(FEWEST_SEEDS, seeds)
        while count > fewest and not fits(kept, count):
            count -= 1
        while kept > 1 and not fits(kept, count):
            kept -= 1
        if count < seeds:
            dropped.append(f"{seeds - count} of {seeds} seeds")
        dropped += [f"all of {regime.name}" for regime in regimes[kept:]]
    left = cost[:kept, :count]
    test = study.dataset.splits["test"].labels
    to_go, candidates = int((left > 0).sum()), sum(arm.candidate for arm in study.arms)
    trainings = to_go * len(study.arms) * len(study.recipe.learning_rates)
    print(
        f"{kept} regimes × {count} seeds × {len(study.arms)} arms: at most {trainings} classifier trainings and {to_go} "
        f"generators to go, about {left.sum() / processes / 60:.0f} minutes in {processes} process(es)."
    )
    for line in dropped:
        print(f"Left out for the budget: {line}.")
    print(
        f"Smallest effect that {count} seeds and {len(test)} test images find in four cases of five, for one of {candidates} "
        f"candidate arms: about {planned_effect(test, count, candidates):.3f} AUC (if the AUC is near {ASSUMED_AUC:g}, two arms' "
        f"scores correlate by {ASSUMED_CORRELATION:g}, and their difference varies by {ASSUMED_SPREAD:g} from draw to draw; the "
        "report says what it was), over the harder of its two controls."
    )
    return list(regimes[:kept]), count, dropped


def planned_effect(test_labels: np.ndarray, seeds: int, comparisons: int = 1) -> float:
    """The smallest detectable difference in AUC under the plan's assumptions, the test set's part after Hanley & McNeil (1982)."""
    counts = np.bincount(test_labels)
    positive, negative = int(counts.max()), int(counts[counts > 0].min())
    a = ASSUMED_AUC
    q1, q2 = a / (2 - a), 2 * a**2 / (1 + a)
    variance = (a * (1 - a) + (positive - 1) * (q1 - a**2) + (negative - 1) * (q2 - a**2)) / (positive * negative)
    error = np.sqrt(2 * (1 - ASSUMED_CORRELATION) * variance + ASSUMED_SPREAD**2 / seeds)
    return smallest_detectable(float(error), max(1, seeds - 1), comparisons)


@cache
def _study_here(dataset: str, root: str | None, size: int | None, arguments: tuple[tuple[str, Any], ...]) -> Study:
    """A worker's study, made once."""
    start_processes()
    args = argparse.Namespace(**dict(arguments))
    return make_study(args, Path(args.folder), load_dataset(dataset, root, size))


def _unit_here(key: tuple[Any, ...], regime: Regime, seed: int, deadline: float) -> UnitResult:
    study = _study_here(*key).of(regime, seed)
    trained = run_unit(study, regime, seed, deadline)
    return measure_unit(study, regime, seed, deadline) or trained


def run_units(
    key: tuple[Any, ...], units: Sequence[tuple[Regime, int]], processes: int, deadline: float, log: Path
) -> None:
    """All units, those of one seed after those of the one before."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with tqdm(total=len(units), unit="unit", desc="study", dynamic_ncols=True) as bar:
        for result in run_in_processes(_unit_here, [(key, *unit, deadline) for unit in units], processes, log, bar):
            primary, control = result.cell(PRIMARY.name), result.cell(CLASSICAL.name)
            if primary and control:
                bar.write(
                    f"{result.regime.name}, seed {result.seed}: AUC {control.auc:.3f} {control.arm}, "
                    f"{primary.auc:.3f} {primary.arm}"
                )


def main(argv: Sequence[str]) -> None:
    parser = CommandParser(
        prog="medmnist-diffusion study augmentation", description=__doc__.split(": ", 1)[1].split("\n\n", 1)[0]
    )
    add_dataset_arguments(parser, positional=True)
    parser.add_argument(
        "--output", type=Path, help="a folder (default runs/augmentation-DATASET); the same one goes on"
    )
    parser.add_argument("--shares", type=float, nargs="+", default=list(SHARES), help="of the real images, in 0 … 1")
    parser.add_argument(
        "--imbalance",
        type=float,
        default=IMBALANCE,
        help="one more regime: the rarest class cut to this share (0: none)",
    )
    parser.add_argument("--seeds", type=int, default=8, help="draws of subset, generator and classifier (default 8)")
    parser.add_argument(
        "--arms",
        nargs="+",
        metavar="ARM",
        help=f"beside the controls and synthetic-25 (default: all): {', '.join(BY_NAME)}, and synthetic-N for any N %% of a batch",
    )
    parser.add_argument("--classifier", choices=list(NETWORKS), default="small-cnn")
    parser.add_argument("--classifier_steps", type=int, default=300)
    parser.add_argument("--max_train_steps", type=int, default=1500, help="of each generator")
    parser.add_argument("--num_images", type=int, default=2000, help="generated for each draw (default 2000)")
    parser.add_argument("--processes", type=int, default=0, help="default: one a core; on a GPU 1")
    parser.add_argument("--budget", help="as many seeds and regimes as fit into this time: 90m, 2h")
    parser.add_argument(
        "--leaky",
        action="store_true",
        help="also show how much a leak inflates: an arm whose generator saw the whole training set",
    )
    args = parser.parse_args(argv)
    _check(args)
    budget = seconds_of(args.budget)
    start_processes()
    if PartialState().num_processes > 1:
        raise UserError("the study starts its own processes: run it without a launcher, with --processes.")
    began = time.time()
    dataset = load_dataset(args.dataset, args.root, args.size)
    _check_data(dataset)
    folder = args.output or Path("runs") / f"augmentation-{dataset.name}"
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
    """Plan, train what is missing, and report."""
    args.folder = str(folder.resolve())
    args.precision, args.earlier_precisions = precisions(folder, dataset)
    study = make_study(args, folder, dataset)
    processes = args.processes or (1 if torch.accelerator.is_available() else len(available_cores()))
    clock = Clock(study, args.max_train_steps, args.num_images)
    regimes, seeds, dropped = plan(study, clock, chosen_regimes(args), args.seeds, processes, budget)
    teachers_first = sorted(regimes, key=lambda regime: regime != Regime(1.0))  # leaky arms need its generator
    units = [(regime, seed) for seed in range(seeds) for regime in teachers_first]
    key = (args.dataset, args.root, args.size, tuple((name, _hashable(value)) for name, value in vars(args).items()))
    to_do = [unit for unit in units if not study.of(*unit).finished(*unit)]
    again = [unit for unit in to_do if study.read(*unit) is None and any(one.read(*unit) for one in study.earlier)]
    if again:
        print(
            f"{len(again)} draws lack something and were begun on a machine of another precision: they are made again."
        )
    if to_do:
        run_units(key, to_do, processes, float("inf") if budget is None else began + budget, folder / LOG)
    results = [result for unit in units if (result := study.of(*unit).read(*unit)) is not None]
    late = sum(len(study.of(*unit).missing(*unit)) for unit in units)
    if late:
        dropped.append(f"{late} classifiers, and with them their draws (the time was over)")
    dropped += [
        f"{unit.regime.name}, seed {unit.seed}: {unit.failed} (leaving it out favours generated images)"
        for unit in results
        if unit.failed
    ]
    dropped += [
        f"{unit.regime.name}, seed {unit.seed}: {arm} ({why})" for unit in results for arm, why in unit.skipped.items()
    ]
    command = "medmnist-diffusion study augmentation " + shlex.join(argv)
    verdicts = write_report(study, regimes, results, dropped, command)
    for verdict in verdicts:
        print(verdict)
    done = f"Written to {folder}: report.html, report.md, results.json and plots."
    print(done if verdicts else "No draw is complete yet; the same command goes on.")


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _check(args: argparse.Namespace) -> None:
    for name in ("seeds", "classifier_steps", "max_train_steps", "num_images"):
        if getattr(args, name) <= 0:
            raise UserError(f"--{name} is {getattr(args, name)}; more than 0 is needed.")
    if args.seeds < 2:
        raise UserError("--seeds is 1; at least 2 are needed to compare anything, and 8 to trust it.")
    if args.processes < 0:
        raise UserError(f"--processes is {args.processes}; 0 (one a core) or more is needed.")
    for arm in args.arms or ():
        arm_named(arm)
    for share in args.shares:
        if not 0 < share <= 1:
            raise UserError(f"--shares has {share:g}; shares in 0 … 1 are needed, such as 0.05.")
    if not 0 <= args.imbalance < 1:
        raise UserError(f"--imbalance is {args.imbalance:g}; a share below 1 is needed, or 0 for no such regime.")
    args.shares = sorted(set(args.shares))


def _check_data(dataset: ImageDataset) -> None:
    for name in ("train", "val", "test"):
        counts = np.bincount(dataset.splits[name].labels, minlength=dataset.num_classes)
        if counts.min() < LEAST:
            label = dataset.id2label[int(counts.argmin())]
            raise UserError(
                f"{dataset.name}: {name} has {counts.min()} images of {label!r}; at least {LEAST} are needed."
            )
