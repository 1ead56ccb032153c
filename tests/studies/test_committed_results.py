"""The committed reports come out of the committed results, figure for figure."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from medmnist_diffusion.data import load_dataset
from medmnist_diffusion.data.regimes import Regime
from medmnist_diffusion.metrics.mixed_training import Recipe
from medmnist_diffusion.studies.augmentation import report as augmentation_report
from medmnist_diffusion.studies.augmentation.generators import DiffusionSource
from medmnist_diffusion.studies.augmentation.protocol import AugmentationProtocol, draws_in
from medmnist_diffusion.studies.augmentation.situations import few_images
from medmnist_diffusion.studies.loss import report as loss_report
from medmnist_diffusion.studies.loss.analysis import PartResult
from medmnist_diffusion.studies.loss.cells import cells_in

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def alike(ours: Any, theirs: Any) -> bool:
    """Equal, but for the last digits of numbers, and for fields that came later and are empty."""
    if isinstance(ours, dict):
        ours = {key: value for key, value in ours.items() if key in theirs or value is not None}
        return ours.keys() == theirs.keys() and all(alike(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, list):
        return len(ours) == len(theirs) and all(alike(a, b) for a, b in zip(ours, theirs, strict=True))
    return ours == pytest.approx(theirs, rel=1e-9) if isinstance(ours, float) else ours == theirs


def copied(study: str, tmp_path: Path) -> tuple[Path, dict[str, Any], str]:
    """A copy of a study's folder without its report; and what the report says."""
    folder = shutil.copytree(RESULTS / study / "pneumoniamnist", tmp_path / study)
    results, text = json.loads((folder / "results.json").read_text()), (folder / "report.md").read_text()
    for name in ("results.json", "report.md"):
        (folder / name).unlink()
    return folder, results, text


def assert_same(again: dict[str, Any], results: dict[str, Any]) -> None:
    """But for the description of the data set: more is known of it today."""
    described, then = again["dataset"], results["dataset"]
    assert set(then.pop("notes")) <= set(described.pop("notes"))
    assert alike({name: described[name] for name in then}, then)
    assert alike({**again, "dataset": {}}, {**results, "dataset": {}})


def test_loss(tmp_path: Path, real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, results, text = copied("loss", tmp_path)
    for plot in ("plot_ratios", "plot_curves"):
        monkeypatch.setattr(loss_report, plot, lambda *_: None)
    cells, parts = cells_in(folder).records(), []
    for name, part in results["parts"].items():
        known = {key: part[key] for key in PartResult.model_fields if key != "cells"}
        of_part = [{**cells[cell["fingerprint"]].model_dump(), "arm": cell["arm"]} for cell in part["cells"]]
        parts.append(PartResult.model_validate({**known, "cells": of_part}))
        assert parts[-1].name == name
    dataset = load_dataset("pneumoniamnist", str(real_data))
    loss_report.write_report(folder, dataset, parts, results["dropped"], results["command"])
    assert (folder / "report.md").read_text() == text
    assert_same(json.loads((folder / "results.json").read_text()), results)


@pytest.mark.slow
def test_augmentation(tmp_path: Path, real_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for the table of the generators, whose folders are not committed."""
    folder, results, text = copied("augmentation", tmp_path)
    for plot in ("plot_learning", "plot_effects", "plot_usefulness"):
        monkeypatch.setattr(augmentation_report, plot, lambda *_: None)
    monkeypatch.setattr(augmentation_report, "plot_shares", lambda *_: True)
    draws = list(draws_in(folder).records().values())
    precisions = {(cell["regime"], cell["seed"]): cell["precision"] for cell in results["cells"]}
    made = {(d.regime, d.seed, precisions[d.regime.name, d.seed]): d.fingerprint for d in draws}
    monkeypatch.setattr(  # other defaults of the training make other fingerprints
        AugmentationProtocol, "fingerprint", lambda p, *draw: made.get((*draw, p.recipe.precision), "")
    )
    identities = {json.loads(one)["mixed_precision"]: one for one in results["sources"]}
    monkeypatch.setattr(DiffusionSource, "identity", property(lambda s: identities[s.options["mixed_precision"]]))
    dataset = load_dataset("pneumoniamnist", str(real_data))
    asked = few_images(sorted({cell["arm"] for cell in results["cells"]}))
    here, earlier = (
        AugmentationProtocol(
            folder,
            dataset,
            DiffusionSource(folder, dataset, {"mixed_precision": one}, 1),
            Recipe(precision=one),
            asked,
        )
        for one in identities
    )
    protocol = AugmentationProtocol(folder, dataset, here.source, here.recipe, asked, (earlier,))
    regimes = [Regime(0.05), Regime(0.25), Regime(1.0), Regime(1.0, 0.05)]
    ordered = sorted(draws, key=lambda draw: draw.seed)
    augmentation_report.write_report(protocol, regimes, ordered, results["dropped"], results["command"])

    def without_generators(report: str) -> str:
        return re.sub(r"\| generators \|.*?\n\n", "", report, flags=re.S)

    assert without_generators((folder / "report.md").read_text()) == without_generators(text)
    again = json.loads((folder / "results.json").read_text())
    assert_same({**again, "versions": {}}, {**results, "versions": {}})
