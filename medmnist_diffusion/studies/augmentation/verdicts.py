"""What the draws of one regime say: every arm's figures with their uncertainty, and the verdict in words."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from medmnist_diffusion.data import ImageDataset
from medmnist_diffusion.data.regimes import Regime, rarest_class
from medmnist_diffusion.metrics.classifier_scores import (
    FIGURES,
    resampled_average_precision,
    resampled_figures,
    resampled_test_sets,
)
from medmnist_diffusion.publish.copies import FEWEST_SEEN
from medmnist_diffusion.studies.augmentation.arms import BY_NAME, CLASSICAL, OVERSAMPLED, PoolName
from medmnist_diffusion.studies.augmentation.protocol import DrawResult, generator_of
from medmnist_diffusion.studies.augmentation.situations import Situation
from medmnist_diffusion.studies.statistics import (
    ALPHA,
    ArmFigures,
    Effect,
    Judgement,
    Verdict,
    effect,
    effects,
    half_width,
    judge,
    mean_interval,
)

RESAMPLINGS = 500
ENOUGH = 8  # draws, for a verdict
# Where generated images are to stand in for real ones: so much AUC may be lost (to stand in, or in part), so well may an attacker
# tell the generator's training images from others, and so many of its images may be copies.
LOST, LOST_IN_PART, TOLD_APART, COPIES = 0.01, 0.05, 0.6, 0.05
AS_GOOD = 0.01  # an easier thing is as good if generated images are better than it by no more
RARE_PRECISION = "average_precision_of_the_rarest"  # among a regime's figures, where that is the question
NAMES = {"auc": "AUC", "acc": "ACC", "balanced_accuracy": "balanced accuracy", "ece": "ECE"}

# ResNet-18 (28): AUC and ACC of MedMNIST v2's Table 3 (Yang et al., Scientific Data 10, 41, 2023).
PUBLISHED = {
    "pathmnist": (0.983, 0.907), "dermamnist": (0.917, 0.735), "octmnist": (0.943, 0.743), "pneumoniamnist": (0.944, 0.854),
    "retinamnist": (0.717, 0.524), "breastmnist": (0.901, 0.863), "bloodmnist": (0.998, 0.958), "tissuemnist": (0.930, 0.676),
    "organamnist": (0.997, 0.935), "organcmnist": (0.992, 0.900), "organsmnist": (0.972, 0.782),
}  # fmt: skip


@dataclass(frozen=True)
class RegimeResult:
    """A regime's draws, every figure of its arms with resampled test sets (`recall_0` … are those of the classes), the verdict,
    and how many looks it may come from."""

    regime: Regime
    situation: Situation
    draws: list[DrawResult]
    figures: dict[str, ArmFigures]
    judgement: Judgement
    looks: int = 1

    @property
    def detectable(self) -> float | None:
        """The smallest effect of a candidate over one control that draws like these find in four cases of five."""
        one = self.judgement.effect
        return one.detectable(self.judgement.comparisons * self.looks) if one else None

    @property
    def judged(self) -> ArmFigures:
        """What the verdict is on."""
        return self.figures[self.situation.figure]

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
        """Of every honest arm: against `classical`. Of those with generated images: against each easier thing of the situation, or
        where it names none against the oversampled control of the own share (of 25 % where there is none).

        The candidates of a list are corrected for their number.
        """
        honest = [arm for arm in self.arms if not BY_NAME[arm].leaky and arm != CLASSICAL.name]
        pairs = {CLASSICAL.name: [(arm, CLASSICAL.name) for arm in honest]}
        if not self.situation.easier:
            pairs["oversampled"] = [(arm, self._oversampled(arm)) for arm in honest if arm != OVERSAMPLED.name]
        for control in self.situation.easier:
            if control in honest:
                pairs[control] = [(arm, control) for arm in honest if BY_NAME[arm].generated]
        candidates = self.judgement.beats_controls
        return {control: effects(self.figures[figure], listed, candidates) for control, listed in pairs.items()}

    def _oversampled(self, arm: str) -> str:
        twin = BY_NAME[arm].twin
        return twin if twin and twin in self.auc.values and twin != arm else OVERSAMPLED.name

    def of(self, arm: str, name: str = "auc") -> list[float]:
        """An arm's figure in every draw that has it."""
        return list(self.figures[name].values.get(arm, {}).values())


def judge_regime(
    dataset: ImageDataset, regime: Regime, draws: list[DrawResult], situation: Situation, looks: int = 1
) -> RegimeResult:
    """The verdict, from the situation's figure of the draws' classifiers on the test images; `looks` as `judge_in` has it."""
    test, conditioning = dataset.splits["test"], dataset.conditioning
    test_sets = resampled_test_sets(conditioning.strata(test.labels), RESAMPLINGS, groups=test.groups)
    truth = conditioning.truth(test.labels)
    rarest = rarest_class(dataset) if situation.of_rarest else None
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
            if rarest is not None and cell.average_precision:
                precise = resampled_average_precision(draw.scores_of(cell.arm), truth, test_sets, rarest)
                add(RARE_PRECISION, cell.arm, draw.seed, cell.average_precision[rarest], precise)
    judgement = judge_in(situation, figures[situation.figure], leaks(draws), looks, unjudged(draws))
    return RegimeResult(regime, situation, draws, figures, judgement, looks)


def judge_in(
    situation: Situation, judged: ArmFigures, leaking: Sequence[str] = (), looks: int = 1, unsure: Sequence[str] = ()
) -> Judgement:
    """The verdict of a situation on its arms' figures.

    Where a candidate beats `classical` (after Holm), and was not shown to beat everything easier, the effect is that of the
    candidate that comes nearest, against the easier thing that is hardest to beat. Of the easier things that it was not shown to
    beat, one is as good, and recommended, that it is better than by at most AS_GOOD: as the interval says, or, of one that beats
    `classical` itself (after Holm), on average. Where there is none, there is no evidence.

    Args:
        leaking: what `leaks` has found.
        unsure: what `unjudged` has found.
        looks: how many verdicts the study may ask for as it goes. A p-value counts below 0.05 ÷ looks: the chance of a wrong
            verdict at any of them is then at most 0.05, whenever the study ends (Bonferroni's inequality).
    """
    alpha = ALPHA / looks
    if situation.sharing:
        return stand_in(judged, situation, situation.primary, leaking, unsure, looks)
    controls, plain = situation.controls(list(judged.values)), situation.plain(list(judged.values))
    judgement = judge(judged, controls, situation.primary, plain, alpha)
    if judgement.verdict != "no evidence" or not situation.easier:
        return judgement
    against = effects(judged, [(arm, CLASSICAL.name) for arm in controls], list(controls))
    better = [one.arm for one in against if one.difference > 0 and one.corrected_p_value < alpha]
    hardest = [
        one for arm in better if (one := min(_against(judged, arm, situation.easier), key=_difference, default=None))
    ]
    if not hardest:
        return judgement
    nearest = max(hardest, key=_difference)
    of_easier = effects(judged, [(one, CLASSICAL.name) for one in situation.easier], situation.easier)
    helping = [one.arm for one in of_easier if one.difference > 0 and one.corrected_p_value < alpha]
    as_good = [
        one
        for one in _against(judged, nearest.arm, situation.easier)
        if one.difference + one.reach(looks) <= AS_GOOD
        or (one.control in helping and one.difference <= AS_GOOD and (one.difference <= 0 or one.p_value >= alpha))
    ]
    if not as_good:
        return replace(judgement, effect=nearest, p_value=nearest.p_value)
    one = min(as_good, key=_difference)
    easier: Verdict = "an easier thing is as good"
    return replace(judgement, verdict=easier, effect=one, p_value=one.p_value, recommended=one.control)


def _against(judged: ArmFigures, arm: str, controls: Sequence[str]) -> list[Effect]:
    """An arm against each of several."""
    return effects(judged, [(arm, control) for control in controls], ())


def _difference(one: Effect) -> float:
    return one.difference


def leaks(draws: Sequence[DrawResult], pool: PoolName = "plain") -> list[str]:
    """What the draws' generators of a pool may give away of their training images; empty where nothing speaks for it.

    The upper end of the attack's 95 % interval over draws counts.
    """
    found, generator = [], generator_of(pool)
    told = [draw.attacks[generator] for draw in draws if generator in draw.attacks]
    if told:
        mean, reach = mean_and_reach(told)
        if mean + reach > TOLD_APART:
            found.append(
                f"an attacker with the generator may tell its training images from others (AUC {mean:.2f} ± {reach:.2f})"
            )
    copies, _ = _copies(draws, pool)
    if copies and (share := sum(mean_and_reach(copies))) > COPIES:
        found.append(f"up to {share:.0%} of the generated images may be copies of training images")
    return found


def unjudged(draws: Sequence[DrawResult], pool: PoolName = "plain") -> list[str]:
    """What could not be told of the draws' generators; empty if everything could."""
    copies, pools = _copies(draws, pool)
    told = len(copies) == pools and bool(copies)
    return [] if told else [f"whether they are copies could be judged in {len(copies)} of {pools} draws"]


def _copies(draws: Sequence[DrawResult], pool: PoolName) -> tuple[list[float], int]:
    """The share of copies in each draw in which copies could have been seen, and how many draws there are."""
    pools = [draw.pools[pool] for draw in draws if pool in draw.pools]
    return [of["copied_share"] for of in pools if of.get("seen_copies", 0.0) >= FEWEST_SEEN], len(pools)


def mean_and_reach(values: Sequence[float]) -> tuple[float, float]:
    """The mean over draws and half of its 95 % interval (Student's); of one draw no interval."""
    if len(values) < 2:
        return float(np.mean(values)), 0.0
    return float(np.mean(values)), half_width(float(np.std(values, ddof=1) / np.sqrt(len(values))), len(values) - 1)


def stand_in(
    judged: ArmFigures, situation: Situation, arm: str, leaking: Sequence[str], unsure: Sequence[str] = (), looks: int = 1
) -> Judgement:  # fmt: skip
    """Whether a classifier of an arm's generated images alone is about as good as one of the real images, against each of the
    primary arm's controls: as the 95 % interval says (wider for several looks), and only where little is given away of the real
    ones. An interval that goes from little lost to much is no evidence, either way; nor is any where it could not be told what is
    given away, or where real images teach little: then there is nothing to lose."""
    controls = situation.controls([situation.primary])[situation.primary]
    found = [each.widened(looks) for each in _against(judged, arm, controls)]
    if not found:
        return Judgement("no evidence", None, 1.0, CLASSICAL.name, 1, {})
    one, surest = (min(found, key=lambda each: each.interval[end]) for end in (0, 1))
    most = -one.interval[0]  # that is lost
    verdict: Verdict = "no evidence"
    if leaking or surest.interval[1] < -LOST_IN_PART:
        verdict, one = "cannot stand in", one if leaking else surest
    elif most < LOST_IN_PART and not unsure and teaches(judged):
        verdict = "can stand in" if most < LOST else "can partly stand in"
    recommended = arm if verdict in ("can stand in", "can partly stand in") else CLASSICAL.name
    return Judgement(verdict, one, one.p_value, recommended, 1, {})


def teaches(judged: ArmFigures) -> bool:
    """Whether real images teach enough for a loss to tell: an AUC twice LOST_IN_PART above chance, as the interval says."""
    return mean_interval(judged, CLASSICAL.name)[1] >= 0.5 + 2 * LOST_IN_PART


def trade_off(result: RegimeResult) -> dict[str, Judgement]:
    """Of every arm of generated images alone: whether its images can stand in for the real ones, judged by itself."""
    alone = [arm for arm in result.arms if BY_NAME[arm].times]
    return {
        arm: stand_in(
            result.judged, result.situation, arm, leaks(result.draws, pool), unjudged(result.draws, pool), result.looks
        )
        for arm in alone
        for pool in [BY_NAME[arm].pool]
    }


def sentence(result: RegimeResult) -> str:
    """The verdict in words and numbers; of an arm that was chosen among others its interval says so."""
    judgement, situation = result.judgement, result.situation
    head = f"{result.regime.name} ({result.n_real:.0f} real images): {judgement.verdict}"
    if judgement.effect is None:
        return f"{head}; fewer than two draws have all arms."
    one = judgement.effect
    helps = judgement.verdict == "helps"
    chosen = f", both corrected for {judgement.comparisons} candidates (Bonferroni, Holm)" if helps else ""
    but = _worse(result, one) if judgement.verdict == "no evidence" else ""
    as_good = _beside_an_easier_thing(result, one)
    text = (
        f"{head}; {one.arm} − {one.control}: {NAMES[situation.figure]} {difference(one)} (95 % interval {interval(one)}, "
        f"p = {judgement.p_value:.2g}{chosen}; {one.draws} draws{but}{as_good}). Recommended: {judgement.recommended}."
    )
    of_primary = effect(result.judged, situation.primary, one.control)
    if one.arm != situation.primary and of_primary:
        text += (
            f" {situation.primary}, named in advance: {difference(of_primary)} ({interval(of_primary)}, "
            f"p = {of_primary.p_value:.2g})."
        )
    if situation.sharing and (why := leaks(result.draws)):
        text += f" They may give too much away: {'; '.join(why)}."
    if situation.sharing and (unsure := unjudged(result.draws)):
        text += f" It could not be told what they give away: {'; '.join(unsure)}."
    if situation.sharing and not teaches(result.judged):
        text += f" Real images themselves teach too little (an AUC below {0.5 + 2 * LOST_IN_PART:.1f}) for anything to be lost."
    return text + (f" Fewer than {ENOUGH} draws: read it as a first look." if one.draws < ENOUGH else "")


def _is_worse(one: Effect, looks: int) -> bool:
    return one.difference < 0 and one.p_value < ALPHA / looks


def _worse(result: RegimeResult, one: Effect) -> str:
    """Where an arm that is not said to harm is worse than a control."""
    if not _is_worse(one, result.looks):
        return ""
    controls = result.situation.controls([one.arm]).get(one.arm, [])
    each_worse = all(_is_worse(each, result.looks) for each in _against(result.judged, one.arm, controls))
    return f"; worse than {one.control}" + ("" if each_worse else ", not than each control")


def _beside_an_easier_thing(result: RegimeResult, one: Effect) -> str:
    """Where an arm is better than `classical`, how it stands to what is easier."""
    if result.judgement.verdict == "an easier thing is as good":
        how = "worse" if _is_worse(one, result.looks) else "not shown to be better"
        return f"; better than {CLASSICAL.name}, {how} than {one.control}"
    if one.control not in result.situation.easier or _is_worse(one, result.looks):
        return ""
    plain = effect(result.judged, one.arm, CLASSICAL.name)
    better = plain is not None and plain.difference > 0 and plain.p_value < ALPHA / result.looks
    if result.judgement.verdict == "no evidence" and better:
        return f"; better than {CLASSICAL.name}, but neither shown to be better than {one.control} nor {one.control} to be as good"
    return ""


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


ADVICE = {
    "pseudo-labels": "Let a classifier of the labelled images label the others, and train on both, half of each batch.",
    "pseudo-labels-confident": "Let a classifier of the labelled images label the others, keep the half of each class that it is "
    "surest of, and train on both, half of each batch.",
    "pseudo-labels-25": "Let a classifier of the labelled images label the others, and fill a quarter of each batch with these.",
    "consistency": "Train with consistency on the unlabelled images (FixMatch).",
    "consistency-oversampled-25": "Train with consistency on the unlabelled images (FixMatch), and fill a quarter of each batch "
    "with labelled ones again, each class equally often.",
    "own-first": "Train on the real images first, each class equally often, then start the last layer anew and train on.",
    "outside-first-oversampled-25": "Train on the other set's real images first, with a last layer of their own; then on these, "
    "and fill a quarter of each batch with each class equally often.",
    "outside-first": "Train on the other set's real images first, with a last layer of their own, and then on these images.",
    "balanced": "Draw each class equally often.",
    "oversampled-25": "Fill a quarter of each batch with real images again, each class equally often.",
    "soft-real-25": "Fill a quarter of each batch with real images again, with what a classifier of them says of each.",
    "balanced-unaugmented": "Draw each class equally often, without augmentation.",
    "weighted": "Let rare classes weigh more in the loss.",
    "adjusted": "Adjust the logits by the classes' shares.",
    "rare-again-25": "Fill a quarter of each batch with images of the rarest class.",
    "real-first": "Draw each class equally often in the first half of the training.",
}


def advice(result: RegimeResult) -> str:
    """What to do with such an amount of real images, and how sure that is."""
    judgement = result.judgement
    arm, name = judgement.recommended, result.regime.name
    if result.situation.sharing and arm == CLASSICAL.name:
        if judgement.verdict == "no evidence":
            return (
                f"{name}: share no generated images in the real ones' place yet. Whether they can stand in was not shown: more "
                "draws (--seeds) or more test images would tell."
            )
        return f"{name}: share no generated images in the real ones' place."
    sure = {"no evidence": "generated images were not shown to help"}.get(judgement.verdict, judgement.verdict)
    if one := judgement.effect:
        sure += f": {one.arm} − {one.control} {difference(one)}, 95 % interval {interval(one)}, {one.draws} draws"
    of_sharing = result.situation.sharing and BY_NAME[arm].generated
    where = "the command is at the end" if BY_NAME[arm].is_a_set or of_sharing else "a way to train: no set is written"
    if BY_NAME[arm].generated:
        return f"{name}: make a training set like that of *{arm}* ({sure}; {where})."
    if arm == CLASSICAL.name:
        return f"{name}: train on the real images as they are, shifted, rotated and changed in brightness ({sure})."
    return f"{name}: {ADVICE.get(arm, f'Train as *{arm}* does.')} No images need be generated ({sure}; {where})."
