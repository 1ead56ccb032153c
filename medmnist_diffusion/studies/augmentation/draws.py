"""A draw of the augmentation study: one subset of the real images, its generator, and every arm's classifier, kept as it goes.

A line is added to the results after every arm, so that a study stopped anywhere goes on with the next one.
"""

import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from medmnist_diffusion.cache import digest, kept_arrays
from medmnist_diffusion.data import ImageDataset, Split
from medmnist_diffusion.data.conditioning import conditions_of
from medmnist_diffusion.data.dataset import joined
from medmnist_diffusion.data.duplicates import clean_held_out
from medmnist_diffusion.data.regimes import Regime, RegimeData, draw_regime, rarest_class
from medmnist_diffusion.data.twins import find_twins, nearest_pictures
from medmnist_diffusion.errors import TrainingDivergedError, UserError
from medmnist_diffusion.metrics import memorization, selection
from medmnist_diffusion.metrics.classifier_scores import (
    FIGURES,
    average_precisions,
    figures_of,
    kept_scores,
    scores_of,
)
from medmnist_diffusion.metrics.classifier_training import predicted_logits
from medmnist_diffusion.metrics.extractors import OFFLINE_PAIR, make_extractor
from medmnist_diffusion.metrics.membership import MOST_ATTACKED, attack_auc, classifier_familiarity
from medmnist_diffusion.metrics.mixed_training import Fitted, ImageClassifier, Mixture, Recipe, fit
from medmnist_diffusion.publish.card import escaped
from medmnist_diffusion.publish.plots import save_sides
from medmnist_diffusion.studies.augmentation.arms import CLASSICAL, ClassifierArm
from medmnist_diffusion.studies.augmentation.generators import Pool, Source
from medmnist_diffusion.studies.augmentation.situations import Situation
from medmnist_diffusion.studies.grid import CellRecord, ResultFile
from medmnist_diffusion.studies.steps import measure_images

DRAWS = "draws.jsonl"
VERSION = 3  # change it with what a draw's figures mean: draws of another version are made again
JUDGED = 500  # generated images whose metrics stand beside the gain
GENERATOR = ("step", "val_loss", "training_images", "max_train_steps")  # what is kept of its training
METRICS = ("frechet_distance", "precision", "recall", "density", "coverage")
GENERATOR_ATTACKED = "the generator"  # among a draw's attacks
FEWEST_HELD_OUT = 10  # images a class, for figures on left-out ones
MOST_REPEATED = 5000  # images a class, of pools that are made equally large


class ClassifierResult(BaseModel):
    """One arm's classifier in one draw: what it saw, how validation chose it, and its test figures (MedMNIST's AUC and ACC)."""

    model_config = ConfigDict(extra="forbid")

    regime: str
    arm: str
    settings: dict[str, Any]  # the arm's
    seed: int
    classifier: str
    leaky: bool
    real_index_hash: str
    generator_index_hash: str | None
    n_real: int
    n_val: int
    n_synthetic: int  # distinct generated images that could be drawn
    learning_rate: float
    step: int
    val_loss: float
    auc: float
    acc: float
    balanced_accuracy: float
    recall: list[float]
    ece: float
    seconds: float
    average_precision: list[float] | None = None  # a class; of later results
    held_out: dict[str, float] | None = None  # figures on real images that the regime left out: `images`, `auc`, …


class DrawResult(CellRecord):
    """What is known of a draw; a line of the results holds what is new since the one before it.

    `pools` holds, of each pool of generated images, its metrics by name; `scores` the test scores of the arms (see `scores_of`), a
    list a column.
    """

    share: float
    rare_share: float
    seed: int
    n_real: int
    n_real_per_class: list[int]
    n_val: int
    cells: list[ClassifierResult] = Field(default_factory=list)
    pools: dict[str, dict[str, float]] = Field(default_factory=dict)
    failed: str | None = None  # why its generator could not be trained; the draw is left out then
    skipped: dict[str, str] = Field(default_factory=dict)  # leaky arms without a generator, and why; the draw stays
    generator: dict[str, Any] | None = None  # steps, losses and images of its training
    scores: dict[str, list[list[float]]] = Field(default_factory=dict)
    attacks: dict[str, float] = Field(default_factory=dict)  # `attack_auc` on classifiers and on the generator

    @property
    def regime(self) -> Regime:
        return Regime(self.share, self.rare_share)

    def cell(self, arm: str) -> ClassifierResult | None:
        return next((cell for cell in self.cells if cell.arm == arm), None)

    def scores_of(self, arm: str) -> np.ndarray:
        """float16 N×K."""
        return np.array(self.scores[arm], np.float16).T

    def joined(self, newer: Self) -> Self:
        """Both together; of an arm that both have the newer result counts."""
        again = {cell.arm for cell in newer.cells}
        changes: dict[str, Any] = {"cells": [cell for cell in self.cells if cell.arm not in again] + newer.cells}
        changes |= {
            name: getattr(self, name) | getattr(newer, name) for name in ("pools", "skipped", "scores", "attacks")
        }
        changes |= {name: getattr(newer, name) or getattr(self, name) for name in ("failed", "generator")}
        return self.model_copy(update=changes)


@cache
def draws_in(folder: Path) -> ResultFile[DrawResult]:
    """The study's results; a folder of an older version, with a JSON file and an npz for each draw, is taken over."""

    def with_scores(path: Path, draw: DrawResult) -> DrawResult:
        scores = kept_arrays(path.with_suffix(".npz")) or {}
        return draw.model_copy(update={"scores": {arm: kept_scores(of_arm) for arm, of_arm in scores.items()}})

    results = ResultFile(folder / DRAWS, DrawResult)
    results.import_once(folder / "units", with_scores)
    return results


@dataclass(frozen=True)
class AugmentationProtocol:
    """What all draws share: where they lie, the data, the generated images' source, and how classifiers are trained.

    Attributes:
        earlier: the same in the precisions of other machines, which made a part of the draws.
        looks: how many verdicts may be asked for as the study goes.
    """

    folder: Path
    dataset: ImageDataset
    source: Source
    recipe: Recipe
    situation: Situation
    earlier: "tuple[AugmentationProtocol, ...]" = ()
    looks: int = 1

    @property
    def arms(self) -> tuple[ClassifierArm, ...]:
        return self.situation.arms

    def of(self, regime: Regime, seed: int) -> "AugmentationProtocol":
        """The one in whose precision the draw has all arms; else itself. All arms of a draw have one precision."""
        known = sorted((self, *self.earlier), key=lambda one: one.recipe.precision)  # the same on every machine
        return next((one for one in known if not one.missing(regime, seed)), self)

    def fingerprint(self, regime: Regime, seed: int) -> str:
        """Of all that a draw's figures depend on; not of which arms there are."""
        content = [self.dataset.content_hash, asdict(regime), seed, self.source.identity, asdict(self.recipe)]
        which = [] if self.situation.name == "few-images" else [self.situation.name]  # which was the only one once
        return digest([*content, selection.SETTINGS, VERSION, *which])

    def held_out(self, data: RegimeData) -> Split:
        """Real images, beside the test images, that no arm of a draw has seen, labelled or not."""
        return data.fresh_val if self.situation.unlabelled else data.fresh

    def arms_of(self, regime: Regime) -> list[ClassifierArm]:
        """With all real images there is nothing that a leaky generator could see beyond them."""
        return [arm for arm in self.arms if not (arm.leaky and regime == Regime(1.0))]

    def read(self, regime: Regime, seed: int) -> DrawResult | None:
        """A draw's results, finished or not; None where there is none."""
        return draws_in(self.folder).get(self.fingerprint(regime, seed))

    def missing(self, regime: Regime, seed: int) -> list[ClassifierArm]:
        """The arms that a draw still lacks: without a result, or with one of other settings, or without its scores."""
        draw, arms = self.read(regime, seed), self.arms_of(regime)
        if draw is None or draw.failed:
            return [] if draw else arms
        done = {cell.arm: cell.settings for cell in draw.cells if cell.arm in draw.scores}
        return [arm for arm in arms if done.get(arm.name) != arm.settings and arm.name not in draw.skipped]

    def pools_of(self, draw: DrawResult) -> list[str]:
        """The pools of generated images that a draw's arms use."""
        arms = [arm for arm in self.arms_of(draw.regime) if arm.generated and arm.name not in draw.skipped]
        return list(dict.fromkeys(arm.pool for arm in arms if arm.pool != "both"))  # which is another pool, and more

    def finished(self, regime: Regime, seed: int) -> bool:
        """Whether all arms of a draw are trained, and its pools measured; or it failed for good."""
        draw = self.read(regime, seed)
        if draw is None or self.missing(regime, seed):
            return False
        attacked = not self.situation.sharing or GENERATOR_ATTACKED in draw.attacks
        return draw.failed is not None or (attacked and set(self.pools_of(draw)) <= set(draw.pools))


def train_draw(
    protocol: AugmentationProtocol, regime: Regime, seed: int, deadline: float = float("inf")
) -> DrawResult | None:
    """Train what a draw lacks. No arm starts after the deadline (of time.time()).

    Raises:
        RuntimeError: if a generator saw other real images than the classifier, in an arm that is not marked as leaky.
    """
    data = draw_regime(protocol.dataset, regime, seed)
    for arm in protocol.missing(regime, seed):
        if time.time() > deadline:
            break
        try:
            pool = _pool(protocol, data, arm) if arm.generated else None
        except TrainingDivergedError as error:
            why = {"skipped": {arm.name: str(error)}} if arm.leaky else {"failed": f"{arm.pool}: {error}"}
            _add(protocol, data, **why)
            if arm.leaky:
                continue
            break
        if pool and not arm.leaky and pool.index_hash != data.index_hash:
            raise RuntimeError(f"{arm.name}: the generator saw other real images than the classifier.")
        began = time.time()
        mixture = _mixture(protocol, data, arm, pool)
        fitted = (
            _classical(protocol, data) if arm == CLASSICAL else _fit(protocol, data, mixture, _val(data, arm, pool))
        )
        scores = _scores(protocol, fitted.model, protocol.dataset.splits["test"])
        cell = _result(protocol, data, arm, mixture, pool, fitted, scores, time.time() - began)
        attacks = {arm.name: _attack(protocol, data, fitted.model)} if protocol.situation.sharing else {}
        _add(protocol, data, cells=[cell], scores={arm.name: kept_scores(scores)}, attacks=attacks)
    return protocol.read(regime, seed)


def _scores(protocol: AugmentationProtocol, model: ImageClassifier, split: Split) -> np.ndarray:
    return scores_of(predicted_logits(model, split), protocol.dataset.conditioning.multi_label)


def _attack(protocol: AugmentationProtocol, data: RegimeData, model: ImageClassifier) -> float:
    """How well a regime's training images are told from real images that it left out, by what a classifier knows of them."""
    sides = _sides(protocol, data)
    members, others = (classifier_familiarity(model, side, protocol.dataset.conditioning) for side in sides)
    return attack_auc(members, others)


def _sides(protocol: AugmentationProtocol, data: RegimeData) -> tuple[Split, Split]:
    """Members and others for an attack: some of each, drawn by the draw's seed."""
    rng = np.random.default_rng([data.seed, 41])
    members, others = data.dataset.train, protocol.held_out(data)
    rows = [np.sort(rng.permutation(len(side))[:MOST_ATTACKED]) for side in (members, others)]
    return members.subset(rows[0]), others.subset(rows[1])


def _pool(protocol: AugmentationProtocol, data: RegimeData, arm: ClassifierArm) -> Pool:
    """The generated images of an arm."""
    if arm.pool == "both":
        return protocol.source.draw("plain", data)
    return protocol.source.draw(arm.pool, data, _pseudo_labelled(protocol, data) if arm.unlabelled else None)


def measure_draw(
    protocol: AugmentationProtocol, regime: Regime, seed: int, deadline: float = float("inf")
) -> DrawResult | None:
    """Measure the pools of a trained draw, and draw the first one's picture; None where no arm is trained."""
    data, draw = draw_regime(protocol.dataset, regime, seed), protocol.read(regime, seed)
    if draw is None or draw.failed:
        return draw
    pools: dict[str, Split] = {}
    using: dict[str, ClassifierArm] = {arm.pool: arm for arm in protocol.arms if arm.generated}
    for name in protocol.pools_of(draw):
        if time.time() > deadline:
            return protocol.read(regime, seed)
        pools[name] = _pool(protocol, data, using[name]).split
        if name not in draw.pools:
            measured = pool_metrics(protocol.dataset, data, pools[name])
            summary = protocol.source.summary(regime, seed) or {}
            kept = {key: value for key, value in summary.items() if key in GENERATOR}
            _add(protocol, data, pools={name: measured}, generator=kept or None)
    if protocol.situation.sharing and pools and GENERATOR_ATTACKED not in draw.attacks:
        members, others = protocol.source.familiarity(data, _sides(protocol, data))
        _add(protocol, data, attacks={GENERATOR_ATTACKED: attack_auc(members, others)})
    if seed == 0 and pools:
        sides = {"real": data.dataset.train, **pools}
        save_sides(sides, protocol.dataset.conditioning, picture_path(protocol.folder, regime))
    return protocol.read(regime, seed)


def _add(protocol: AugmentationProtocol, data: RegimeData, **news: Any) -> None:
    """A line with what is new of a draw."""
    train = data.dataset.train
    line = DrawResult(
        fingerprint=protocol.fingerprint(data.regime, data.seed),
        **asdict(data.regime),
        seed=data.seed,
        n_real=len(train),
        n_real_per_class=protocol.dataset.conditioning.counts(train.labels).tolist(),
        n_val=len(data.dataset.splits["val"]),
        **news,
    )
    draws_in(protocol.folder).append(line)


def _mixture(protocol: AugmentationProtocol, data: RegimeData, arm: ClassifierArm, pool: Pool | None) -> Mixture:
    """What the arm's classifier is trained on."""
    extra = _extra(protocol, data, arm, pool) if arm.share else None
    several = protocol.dataset.conditioning.multi_label
    chances = None
    if extra and arm.soft:
        logits = predicted_logits(_selector(protocol, data), extra)
        chances = logits.sigmoid() if several else logits.softmax(1)
    unlabeled = data.unlabelled if arm.consistent else None
    return Mixture(data.dataset.train, extra, arm.share, arm.until, arm.classical, chances, arm.balance, unlabeled)


def _extra(protocol: AugmentationProtocol, data: RegimeData, arm: ClassifierArm, pool: Pool | None) -> Split:
    """The images that an arm has beside the real ones."""
    conditioning = protocol.dataset.conditioning
    if pool is not None and arm.pool == "both":
        generated = pool.split.subset(selection.unselected(conditioning.strata(pool.split.labels)))
        return _half_and_half(_pseudo_labelled(protocol, data), generated)
    extra = pool.split if pool else data.dataset.train if arm.pool == "real" else _pseudo_labelled(protocol, data)
    if arm.selection:
        return extra.subset(selection.SELECTIONS[arm.selection](extra, data.dataset, _selector(protocol, data)))
    if arm.times:
        return extra.subset(_spread(len(extra), round(arm.times * len(data.dataset.train))))
    if arm.pool == "plain":
        extra = extra.subset(selection.unselected(conditioning.strata(extra.labels)))
    if arm.rare:
        extra = extra.subset(np.flatnonzero(conditioning.shows(extra.labels, rarest_class(protocol.dataset))))
    return extra


def _spread(length: int, count: int) -> np.ndarray:
    """So many rows of a pool, evenly over it, so that its labels, which stand in order, keep their shares; all if it has fewer."""
    return np.unique(np.linspace(0, length - 1, min(count, length)).round().astype(np.int64))


def _half_and_half(first: Split, second: Split) -> Split:
    """Of each condition as many images of one split as of the other, the fewer ones again and again, at most MOST_REPEATED."""
    parts = []
    for condition in np.intersect1d(first.labels, second.labels):
        rows = [np.flatnonzero(split.labels == condition) for split in (first, second)]
        count = min(max(map(len, rows)), MOST_REPEATED)
        parts += [split.subset(np.resize(of, count)) for split, of in zip((first, second), rows, strict=True)]
    return joined("both", parts or [first, second])


def _val(data: RegimeData, arm: ClassifierArm, pool: Pool | None) -> Split:
    """What chooses an arm's classifier: the regime's validation images. Where generated images stand in for real ones, generated
    ones that are not trained on."""
    val = data.dataset.splits["val"]
    if not arm.times or pool is None:
        return val
    trained_on = _spread(len(pool.split), round(arm.times * len(data.dataset.train)))
    left = np.setdiff1d(np.arange(len(pool.split)), trained_on)
    return pool.split.subset(left[_spread(len(left), len(val))])


def _pseudo_labelled(protocol: AugmentationProtocol, data: RegimeData) -> Split:
    """The training images that the regime leaves out, with the labels that the classical arm's classifier finds in them."""
    others = data.unlabelled
    logits = predicted_logits(_selector(protocol, data), others)
    several = protocol.dataset.conditioning.multi_label
    labels = conditions_of((logits > 0).numpy()) if several else logits.argmax(1).numpy()
    return Split("unlabelled", others.images, labels)


def _fit(protocol: AugmentationProtocol, data: RegimeData, mixture: Mixture, val: Split) -> Fitted:
    balanced = protocol.situation.balanced_val
    return fit(protocol.recipe, mixture, val, protocol.dataset.conditioning, data.seed, balanced)


def _classical(protocol: AugmentationProtocol, data: RegimeData) -> Fitted:
    """The classical arm's classifier; kept, as selections look through its eyes."""
    train, dataset = data.dataset.train, protocol.dataset
    fitted = _fit(protocol, data, Mixture(train), data.dataset.splits["val"])
    facts = (
        f"{protocol.recipe.network}, trained for {fitted.step} steps on {len(train)} real images of {dataset.name} "
        f"({data.regime.name}, draw {data.seed}), shifted, rotated and changed in brightness; classes: "
        f"{', '.join(dataset.id2label.values())}; licence of the data: {dataset.license}. The study's selections look at "
        "generated images through it."
    )
    fitted.model.save_pretrained(_selector_folder(protocol, data), model_card_kwargs={"facts": escaped(facts)})
    return fitted


def _selector(protocol: AugmentationProtocol, data: RegimeData) -> ImageClassifier:
    folder = _selector_folder(protocol, data)
    if not (folder / "model.safetensors").is_file():
        return _classical(protocol, data).model
    return ImageClassifier.from_pretrained(folder).eval()


def _selector_folder(protocol: AugmentationProtocol, data: RegimeData) -> Path:
    return protocol.folder / "classifiers" / protocol.fingerprint(data.regime, data.seed)


def _result(
    protocol: AugmentationProtocol, data: RegimeData, arm: ClassifierArm, mixture: Mixture, pool: Pool | None,
    fitted: Fitted, scores: np.ndarray, seconds: float,
) -> ClassifierResult:  # fmt: skip
    truth = protocol.dataset.conditioning.truth(protocol.dataset.splits["test"].labels)
    return ClassifierResult(
        regime=data.regime.name,
        arm=arm.name,
        settings=arm.settings,
        seed=data.seed,
        classifier=protocol.recipe.network,
        leaky=arm.leaky,
        real_index_hash=data.index_hash,
        generator_index_hash=pool.index_hash if pool else None,
        n_real=len(mixture.real) if arm.share < 1 or arm.until < 1 or arm.pool == "real" else 0,
        n_val=len(data.dataset.splits["val"]),
        n_synthetic=_distinct(protocol, arm, mixture, pool),
        learning_rate=fitted.learning_rate,
        step=fitted.step,
        val_loss=fitted.val_loss,
        seconds=round(seconds, 1),
        **figures_of(scores, truth),
        average_precision=average_precisions(scores, truth),
        held_out=_held_out_figures(protocol, data, fitted.model),
    )


def _distinct(protocol: AugmentationProtocol, arm: ClassifierArm, mixture: Mixture, pool: Pool | None) -> int:
    """How many generated images could be drawn."""
    if pool is None or mixture.extra is None:
        return 0
    if arm.pool == "both":
        return len(selection.unselected(protocol.dataset.conditioning.strata(pool.split.labels)))
    return len(mixture.extra)


def _held_out_figures(
    protocol: AugmentationProtocol, data: RegimeData, model: ImageClassifier
) -> dict[str, float] | None:
    """On real images that the regime left out; None where there are too few of a class, or they are not asked for."""
    if not protocol.situation.left_out:
        return None
    held_out = protocol.held_out(data)
    if protocol.dataset.conditioning.counts(held_out.labels).min() < FEWEST_HELD_OUT:
        return None
    truth = protocol.dataset.conditioning.truth(held_out.labels)
    figures = figures_of(_scores(protocol, model, held_out), truth)
    return {"images": len(held_out), **{name: figures[name] for name in FIGURES}}


def pool_metrics(whole: ImageDataset, data: RegimeData, pool: Split) -> dict[str, float]:
    """How good the generated images are: each figure ÷ its floor in both offline spaces, against the whole training set (which no
    arm saw: this is to compare with the gain, and chooses nothing), labels, and copies of the regime's own images."""
    counts = whole.conditioning.stratum_counts(whole.labels_in_shares(JUDGED))
    judged = pool.subset(whole.conditioning.draw(pool.labels, counts, np.random.default_rng(0)))
    figures: dict[str, float] = {}
    try:
        spaces = [make_extractor(name, whole) for name in OFFLINE_PAIR]
        evaluation = measure_images(whole, judged, spaces, ["features", "labels"])
    except UserError:  # too few images for any figure
        return figures
    for record in evaluation.records:
        if record.name in METRICS and record.ratio is not None:
            figures[f"{record.name}, {record.extractor}"] = record.ratio
        elif record.name in ("label_accuracy", "label_auc"):
            figures[record.name] = record.value
    held_out, train = clean_held_out(whole), data.dataset.train
    if len(held_out):
        threshold = memorization.Threshold.of(memorization.nearest_copies(held_out, train).distances)
        copies = memorization.nearest_copies(judged, train).distances < threshold.value
        figures["memorized_share"] = float(copies.mean())
    if len(fresh := find_twins(data.dataset).independent):
        near = nearest_pictures(judged, train).relative < memorization.Threshold.of(fresh).value
        figures["copied_share"] = float(near.mean())
    return figures


def picture_path(folder: Path, regime: Regime) -> Path:
    return folder / f"images_{regime.slug}.png"
