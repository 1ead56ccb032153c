"""Which loss, which recipe? The source study's table, redone with floors, seeds and tests.

Four parts: `losses` (L1, L2 and Huber at equal optimizer steps), `waterfall` (from the source's own recipe to our default, one
change at a time), `parameters` (one change at a time around the default, the losses again among them), both at equal training
time, and `robustness` (the losses on training images of which some are spoiled).
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path

import numpy as np

from medmnist_diffusion.choices import LOSS_PARTS
from medmnist_diffusion.data import Split
from medmnist_diffusion.data.duplicates import clean_held_out
from medmnist_diffusion.data.sources import DataSource, as_source
from medmnist_diffusion.diffusion.stopping import exclusive
from medmnist_diffusion.metrics.extractors import OFFLINE_PAIR, make_extractor
from medmnist_diffusion.metrics.features import FeatureExtractor
from medmnist_diffusion.metrics.inception import weights_at_hand
from medmnist_diffusion.metrics.plan import plan_comparison
from medmnist_diffusion.studies import budget
from medmnist_diffusion.studies.loss import variants
from medmnist_diffusion.studies.loss.analysis import PartResult, best_variant, proposed_settings
from medmnist_diffusion.studies.loss.cells import TrainingProtocol, VariantResult, run_cell
from medmnist_diffusion.studies.loss.report import write_report
from medmnist_diffusion.studies.loss.variants import DEFAULT, TrainingVariant
from medmnist_diffusion.studies.run import StudyRun, loaded_here, run_cells, start_study
from medmnist_diffusion.training.config import preset

logger = logging.getLogger(__name__)
NUM_IMAGES = 2100  # more than 2,048 for that column
FEW_IMAGES = 500  # where only the offline pair is measured, fewer do
SECONDS_AN_IMAGE = {"inception": 0.3, "random": 0.05}  # on two cores, to plan with
OVERHEAD_SECONDS = 20.0
FEWEST_SEEDS = 2
FOLLOWED = ("losses", "parameters")  # parts with an arm that is known only after the others


@dataclass(frozen=True)
class LossStudy:
    """What a loss study is asked for; `features` are `inception` and `random`, spaces beside the offline pair."""

    source: DataSource
    folder: Path
    precision: str
    parts: tuple[str, ...]
    max_train_steps: int
    max_train_minutes: float
    num_images: int
    features: tuple[str, ...]
    inception_weights: Path | None


@dataclass(frozen=True)
class StudyPart:
    """A group of variants under one protocol; `pairs` are the arms that are compared (None: all)."""

    name: str
    protocol: TrainingProtocol
    arms: tuple[TrainingVariant, ...]
    pairs: tuple[tuple[str, str], ...] | None = None


@cache
def study_parts(study: LossStudy) -> dict[str, StudyPart]:
    """All parts, most important first; made once in each process."""
    dataset = loaded_here(study.source)
    by_steps = {"max_train_steps": study.max_train_steps, "mixed_precision": study.precision}
    by_time = {"max_train_minutes": study.max_train_minutes, "mixed_precision": study.precision}
    pair = tuple(make_extractor(name, dataset) for name in OFFLINE_PAIR)
    slow: tuple[FeatureExtractor, ...] = ()
    if "losses" in study.parts:  # Inception takes its time to load
        slow = tuple(make_extractor(name, dataset, study.inception_weights) for name in study.features)
    many = TrainingProtocol(study.folder, dataset, by_steps, pair, slow, study.num_images)
    few = replace(many, slow_extractors=(), num_images=min(study.num_images, FEW_IMAGES))
    timed = replace(few, base=by_time)
    falling, around = tuple(variants.waterfall(preset("annotated"))), tuple(variants.parameters())
    changes = tuple((new.name, old.name) for old, new in pairwise(falling))
    to_default = tuple((arm.name, DEFAULT) for arm in around if arm.name != DEFAULT)
    parts = [
        StudyPart("losses", many, tuple(variants.losses())),
        StudyPart("waterfall", timed, falling, changes),
        StudyPart("parameters", timed, around, to_default),
        StudyPart("robustness", few, tuple(variants.spoiled())),
    ]
    return {part.name: part for part in parts}


def follow_ups(part: StudyPart, cells: Sequence[VariantResult]) -> list[tuple[TrainingVariant, str]]:
    """Arms that are known only after the others, with what they are compared with: the best loss with min-SNR weighting, and the
    proposed settings together where they are several."""
    if part.name == "losses" and (best := best_variant(part.arms, cells)):
        options = {**best.options, "snr_gamma": variants.SNR_GAMMA}
        return [(TrainingVariant(name=f"{best.name}, min-SNR", options=options), best.name)]
    if part.name == "parameters":
        settings, sampling = proposed_settings(_result(part, cells))
        if len(settings) + len(sampling) > 1:
            return [(TrainingVariant(name="proposed", options=settings, **sampling), DEFAULT)]
    return []


def cell_seconds(clock: budget.Clock, protocol: TrainingProtocol, arm: TrainingVariant, seed: int) -> float:
    """Expected seconds of one more cell; a training that several cells share is counted once."""
    if protocol.finished(arm, seed):
        return 0.0
    config = protocol.config(arm, seed)
    training = clock.training_once(protocol.run_folder(arm, seed), config)
    images = protocol.num_images * (2 if arm.guidance_scale != 1 else 1)
    sampling = clock.sampling(config, images, arm.num_inference_steps)
    slow = sum(SECONDS_AN_IMAGE.get(space.name.split("-")[0], 0.0) for space in protocol.slow_extractors)
    return training + sampling + slow * protocol.num_images + OVERHEAD_SECONDS


def plan_seeds(
    parts: Sequence[StudyPart], clock: budget.Clock, seeds: int, seconds: float, processes: int = 1
) -> tuple[dict[str, int], list[str]]:
    """How many seeds of each part fit into so many seconds, and what was left out for it; said as a plan."""
    left, chosen, dropped = seconds * processes, {}, []
    for part in parts:
        costs = []  # of so many seeds
        for seed in range(seeds):
            arms = [cell_seconds(clock, part.protocol, arm, seed) for arm in part.arms]
            costs.append(sum(arms) + (max(arms) if part.name in FOLLOWED else 0.0))
        totals = np.cumsum(costs)
        count = max((n for n in range(min(FEWEST_SEEDS, seeds), seeds + 1) if totals[n - 1] <= left), default=0)
        cost = float(totals[count - 1]) if count else 0.0
        minutes = cost / processes / 60
        logger.info("%s: %d arms × %d seeds, about %.0f minutes", part.name, len(part.arms), count, minutes)
        if count < seeds:
            what = f"{seeds - count} of {seeds} seeds" if count else "all of it"
            dropped.append(f"{part.name}: {what} (all would take about {totals[-1] / processes / 60:.0f} minutes)")
        chosen[part.name] = count
        left -= cost
    return chosen, dropped


def _cell_here(study: LossStudy, part: str, arm: TrainingVariant, seed: int) -> None:
    run_cell(study_parts(study)[part].protocol, arm, seed)


def run_part(run: StudyRun, study: LossStudy, part: StudyPart, seeds: int) -> tuple[PartResult, list[str]]:
    """The part's cells, seed by seed, then its follow-ups; and which cells are missing."""
    cells: list[VariantResult] = []
    missing: list[str] = []

    def run_all(arms: Sequence[TrainingVariant]) -> None:
        grid = [(arm, seed) for seed in range(seeds) for arm in arms]
        waiting = {  # of cells that are alike, one
            part.protocol.fingerprint(*each): (study, part.name, *each)
            for each in grid
            if part.protocol.finished(*each) is None
        }
        for _ in run_cells(run, _cell_here, waiting.values(), part.name):
            pass
        for arm, seed in grid:
            if (cell := part.protocol.finished(arm, seed)) is not None:
                cells.append(cell)
            else:
                missing.append(f"{part.name}: {arm.name}, seed {seed} ({run.why_missing})")

    run_all(part.arms)
    more = follow_ups(part, cells)
    run_all([arm for arm, _ in more])
    return _result(part, cells, more), missing


def _result(
    part: StudyPart, cells: Sequence[VariantResult], more: Sequence[tuple[TrainingVariant, str]] = ()
) -> PartResult:
    made = {cell.arm.name for cell in cells}
    return PartResult(
        name=part.name,
        base=part.protocol.base,
        num_images=part.protocol.num_images,
        arms=[arm.name for arm in (*part.arms, *(arm for arm, _ in more)) if arm.name in made],
        pairs=None if part.pairs is None else list(part.pairs),
        follow_ups=[(arm.name, other) for arm, other in more],
        cells=list(cells),
    )


def check_early(protocol: TrainingProtocol) -> None:
    """What would otherwise be found after the first training: a set that is too small to judge."""
    labels = protocol.dataset.labels_in_shares(protocol.num_images)
    planned = Split("planned", np.empty((len(labels), 0), np.uint8), labels)
    plan_comparison(protocol.dataset, clean_held_out(protocol.dataset), planned, None, 0)


def run_loss_study(run: StudyRun, study: LossStudy, seeds: int, command: str) -> list[PartResult]:
    """Plan, run what is missing, and report after every part: nothing waits for the last. `command` is named in the report."""
    parts = [part for name, part in study_parts(study).items() if name in study.parts]
    for part in parts:
        check_early(part.protocol)
    seeds_of, dropped = plan_seeds(parts, budget.Clock(run.dataset), seeds, run.seconds, run.processes)
    results: list[PartResult] = []
    for part in parts:
        result, missing = run_part(run, study, part, seeds_of[part.name])
        dropped += missing
        if result.cells:
            results.append(result)
            write_report(run.folder, run.dataset, results, dropped, command)
    return results


def study_loss(
    dataset: str | DataSource,
    *,
    root: str | None = None,
    size: int | None = None,
    output: str | Path | None = None,
    parts: Sequence[str] = LOSS_PARTS,
    seeds: int = 3,
    max_train_steps: int = 2000,
    max_train_minutes: float = 3.0,
    num_images: int = NUM_IMAGES,
    features: Sequence[str] | None = None,
    inception_weights: Path | None = None,
    time_budget: str | None = None,
    processes: int = 0,
    scheduler: str | None = None,
    command: str = "study_loss",
) -> Path:
    """Train all variants of the chosen parts over seeds, measure them, test their differences, and write a report.

    Args:
        dataset: a name as `load_dataset` takes it, with `root` and `size`; or a `DataSource`.
        output: a folder (default runs/loss-DATASET); the same one goes on with what is missing.
        parts: of `LOSS_PARTS`.
        seeds: trainings of each variant.
        max_train_steps: of each cell in losses and robustness.
        max_train_minutes: of each cell in the other two.
        num_images: that are judged, a cell.
        features: `inception` or `random`, beside the offline pair in the part losses; default: the official weights where they are
            at hand, else random ones; empty for none.
        time_budget: as many seeds and parts as fit into this time: 90m, 2h.
        processes: of one core each; 0 for this process with all its cores.
        scheduler: the address of a dask scheduler whose workers run the cells instead.
        command: named in the report.

    Returns:
        The folder with report.md, results.json and plots.

    Raises:
        UserError: for arguments that cannot be, or a data set that is too small to judge.

    Example:
        >>> folder = md.study_loss("phantom", parts=["losses"], seeds=2, max_train_steps=2, num_images=150, features=[])
        >>> (folder / "report.md").is_file()
        True
    """
    if features is None:
        features = ["inception" if weights_at_hand(inception_weights) else "random"]
    run = start_study(
        "loss",
        as_source(dataset, root, size),
        output,
        time_budget,
        processes,
        scheduler,
    )
    folder = run.folder
    with exclusive(folder, "--output"):
        study = LossStudy(
            run.source, folder, budget.first_precision(folder, run.dataset), tuple(parts), max_train_steps, max_train_minutes,
            num_images, tuple(features), inception_weights,
        )  # fmt: skip
        results = run_loss_study(run, study, seeds, command)
    logger.info(
        "%s", f"Written to {folder}: report.md, results.json and plots." if results else "Nothing fitted the budget."
    )
    return folder
