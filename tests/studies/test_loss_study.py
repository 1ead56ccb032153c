"""The command of the loss study: interrupted, within a budget, its report, mistakes."""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from typing import Any

import numpy as np
import pytest

from medmnist_diffusion import cli
from medmnist_diffusion.data import load_dataset
from medmnist_diffusion.studies.budget import Clock
from medmnist_diffusion.studies.loss import study as loss_study
from medmnist_diffusion.studies.loss.analysis import PartResult, best_variant
from medmnist_diffusion.studies.loss.cells import CELLS, TrainingProtocol
from medmnist_diffusion.studies.loss.study import StudyPart
from medmnist_diffusion.studies.loss.variants import TrainingVariant


def study(data: Path, output: Path) -> list[str]:
    return [
        "study", "loss", str(data), "--output", str(output), "--parts", "losses", "--seeds", "2", "--max_train_steps", "12",
        "--num_images", "100", "--features",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def finished_study(tiny_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    output = tmp_path_factory.mktemp("study") / "whole"
    assert cli.main(study(tiny_npz, output)) == 0
    return output


def figures(output: Path) -> list:
    part = json.loads((output / "results.json").read_text())["parts"]["losses"]
    for cell in part["cells"]:
        for name in ("seconds", "training_seconds"):
            del cell[name]
        for row in cell["losses"]:
            del row["seconds"], row["images_per_second"]
    return [part["cells"], part["contrasts"], part["verdicts"]]


def lines_of(output: Path) -> int:
    return (output / CELLS).read_bytes().count(b"\n") if (output / CELLS).is_file() else 0


@pytest.mark.slow
def test_killed_and_started_again_it_gives_the_same(finished_study: Any, tiny_npz: Path, tmp_path: Path) -> None:
    output = tmp_path / "killed"
    with (tmp_path / "log").open("w") as log:
        process = Popen(
            [sys.executable, "-m", "medmnist_diffusion.cli", *study(tiny_npz, output)], stderr=log, stdout=log
        )
        while lines_of(output) < 3 and process.poll() is None:
            time.sleep(0.05)
        process.kill()
        process.wait()
    before = (output / CELLS).read_bytes()
    assert 3 <= lines_of(output) < 10
    assert cli.main(study(tiny_npz, output)) == 0
    assert (output / CELLS).read_bytes().startswith(before[: before.rfind(b"\n") + 1])  # nothing was done twice
    assert lines_of(output) == 10
    assert figures(output) == figures(finished_study)


def test_report(finished_study: Any) -> None:
    text = (finished_study / "report.md").read_text()
    for arm in ("L1", "L2", "Huber, δ = 1", "Huber, δ = 0.1", "min-SNR", "*real images*"):
        assert arm in text
    for name in ("losses_curves.png", "losses.png", "losses_grids.png"):
        assert (finished_study / name).is_file()
        assert name in text
    assert "Synthetic" not in text  # an npz of the user's own
    cells = json.loads((finished_study / "results.json").read_text())["parts"]["losses"]["cells"]
    assert len(cells) == 10  # four losses and the best one with min-SNR, two seeds
    assert {"val_l2", "train_l2", "val_l2_bucket_0", "val_l2_bucket_3"} <= set(cells[0]["losses"][0])
    row = cells[0]["losses"][-1]
    assert np.mean([row[f"val_l2_bucket_{i}"] for i in range(4)]) == pytest.approx(row["val_l2"], rel=1e-4)


def test_what_does_not_fit_the_budget_is_named(
    finished_study: Any, tiny_npz: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = study(tiny_npz, finished_study)
    arguments[arguments.index("--parts") + 1 : arguments.index("--seeds")] = ["losses", "robustness"]
    assert cli.main([*arguments, "--budget", "60s"]) == 0  # the first is finished and costs nothing
    output = capsys.readouterr().out
    assert "losses: 4 arms × 2 seeds, about 0 minutes" in output
    assert "robustness: 12 arms × 0 seeds" in output
    assert "robustness: all of it" in (finished_study / "report.md").read_text()


def test_budget_takes_fewer_seeds_before_it_drops_a_part(
    tiny_npz: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = load_dataset(str(tiny_npz))
    protocol = TrainingProtocol(tmp_path, dataset, {"max_train_steps": 10}, (), (), 100)
    parts = [
        StudyPart(name, protocol, (TrainingVariant(name="a"), TrainingVariant(name="b")))
        for name in ("first", "second", "third")
    ]
    monkeypatch.setattr(loss_study, "cell_seconds", lambda *_: 10.0)
    seeds_of, dropped = loss_study.plan_seeds(parts, Clock(dataset), 4, 140.0)
    assert seeds_of == {"first": 4, "second": 3, "third": 0}  # 80 s, 60 s, nothing left
    assert [line.split(" (")[0] for line in dropped] == ["second: 1 of 4 seeds", "third: all of it"]


def test_best_variant_is_the_nearest_to_its_floors(finished_study: Any) -> None:
    values = json.loads((finished_study / "results.json").read_text())["parts"]["losses"]
    part = PartResult.model_validate({name: values[name] for name in PartResult.model_fields})
    arms = [cell.arm for cell in part.cells if cell.seed == 0]
    ratios: dict[str, list[float]] = {arm.name: [] for arm in arms}
    for cell in part.cells:
        ratios[cell.arm.name] += [np.log(r.ratio) for r in cell.records if r.name == "frechet_distance"]
    assert all(ratios.values())
    assert best_variant(arms, part.cells).name == min(ratios, key=lambda name: np.mean(ratios[name]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing", "phantom"], "No such command 'nothing'"),
        (["loss", "phantom", "--budget", "soon"], "--budget is 'soon'"),
        (["loss", "phantom", "--seeds", "0"], "is not in the range"),
        (["loss", "phantom", "--rate", "--output", "nowhere"], "on the page of `medmnist-diffusion app"),
    ],
)
def test_mistakes(arguments: Any, message: str, cli_error: Callable[..., str]) -> None:
    assert message in cli_error("study", *arguments)
