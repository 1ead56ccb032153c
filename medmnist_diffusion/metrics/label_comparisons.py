"""What a classifier of real images sees in the generated ones, and what one that learnt from generated images sees in real ones:
evidence for the metrics of labels."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from medmnist_diffusion.data.dataset import Split
from medmnist_diffusion.metrics.classifier import FEATURES, chances, fitted_classifier, predict
from medmnist_diffusion.metrics.comparisons import Draw
from medmnist_diffusion.metrics.evidence import Evidence, Kind, LabelledValues
from medmnist_diffusion.metrics.features import Space

CLASSIFIER = Space("classifier", FEATURES)


def label_evidence(draw: Draw) -> Iterator[Evidence]:
    """How a classifier of real images sees the generated ones, and val images that it was not trained on.

    All classes together, both sides have the class shares of train.
    """
    if not len(draw.real.held_out):
        draw.refused.add("Label accuracy: all val images stand in train", None)
    elif draw.real.dataset.conditioning.multi_label:
        yield from _scores_of_labels(draw)
        yield from _pairs_of_labels(draw)
    else:
        yield from _recognised_labels(draw)


def _recognised_labels(draw: Draw) -> Iterator[Evidence]:
    """Whether the class that was asked for is seen; of grades also which one is seen instead."""
    real = draw.real
    seen = predict(real.classifier, draw.generated)
    seen_in_real = real.once("classes seen in val images", lambda: predict(real.classifier, real.held_out))
    asked, asked_of_real = draw.generated.labels, real.held_out.labels
    for class_ in draw.classes:
        generated, fresh = (
            draw.of_generated(seen == asked, class_),
            real.of_held_out(seen_in_real == asked_of_real, class_),
        )
        if len(generated) and len(fresh):
            yield Evidence(
                "recognised_labels", CLASSIFIER, class_, generated, fresh, real.held_out_source(fresh), real.seed,
                n_real=len(real.dataset.train),
            )  # fmt: skip
    if real.dataset.task == "ordinal":
        generated = draw.of_generated(np.stack([asked, seen], 1), None)
        fresh = real.of_held_out(np.stack([asked_of_real, seen_in_real], 1), None)
        if len(generated) and len(fresh):
            yield Evidence(
                "graded_labels", CLASSIFIER, None, generated, fresh, real.held_out_source(fresh), real.seed,
                n_real=len(real.dataset.train),
            )  # fmt: skip


def _scores_of_labels(draw: Draw) -> Iterator[Evidence]:
    """Of several labels an image: how sure the classifier is of each, whether it was asked for or not."""
    real = draw.real
    scores = _beside_labels(draw, draw.generated, chances(real.classifier, draw.generated, several=True))
    scores_of_real = real.once(
        "chances of labels in val images",
        lambda: _beside_labels(draw, real.held_out, chances(real.classifier, real.held_out, several=True)),
    )
    generated, fresh = draw.of_generated(scores, None), real.of_held_out(scores_of_real, None)
    yield from _by_label(
        draw, "label_scores", generated, fresh, real.held_out_source(fresh), n_real=len(real.dataset.train)
    )


def _by_label(
    draw: Draw, kind: Kind, generated: LabelledValues, fresh: LabelledValues, source: str, note: str = "", **sizes: Any
) -> Iterator[Evidence]:
    """Scores of all labels that both sides can be judged by (some images have it, some do not), and of each of these."""
    count = draw.real.dataset.num_classes
    there = [side.values[:, count:].mean(0) if len(side) else np.zeros(count) for side in (generated, fresh)]
    both = [label for label in range(count) if all(0 < share[label] < 1 for share in there)]
    for label in sorted(set(range(count)) - set(both)):
        draw.refused.add("AUC: either all images have the label, or none has it", label)
    for class_ in draw.classes:
        columns = both if class_ is None else [class_] if class_ in both else []
        if not columns:
            continue
        chosen = [*columns, *(count + label for label in columns)]
        sides = [LabelledValues(side.values[:, chosen], side.labels) for side in (generated, fresh)]
        words = f"{len(both)} of {count} labels" if class_ is None and len(both) < count else ""
        yield Evidence(
            kind, CLASSIFIER, class_, sides[0], sides[1], source, draw.real.seed,
            note="; ".join(filter(None, (words, note))), **sizes,
        )  # fmt: skip


def _pairs_of_labels(draw: Draw) -> Iterator[Evidence]:
    """Which labels the classifier sees together."""
    real = draw.real

    def of_real(split: Split) -> Callable[[], np.ndarray]:
        return lambda: chances(real.classifier, split, several=True)

    in_train = real.once("chances in train", of_real(real.dataset.train))
    fresh = real.of_held_out(real.once("chances in val", of_real(real.held_out)), None)
    generated = draw.of_generated(chances(real.classifier, draw.generated, several=True), None)
    if len(generated) and len(fresh):
        yield Evidence(
            "label_pairs", CLASSIFIER, None, generated, fresh, real.held_out_source(fresh), real.seed,
            reference=LabelledValues(in_train, real.dataset.train.labels),
        )  # fmt: skip


def classification_evidence(draw: Draw) -> Iterator[Evidence]:
    """Classification accuracy score (Ravuri & Vinyals 2019, arXiv 1905.10887): train on generated, test on real test images.

    Floor: the same with as many real images. One training on either side: its luck is not in the interval.
    """
    real, plan = draw.real, draw.plan
    test, conditioning = real.dataset.splits["test"], real.dataset.conditioning

    def tested(name: str, split: Split, rows: np.ndarray) -> np.ndarray:
        training = Split(name, split.images[rows], split.labels[rows])
        return chances(
            fitted_classifier(training, conditioning, real.seed, shorter=True), test, conditioning.multi_label
        )

    def judged(values: np.ndarray) -> LabelledValues:
        several = conditioning.multi_label
        return LabelledValues(
            _beside_labels(draw, test, values) if several else values.argmax(1) == test.labels, test.labels
        )

    in_words = "generated images", "as many real images"
    of_generated = tested(in_words[0], draw.generated, plan.generated)
    of_real = real.once(
        ("chances on test images", plan.real_key), lambda: tested(in_words[1], plan.floor_split, plan.floor)
    )
    draw.test_chances.update(zip(in_words, (of_generated, of_real), strict=True))
    by_generated, by_real = judged(of_generated), judged(of_real)
    n, source = len(plan.generated), f"trained on {plan.floor_source}"
    note = f"one training of {n} images, {len(test)} test images"
    sizes: dict[str, Any] = {"n_real": len(test), "n_generated": n}
    if conditioning.multi_label:
        yield from _by_label(draw, "test_scores", by_generated, by_real, source, note, reference_split="test", **sizes)
        return
    for class_ in draw.classes:
        generated, fresh = (side.of_class(conditioning, class_) for side in (by_generated, by_real))
        if len(generated):
            yield Evidence(
                "recognised_tests", CLASSIFIER, class_, generated, fresh, source, real.seed, reference_split="test",
                note=note, **sizes,
            )  # fmt: skip


def _beside_labels(draw: Draw, split: Split, scores: np.ndarray) -> np.ndarray:
    """float64 N×2K: the chance of each label, and whether the image has it."""
    return np.concatenate([scores, draw.real.dataset.conditioning.matrix(split.labels)], 1)
