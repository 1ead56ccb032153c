"""Benchmarks that train: an interrupted one goes on, a longer list adds to its file, and the committed files are known."""

import importlib
import json
import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medmnist_diffusion.errors import UserError

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
JUDGED = {space: {"frechet_distance": 1.0} for space in ("classifier", "texture")}


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("trainings")


def test_an_interrupted_benchmark_goes_on_and_a_longer_list_adds_to_it(trainings: Any, tmp_path: Path) -> None:
    path, head, ran = tmp_path / "results.json", {"command": "python benchmarks/some.py"}, []

    def run(args: Namespace, cell: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if cell["seed"] == args.interrupted_at:
            raise KeyboardInterrupt
        ran.append(cell)
        yield {"power": 0.5, **JUDGED}
        yield {"power": 1.0, **JUDGED}

    def start(seeds: int, interrupted_at: int | None = None) -> list[dict[str, Any]]:
        cells = [{"arm": "a", "options": ["--x", "1"], "seed": seed} for seed in range(seeds)]
        return trainings.run_missing(path, head, Namespace(interrupted_at=interrupted_at), cells, run)

    with pytest.raises(KeyboardInterrupt):
        start(2, interrupted_at=1)
    assert [row["power"] for row in json.loads(path.read_text())["runs"]] == [0.5, 1.0]
    start(2)
    assert [cell["seed"] for cell in ran] == [0, 1]
    rows = start(3)
    assert [cell["seed"] for cell in ran] == [0, 1, 2]
    assert [row["seed"] for row in rows] == [0, 0, 1, 1, 2, 2]
    assert json.loads(path.read_text()) == {**head, "runs": rows}
    with pytest.raises(UserError, match=r"holds the results of `python benchmarks/some.py`"):
        trainings.run_missing(path, {"command": "another"}, Namespace(), [], run)


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("recipe_first", {"arm": "default", "options": [], "seed": 2}),
        ("average_length_pneumoniamnist", {"seed": 1}),
        ("muon_precision_pneumoniamnist", {"seed": 2, "precision": "bfloat16"}),
        ("presets", {"preset": "fast", "dataset": "pneumoniamnist", "image_size": 28}),
        ("few_step_student_first", {"sampler": "student, DDIM", "steps": 4, "paths": 12000}),
    ],
)
def test_committed_cells_are_not_run_again(name: str, cell: dict[str, Any], trainings: Any, tmp_path: Path) -> None:
    path = Path(shutil.copy(BENCHMARKS / "results" / f"{name}.json", tmp_path))
    before = path.read_bytes()

    def run(args: Namespace, cell: dict[str, Any]) -> Iterator[dict[str, Any]]:
        raise AssertionError("it stands in the file")

    rows = trainings.run_missing(path, {"command": json.loads(before)["command"]}, Namespace(), [cell], run)
    assert len(rows) >= 3
    assert path.read_bytes() == before


def test_the_table_of_sets_is_that_of_the_installed_medmnist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    made = importlib.import_module("medmnist_table")
    documented = (BENCHMARKS.parent / "docs" / "sets.md").read_text(encoding="utf-8")
    for line in (*made.table(), *made.issues()):
        assert line in documented


def planted_cells(
    rng: np.random.Generator, slope: float, sets: int = 4, situations: int = 6, of_sets: bool = False
) -> list[dict[str, Any]]:
    """Cells whose gain is slope × the classes' evenness, and luck; the evenness is a cell's own, or that `of_sets`."""
    cells = []
    for name in range(sets):
        of_set = float(rng.uniform(0.3, 1))
        for _ in range(situations):
            evenness = of_set if of_sets else float(rng.uniform(0.3, 1))
            gain = slope * (evenness - 0.65) + float(rng.normal(0, 0.005))
            cells.append({"set": name, "evenness": evenness, "gain": gain})
    return cells


def test_a_predictor_is_found_where_there_is_one_and_not_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    predictor, rng = importlib.import_module("predictor"), np.random.default_rng(0)
    monkeypatch.setattr(predictor, "BOOTSTRAPS", 300)

    def found(slope: float) -> bool:
        row = predictor.judged(planted_cells(rng, slope), "evenness of the classes", rng)
        return bool(row["foretold_interval"][0] > 0 and row["correlation_interval"][0] > 0)

    assert sum(found(0.05) for _ in range(10)) >= 9
    assert sum(found(0.0) for _ in range(40)) <= 2
    few = predictor.judged(planted_cells(rng, 0.0)[:7], "evenness of the classes", rng)
    assert few == {"predictor": "evenness of the classes", "cells": 7, "values": 7}
    whole = predictor.judged(planted_cells(rng, 100.0), "evenness of the classes", rng)
    assert 0.9 < whole["foretold"] <= 1


def test_four_sets_are_too_few_for_what_is_the_same_in_all_cells_of_a_set(monkeypatch: pytest.MonkeyPatch) -> None:
    """As docs/augmentation.md says: of four sets a strong predictor is often missed, of twelve it is not."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    predictor, rng = importlib.import_module("predictor"), np.random.default_rng(0)
    monkeypatch.setattr(predictor, "BOOTSTRAPS", 200)

    def found(sets: int) -> int:
        rows = [
            predictor.judged(planted_cells(rng, 0.05, sets, 3, of_sets=True), "evenness of the classes", rng)
            for _ in range(20)
        ]
        assert {row["values"] for row in rows} == {sets}
        return sum(row["foretold_interval"][0] > 0 and row["correlation_interval"][0] > 0 for row in rows)

    assert found(4) <= 14
    assert found(12) >= 18


def test_documented_situations_are_the_measured_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of docs/augmentation.md is that of the committed results, every cell and every figure."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    situations = importlib.import_module("situations")
    rows = json.loads(situations.RESULT.read_text(encoding="utf-8"))["rows"]
    documented = (BENCHMARKS.parent / "docs" / "augmentation.md").read_text(encoding="utf-8")
    table = list(situations.table(rows))
    assert "\n".join(table) in documented
    assert len(table) == len(rows) + 2
    assert "\n".join(situations.sharing_table(rows)) in documented


def test_documented_recipes_are_the_measured_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    documented = (BENCHMARKS.parent / "docs" / "speed.md").read_text(encoding="utf-8")
    for name in ("recipe", "few_step_student"):
        module, kept = importlib.import_module(name), importlib.import_module("trainings").kept_results(name)
        assert "\n".join(module.table(kept)) in documented


@pytest.mark.slow
def test_the_prepared_gpu_run_passes_on_a_cpu() -> None:
    """Every part, with tiny sizes: where a GPU is at hand it must not fail for our own mistakes."""
    done = subprocess.run([sys.executable, "gpu.py", "--tiny"], cwd=BENCHMARKS, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "'compiled': True" in done.stdout
