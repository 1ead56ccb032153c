"""The newcomer's exercise: a metric is one entry, a feature space one function; both then appear everywhere."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from medmnist_diffusion import cli
from medmnist_diffusion.artifacts import Metrics
from medmnist_diffusion.data import ImageDataset
from medmnist_diffusion.metrics import extractors, table
from medmnist_diffusion.metrics.evaluation import evaluate_images
from medmnist_diffusion.metrics.evidence import Candidate
from medmnist_diffusion.metrics.extractors import EXTRACTORS
from medmnist_diffusion.metrics.intervals import Estimate, delete_half_jackknife
from medmnist_diffusion.metrics.table import METRICS, Metric, record_label
from medmnist_diffusion.publish.figures import overall_rows
from medmnist_diffusion.publish.plots import ratio_rows
from tests.conftest import ROOT

from .helpers import fresh


def blocks_of_contributing() -> list[str]:
    """The Python that CONTRIBUTING.md tells a newcomer to write: a metric's function and entry, a feature space's likewise."""
    return re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if they stood in the two files, with what these import."""
    function, entry, embed, extractor = blocks_of_contributing()
    in_table = {**vars(table), "delete_half_jackknife": delete_half_jackknife}
    exec(function, in_table)
    metric = eval(entry, in_table)
    monkeypatch.setitem(METRICS, metric.name, metric)
    in_extractors = dict(vars(extractors))
    exec(embed, in_extractors)
    for name, make in eval(extractor, in_extractors).items():
        monkeypatch.setitem(EXTRACTORS, name, make)


def test_one_entry_and_a_figure_appears_everywhere(
    toys: None,
    small_npz: Path,
    evaluated: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # no label in two lines
    output = tmp_path / "m.json"
    arguments = ["--dataset", str(small_npz), "--features", "texture", "brightness", "--output", str(output)]
    assert cli.main(["evaluate", str(evaluated / "fresh.npz"), *arguments]) == 0
    printed = capsys.readouterr().out
    written = json.loads(output.read_text())["metrics"]
    labels = ["Distance of centres, texture (81)", "Distance of centres, brightness (2)", "Recall, brightness (2)"]
    for figure in labels:
        assert figure in printed
    overall = [record for record in written if record["name"] == "centre_distance" and record["class"] is None]
    assert [record["extractor"] for record in overall] == ["texture", "brightness"]
    for record in overall:
        assert 0 < record["value"] < 10 * record["floor"]
        assert record["interval"][0] <= record["value"] <= record["interval"][1]
        assert record["floor_interval"][0] <= record["floor"] <= record["floor_interval"][1]
        assert record["ratio"] == pytest.approx(record["value"] / record["floor"])
    assert {record["class"] for record in written if record["name"] == "centre_distance"} > {None, 0}
    metrics = Metrics.read(output)
    shown = {row["label"]: row for row in overall_rows(metrics)}
    drawn = {row[0] for row in ratio_rows(metrics)}
    for figure in labels:
        assert shown[figure]["floor"]
        assert figure in drawn


def test_an_object_like_an_extractor_is_enough(small: ImageDataset) -> None:
    class Corner:
        name, identity, batch_size, fitted = "corner", "corner-v1", 64, False

        def embed(self, images: np.ndarray) -> dict[int, np.ndarray]:
            return {4: images[:, :2, :2, 0].reshape(len(images), -1).astype(np.float32)}

    found = evaluate_images(small, fresh(200), [Corner()], parts=["features"], per_class=False)
    assert "Kernel distance, corner (4)" in {record_label(record) for record in found.records}


def _mean(images: Candidate) -> Estimate:
    return Estimate(float(images.values.mean()), None)


def test_what_an_entry_needs_is_asked_for(small: ImageDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    many = Metric("many", "Many", "features", _mean, "lower", min_images=1000)
    wide = Metric("wide", "Wide", "features", _mean, "lower", images_per_dimension=50)
    silent = Metric("silent", "Silent", "features", _mean, "lower", min_images=1000, optional=True)
    for metric in (many, wide, silent):
        monkeypatch.setitem(METRICS, metric.name, metric)
    texture = EXTRACTORS["texture"](small, None)
    found = evaluate_images(small, fresh(200), [texture], parts=["features"], per_class=False)
    assert not {"many", "wide", "silent"} & {record.name for record in found.records}
    assert (
        "Many, texture (81): at least 1000 images on either side are needed; the real ones are too few (class: all)"
        in found.refused
    )
    assert (
        "Wide, texture (81): more than 4050 images on either side are needed; the real ones are too few (class: all)"
        in found.refused
    )
    assert not any("Silent" in line for line in found.refused)


def test_the_table_is_consistent() -> None:
    for name, metric in METRICS.items():
        assert name == metric.name
        assert metric.bounds[0] < metric.bounds[1]
        assert metric.in_ratio_plot == (metric.compared_by != "difference")
