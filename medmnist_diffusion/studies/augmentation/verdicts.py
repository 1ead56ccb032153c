"""What the draws of one regime say: every arm's figures with their uncertainty, and the verdict in words."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medmnist_diffusion.data import ImageDataset
from medmnist_diffusion.data.regimes import Regime
from medmnist_diffusion.metrics.classifier_scores import FIGURES, resampled_figures, resampled_test_sets
from medmnist_diffusion.studies.augmentation.arms import BY_NAME, CLASSICAL, MAIN_ARM, OVERSAMPLED
from medmnist_diffusion.studies.augmentation.draws import DrawResult
from medmnist_diffusion.studies.statistics import ALPHA, ArmFigures, Effect, Judgement, effect, effects, judge

RESAMPLINGS = 500
ENOUGH = 8  # draws, for a verdict
NAMES = {"auc": "AUC", "acc": "ACC", "balanced_accuracy": "balanced accuracy", "ece": "ECE"}

# ResNet-18 (28): AUC and ACC of MedMNIST v2's Table 3 (Yang et al., Scientific Data 10, 41, 2023).
PUBLISHED = {
    "pathmnist": (0.983, 0.907), "dermamnist": (0.917, 0.735), "octmnist": (0.943, 0.743), "pneumoniamnist": (0.944, 0.854),
    "retinamnist": (0.717, 0.524), "breastmnist": (0.901, 0.863), "bloodmnist": (0.998, 0.958), "tissuemnist": (0.930, 0.676),
    "organamnist": (0.997, 0.935), "organcmnist": (0.992, 0.900), "organsmnist": (0.972, 0.782),
}  # fmt: skip


@dataclass(frozen=True)
class RegimeResult:
    """A regime's draws, every figure of its arms with resampled test sets (`recall_0` … are those of the classes), the verdict."""

    regime: Regime
    draws: list[DrawResult]
    figures: dict[str, ArmFigures]
    judgement: Judgement

    @property
    def auc(self) -> ArmFigures:
        return self.figures["auc"]

    @property
    def n_real(self) -> float:
        return float(np.mean([draw.n_real for draw in self.draws]))

    @property
    def arms(self) -> list[str]:
        """In the order in which they are listed everywhere."""
        made = {cell.arm for draw in self.draws for cell in draw.cells}
        return [arm for arm in BY_NAME if arm in made]

    def effects(self, figure: str = "auc") -> dict[str, list[Effect]]:
        """Of every honest arm: against `classical`, and against the oversampled control of its own share, or of 25 % where there
        is none. The candidates of either list are corrected for their number."""
        honest = [arm for arm in self.arms if not BY_NAME[arm].leaky and arm != CLASSICAL.name]
        twins = [(arm, self._oversampled(arm)) for arm in honest if arm != OVERSAMPLED.name]
        pairs = {CLASSICAL.name: [(arm, CLASSICAL.name) for arm in honest], "oversampled": twins}
        candidates = self.judgement.beats_controls
        return {control: effects(self.figures[figure], listed, candidates) for control, listed in pairs.items()}

    def _oversampled(self, arm: str) -> str:
        twin = BY_NAME[arm].twin
        return twin if twin and twin in self.auc.values and twin != arm else OVERSAMPLED.name

    def of(self, arm: str, name: str = "auc") -> list[float]:
        """An arm's figure in every draw that has it."""
        return list(self.figures[name].values.get(arm, {}).values())


def judge_regime(dataset: ImageDataset, regime: Regime, draws: list[DrawResult]) -> RegimeResult:
    """The verdict, from the AUC of the draws' classifiers on the test images."""
    test_labels, conditioning = dataset.splits["test"].labels, dataset.conditioning
    test_sets = resampled_test_sets(conditioning.strata(test_labels), RESAMPLINGS)
    truth = conditioning.truth(test_labels)
    figures: dict[str, ArmFigures] = {}

    def add(name: str, arm: str, seed: int, value: float, again: np.ndarray) -> None:
        of_arms = figures.setdefault(name, ArmFigures())
        of_arms.values.setdefault(arm, {})[seed] = value
        of_arms.resampled.setdefault(arm, {})[seed] = again

    for draw in draws:
        for cell in draw.cells:
            again = resampled_figures(draw.scores_of(cell.arm), truth, test_sets)
            for name in FIGURES:
                add(name, cell.arm, draw.seed, getattr(cell, name), again[name])
            for label, recall in enumerate(cell.recall):
                add(f"recall_{label}", cell.arm, draw.seed, recall, again["recall"][:, label])
    known = figures["auc"].values
    controls = {arm: [CLASSICAL.name, BY_NAME[arm].twin or ""] for arm in known if BY_NAME[arm].candidate}
    plain = [CLASSICAL.name, *(arm for arm in known if not BY_NAME[arm].generated and arm != CLASSICAL.name)]
    return RegimeResult(regime, draws, figures, judge(figures["auc"], controls, MAIN_ARM.name, plain))


def sentence(result: RegimeResult) -> str:
    """The verdict in words and numbers; of an arm that was chosen among others its interval says so."""
    judgement = result.judgement
    head = f"{result.regime.name} ({result.n_real:.0f} real images): {judgement.verdict}"
    if judgement.effect is None:
        return f"{head}; fewer than two draws have all arms."
    one = judgement.effect
    helps = judgement.verdict == "helps"
    chosen = f", both corrected for {judgement.comparisons} candidates (Bonferroni, Holm)" if helps else ""
    worse = judgement.verdict == "no evidence" and one.p_value < ALPHA
    but = f"; worse than {one.control}, not than each control" if worse else ""
    text = (
        f"{head}; {one.arm} − {one.control}: AUC {difference(one)} (95 % interval {interval(one)}, "
        f"p = {judgement.p_value:.2g}{chosen}; {one.draws} draws{but}). Recommended: {judgement.recommended}."
    )
    of_primary = effect(result.auc, MAIN_ARM.name, one.control)
    if one.arm != MAIN_ARM.name and of_primary:
        text += (
            f" {MAIN_ARM.name}, named in advance: {difference(of_primary)} ({interval(of_primary)}, "
            f"p = {of_primary.p_value:.2g})."
        )
    return text + (f" Fewer than {ENOUGH} draws: read it as a first look." if one.draws < ENOUGH else "")


def difference(one: Effect) -> str:
    return f"{one.difference:+.4f}"


def interval(one: Effect) -> str:
    return f"{one.interval[0]:+.4f} … {one.interval[1]:+.4f}"


def baseline_line(dataset: ImageDataset, network: str, results: Sequence[RegimeResult]) -> str:
    """Whether the classifier without generated images is as good as MedMNIST's published one, which saw plain real images."""
    published = PUBLISHED.get(dataset.name) if dataset.source == "medmnist" and dataset.image_size == 28 else None
    whole = next((result for result in results if result.regime == Regime(1.0)), None)
    if published is None:
        return "MedMNIST published no ResNet-18 for this data and image size to compare the baseline with."
    if whole is None:
        return "No regime has all real images, so the baseline cannot be compared with MedMNIST's published ResNet-18."
    arms = [arm for arm in ("real", CLASSICAL.name) if whole.of(arm)]
    reached = {arm: [float(np.mean(whole.of(arm, name))) for name in ("auc", "acc")] for arm in arms}
    below = {arm for arm in arms if any(ours < theirs for ours, theirs in zip(reached[arm], published, strict=True))}
    return (
        f"{'**A weak baseline.** ' if CLASSICAL.name in below else ''}On all real images, without generated ones, "
        f"{network} has "
        + ", ".join(
            f"AUC {auc:.3f} and ACC {acc:.3f} ({arm}{': below it' if arm in below else ''})"
            for arm, (auc, acc) in reached.items()
        )
        + f"; MedMNIST's published ResNet-18 (28) has {published[0]:.3f} and {published[1]:.3f}."
    )
