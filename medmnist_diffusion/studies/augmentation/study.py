"""Do generated images help a classifier? For every amount of real data: a generator
trained on those images alone, classifiers with and without its images, over seeds, and a verdict.

A seed is a draw of its own: another subset, another generator, another first state of the classifiers. All arms of a draw share
them, so that they are compared in pairs.
"""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medmnist_diffusion import choices
from medmnist_diffusion.data import ImageDataset
from medmnist_diffusion.data.regimes import LEAST, Regime, draw_regime
from medmnist_diffusion.data.sources import DataSource, as_source
from medmnist_diffusion.diffusion.dp_sgd import privacy_of
from medmnist_diffusion.diffusion.samplers import DEFAULT_SAMPLER, DEFAULT_STEPS
from medmnist_diffusion.diffusion.stopping import exclusive
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.metrics.mixed_training import Mixture, Recipe, timed_step
from medmnist_diffusion.processes import available_cores, threads_kept
from medmnist_diffusion.studies import budget
from medmnist_diffusion.studies.augmentation.arms import CLASSICAL, PRIVATE
from medmnist_diffusion.studies.augmentation.draws import measure_draw, train_draw
from medmnist_diffusion.studies.augmentation.generators import FRACTION, STRENGTH, DiffusionSource
from medmnist_diffusion.studies.augmentation.outside import check_start, outside_for
from medmnist_diffusion.studies.augmentation.protocol import AugmentationProtocol, DrawResult
from medmnist_diffusion.studies.augmentation.report import whole_draws, write_report
from medmnist_diffusion.studies.augmentation.situations import Situation, situation_named
from medmnist_diffusion.studies.augmentation.verdicts import judge_regime
from medmnist_diffusion.studies.run import StudyRun, absolute_source, loaded_here, run_cells, start_study
from medmnist_diffusion.studies.statistics import smallest_detectable
from medmnist_diffusion.training.config import MOST_EPSILON, SETTINGS, TrainingConfig

logger = logging.getLogger(__name__)
IMBALANCE = 0.05
FEWEST_SEEDS = 3
FEWEST_LEFT_OUT = 20  # real images, where a situation needs some that no classifier saw with labels
LOOKS = (8, 16, 32, 64)  # draws, after which a study that may end early asks for its verdicts
METRICS_SECONDS = 8.0  # of one pool's metrics, to plan with
ASSUMED_AUC, ASSUMED_CORRELATION, ASSUMED_SPREAD = 0.95, 0.9, 0.01
OF_THEIR_OWN = ("semi", "conditioned", "tuned", PRIVATE)  # pools that have generators of their own
MORE_IF_PRIVATE = 2.0  # of a step's time, for gradients of single images in full precision
PASSES = {"guided": 2.0, "variants": STRENGTH}  # of the network, a sampling step


@dataclass(frozen=True)
class AugmentationStudy:
    """What an augmentation study is asked for.

    Attributes:
        precisions: this machine's, then those of the machines that began the study.
        situation, arms, leaky: what is compared, as `situation_named` takes it.
        outside: real images of another set, as every worker finds them.
        start: the pipeline of these that a part of the generators starts from.
        epsilons: of sharing, of generators with differential privacy.
    """

    source: DataSource
    folder: Path
    precisions: tuple[str, ...]
    situation: str
    arms: tuple[str, ...] | None
    leaky: bool
    classifier: str
    classifier_steps: int
    max_train_steps: int
    num_images: int
    outside: DataSource | None = None
    start: Path | None = None
    epsilons: tuple[float, ...] = ()

    @property
    def compared(self) -> Situation:
        """What is compared, with all arms."""
        return situation_named(self.situation, self.arms, self.leaky, self.outside is not None, self.epsilons)


def make_protocol(study: AugmentationStudy, dataset: ImageDataset) -> AugmentationProtocol:
    """What the study's draws share, in this machine's precision and in those of the machines before it."""
    protocols = []
    outside = outside_for(dataset, loaded_here(study.outside)) if study.outside else None
    for precision in study.precisions:
        options = {"max_train_steps": study.max_train_steps, "mixed_precision": precision}
        recipe = Recipe(network=study.classifier, steps=study.classifier_steps, precision=precision)
        source = DiffusionSource(study.folder, dataset, options, study.num_images, study.compared.times, study.start)
        protocols.append(AugmentationProtocol(study.folder, dataset, source, recipe, study.compared, outside=outside))
    here, *earlier = protocols
    return replace(here, earlier=tuple(earlier))


class DrawClock:
    """Expected seconds of a draw on one core, from a trial of a few seconds."""

    def __init__(self, protocol: AugmentationProtocol, max_train_steps: int, num_images: int) -> None:
        self._protocol, self._num_images, recipe = protocol, num_images, protocol.recipe
        self._clock = budget.Clock(protocol.dataset)
        precision: Any = recipe.precision
        self._config = TrainingConfig(max_train_steps=max_train_steps, mixed_precision=precision)
        with threads_kept(1):
            self._generator = self._clock.training(self._config)
            step = timed_step(recipe, Mixture(protocol.dataset.train), protocol.dataset.conditioning)
        self._classifier = step * recipe.steps * len(recipe.learning_rates)

    def seconds(self, regime: Regime, seed: int) -> float:
        """What the draw still lacks."""
        missing = self._protocol.of(regime, seed).missing(regime, seed)
        if not missing:
            return 0.0
        pools = {"plain" if arm.pool == "both" else arm.pool for arm in missing if arm.generated}
        num_images = max(
            self._num_images, round(self._protocol.situation.times * len(self._protocol.dataset.train) * regime.share)
        )
        images = sum(num_images * FRACTION.get(pool, 1.0) * PASSES.get(pool, 1.0) for pool in pools)
        sampling = self._clock.sampling(self._config, images, DEFAULT_STEPS[DEFAULT_SAMPLER])
        own = {pool for pool in pools if pool.startswith(OF_THEIR_OWN)}
        private = sum(pool.startswith(PRIVATE) for pool in own)
        generator = self._generator * (len(own) + private * MORE_IF_PRIVATE + bool(pools - own - {"leaky"}))
        if "leaky" in pools:
            generator += self._clock.training_once(("leaky", seed), self._config)  # one for all regimes
        trainings = len(missing) + sum(arm.outside or arm.own_first for arm in missing)  # other images come before
        trainings += 2 * sum(arm.consistent for arm in missing)  # three batches a step
        return generator + sampling + trainings * self._classifier + METRICS_SECONDS * len(pools)


def plan(
    run: StudyRun, protocol: AugmentationProtocol, clock: DrawClock, regimes: Sequence[Regime], seeds: int
) -> tuple[list[Regime], int, list[str]]:
    """Which regimes and how many seeds fit into the run's time, and what was left out for it; said as a plan."""
    cost = np.array([[clock.seconds(regime, seed) for seed in range(seeds)] for regime in regimes])  # regime × seed
    kept, count, dropped = len(regimes), seeds, []

    def fits(kept: int, count: int) -> bool:
        return float(cost[:kept, :count].sum()) / run.processes <= run.seconds

    while count > min(FEWEST_SEEDS, seeds) and not fits(kept, count):
        count -= 1
    while kept > 1 and not fits(kept, count):
        kept -= 1
    if count < seeds:
        dropped.append(f"{seeds - count} of {seeds} seeds")
    dropped += [f"all of {regime.name}" for regime in regimes[kept:]]
    left, test = cost[:kept, :count], protocol.dataset.splits["test"].labels
    truth = protocol.dataset.conditioning.truth(test)
    to_go, candidates = int((left > 0).sum()), len(protocol.situation.candidates)
    trainings = to_go * len(protocol.arms) * len(protocol.recipe.learning_rates)
    logger.info(
        "%s",
        f"{kept} regimes × {count} seeds × {len(protocol.arms)} arms: at most {trainings} classifier trainings and {to_go} "
        f"draws' generators to go, about {left.sum() / run.processes / 60:.0f} minutes in {run.processes} process(es).",
    )
    for line in dropped:
        logger.info("Left out for the budget: %s.", line)
    if protocol.situation.figure != "auc":
        return list(regimes[:kept]), count, dropped
    logger.info(
        "%s",
        f"Smallest effect that {count} seeds and {len(test)} test images find in four cases of five, for one of {candidates} "
        f"candidate arms: about {planned_effect(truth, count, candidates):.3f} AUC (if the AUC is near {ASSUMED_AUC:g}, two arms' "
        f"scores correlate by {ASSUMED_CORRELATION:g}, and their difference varies by {ASSUMED_SPREAD:g} from draw to draw; the "
        "report says what it was), over the harder of its two controls.",
    )
    return list(regimes[:kept]), count, dropped


def planned_effect(truth: np.ndarray, seeds: int, comparisons: int = 1) -> float:
    """The smallest detectable difference in AUC under the plan's assumptions, the test set's part after Hanley & McNeil (1982).

    Args:
        truth: of the test images, class ids N; or of several labels an image zeros and ones N×K, whose AUCs' mean is at most as
            uncertain as they are on average.
    """
    if truth.ndim == 2:
        found = truth.sum(0, dtype=np.int64)
        sides = [(int(count), len(truth) - int(count)) for count in found if 0 < count < len(truth)]
    else:
        _, counts = np.unique(truth, return_counts=True)
        sides = [(int(counts.max()), int(counts.min()))]
    a = ASSUMED_AUC
    q1, q2 = a / (2 - a), 2 * a**2 / (1 + a)
    variances = [(a * (1 - a) + (m - 1) * (q1 - a**2) + (n - 1) * (q2 - a**2)) / (m * n) for m, n in sides]
    error = np.sqrt(2 * (1 - ASSUMED_CORRELATION) * np.mean(variances) + ASSUMED_SPREAD**2 / seeds)
    return smallest_detectable(float(error), max(1, seeds - 1), comparisons)


@cache
def _protocol_here(study: AugmentationStudy) -> AugmentationProtocol:
    """A worker's protocol, made once."""
    return make_protocol(study, loaded_here(study.source))


def _draw_here(study: AugmentationStudy, regime: Regime, seed: int, deadline: float) -> DrawResult | None:
    protocol = _protocol_here(study).of(regime, seed)
    train_draw(protocol, regime, seed, deadline)
    return measure_draw(protocol, regime, seed, deadline)


def run_draws(run: StudyRun, study: AugmentationStudy, draws: Sequence[tuple[Regime, int]]) -> None:
    """All draws, those of one seed after those of the one before."""
    for result in run_cells(run, _draw_here, [(study, *draw, run.deadline) for draw in draws], "study", "draw"):
        ours, control = (result.cell(name) if result else None for name in (study.compared.primary, CLASSICAL.name))
        if ours and control:
            logger.info(
                "%s",
                f"{result.regime.name}, seed {result.seed}: AUC {control.auc:.3f} {control.arm}, {ours.auc:.3f} {ours.arm}",
            )


def run_augmentation_study(
    run: StudyRun, study: AugmentationStudy, regimes: Sequence[Regime], seeds: int, effect: float | None, command: str
) -> list[str]:
    """Plan, train what is missing, and report; returns the verdicts as sentences. `command` is named in the report."""
    protocol = make_protocol(study, run.dataset)
    clock = DrawClock(protocol, study.max_train_steps, study.num_images)
    protocol = replace(protocol, looks=len(looks_at(seeds, effect)))  # of all seeds, whatever the time allows
    regimes, seeds, dropped = plan(run, protocol, clock, regimes, seeds)
    draws: list[tuple[Regime, int]] = []
    for first, last in pairwise([0, *looks_at(seeds, effect)]):
        undecided = [regime for regime in regimes if not _decided(protocol, regime, first, effect)]
        teachers_first = sorted(undecided, key=lambda regime: regime != Regime(1.0))  # leaky arms need its generator
        of_look = [(regime, seed) for seed in range(first, last) for regime in teachers_first]
        run_missing_draws(run, study, protocol, of_look)
        draws += of_look
    results = [result for draw in draws if (result := protocol.of(*draw).read(*draw)) is not None]
    if late := sum(len(protocol.of(*draw).missing(*draw)) for draw in draws):
        dropped.append(f"{late} classifiers, and with them their draws ({run.why_missing})")
    for result in results:
        name = f"{result.regime.name}, seed {result.seed}"
        if result.failed:
            dropped.append(f"{name}: {result.failed} (leaving it out favours generated images)")
        dropped += [f"{name}: {arm} ({why})" for arm, why in result.skipped.items()]
    return write_report(protocol, regimes, results, dropped, command)


def looks_at(seeds: int, effect: float | None) -> list[int]:
    """After how many draws verdicts are asked for: at the end, or also on the way where an effect's size may end the study."""
    return [look for look in LOOKS if look < seeds] * (effect is not None) + [seeds]


def _decided(protocol: AugmentationProtocol, regime: Regime, draws: int, effect: float | None) -> bool:
    """Whether a regime needs no more than its first draws: its verdict is certain, or an effect of that size would have shown.

    Of what is to stand in for real images the interval must be as narrow as that.
    """
    if effect is None or not draws:
        return False
    known = [one for seed in range(draws) if (one := protocol.of(regime, seed).read(regime, seed)) is not None]
    whole, _ = whole_draws(protocol, regime, known)
    result = judge_regime(protocol.dataset, regime, whole, protocol.situation, protocol.looks)
    judgement = result.judgement
    if protocol.situation.sharing:
        return judgement.effect is not None and judgement.effect.reach(protocol.looks) <= effect
    if judgement.verdict in ("helps", "harms"):
        return True
    return result.detectable is not None and result.detectable <= effect


def run_missing_draws(
    run: StudyRun, study: AugmentationStudy, protocol: AugmentationProtocol, draws: Sequence[tuple[Regime, int]]
) -> None:
    """Those of the draws that lack something."""
    to_do = [draw for draw in draws if not protocol.of(*draw).finished(*draw)]
    again = [draw for draw in to_do if not protocol.read(*draw) and any(one.read(*draw) for one in protocol.earlier)]
    if again:
        logger.info(
            "%d draws lack something and were begun on a machine of another precision: they are made again.",
            len(again),
        )
    run_draws(run, study, to_do)


def check_own_folder(folder: Path, situation: str) -> None:
    """Raises:
    UserError: for a folder with the results of another situation, which would be lost.
    """
    path = folder / "results.json"
    if path.is_file():
        kept = json.loads(path.read_text(encoding="utf-8")).get("situation", "few-images")
        if kept != situation:
            raise UserError(f"{folder} holds a study of --situation {kept}. Give another --output.")


def check_splits(dataset: ImageDataset) -> None:
    """Raises:
    UserError: for a split that has too few images of a class.
    """
    for name in ("train", "val", "test"):
        counts = dataset.conditioning.counts(dataset.splits[name].labels)
        if counts.min() < LEAST:
            label = dataset.id2label[int(counts.argmin())]
            raise UserError(
                f"{dataset.name}: {name} has {counts.min()} images of {label!r}; at least {LEAST} are needed."
            )


def distinct_regimes(dataset: ImageDataset, regimes: Sequence[Regime]) -> list[Regime]:
    """The regimes that are draws of their own: of a small class LEAST images are taken, however small the share."""
    known: dict[str, Regime] = {}
    for regime in regimes:
        one = known.setdefault(draw_regime(dataset, regime, 0).index_hash, regime)
        if one != regime:
            logger.warning(
                "Left out: %s, which takes the same images as %s: of each class at least %d are taken.",
                regime.name, one.name, LEAST,
            )  # fmt: skip
    return list(known.values())


def check_left_out(dataset: ImageDataset, regimes: Sequence[Regime], situation: Situation) -> None:
    """Raises:
    UserError: for a regime that leaves too few real images out, where they are trained on without labels, or attacks need them.
    """
    for regime in regimes if situation.unlabelled or situation.sharing else ():
        data = draw_regime(dataset, regime, 0)
        left = len(data.unlabelled if situation.unlabelled else data.fresh)
        if left < FEWEST_LEFT_OUT:
            raise UserError(
                f"{regime.name} of {dataset.name} leaves {left} images out that are no copies of others; --situation "
                f"{situation.name} needs {FEWEST_LEFT_OUT}. Give smaller --shares."
            )


def check_private(dataset: ImageDataset, regimes: Sequence[Regime], epsilons: Sequence[float], steps: int) -> None:
    """Raises:
    UserError: for a regime whose images are too few for private training, or without what it needs.
    """
    batch_size = SETTINGS["train_batch_size"].default
    for regime in regimes if epsilons else ():
        images = len(draw_regime(dataset, regime, 0).dataset.train)
        if images <= batch_size:
            raise UserError(
                f"{regime.name} of {dataset.name} are {images} images; private training needs more than the {batch_size} of a "
                "batch. Give larger --shares, or no --target_epsilon."
            )
        privacy_of(min(epsilons), None, 1.0, images, batch_size, steps)


def regimes_of(situation: Situation, shares: Sequence[float] | None, imbalance: float | None) -> list[Regime]:
    """The amounts of real images that are asked for, or else the situation's own.

    Raises:
        UserError: for shares that cannot be.
    """
    for share in shares or []:
        if not 0 < share <= 1:
            raise UserError(f"--shares has {share:g}; shares in 0 … 1 are needed, such as 0.05.")
    if imbalance is not None and not 0 <= imbalance < 1:
        raise UserError(f"--imbalance is {imbalance:g}; a share below 1 is needed, or 0 for no such regime.")
    if situation.name != "few-images" and imbalance is not None:
        raise UserError(f"--imbalance belongs to few images. With --situation {situation.name}, give --shares.")
    asked = sorted(set(shares or []))
    if situation.name == "rare-class":
        return [Regime(1.0, share) for share in asked] or list(situation.regimes)
    if (situation.sharing or situation.unlabelled) and 1.0 in asked:
        raise UserError(f"--situation {situation.name} needs real images that are left out: give --shares below 1.")
    regimes = [Regime(share) for share in asked] or [one for one in situation.regimes if one.rare_share == 1]
    if situation.name == "few-images" and imbalance != 0:
        regimes.append(Regime(1.0, IMBALANCE if imbalance is None else imbalance))
    return regimes


def study_augmentation(
    dataset: str | DataSource,
    *,
    root: str | None = None,
    size: int | None = None,
    output: str | Path | None = None,
    situation: str = "few-images",
    shares: Sequence[float] | None = None,
    imbalance: float | None = None,
    seeds: int | None = None,
    effect: float | None = None,
    arms: Sequence[str] | None = None,
    classifier: str = "small-cnn",
    classifier_steps: int = 300,
    max_train_steps: int = 1500,
    num_images: int = 2000,
    time_budget: str | None = None,
    processes: int = 0,
    scheduler: str | None = None,
    leaky: bool = False,
    outside: str | None = None,
    pretrained_model_name_or_path: str | None = None,
    target_epsilon: Sequence[float] = (),
    command: str = "study_augmentation",
) -> Path:
    """Train generators and classifiers for several amounts of real images, test the differences, and write a report.

    Args:
        dataset: a name as `load_dataset` takes it, with `root` and `size`; or a `DataSource`.
        output: a folder (default runs/augmentation-DATASET, or runs/SITUATION-DATASET); the same one goes on with what is missing.
        situation: what is asked, a name of `SITUATIONS`.
        shares: of the real images, each in 0 … 1, one regime each; default the situation's. Of a rare class they are the shares of
            the rarest class beside all images of the others.
        imbalance: of few images one more regime: the rarest class cut to this share (default 0.05); 0 for none.
        seeds: draws of subset, generator and classifier (default 8); where an `effect` is given at most so many (default 64).
        effect: end a regime after 8, 16, 32 or 64 draws, once generated images help or harm, or an effect of this size over one
            control would have been found in four cases of five; of sharing, once the interval reaches no farther to either side.
            Every look has its part of the 5 % (`judge_in`).
        arms: beside the controls and synthetic-25; default all.
        classifier: `small-cnn` or `resnet18`, with so many `classifier_steps`.
        max_train_steps: of each generator.
        num_images: generated for each draw.
        time_budget: as many seeds and regimes as fit into this time: 90m, 2h.
        processes: of one core each; 0 for one a core, on a GPU 1.
        scheduler: the address of a dask scheduler whose workers run the draws instead.
        leaky: also show how much a leak inflates: an arm whose generator saw the whole training set.
        outside: another set, as `load_dataset` takes it: of `outside-data`, and of `synthetic-first` one more thing to beat.
        pretrained_model_name_or_path: of `outside-data` the pipeline, trained on that set, that generators start from.
        target_epsilon: of `sharing`, also compare with generators that learned with differential privacy, one for each ε.
        command: named in the report.

    Returns:
        The folder with report.html, report.md, results.json and plots.

    Raises:
        UserError: for arguments that cannot be, or a split with too few images of a class.

    Example:
        >>> small = dict(shares=[0.05], imbalance=0, arms=["real"], classifier_steps=5, max_train_steps=2, num_images=40)
        >>> folder = md.study_augmentation("phantom", seeds=2, **small)
        >>> (folder / "results.json").is_file()
        True
    """
    seeds = seeds or (LOOKS[-1] if effect else 8)
    if effect and seeds <= LOOKS[0]:
        raise UserError(f"--effect looks after {LOOKS[0]} draws for the first time: give more --seeds, or none.")
    epsilons = tuple(target_epsilon or ())
    if any(not 0 < epsilon <= MOST_EPSILON for epsilon in epsilons):
        raise UserError(f"--target_epsilon takes numbers above 0 and up to {MOST_EPSILON:g}, such as 1 or 10.")
    asked = situation_named(situation, arms, leaky, outside is not None, epsilons)
    if asked.starts != (pretrained_model_name_or_path is not None):
        wrong = "needs a pipeline of the other set to start from" if asked.starts else "starts from no pipeline"
        raise UserError(f"--situation {situation} {wrong}: --pretrained_model_name_or_path.")
    regimes = regimes_of(asked, shares, imbalance)
    processes = processes or (1 if torch.accelerator.is_available() else len(available_cores()))
    run = start_study(
        choices.study_kind(situation),
        as_source(dataset, root, size),
        output,
        time_budget,
        processes,
        scheduler,
    )
    check_splits(run.dataset)
    regimes = distinct_regimes(run.dataset, regimes)
    check_left_out(run.dataset, regimes, asked)
    check_private(run.dataset, regimes, epsilons, max_train_steps)
    if situation == "rare-class" and run.dataset.conditioning.multi_label:
        raise UserError(
            f"{run.dataset.name} has several labels an image; --situation rare-class is made for one class each."
        )
    folder = run.folder
    check_own_folder(folder, situation)
    other, start = None, None
    if outside:
        other = run.source._replace(dataset=absolute_source(outside), size=run.dataset.shape[:-1])
        start = (
            check_start(pretrained_model_name_or_path, loaded_here(other)) if pretrained_model_name_or_path else None
        )
    with exclusive(folder, "--output"):
        study = AugmentationStudy(
            run.source, folder, budget.precisions(folder, run.dataset), situation, tuple(arms) if arms else None, leaky,
            classifier, classifier_steps, max_train_steps, num_images, other, start, epsilons,
        )  # fmt: skip
        verdicts = run_augmentation_study(run, study, regimes, seeds, effect, command)
    done = f"Written to {folder}: report.html, report.md, results.json and plots."
    for line in (*verdicts, done if verdicts else "No draw is complete yet; the same command goes on."):
        logger.info("%s", line)
    return folder
