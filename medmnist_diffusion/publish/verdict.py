"""What the figures of an evaluation say, in a few lines: are they realistic, of their class, copies?"""

from medmnist_diffusion.artifacts import MetricRecord, Metrics
from medmnist_diffusion.publish.copies import copy_tests

# Of distance ÷ that of real images, in the worse of the feature spaces: up to this the answer is …
REALISM = ((1.25, "Yes, as far as these figures see"), (3.0, "Nearly"), (10.0, "Not yet"), (float("inf"), "No"))
# Of the classifier's accuracy ÷ that on real images: from this on the answer is …
CLASS_SHOWN = ((0.97, "Yes"), (0.85, "Mostly"), (0.0, "Not reliably"))
SEES_LABELS = 0.6  # AUC below which a classifier is no judge


def verdict(metrics: Metrics) -> list[str]:
    """Three questions, each with its answer and the figures that it rests on; every line is whole.

    The limits of the answers are ours (`REALISM`, `CLASS_SHOWN`): a convention, not a law. The figures are what counts.

    Example:
        >>> md.verdict(metrics)[-2]
        'Are they copies of training images? No sign of it.'
    """
    return [*_realistic(metrics), *_of_their_class(metrics), *_copies(metrics)]


def _overall(metrics: Metrics, name: str) -> list[MetricRecord]:
    return [record for record in metrics.metrics if record.name == name and record.class_ is None]


def _realistic(metrics: Metrics) -> list[str]:
    distances = [(r.ratio, r) for r in _overall(metrics, "frechet_distance") if r.ratio is not None]
    if not distances:
        return ["Are the images realistic? Not measured: too few images for a distance."]
    worst = max(ratio for ratio, _ in distances)
    answer = next(answer for limit, answer in REALISM if worst <= limit)
    shown = ", ".join(f"{ratio:.2g} times in the {record.extractor} features" for ratio, record in distances)
    return [
        f"Are the images realistic? {answer}.",
        f"  Their distance to the training images, compared with that of real images: {shown} (1 is as real images).",
    ]


def _of_their_class(metrics: Metrics) -> list[str]:
    if several := _overall(metrics, "label_auc"):
        return _of_their_labels(several[0])
    found = _overall(metrics, "label_accuracy")
    if not found:
        return ["Do they show their class? Not measured."]
    (record,) = found
    answer = next(answer for limit, answer in CLASS_SHOWN if record.value >= limit * record.floor)
    return [
        f"Do they show their class? {answer}.",
        f"  A classifier of real images sees the asked-for class in {record.value:.0%} of them, and in {record.floor:.0%} of real "
        "ones.",
    ]


def _of_their_labels(record: MetricRecord) -> list[str]:
    """The same of several labels an image, by how far the AUC is above chance."""
    if record.floor < SEES_LABELS:
        return [
            "Do they show their labels? That cannot be judged.",
            "  In real images, too, a classifier of real images tells labels hardly better than chance (AUC "
            f"{record.floor:.2f}; 0.5 is chance): it had too few images to learn from.",
        ]
    shown = (record.value - 0.5) / (record.floor - 0.5)
    return [
        f"Do they show their labels? {next(answer for limit, answer in CLASS_SHOWN if max(shown, 0) >= limit)}.",
        f"  A classifier of real images tells whether a label was asked for with an AUC of {record.value:.2f}, and in real ones "
        f"whether it is there with {record.floor:.2f} (0.5 is chance).",
    ]


def _copies(metrics: Metrics) -> list[str]:
    tests = copy_tests(metrics)
    if not tests.shares:
        return ["Are they copies of training images? Not checked."]
    if tests.flagged:
        shown = max(tests.flagged, key=lambda record: record.value / max(record.floor, 1e-9))
        answer = "Yes, more than chance explains: do not publish them"
    elif why := tests.unjudged:
        return ["Are they copies of training images? That cannot be judged.", f"  {why[0].upper()}{why[1:]}."]
    else:
        assert tests.judge is not None
        shown, answer = tests.judge, "No sign of it"
    of_class = "" if shown.class_ is None else f" of class {metrics.dataset['id2label'][str(shown.class_)]}"
    return [
        f"Are they copies of training images? {answer}.",
        f"  {shown.value:.1%}{of_class} lie nearer to a training image ({shown.extractor}) than {1 - shown.floor:.0%} of fresh "
        "real images do.",
    ]
