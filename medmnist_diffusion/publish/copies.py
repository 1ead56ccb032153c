"""Whether a model copies its training images, from what was measured: for cards, verdicts, and for what may be published."""

from dataclasses import dataclass

from medmnist_diffusion.artifacts import SEEN_ELSEWHERE, UNLABELED, MetricRecord, Metrics
from medmnist_diffusion.metrics.comparisons import UNTESTED
from medmnist_diffusion.metrics.evaluation import COPY_SHARES
from medmnist_diffusion.metrics.intervals import holm
from medmnist_diffusion.publish.markdown import escaped

COPYING = 0.01  # p-value below which the card says that the model copies
# Of sets whose images are independent 0 to 0.3 % of the real images lie so near to a training image; of one with several pictures
# of a person 13 % (docs/metrics.md). Then nobody knows whether a generated image as near is a copy.
MOST_NEAR = 0.05
MOST_UNSEEN = 0.1  # a test that would not even see such a share of copies cannot say that there is no sign of any
FEWEST_SEEN = (
    0.8  # of copies of training images that were made on purpose: a test that sees fewer cannot say so, either
)


@dataclass(frozen=True)
class CopyTests:
    """The shares of copies that were measured, over spaces and classes.

    Attributes:
        shares: all of them.
        flagged: those that are more than chance, after Holm's correction.
        judges: the copied share by pixels, all classes together: of the training images, and of those without labels.
        unseen: how many images without labels were trained on, if they were not looked at for copies.
        elsewhere: what a base was trained on; its images were not looked at.
        untested: of which classes no copies were looked for, in words.
    """

    shares: list[MetricRecord]
    flagged: list[MetricRecord]
    judges: list[MetricRecord]
    unseen: int = 0
    elsewhere: tuple[str, ...] = ()
    untested: tuple[str, ...] = ()

    @property
    def unjudged(self) -> str | None:
        """Why "no sign of copying" cannot be said, even where nothing is flagged; None if it can."""
        if not self.shares:
            return "it was not measured"
        if self.unseen:
            return (
                f"it was also trained on {self.unseen:,} unlabeled images, which its images were not compared with: evaluate "
                "again, with --unlabeled"
            )
        if all(judge.reference_split == UNLABELED for judge in self.judges):
            return (
                "the images were not compared regardless of brightness and softness (an older version measured them, or there "
                "are too few images): evaluate again"
            )
        if self.untested:
            return f"{self.untested[0][0].lower()}{self.untested[0][1:]}. Give more val images of it"
        return next((why for judge in self.judges if (why := _unjudged_by(judge))), None)

    @property
    def may_be_soft(self) -> bool:
        """Whether only plain distances are more than chance, and the test by how near others lie, which can judge, finds nothing:
        soft images lie nearer to everything, copies or not."""
        return all(record.name == "memorized_share" for record in self.flagged) and self.unjudged is None

    @property
    def detectable(self) -> float:
        """From which share on copies would be seen, in whatever disguise; where that can be said at all."""
        assert self.unjudged is None
        return max((judge.detectable or 1.0) / (judge.seen_copies or 1.0) for judge in self.judges)


def _unjudged_by(judge: MetricRecord) -> str | None:
    """Why a copied share cannot say that there is no sign of copying; None if it can."""
    seen, near = judge.seen_copies, judge.near_fresh
    if seen is None or near is None:
        return "an older version measured it, or there are too few training images: evaluate again"
    if near > MOST_NEAR:
        return (
            f"{near:.0%} of the real images to compare with lie nearer to {_training_image(judge)} than half the distance to "
            "others. A person's next picture does so (where each image is of another person, fewer than 1 % do), and a copy "
            "could pass for one. Say whom each image is of, in a table with a column `patient`"
        )
    if seen < FEWEST_SEEN:
        return (
            f"of training images that were copied on purpose, softer and of other brightness, only {seen:.0%} count as copies. "
            "Real images lie too near to each other (twins, several pictures of a person, one picture many times). Take repeats "
            "out, or say whom each image is of, in a table with a column `patient`"
        )
    unseen = None if judge.detectable is None else judge.detectable / seen
    if unseen is None or unseen > MOST_UNSEEN:
        what = "even nothing but copies" if unseen is None else f"copies below {unseen:.0%}"
        return (
            f"{judge.n_generated} generated images, and {judge.floor_source.partition(', by')[0]} to compare with, "
            f"are too few: {what} would go unseen. Give more val images"
        )
    return None


def copy_tests(metrics: Metrics) -> CopyTests:
    """The tests for copies among the figures."""
    shares = [record for record in metrics.metrics if record.name in COPY_SHARES]
    corrected = holm([1.0 if record.p_value is None else record.p_value for record in shares])
    flagged = [record for record, p_value in zip(shares, corrected, strict=True) if p_value < COPYING]
    judges = [r for r in shares if (r.name, r.extractor, r.class_) == ("copied_share", "pixels", None)]
    compared = any(judge.reference_split == UNLABELED for judge in judges)
    unseen = 0 if compared else (metrics.pipeline.get(UNLABELED) or {}).get("images", 0)
    elsewhere = tuple(metrics.pipeline.get(SEEN_ELSEWHERE, ()))
    untested = tuple(line for line in metrics.refused if line.startswith(UNTESTED))
    return CopyTests(shares, flagged, judges, unseen, elsewhere, untested)


def copying_sentences(metrics: Metrics) -> str:
    """The shares of copies, and whether any of them, overall or of a class, is more than chance: after Holm's correction."""
    tests = copy_tests(metrics)
    if not tests.shares:
        return "**Not checked**: " + ("; ".join(metrics.refused) or "it was not measured") + "."
    sentences = [
        f"{record.value:.2%} of the generated images lie nearer to {_training_image(record)} ({_measure(record)}) than "
        f"{1 - record.floor:.1%} of fresh real images do (p = {record.p_value:.2g})."
        for record in tests.shares
        if record.class_ is None
    ]
    if tests.flagged:
        names = metrics.dataset["id2label"]
        where = ", ".join(
            f"{_measure(record)}, {'all classes' if record.class_ is None else names[str(record.class_)]}"
            for record in tests.flagged
        )
        if tests.may_be_soft:
            sentences.append(
                f"**That is more than chance ({where}): this model reproduces training images, or its images are so soft that "
                "they lie nearer to everything.** By how near others lie, they are no copies. Look at closest_pairs.png. Do not "
                "publish its images as they are."
            )
        else:
            sentences.append(
                f"**That is more than chance ({where}): this model reproduces training images.** Do not publish its images."
            )
    elif why := tests.unjudged:
        sentences.append(f"**Whether this model copies cannot be judged**: {why}.")
    else:
        sentences.append(
            f"No sign of copying by these measures ({len(tests.shares)} tests over spaces and classes, corrected after Holm). "
            f"Copies would be seen from a share of about {tests.detectable:.1%} on, also where they are mirrored, shifted, "
            "softer or of other brightness: so much do copies say that were made on purpose. This is no proof of privacy."
        )
    if tests.elsewhere:
        names = escaped(", ".join(tests.elsewhere))
        sentences.append(f"Copies of {names}, which its base saw, were not looked for.")
    return " ".join(sentences)


def _training_image(record: MetricRecord) -> str:
    return "an unlabeled training image" if record.reference_split == UNLABELED else "a training image"


def _measure(record: MetricRecord) -> str:
    return record.extractor if record.name == "memorized_share" else f"{record.extractor}, for how near others lie"
