"""What the figures of an evaluation say, in a few lines: are they realistic, of their class, copies?"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from medmnist_diffusion.artifacts import MetricRecord, Metrics
from medmnist_diffusion.publish.copies import copy_tests

Light = Literal["green", "yellow", "red", "none"]
# Of distance ÷ that of real images, in the worse of the feature spaces: up to this the answer is …
REALISM: Sequence[tuple[float, str, Light]] = (
    (1.25, "Yes, as far as these figures see", "green"),
    (3.0, "Nearly", "yellow"),
    (10.0, "Not yet", "red"),
    (float("inf"), "No", "red"),
)
# Of the classifier's accuracy ÷ that on real images: from this on the answer is …
CLASS_SHOWN: Sequence[tuple[float, str, Light]] = (
    (0.97, "Yes", "green"),
    (0.85, "Mostly", "yellow"),
    (0.0, "Not reliably", "red"),
)
SHOWN_LIGHTS: Mapping[Light, str] = {"green": "🟢", "yellow": "🟡", "red": "🔴", "none": "⚪"}
SEES_LABELS = 0.6  # AUC below which a classifier is no judge
# What the lights mean, for the reader of a card.
LIGHTS = (
    f"Green: the distance is at most {REALISM[0][0]:g} times that of real images, the right class is seen at least "
    f"{CLASS_SHOWN[0][0]:.0%} as often as in real ones (of several labels: the AUC is as far above chance), there is no sign of "
    f"copies. Yellow: at most {REALISM[1][0]:g} times, at least {CLASS_SHOWN[1][0]:.0%}. Red: worse, or copies. White: not "
    "measured, or it cannot be judged. A distance whose 95 % interval goes from green to red decides nothing. These limits are a "
    "convention of medmnist-diffusion. The figures are what counts."
)


@dataclass(frozen=True)
class Answer:
    """One question about generated images.

    Attributes:
        question, answer: in words; the answer ends with a full stop.
        figures: what the answer rests on, whole sentences; empty where nothing was measured.
        light: how good that is, by the limits above; none where it was not measured or cannot be judged.
    """

    question: str
    answer: str
    figures: str = ""
    light: Light = "none"


def verdict(metrics: Metrics) -> list[str]:
    """Three questions, each with its answer and the figures that it rests on; every line is whole.

    The limits of the answers are ours (`REALISM`, `CLASS_SHOWN`): a convention, not a law. The figures are what counts.

    Example:
        >>> md.verdict(metrics)[-2]
        'Are they copies of training images? No sign of it.'
    """
    lines = []
    for one in answers(metrics):
        lines += [f"{one.question} {one.answer}", *([f"  {one.figures}"] if one.figures else [])]
    return lines


def answers(metrics: Metrics) -> list[Answer]:
    """The same, for cards and pages."""
    return [_realistic(metrics), _of_their_class(metrics), _copies(metrics)]


def _overall(metrics: Metrics, name: str) -> list[MetricRecord]:
    return [record for record in metrics.metrics if record.name == name and record.class_ is None]


def _realistic(metrics: Metrics) -> Answer:
    question = "Are the images realistic?"
    distances = [r for r in _overall(metrics, "frechet_distance") if r.ratio is not None]
    if not distances:
        return Answer(question, "Not measured: too few images for a distance.")
    told = [record for record in distances if not _could_be_anything(record)]
    unclear = [record for record in distances if record not in told]
    figures = []
    if told:
        shown = ", ".join(f"{record.ratio:.2g} times in the {record.extractor} features" for record in told)
        figures.append(
            f"Their distance to the training images, compared with that of real images: {shown} (1 is as real images)."
        )
    if unclear:
        between = ", ".join(
            f"{_between(one)} in the {one.extractor} features ({one.n_generated} images)" for one in unclear
        )
        figures.append(f"The distance of too few images could be anything: {between}.")
    if not told:
        return Answer(question, "That cannot be judged.", " ".join(figures))
    worst = max(record.ratio or 0.0 for record in told)
    answer, light = next((answer, light) for limit, answer, light in REALISM if worst <= limit)
    return Answer(question, f"{answer}.", " ".join(figures), light)


def _between(record: MetricRecord) -> str:
    low, high = _ends(record)
    return f"{low:.2g} to {high:.2g} times that of real images"


def _ends(record: MetricRecord) -> tuple[float, float]:
    """Of the 95 % interval of a distance, ÷ that of real images."""
    low, high = record.interval or (record.value, record.value)
    return low / record.floor, high / record.floor


def _could_be_anything(record: MetricRecord) -> bool:
    """Whether the interval goes from as good as real images to plainly worse."""
    low, high = _ends(record)
    return low <= REALISM[0][0] and high > REALISM[1][0]


def _of_their_class(metrics: Metrics) -> Answer:
    question = "Do they show their class?"
    if several := _overall(metrics, "label_auc"):
        return _of_their_labels(several[0])
    found = _overall(metrics, "label_accuracy")
    if not found:
        return Answer(question, "Not measured.")
    (record,) = found
    answer, light = _shown(record.value, record.floor)
    seen, of_real = f"{record.value:.0%}", f"{record.floor:.0%}"
    figures = f"A classifier of real images sees the asked-for class in {seen} of them, and in {of_real} of real ones."
    return Answer(question, f"{answer}.", figures, light)


def _of_their_labels(record: MetricRecord) -> Answer:
    """The same of several labels an image, by how far the AUC is above chance."""
    question = "Do they show their labels?"
    if record.floor < SEES_LABELS:
        return Answer(
            question,
            "That cannot be judged.",
            "In real images, too, a classifier of real images tells labels hardly better than chance (AUC "
            f"{record.floor:.2f}; 0.5 is chance): it had too few images to learn from.",
        )
    answer, light = _shown(record.value - 0.5, record.floor - 0.5)
    figures = (
        f"A classifier of real images tells whether a label was asked for with an AUC of {record.value:.2f}, and in real ones "
        f"whether it is there with {record.floor:.2f} (0.5 is chance)."
    )
    return Answer(question, f"{answer}.", figures, light)


def _shown(value: float, of_real: float) -> tuple[str, Light]:
    return next((answer, light) for limit, answer, light in CLASS_SHOWN if max(value, 0.0) >= limit * of_real)


def _copies(metrics: Metrics) -> Answer:
    question, tests = "Are they copies of training images?", copy_tests(metrics)
    light: Light = "red"
    if not tests.shares:
        return Answer(question, "Not checked.")
    if tests.flagged:
        shown = max(tests.flagged, key=lambda record: record.value / max(record.floor, 1e-9))
        answer = (
            "Perhaps: they lie nearer to training images than chance explains. Copies do so, and so do soft images; how near "
            "others lie speaks for the latter. Look at closest_pairs.png, and do not publish them as they are"
            if tests.may_be_soft
            else "Yes, more than chance explains: do not publish them"
        )
    elif why := tests.unjudged:
        return Answer(question, "That cannot be judged.", f"{why[0].upper()}{why[1:]}.")
    else:
        shown, answer, light = tests.judges[0], "No sign of it", "green"
        if tests.elsewhere:
            answer += f" (of {', '.join(tests.elsewhere)}, which its base saw, it was not looked for)"
    of_class = "" if shown.class_ is None else f" of class {metrics.dataset['id2label'][str(shown.class_)]}"
    if shown.name == "copied_share":
        how = f"so much nearer to one training image than to the others around it as {shown.floor:.0%} of fresh real images do"
    else:
        how = f"nearer to a training image than {1 - shown.floor:.0%} of fresh real images do"
    figures = f"{shown.value:.1%}{of_class} lie {how} ({shown.extractor})."
    return Answer(question, f"{answer}.", figures, light)
