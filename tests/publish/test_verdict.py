"""The verdict in words: of several labels an image it is answered whether they are shown, too, and not by a judge who is blind."""

from pathlib import Path

import pytest

from medmnist_diffusion.artifacts import Metrics
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
        others.append(distance.model_copy(update={"ratio": ratio, "class_": None}))
    realistic, *_ = answers(metrics.model_copy(update={"metrics": others}))
    assert realistic.light == light
    assert bool(realistic.figures) == (ratio is not None)
