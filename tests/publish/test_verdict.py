"""The verdict in words: of several labels an image it is answered whether they are shown, too, and not by a judge who is blind."""

from pathlib import Path

import pytest

from medmnist_diffusion.artifacts import MetricRecord, Metrics
from medmnist_diffusion.publish.verdict import answers, verdict


@pytest.mark.parametrize(
    ("auc", "of_real", "answer"),
    [
        (0.80, 0.80, "Do they show their labels? Yes."),
        (0.77, 0.80, "Do they show their labels? Mostly."),
        (0.60, 0.80, "Do they show their labels? Not reliably."),
        (0.40, 0.80, "Do they show their labels? Not reliably."),
        (0.77, 0.49, "Do they show their labels? That cannot be judged."),
    ],
)
def test_of_several_labels_an_image(folder: Path, auc: float, of_real: float, answer: str) -> None:
    metrics = Metrics.read(folder / "metrics.json")
    records = [
        record.model_copy(update={"name": "label_auc", "value": auc, "floor": of_real})
        if record.name == "label_accuracy"
        else record
        for record in metrics.metrics
    ]
    said = verdict(metrics.model_copy(update={"metrics": records}))
    assert answer in said
    assert f"{of_real:.2f}" in said[said.index(answer) + 1]


@pytest.mark.parametrize(
    ("ratio", "light"), [(1.2, "green"), (2.9, "yellow"), (3.1, "red"), (50.0, "red"), (None, "none")]
)
def test_a_light_is_what_its_definition_says(folder: Path, ratio: float | None, light: str) -> None:
    metrics = Metrics.read(folder / "metrics.json")
    others = [record for record in metrics.metrics if record.name != "frechet_distance"]
    (distance, *_) = (record for record in metrics.metrics if record.name == "frechet_distance")
    if ratio is not None:
        sure = {"value": ratio * distance.floor, "interval": (ratio * distance.floor,) * 2}
        others.append(distance.model_copy(update={**sure, "ratio": ratio, "class_": None}))
    realistic, *_ = answers(metrics.model_copy(update={"metrics": others}))
    assert realistic.light == light
    assert bool(realistic.figures) == (ratio is not None)


def test_a_distance_that_could_be_anything_is_said_and_decides_nothing(folder: Path) -> None:
    """Of few images a distance of 15 times that of real ones may be chance: its interval holds 1."""
    metrics = Metrics.read(folder / "metrics.json")
    others = [record for record in metrics.metrics if record.name != "frechet_distance"]
    (distance, *_) = (record for record in metrics.metrics if record.name == "frechet_distance")
    floor = distance.floor

    def measured(space: str, ratio: float, low: float, high: float) -> MetricRecord:
        figures = {"value": ratio * floor, "interval": (low * floor, high * floor), "ratio": ratio}
        return distance.model_copy(update={**figures, "extractor": space, "class_": None})

    unclear, clear = measured("classifier", 15.0, 0.0, 43.0), measured("texture", 2.0, 1.8, 2.2)
    both, *_ = answers(metrics.model_copy(update={"metrics": [*others, unclear, clear]}))
    assert both.light == "yellow"
    assert "0 to 43 times that of real images in the classifier features" in both.figures
    alone, *_ = answers(metrics.model_copy(update={"metrics": [*others, unclear]}))
    assert (alone.answer, alone.light) == ("That cannot be judged.", "none")
    worse, *_ = answers(metrics.model_copy(update={"metrics": [*others, measured("classifier", 15.0, 3.5, 43.0)]}))
    assert worse.light == "red"
