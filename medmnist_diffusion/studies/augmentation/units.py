"""A unit of the augmentation study: one draw of one regime, its generator, and every arm's classifier, kept as it goes.

A unit's file is written anew after every arm, so that a study stopped anywhere goes on with the next one.
"""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from medmnist_diffusion.cache import digest, kept_arrays, read_kept
from medmnist_diffusion.data import ImageDataset, Split
from medmnist_diffusion.errors import TrainingDivergedError, UserError
from medmnist_diffusion.files import atomic_file, write_json
from medmnist_diffusion.metrics import memorization
from medmnist_diffusion.metrics.evaluation import evaluate_images
from medmnist_diffusion.metrics.extractors import OFFLINE_PAIR, make_extractor
from medmnist_diffusion.publish.card import plain
from medmnist_diffusion.publish.plots import save_sides
from medmnist_diffusion.studies.augmentation import selection
from medmnist_diffusion.studies.augmentation.arms import CLASSICAL, Arm
from medmnist_diffusion.studies.augmentation.classifiers import (
    Fitted,
    ImageClassifier,
    Mixture,
    Recipe,
    fit,
    predicted_logits,
)
from medmnist_diffusion.studies.augmentation.generators import Pool, Source
from medmnist_diffusion.studies.augmentation.regimes import Regime, RegimeData, draw_regime
from medmnist_diffusion.studies.augmentation.scores import figures_of, scores_of

VERSION = 2  # change it with what a unit's figures mean: units of another version are made again
JUDGED = 500  # generated images whose metrics stand beside the gain
METRICS = ("frechet_distance", "precision", "recall", "density", "coverage")


class Cell(BaseModel):
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


class UnitResult(BaseModel):
    """A unit's file. `pools` holds, of each pool of generated images, its metrics by name."""

    model_config = ConfigDict(extra="forbid")

    fingerprint: str
    share: float
    rare_share: float
    seed: int
    n_real: int
    n_real_per_class: list[int]
    n_val: int
    cells: list[Cell] = []
    pools: dict[str, dict[str, float]] = {}
    failed: str | None = None  # why its generator could not be trained; the draw is left out then
    skipped: dict[str, str] = {}  # leaky arms, and why their generator could not be trained; the draw stays

    @property
    def regime(self) -> Regime:
        return Regime(self.share, self.rare_share)

    def cell(self, arm: str) -> Cell | None:
        return next((cell for cell in self.cells if cell.arm == arm), None)


@dataclass(frozen=True)
class Study:
    """What all units share: where they lie, the data, the generated images' source, and how classifiers are trained.

    Attributes:
        earlier: the same in the precisions of other machines, which made a part of the units.
    """

    folder: Path
    dataset: ImageDataset
    source: Source
    recipe: Recipe
    arms: tuple[Arm, ...]
    earlier: "tuple[Study, ...]" = ()

    def of(self, regime: Regime, seed: int) -> "Study":
        """The one in whose precision the unit has all arms; else itself. All arms of a unit have one precision."""
        known = sorted((self, *self.earlier), key=lambda study: study.recipe.precision)  # the same on every machine
        return next((study for study in known if not study.missing(regime, seed)), self)

    def fingerprint(self, regime: Regime, seed: int) -> str:
        """Of all that a unit's figures depend on; not of which arms there are."""
        content = [self.dataset.content_hash, asdict(regime), seed, self.source.identity, asdict(self.recipe)]
        content += [selection.SETTINGS, VERSION]
        return digest(content)

    def arms_of(self, regime: Regime) -> list[Arm]:
        """With all real images there is nothing that a leaky generator could see beyond them."""
        return [arm for arm in self.arms if not (arm.leaky and regime == Regime(1.0))]

    def path(self, regime: Regime, seed: int) -> Path:
        return self.folder / "units" / f"{self.fingerprint(regime, seed)}.json"

    def read(self, regime: Regime, seed: int) -> UnitResult | None:
        """A unit's file, finished or not; None where there is none. A UserError names a damaged one."""
        return read_kept(self.path(regime, seed), UnitResult, "unit")

    def missing(self, regime: Regime, seed: int) -> list[Arm]:
        """The arms that a unit still lacks: without a result, or with one of other settings, or without its scores."""
        unit, scores, arms = self.read(regime, seed), self.scores(regime, seed), self.arms_of(regime)
        if unit is None:
            return arms
        if unit.failed:
            return []
        done = {cell.arm: cell.settings for cell in unit.cells if cell.arm in scores}
        return [arm for arm in arms if done.get(arm.name) != asdict(arm) and arm.name not in unit.skipped]

    def pools_of(self, unit: UnitResult) -> list[str]:
        """The pools of generated images that a unit's arms use."""
        arms = [arm for arm in self.arms_of(unit.regime) if arm.generated and arm.name not in unit.skipped]
        return list(dict.fromkeys(arm.pool for arm in arms))

    def finished(self, regime: Regime, seed: int) -> bool:
        """Whether all arms of a unit are trained, and its pools measured; or it failed for good."""
        unit = self.read(regime, seed)
        if unit is None or self.missing(regime, seed):
            return False
        return unit.failed is not None or set(self.pools_of(unit)) <= set(unit.pools)

    def scores(self, regime: Regime, seed: int) -> dict[str, np.ndarray]:
        """The test scores of a unit's finished arms (see `scores_of`)."""
        return kept_arrays(self.path(regime, seed).with_suffix(".npz")) or {}


def run_unit(study: Study, regime: Regime, seed: int, deadline: float = float("inf")) -> UnitResult:
    """Train what a unit lacks. No arm starts after the deadline (of time.time()).

    Raises:
        RuntimeError: if a generator saw other real images than the classifier, in an arm that is not marked as leaky.
    """
    data = draw_regime(study.dataset, regime, seed)
    result = study.read(regime, seed) or _empty(study, data)
    scores = study.scores(regime, seed)
    for arm in study.missing(regime, seed):
        if time.time() > deadline:
            return result
        try:
            pool = study.source.draw(arm.pool, data) if arm.generated else None
        except TrainingDivergedError as error:
            if arm.leaky:
                result.skipped[arm.name] = str(error)
                _save(study, data, result, scores)
                continue
            result.failed = f"{arm.pool}: {error}"
            _save(study, data, result, scores)
            return result
        if pool and not arm.leaky and pool.index_hash != data.index_hash:
            raise RuntimeError(f"{arm.name}: the generator saw other real images than the classifier.")
        began = time.time()
        mixture = _mixture(study, data, arm, pool)
        fitted = _classical(study, data) if arm == CLASSICAL else _fit(study, data, mixture)
        scores[arm.name] = scores_of(predicted_logits(fitted.model, study.dataset.splits["test"]))
        result.cells = [cell for cell in result.cells if cell.arm != arm.name]
        result.cells.append(_cell(study, data, arm, mixture, pool, fitted, scores[arm.name], time.time() - began))
        _save(study, data, result, scores)
    return result


def measure_unit(study: Study, regime: Regime, seed: int, deadline: float = float("inf")) -> UnitResult | None:
    """Measure the pools of a trained unit, and draw the first draw's picture; None where no arm is trained."""
    data, result = draw_regime(study.dataset, regime, seed), study.read(regime, seed)
    if result is None or result.failed:
        return result
    pools: dict[str, Pool] = {}
    for name in study.pools_of(result):
        if time.time() > deadline:
            return result
        pools[name] = study.source.draw(name, data)
        if name not in result.pools:
            result.pools[name] = pool_metrics(study.dataset, data, pools[name].split)
            _save(study, data, result, study.scores(regime, seed))
    if seed == 0 and pools:
        sides = {"real": data.dataset.train, **{name: pool.split for name, pool in pools.items()}}
        save_sides(sides, study.dataset.id2label, picture_path(study, regime))
    return result


def _empty(study: Study, data: RegimeData) -> UnitResult:
    train = data.dataset.train
    return UnitResult(
        fingerprint=study.fingerprint(data.regime, data.seed),
        share=data.regime.share,
        rare_share=data.regime.rare_share,
        seed=data.seed,
        n_real=len(train),
        n_real_per_class=np.bincount(train.labels, minlength=data.dataset.num_classes).tolist(),
        n_val=len(data.dataset.splits["val"]),
    )


def _mixture(study: Study, data: RegimeData, arm: Arm, pool: Pool | None) -> Mixture:
    """What the arm's classifier is trained on."""
    extra = data.dataset.train if arm.share and arm.pool == "real" else pool.split if pool else None
    if extra and arm.selection:
        extra = extra.subset(selection.SELECTIONS[arm.selection](extra, data.dataset, _selector(study, data)))
    elif extra and arm.generated and arm.pool == "plain":
        extra = extra.subset(selection.unselected(extra.labels))
    return Mixture(data.dataset.train, extra, arm.share, arm.until, arm.classical)


def _fit(study: Study, data: RegimeData, mixture: Mixture) -> Fitted:
    return fit(study.recipe, mixture, data.dataset.splits["val"], study.dataset.num_classes, data.seed)


def _classical(study: Study, data: RegimeData) -> Fitted:
    """The classical arm's classifier; kept, as selections look through its eyes."""
    fitted = _fit(study, data, Mixture(data.dataset.train))
    train = data.dataset.train
    classes = ", ".join(study.dataset.id2label.values())
    facts = (
        f"{study.recipe.network}, trained for {fitted.step} steps on {len(train)} real images of {study.dataset.name} "
        f"({data.regime.name}, draw {data.seed}), shifted, rotated and changed in brightness; classes: {classes}; licence of the "
        f"data: {study.dataset.license}. The study's selections look at generated images through it."
    )
    fitted.model.save_pretrained(_selector_folder(study, data), model_card_kwargs={"facts": plain(facts)})
    return fitted


def _selector(study: Study, data: RegimeData) -> ImageClassifier:
    folder = _selector_folder(study, data)
    if not (folder / "model.safetensors").is_file():
        return _classical(study, data).model
    return ImageClassifier.from_pretrained(folder).eval()


def _selector_folder(study: Study, data: RegimeData) -> Path:
    return study.folder / "classifiers" / study.fingerprint(data.regime, data.seed)


def _cell(
    study: Study,
    data: RegimeData,
    arm: Arm,
    mixture: Mixture,
    pool: Pool | None,
    fitted: Fitted,
    scores: np.ndarray,
    seconds: float,
) -> Cell:
    return Cell(
        regime=data.regime.name,
        arm=arm.name,
        settings=asdict(arm),
        seed=data.seed,
        classifier=study.recipe.network,
        leaky=arm.leaky,
        real_index_hash=data.index_hash,
        generator_index_hash=pool.index_hash if pool else None,
        n_real=len(mixture.real) if arm.share < 1 else 0,
        n_val=len(data.dataset.splits["val"]),
        n_synthetic=len(mixture.extra) if pool and mixture.extra else 0,
        learning_rate=fitted.learning_rate,
        step=fitted.step,
        val_loss=fitted.val_loss,
        seconds=round(seconds, 1),
        **figures_of(scores, study.dataset.splits["test"].labels),
    )


def _save(study: Study, data: RegimeData, result: UnitResult, scores: dict[str, np.ndarray]) -> None:
    """The scores first: an arm that the JSON knows has its scores."""
    path = study.path(data.regime, data.seed)
    with atomic_file(path.with_suffix(".npz")) as temporary:
        np.savez_compressed(temporary, allow_pickle=False, **scores)
    write_json(path, result.model_dump())


def pool_metrics(whole: ImageDataset, data: RegimeData, pool: Split) -> dict[str, float]:
    """How good the generated images are: each figure ÷ its floor in both offline spaces, against the whole training set (which no
    arm saw: this is to compare with the gain, and chooses nothing), labels, and copies of the regime's own images."""
    rng, labels = np.random.default_rng(0), whole.labels_in_shares(JUDGED)
    rows = np.concatenate(
        [
            rng.permutation(np.flatnonzero(pool.labels == label))[:count]
            for label, count in enumerate(np.bincount(labels))
        ]
    )
    judged = pool.subset(np.sort(rows))
    figures: dict[str, float] = {}
    try:
        spaces = [make_extractor(name, whole) for name in OFFLINE_PAIR]
        records = evaluate_images(whole, judged, spaces, per_class=False, parts=["features", "labels"]).records
    except UserError:  # too few images for any figure
        return figures
    for record in records:
        if record.name in METRICS and record.ratio is not None:
            figures[f"{record.name}, {record.extractor}"] = record.ratio
        elif record.name == "label_accuracy":
            figures["label_accuracy"] = record.value
    held_out, train = memorization.clean_held_out(whole), data.dataset.train
    if len(held_out):
        threshold = memorization.Threshold.of(memorization.nearest_copies(held_out, train).distances)
        copies = memorization.nearest_copies(judged, train).distances < threshold.value
        figures["memorized_share"] = float(copies.mean())
    return figures


def picture_path(study: Study, regime: Regime) -> Path:
    return study.folder / f"images_{regime.slug}.png"
