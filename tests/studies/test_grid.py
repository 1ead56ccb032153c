"""The file of results: whole lines only, joined, read as it grows; older layouts are taken over."""

import json
from pathlib import Path

import numpy as np
import pytest

from medmnist_diffusion.errors import UserError
from medmnist_diffusion.metrics.classifier_scores import kept_scores
from medmnist_diffusion.studies.augmentation.protocol import DRAWS, draws_in
from medmnist_diffusion.studies.grid import ResultFile
from medmnist_diffusion.studies.loss.cells import VariantResult, cells_in
from medmnist_diffusion.studies.loss.variants import TrainingVariant


def cell(name: str, steps: int = 0) -> VariantResult:
    return VariantResult(arm=TrainingVariant(name=name), seed=0, fingerprint=name, steps=steps)


def test_a_line_that_was_cut_off_is_no_record_and_gives_way(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    results = ResultFile(path, VariantResult)
    results.append(cell("a"))
    whole = path.read_bytes()
    for length in (1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole + whole[:length])
        assert list(ResultFile(path, VariantResult).records()) == ["a"]
        results.append(cell("b"))
        assert list(ResultFile(path, VariantResult).records()) == ["a", "b"]
    path.write_bytes(whole[:-1])
    assert ResultFile(path, VariantResult).records() == {}
    results.append(cell("c"))
    assert list(results.records()) == ["c"]


def test_it_is_read_as_it_grows_and_the_later_line_counts(tmp_path: Path) -> None:
    reader, writer = (ResultFile(tmp_path / "x.jsonl", VariantResult) for _ in range(2))
    assert reader.records() == {}
    for steps in (1, 2):
        writer.append(cell("a", steps))
        found = reader.get("a")
        assert found is not None
        assert found.steps == steps
    assert reader.get("b") is None


def test_a_damaged_line_is_named(tmp_path: Path) -> None:
    results = ResultFile(tmp_path / "x.jsonl", VariantResult)
    results.append(cell("a"))
    with results.path.open("a") as file:
        file.write("{}\n")
    with pytest.raises(UserError, match="line 2"):
        ResultFile(results.path, VariantResult).records()


def test_folders_of_older_versions_go_on(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "a.json").write_text(json.dumps(cell("a", 3).model_dump()))
    assert cells_in(tmp_path).records() == {"a": cell("a", 3)}
    (tmp_path / "units").mkdir()
    draw = {
        "fingerprint": "u",
        "share": 0.1,
        "rare_share": 1.0,
        "seed": 0,
        "n_real": 9,
        "n_real_per_class": [9],
        "n_val": 9,
    }
    (tmp_path / "units" / "u.json").write_text(json.dumps(draw))
    scores = np.random.default_rng(0).normal(0, 20, (50, 3)).astype(np.float16)
    np.savez_compressed(tmp_path / "units" / "u.npz", real=scores)
    found = draws_in(tmp_path).records()["u"]
    assert (tmp_path / DRAWS).is_file()
    assert found.scores_of("real").dtype == np.float16
    assert (found.scores_of("real") == scores).all()


def test_kept_scores_are_the_same_when_read() -> None:
    every = np.arange(2**16, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)][:, None]
    again = np.array(json.loads(json.dumps(kept_scores(every))), np.float16).T
    assert (again == every).all()
