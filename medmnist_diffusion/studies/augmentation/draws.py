"""A draw of the augmentation study: one subset of the real images, its generator, and every arm's classifier."""

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from medmnist_diffusion.data import ImageDataset, Split
from medmnist_diffusion.data.duplicates import clean_held_out
from medmnist_diffusion.data.regimes import Regime, RegimeData, draw_regime
from medmnist_diffusion.data.twins import nearest_pictures
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
from medmnist_diffusion.metrics.mixed_training import Fitted, ImageClassifier, Mixture
from medmnist_diffusion.metrics.real_side import RealSide
from medmnist_diffusion.publish.plots import save_sides
from medmnist_diffusion.studies.augmentation.arms import ClassifierArm
from medmnist_diffusion.studies.augmentation.generators import Pool
from medmnist_diffusion.studies.augmentation.mixtures import fit_arm, pool_of
from medmnist_diffusion.studies.augmentation.protocol import (
    AugmentationProtocol,
    ClassifierResult,
    DrawResult,
    draws_in,
    generator_of,
)
from medmnist_diffusion.studies.steps import measure_images

JUDGED = 500  # generated images whose metrics stand beside the gain
GENERATOR = ("step", "val_loss", "training_images", "max_train_steps")  # what is kept of its training
METRICS = ("frechet_distance", "precision", "recall", "density", "coverage")
FEWEST_HELD_OUT = 10  # images a class, for figures on left-out ones


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
            pool = pool_of(protocol, data, arm) if arm.generated else None
        except TrainingDivergedError as error:
            why = {"skipped": {arm.name: str(error)}} if arm.leaky else {"failed": f"{arm.pool}: {error}"}
            _add(protocol, data, **why)
            if arm.leaky:
                continue
            break
        if pool and not arm.leaky and pool.index_hash != data.index_hash:
            raise RuntimeError(f"{arm.name}: the generator saw other real images than the classifier.")
        began = time.time()
        mixture, fitted = fit_arm(protocol, data, arm, pool)
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
        made = pool_of(protocol, data, using[name])
        pools[name] = made.split
        if name not in draw.pools:
            measured = pool_metrics(protocol.dataset, data, made.split)
            kept = {key: value for key, value in (made.summary or {}).items() if key in GENERATOR}
            _add(protocol, data, pools={name: measured}, generators={name: kept} if kept else {})
    for pool in pools if protocol.situation.sharing else ():
        if generator_of(pool) not in draw.attacks:
            members, others = protocol.source.familiarity(pool, data, _sides(protocol, data))
            _add(protocol, data, attacks={generator_of(pool): attack_auc(members, others)})
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
    real = RealSide(data.dataset)
    fresh = real.independent(real.relative_of_held_out, real.relative_of_alone, None)
    if len(fresh):
        limit = memorization.Threshold.of(fresh.values).value
        figures["copied_share"] = float((nearest_pictures(judged, train).relative < limit).mean())
        seen = [float((kind.values < limit).mean()) for kind in real.relative_of_redrawn(None) if len(kind)]
        figures["seen_copies"] = min(seen)
    return figures


def picture_path(folder: Path, regime: Regime) -> Path:
    return folder / f"images_{regime.slug}.png"
