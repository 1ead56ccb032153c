"""The situations that people are in, and what is compared in each: the arms, what generated images must beat there, the figure.

In every situation generated images are held against easier things that know no less and cost no more. They help only where they
beat all of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from medmnist_diffusion.data.regimes import Regime
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.studies.augmentation.arms import (
    ARMS,
    BY_NAME,
    CLASSICAL,
    LEAKY,
    MAIN_ARM,
    OVERSAMPLED,
    ClassifierArm,
    arm_named,
    private_arm,
    with_controls,
)

OUTSIDE_FIRST = "outside-first"


@dataclass(frozen=True)
class Situation:
    """What is compared in one situation.

    Attributes:
        name: as `--situation` takes it.
        question: in words.
        regimes: amounts of real images, where no others are asked for.
        arms: all of them, in the order of every table.
        candidates: those with generated images that may be recommended; the first is the primary one, named in advance.
        easier: those without generated images that every candidate must beat, beside `classical`. Where there are none, a
            candidate must beat the oversampled arm of its own share.
        figure: what the verdict is on, a name of `classifier_scores.FIGURES`.
        sharing: whether generated images are to stand in for real ones: by how much they are worse is asked, and how well training
            images are told from others by what the models know of them. Classifiers of generated images see no real ones, not even
            to be chosen by.
    """

    name: str
    question: str
    regimes: tuple[Regime, ...]
    arms: tuple[ClassifierArm, ...]
    candidates: tuple[str, ...]
    easier: tuple[str, ...] = ()
    figure: str = "auc"
    sharing: bool = False

    @property
    def of_rarest(self) -> bool:
        """Whether the rarest class is what is asked about. Classifiers are then chosen by a validation loss in which every class
        counts as much, and its recall and its average precision stand beside the figure."""
        return self.figure == "balanced_accuracy"

    @property
    def left_out(self) -> bool:
        """Whether figures on left-out real images are asked for: not where only a class's are left out."""
        return self.name != "rare-class"

    @property
    def primary(self) -> str:
        return self.candidates[0]

    @property
    def unlabelled(self) -> bool:
        """Whether its arms use the real images that a regime leaves out, without their labels."""
        return any(arm.unlabelled for arm in self.arms)

    @property
    def outside(self) -> bool:
        """Whether its arms use real images of another set."""
        return any(arm.outside for arm in self.arms)

    @property
    def starts(self) -> bool:
        """Whether some of its generators start from a trained pipeline."""
        return any(arm.generated and arm.pool == "tuned" for arm in self.arms)

    @property
    def times(self) -> float:
        """So many generated images for each real one are needed, at least; where they stand in, some more to choose by."""
        return max(arm.times or 0.0 for arm in self.arms) + self.sharing

    def controls(self, known: Sequence[str]) -> dict[str, list[str]]:
        """Of every candidate among the known arms, what it must beat."""
        return {
            arm: list(dict.fromkeys([CLASSICAL.name, *(self.easier or [BY_NAME[arm].twin or OVERSAMPLED.name])]))
            for arm in self.candidates
            if arm in known
        }

    def plain(self, known: Sequence[str]) -> list[str]:
        """The known arms without generated images, `classical` first: what is recommended is the best of them, where no generated
        images help."""
        return [CLASSICAL.name, *(arm for arm in known if not BY_NAME[arm].generated and arm != CLASSICAL.name)]


def few_images(names: Sequence[str] | None = None, leaky: bool = False) -> Situation:
    """The situation with arms of one's own: all where none are named."""
    asked = [arm_named(name).name for name in names or [arm.name for arm in ARMS]]
    arms = with_controls([*asked, *([LEAKY.name] if leaky else [])])
    candidates = [MAIN_ARM.name, *(arm.name for arm in arms if arm.candidate and arm != MAIN_ARM)]
    return Situation(
        "few-images",
        "Few images, all of them labelled: do more help, of a generator that learned from these very images?",
        (Regime(0.01), Regime(0.05), Regime(0.25), Regime(1.0), Regime(1.0, 0.05)),
        arms,
        tuple(candidates),
    )


def _situation(
    name: str, question: str, regimes: Sequence[Regime], candidates: Sequence[str], easier: Sequence[str],
    others: Sequence[str] = (), figure: str = "auc", sharing: bool = False,
) -> Situation:  # fmt: skip
    names = {CLASSICAL.name, *candidates, *easier, *others}
    arms = tuple(arm for arm in BY_NAME.values() if arm.name in names)
    return Situation(name, question, tuple(regimes), arms, tuple(candidates), tuple(easier), figure, sharing)


SITUATIONS: Mapping[str, Situation] = {
    one.name: one
    for one in (
        few_images(),
        _situation(
            "few-labels",
            "Many images, few of them labelled: is a generator the way to use the others?",
            [Regime(0.05)],
            ["synthetic-semi-25", "synthetic-conditioned-25", "synthetic-consistency-25", "pseudo-and-synthetic-50"],
            ["pseudo-labels", "pseudo-labels-25", "pseudo-labels-confident",
             "consistency", "consistency-oversampled-25", OVERSAMPLED.name],
            [MAIN_ARM.name],
        ),
        _situation(
            "outside-data",
            "Few images, and many real ones of another set: is a generator that starts from those the way to use them?",
            [Regime(0.01), Regime(0.05)],
            ["tuned-25", "outside-first-tuned-25"],
            [OUTSIDE_FIRST, "outside-first-oversampled-25", "own-first", OVERSAMPLED.name],
            [MAIN_ARM.name],
        ),
        _situation(
            "rare-class",
            "A class with few images beside others with many: do generated images of that class help?",
            [Regime(1.0, 0.02), Regime(1.0, 0.05), Regime(1.0, 0.1)],
            ["rare-synthetic-25", "rare-variants-25", MAIN_ARM.name],
            ["balanced", "weighted", "adjusted", "rare-again-25", OVERSAMPLED.name],
            ["balanced-unaugmented"],
            "balanced_accuracy",
        ),
        _situation(
            "synthetic-first",
            "Generated images in the first half of the training, real ones in the second: does that help?",
            [Regime(0.05), Regime(1.0)],
            ["synthetic-first"],
            ["real-first", OVERSAMPLED.name],
        ),
        _situation(
            "sharing",
            "Real images that cannot be shared: can generated ones stand in for them?",
            [Regime(0.05), Regime(0.25)],
            ["synthetic-only-3x", "synthetic-only-1x", "synthetic-only-10x"],
            ["balanced"],
            sharing=True,
        ),
        _situation(
            "soft-labels",
            "Generated images that are learned with what a classifier of the real ones says of them: do they help?",
            [Regime(0.05), Regime(1.0)],
            ["soft-25"],
            ["soft-real-25", OVERSAMPLED.name],
            [MAIN_ARM.name],
        ),
    )
}  # fmt: skip


def situation_named(
    name: str,
    arms: Sequence[str] | None = None,
    leaky: bool = False,
    outside: bool = False,
    epsilons: Sequence[float] = (),
) -> Situation:
    """The situation, of few images with the arms that are asked for.

    Args:
        outside: whether real images of another set are there: what is generated must then beat these, too.
        epsilons: of sharing: also compare with generators that learned with differential privacy, one each.

    Raises:
        UserError: for arms in another situation, where the comparison is fixed; for another set or privacy without a place there.
    """
    if epsilons and name != "sharing":
        raise UserError("--target_epsilon belongs to --situation sharing: leave it out.")
    if name == "few-images":
        if outside:
            raise UserError("few images have no use for another set: give --situation outside-data with --outside.")
        return few_images(arms, leaky)
    if arms or leaky:
        raise UserError(f"--arms and --leaky belong to few images: --situation {name} has its own arms.")
    situation = SITUATIONS[name]
    if epsilons:
        return replace(situation, arms=(*situation.arms, *map(private_arm, sorted(set(epsilons)))))
    if situation.outside and not outside:
        raise UserError(f"--situation {name} compares with real images of another set: give --outside DATASET.")
    if outside and not situation.outside:
        if name != "synthetic-first":
            raise UserError(f"--situation {name} has no use for another set: leave --outside out.")
        arms_with = tuple(arm for arm in BY_NAME.values() if arm in situation.arms or arm.name == OUTSIDE_FIRST)
        return replace(situation, arms=arms_with, easier=(*situation.easier, OUTSIDE_FIRST))
    return situation
