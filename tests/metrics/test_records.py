"""Records: means of several draws, the file, old files, names that nobody knows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import sem
from scipy.stats import t as scipy_t

from medmnist_diffusion.artifacts import Metrics
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.metrics.intervals import Z, standard_error
from medmnist_diffusion.metrics.records import over_seeds
from medmnist_diffusion.metrics.table import record_label
from medmnist_diffusion.publish.figures import overall_rows
from medmnist_diffusion.publish.plots import ratio_rows

from ..conftest import ROOT


def test_draws_with_several_seeds_become_means_with_students_interval(evaluated: Path) -> None:
    draws = []
    for shift in (0.0, 0.3, 0.9):
        records = Metrics.read(evaluated / "m.json").metrics
        draws.append([record.model_copy(update={"value": record.value + shift}) for record in records])
    merged = next(r for r in over_seeds(draws) if r.name == "frechet_distance" and r.class_ is None)
    values = [next(r.value for r in draw if r.name == "frechet_distance" and r.class_ is None) for draw in draws]
    expected = scipy_t.interval(0.95, 2, loc=np.mean(values), scale=sem(values))
    assert merged.value == pytest.approx(np.mean(values))
    assert merged.interval == pytest.approx((max(expected[0], 0), expected[1]))
    assert merged.ratio == pytest.approx(merged.value / merged.floor)
    assert merged.sampling_seeds == 3
    nothing = [
        [record.model_copy(update={"value": 0.0, "error": 0.02 / Z, "interval": (0.0, 0.02)})] * 1
        for record in [draws[0][-1]] * 5
    ]
    (share,) = over_seeds(nothing)
    assert share.interval[1] > 0.005  # five times nothing is not certainty
    shares = [r for r in over_seeds(draws) if r.name == "memorized_share"]
    assert all(0 <= r.interval[0] <= r.interval[1] <= 1 and 0 <= r.p_value <= 1 for r in shares)


def test_records_round_trip(evaluated: Path, tmp_path: Path) -> None:
    metrics = Metrics.read(evaluated / "m.json")
    metrics.write(tmp_path / "copy.json")
    assert (tmp_path / "copy.json").read_bytes() == (evaluated / "m.json").read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: record.pop("floor"),
        lambda record: record.update(value="good"),
        lambda record: record.update(name=3),
        lambda record: record.update(extra=1),
    ],
)
def test_a_file_that_does_not_fit_the_schema_is_refused(evaluated: Path, tmp_path: Path, damage: Any) -> None:
    values = json.loads((evaluated / "m.json").read_text())
    damage(values["metrics"][0])
    (tmp_path / "m.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="no valid metrics file"):
        Metrics.read(tmp_path / "m.json")


def test_only_official_weights_make_an_fid(evaluated: Path) -> None:
    record = Metrics.read(evaluated / "m.json").metrics[0]
    assert record_label(record.model_copy(update={"extractor": "inception", "dimension": 2048})) == "FID (2048)"
    assert "FID" not in record_label(record.model_copy(update={"extractor": "random-inception", "dimension": 2048}))


def test_a_file_of_version_0_1_loads_and_its_errors_are_inferred(evaluated: Path, tmp_path: Path) -> None:
    """Its records hold no standard errors: they come from the intervals' longer sides. Means are then the same."""
    values = json.loads((evaluated / "m.json").read_text())
    for record in values["metrics"]:
        del record["error"], record["floor_error"]
    (tmp_path / "old.json").write_text(json.dumps(values))
    old, new = Metrics.read(tmp_path / "old.json").metrics, Metrics.read(evaluated / "m.json").metrics
    assert all(record.error is None for record in old)
    for record, with_error in zip(old, new, strict=True):
        assert standard_error(record.value, None, record.interval) == pytest.approx(with_error.error), record
    for record, with_error in zip(over_seeds([old, old]), over_seeds([new, new]), strict=True):
        assert record.interval == pytest.approx(with_error.interval)
        assert record.ratio_interval == pytest.approx(with_error.ratio_interval)


@pytest.mark.parametrize("card", ["pneumoniamnist-28", "phantom-28"])
def test_files_of_older_versions_load(card: Any) -> None:
    metrics = Metrics.read(ROOT / "tests" / "older_files" / card / "metrics.json")
    assert all(record_label(record) for record in metrics.metrics)


def test_somebody_elses_metric_loads_and_is_shown_by_its_name(evaluated: Path, tmp_path: Path) -> None:
    values = json.loads((evaluated / "m.json").read_text())
    values["metrics"][0]["name"] = "beauty"
    (tmp_path / "m.json").write_text(json.dumps(values))
    metrics = Metrics.read(tmp_path / "m.json")
    assert record_label(metrics.metrics[0]) == "beauty, texture (81)"
    assert overall_rows(metrics)[0]["label"] == "beauty, texture (81)"
    assert ratio_rows(metrics)[0][0] == "beauty, texture (81)"
    assert over_seeds([metrics.metrics] * 2)[0].name == "beauty"
