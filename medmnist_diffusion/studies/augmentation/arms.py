"""What the augmentation study compares: how a classifier's batches are made up, and where the images beside the real ones come
from."""

import difflib
import re
from dataclasses import asdict, dataclass, fields
from typing import Any

from medmnist_diffusion.errors import UserError
from medmnist_diffusion.metrics.mixed_training import Balance

PoolName = str  # a name of FILLERS

FILLERS: dict[PoolName, str] = {
    "plain": "generated images",
    "guided": "images generated with classifier-free guidance",
    "variants": "variants of real images (noised in part, and denoised)",
    "leaky": "images of a generator that saw the whole training set",
    "semi": "images of a generator that also saw the unlabelled images, as of unknown class",
    "conditioned": "images of a generator that also saw the unlabelled images, by their pseudo-labels",
    "tuned": "images of a generator that was trained on another set before",
    "real": "the real images again, each class equally often",
    "pseudo": "the unlabelled images, with the labels that the classical arm's classifier gives them (pseudo-labels)",
    "both": "the unlabelled images by their pseudo-labels, and generated images",
}
NOT_GENERATED = ("real", "pseudo")
WRITTEN = ("plain", "guided", "variants", "semi", "tuned", *NOT_GENERATED)  # what `augment` puts beside real images
BALANCES = {"weights": "rare classes weigh more in the loss", "adjusted": "logits adjusted by the classes' shares"}
CHOICES = {
    "confident": "those of whose label a classifier of the real images is surest",
    "in-distribution": "those that lie as near to real ones as fresh real images do",
    "not-memorized": "those that copy no real image",
    "diverse": "those that cover the feature space most widely",
}


@dataclass(frozen=True)
class ClassifierArm:
    """One way of training a classifier.

    Attributes:
        classical: all images are shifted, rotated and changed in brightness.
        share: of each batch, filled from the pool, each class equally often.
        pool: a name of `FILLERS`.
        selection: which images of the pool are used, a name of `SELECTIONS`; all where it is None.
        until: the pool is used in this first part of the training.
        rare: of the pool only the images of the rarest class.
        times: so many distinct images of the pool for each real one; None for what the pool has.
        soft: the pool's images are learned with the chances that the classical arm's classifier gives them.
        balance: what the loss does about rare classes (`Mixture`).
        consistent: each step also asks for consistency on as many unlabelled images (`Mixture.unlabeled`).
        outside: it first learns from real images of another set, for as many steps (`Mixture.outside`).
        own_first: it first learns from its own real images, each class equally often, in the same way.
    """

    name: str
    classical: bool = True
    share: float = 0.0
    pool: PoolName = "plain"
    selection: str | None = None
    until: float = 1.0
    rare: bool = False
    times: float | None = None
    soft: bool = False
    balance: Balance = "none"
    consistent: bool = False
    outside: bool = False
    own_first: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """What a result of it is known by; settings that came later only where they are given."""
        later = {field.name: field.default for field in fields(self) if field.name in LATER}
        return {name: value for name, value in asdict(self).items() if name not in later or value != later[name]}

    @property
    def generated(self) -> bool:
        """Whether generated images are in it."""
        return self.share > 0 and self.pool not in NOT_GENERATED

    @property
    def unlabelled(self) -> bool:
        """Whether images without labels are in it, or in its generator."""
        return self.consistent or (self.share > 0 and self.pool in ("semi", "conditioned", "pseudo", "both"))

    @property
    def leaky(self) -> bool:
        return self.pool == "leaky"

    @property
    def is_a_set(self) -> bool:
        """Whether it is a training set, which `augment` writes, and no way to train."""
        way = (
            self.soft or self.consistent or self.outside or self.own_first or self.until < 1 or self.balance != "none"
        )
        return 0 < self.share < 1 and not way and self.pool in WRITTEN

    @property
    def twin(self) -> str | None:
        """The control that fills the same places of a batch with real images again: all but the new images."""
        return f"oversampled-{100 * self.share:.0f}" if 0 < self.share < 1 else None

    @property
    def description(self) -> str:
        """In words."""
        if self == CLASSICAL:
            return "real images, shifted, rotated and changed in brightness, as in all arms that do not say otherwise"
        filler = FILLERS[self.pool] + (", of the rarest class alone" if self.rare else "")
        early = f" in the first {100 * self.until:.0f} % of the training" if self.until < 1 else ""
        if self.share == 0:
            words = "real images"
        elif self.share == 1 and self.pool == "real" and not early:
            words = "real images, each class equally often"
        elif self.share == 1:
            words = f"{filler}{early}, then real images" if early else f"{filler} alone"
        else:
            words = f"real images, and {100 * self.share:.0f} % of each batch {filler}{',' if early else ''}{early}"
        words += f": {CHOICES[self.selection]}" if self.selection else ""
        words += f", {self.times:g} for each real one" if self.times else ""
        words += "; learned with the chances that the classical arm's classifier gives them" if self.soft else ""
        words += f"; {BALANCES[self.balance]}" if self.balance != "none" else ""
        words += (
            "; in each step as many unlabelled images, to be seen alike however changed" if self.consistent else ""
        )
        words = f"real images of another set first, for as many steps, then {words}" if self.outside else words
        words = (
            f"the real images first, each class equally often, for as many steps, then {words}"
            if self.own_first
            else words
        )
        return words + ("" if self.classical else "; all as they are")

    @property
    def candidate(self) -> bool:
        """Whether it may be recommended: generated images beside augmented real ones, without a leak, all the way."""
        return self.generated and self.classical and self.share < 1 and not self.leaky and self.until == 1


LATER = ("rare", "times", "soft", "balance", "consistent", "outside", "own_first")
CLASSICAL = ClassifierArm("classical")
OVERSAMPLED = ClassifierArm("oversampled-25", share=0.25, pool="real")
MAIN_ARM = ClassifierArm("synthetic-25", share=0.25)
LEAKY = ClassifierArm("leaky-25", share=0.25, pool="leaky")
ARMS = (
    CLASSICAL,
    OVERSAMPLED,
    MAIN_ARM,
    ClassifierArm("oversampled-10", share=0.1, pool="real"),
    ClassifierArm("oversampled-50", share=0.5, pool="real"),
    ClassifierArm("real", classical=False),
    ClassifierArm("synthetic-25-unaugmented", classical=False, share=0.25),
    ClassifierArm("synthetic-only", share=1.0),
    ClassifierArm("synthetic-10", share=0.1),
    ClassifierArm("synthetic-50", share=0.5),
    ClassifierArm("synthetic-25-early", share=0.25, until=0.5),
    ClassifierArm("confident-25", share=0.25, selection="confident"),
    ClassifierArm("in-distribution-25", share=0.25, selection="in-distribution"),
    ClassifierArm("not-memorized-25", share=0.25, selection="not-memorized"),
    ClassifierArm("diverse-25", share=0.25, selection="diverse"),
    ClassifierArm("guided-25", share=0.25, pool="guided"),
    ClassifierArm("variants-25", share=0.25, pool="variants"),
)
# What situations.py asks for beside these.
OTHER_ARMS = (
    ClassifierArm("pseudo-labels", share=0.5, pool="pseudo"),
    ClassifierArm("pseudo-labels-25", share=0.25, pool="pseudo"),
    ClassifierArm("pseudo-labels-confident", share=0.5, pool="pseudo", selection="confident"),
    ClassifierArm("pseudo-and-synthetic-50", share=0.5, pool="both"),
    ClassifierArm("consistency", consistent=True),
    ClassifierArm("consistency-oversampled-25", share=0.25, pool="real", consistent=True),
    ClassifierArm("synthetic-semi-25", share=0.25, pool="semi"),
    ClassifierArm("synthetic-conditioned-25", share=0.25, pool="conditioned"),
    ClassifierArm("synthetic-consistency-25", share=0.25, consistent=True),
    ClassifierArm("tuned-25", share=0.25, pool="tuned"),
    ClassifierArm("own-first", own_first=True),
    ClassifierArm("outside-first", outside=True),
    ClassifierArm("outside-first-oversampled-25", share=0.25, pool="real", outside=True),
    ClassifierArm("outside-first-tuned-25", share=0.25, pool="tuned", outside=True),
    ClassifierArm("balanced", share=1.0, pool="real"),
    ClassifierArm("balanced-unaugmented", classical=False, share=1.0, pool="real"),
    ClassifierArm("weighted", balance="weights"),
    ClassifierArm("adjusted", balance="adjusted"),
    ClassifierArm("rare-again-25", share=0.25, pool="real", rare=True),
    ClassifierArm("rare-synthetic-25", share=0.25, rare=True),
    ClassifierArm("rare-variants-25", share=0.25, pool="variants", rare=True),
    ClassifierArm("synthetic-first", share=1.0, until=0.5),
    ClassifierArm("real-first", share=1.0, until=0.5, pool="real"),
    *(ClassifierArm(f"synthetic-only-{times}x", share=1.0, times=times) for times in (1, 3, 10)),
    ClassifierArm("soft-25", share=0.25, soft=True),
    ClassifierArm("soft-real-25", share=0.25, pool="real", soft=True),
)
BY_NAME = {arm.name: arm for arm in (*ARMS, *OTHER_ARMS, LEAKY)}  # all of this process, in the order of every table
PRIVATE = "private-"  # pools of generators that learned with differential privacy, each with its ε
OF_ANY_SHARE = re.compile(r"(synthetic|oversampled)-([1-9]\d?)")


def arm_named(name: str) -> ClassifierArm:
    """An arm of few images by its name, or `synthetic-N` or `oversampled-N` for N in 1 … 99 % of a batch.

    Raises:
        UserError: for any other name.
    """
    match = OF_ANY_SHARE.fullmatch(name)
    elsewhere = {arm.name for arm in OTHER_ARMS}
    if name not in BY_NAME and match:
        BY_NAME[name] = ClassifierArm(
            name, share=int(match[2]) / 100, pool="plain" if match[1] == "synthetic" else "real"
        )
    if name not in BY_NAME or name in elsewhere:
        there = [known for known in BY_NAME if known not in elsewhere]
        nearest = difflib.get_close_matches(name, there, 1)
        hint = f" Did you mean {nearest[0]}?" if nearest else ""
        hint = f" It belongs to another --situation than few-images.{hint}" if name in elsewhere else hint
        known = ", ".join(there)
        raise UserError(
            f"{name!r} is no arm.{hint} There are {known}, and synthetic-N and oversampled-N for any N in 1 … 99 % of a batch."
        )
    return BY_NAME[name]


def arm_of_any_situation(name: str) -> ClassifierArm:
    """An arm by its name; `arm_named` says what is wrong with any other name."""
    return BY_NAME[name] if name in BY_NAME else arm_named(name)


def private_arm(epsilon: float) -> ClassifierArm:
    """`synthetic-only-3x` of a generator that learned with differential privacy."""
    pool = f"{PRIVATE}{epsilon:g}"
    FILLERS[pool] = f"images of a generator that learned with differential privacy (DP-SGD, ε = {epsilon:g})"
    arm = ClassifierArm(f"{pool}-only-3x", share=1.0, pool=pool, times=3)
    return BY_NAME.setdefault(arm.name, arm)


def epsilon_of(pool: PoolName) -> float | None:
    """Of a private pool."""
    return float(pool.removeprefix(PRIVATE)) if pool.startswith(PRIVATE) else None


def with_controls(names: list[str]) -> tuple[ClassifierArm, ...]:
    """The named arms with what they are compared with, in the order of `ARMS`."""
    asked = [CLASSICAL, OVERSAMPLED, MAIN_ARM, *(arm_named(name) for name in sorted(names))]
    twins = [arm_named(arm.twin) for arm in asked if arm.candidate and arm.twin]
    return tuple(arm for arm in BY_NAME.values() if arm in asked or arm in twins)
