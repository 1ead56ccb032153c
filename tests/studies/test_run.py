"""What all studies do alike: they start in a folder, no cell starts when the time is over, and what is missing says why."""

import time
from dataclasses import replace
from pathlib import Path

import pytest

from medmnist_diffusion.data.sources import DataSource
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.studies.run import StudyRun, run_cells, start_study, study_status


def started(output: Path | None, time_budget: str | None = None) -> StudyRun:
    return start_study("kind", DataSource("phantom", None, 16), output, time_budget, 0, None)


def doubled(number: int) -> int:
    return 2 * number


def test_no_cell_starts_when_the_time_is_over(tmp_path: Path) -> None:
    run = started(tmp_path)
    assert list(run_cells(run, doubled, [(1,), (2,)], "cells")) == [2, 4]
    assert run.why_missing == "a worker died"
    late = replace(run, deadline=time.time() - 1)
    assert list(run_cells(late, doubled, [(1,), (2,)], "cells")) == [None, None]
    assert late.why_missing == "the time was over"


def test_how_far_it_is_is_seen_from_outside(tmp_path: Path) -> None:
    run = started(tmp_path)
    source = DataSource("phantom", None, 16)
    with pytest.raises(UserError, match="holds no study"):
        study_status("kind", source, tmp_path)
    cells = run_cells(run, doubled, [(1,), (2,), (3,)], "losses")
    next(cells)
    assert "losses: 1 of 3 cells, at" in study_status("kind", source, tmp_path)
    assert "2 were left then, about 0 minutes" in study_status("kind", source, tmp_path)
    list(cells)
    assert "losses: 3 of 3 cells" in study_status("kind", source, tmp_path)
    assert "none is left then" in study_status("kind", source, tmp_path)
    list(run_cells(replace(run, deadline=time.time() - 1), doubled, [(1,), (2,)], "more"))
    assert "more: 0 of 2 cells, 2 left out as the time was over" in study_status("kind", source, tmp_path)


def test_a_budget_sets_the_deadline_and_the_folder_is_named_by_the_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    run = started(None, "90m")
    assert run.folder == tmp_path / "runs" / "kind-phantom"
    assert run.seconds == 5400
    assert run.deadline == pytest.approx(time.time() + 5400, abs=60)
    with pytest.raises(UserError, match="--budget is 'soon'"):
        started(None, "soon")
