"""The command of the augmentation study: its results, interruptions, budget, page."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from medmnist_diffusion import cli
from medmnist_diffusion.data import ImageDataset, phantom
from medmnist_diffusion.data.npz import write_npz
from medmnist_diffusion.errors import StoppedError
from medmnist_diffusion.studies import budget
from medmnist_diffusion.studies.augmentation.arms import (
    BY_NAME,
    CLASSICAL,
    MAIN_ARM,
    OVERSAMPLED,
    ClassifierArm,
    with_controls,
)
from medmnist_diffusion.studies.augmentation.protocol import DRAWS
from tests.conftest import CHROMIUM

SMALL = [
    "--shares", "0.2", "1", "--imbalance", "0", "--seeds", "2", "--max_train_steps", "6", "--classifier_steps", "4",
    "--num_images", "64", "--arms", "diverse-25", "variants-25", "--processes", "1", "--leaky",
]  # fmt: skip


def study_command(data: Path, folder: Path) -> list[str]:
    return ["study", "augmentation", str(data), "--output", str(folder), *SMALL]


def figures(folder: Path) -> list[dict[str, object]]:
    cells = json.loads((folder / "results.json").read_text(encoding="utf-8"))["cells"]
    return [{name: value for name, value in cell.items() if name != "seconds"} for cell in cells]


@pytest.fixture(scope="module")
def finished(tiny_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("study") / "whole"
    assert cli.main(study_command(tiny_npz, folder)) == 0
    return folder


def test_results_name_every_cell_and_every_verdict(finished: Path, tiny: ImageDataset) -> None:
    results = json.loads((finished / "results.json").read_text(encoding="utf-8"))
    assert len(results["cells"]) == 2 * (6 + 5)  # no leak is possible with all images
    for cell in results["cells"]:
        assert 0 <= cell["auc"] <= 1
        honest = cell["generator_index_hash"] in (None, cell["real_index_hash"])
        assert honest == (not cell["leaky"])
        assert not (cell["leaky"] and cell["n_real"] == len(tiny.train))
        assert (cell["generator_index_hash"] is None) == (cell["arm"] in (CLASSICAL.name, OVERSAMPLED.name))
    assert {regime["verdict"] for regime in results["regimes"]} <= {"helps", "harms", "no evidence"}
    assert all(regime["recommended"] in BY_NAME for regime in results["regimes"])
    assert {pool["pool"] for pool in results["pools"]} == {"plain", "variants", "leaky"}
    text = (finished / "report.md").read_text(encoding="utf-8")
    assert "a leak: not comparable" in text
    assert "Synthetic phantoms" not in text  # an npz does not say so
    for picture in re.findall(r"\]\((\w[^)]*\.png)\)", text):
        assert (finished / picture).is_file()


@pytest.mark.slow
def test_images_with_several_labels(tmp_path: Path) -> None:
    counts = {"train": 400, "val": 120, "test": 120}
    write_npz(tmp_path / "several.npz", phantom.make_phantom(form="multi-label", counts=counts))
    arms = ["--arms", "confident-25", "in-distribution-25", "not-memorized-25", "diverse-25"]
    options = [
        "--shares",
        "0.5",
        *SMALL[SMALL.index("--imbalance") : SMALL.index("--arms")],
        *arms,
        "--processes",
        "1",
    ]
    folder = tmp_path / "study"
    assert cli.main(["study", "augmentation", str(tmp_path / "several.npz"), "--output", str(folder), *options]) == 0
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert len(results["cells"]) == 2 * 7
    for cell in results["cells"]:
        assert 0 <= cell["auc"] <= 1
        assert len(cell["recall"]) == 3
    assert results["pools"]  # so few images that only copies are counted
    assert "mean over the labels" in (folder / "report.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_interrupted_it_ends_with_the_same_results(
    number: signal.Signals, finished: Path, tiny_npz: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "interrupted"
    command = [sys.executable, "-m", "medmnist_diffusion.cli", *study_command(tiny_npz, folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    waited = time.monotonic()
    while not (folder / DRAWS).is_file():
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() - waited < 300
        time.sleep(0.2)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == (StoppedError.exit_code if number == signal.SIGTERM else -number)
    if number == signal.SIGTERM:
        assert "The same command goes on" in errors
        assert "Traceback" not in errors
    deadline = time.monotonic() + 20
    while workers_of(folder) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not workers_of(folder)
    assert not (folder / "results.json").exists()
    assert cli.main(study_command(tiny_npz, folder)) == 0
    assert figures(folder) == figures(finished)


def workers_of(folder: Path) -> list[str]:
    """Processes that have this study's log open."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/fd/*"):
        try:
            if os.readlink(entry) == str(folder / "log.txt"):
                found.append(str(entry))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_dask_workers_give_the_same(finished: Path, tiny_npz: Path, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, worker_dashboard_address=None
    ) as cluster:
        command = [*study_command(tiny_npz, tmp_path / "dask"), "--scheduler", cluster.scheduler_address]
        assert cli.main(command) == 0
    assert figures(tmp_path / "dask") == figures(finished)


def test_a_finished_study_is_not_trained_again(
    finished: Path, tiny_npz: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = (finished / DRAWS).read_bytes()
    assert cli.main(study_command(tiny_npz, finished)) == 0
    assert (finished / DRAWS).read_bytes() == before
    assert "0 classifier trainings" in capsys.readouterr().out


def test_a_budget_drops_what_does_not_fit_and_says_so(
    tiny_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["study", "augmentation", str(tiny_npz), "--output", str(tmp_path / "s"), "--budget", "1s"]
    assert cli.main(arguments) == 0
    out = capsys.readouterr().out
    assert "5 of 8 seeds" in out
    assert "all of 100 %" in out


def test_arms_of_any_share_have_their_control() -> None:
    arms = {arm.name: arm for arm in with_controls(["synthetic-40"])}
    assert arms["synthetic-40"] == ClassifierArm("synthetic-40", share=0.4)
    assert arms["synthetic-40"].candidate
    assert arms["oversampled-40"] == ClassifierArm("oversampled-40", share=0.4, pool="real")
    assert set(arms) == {CLASSICAL.name, OVERSAMPLED.name, MAIN_ARM.name, "synthetic-40", "oversampled-40"}


def test_mistakes_are_named(tiny_npz: Path, cli_error: Callable[..., str], tmp_path: Path) -> None:
    start = ("study", "augmentation", str(tiny_npz), "--output", str(tmp_path))
    assert "--shares has 2" in cli_error(*start, "--shares", "2")
    assert "is not in the range x>=2" in cli_error(*start, "--seeds", "1")
    assert "--budget" in cli_error(*start, "--budget", "soon")
    assert "--imbalance" in cli_error(*start, "--imbalance", "1.5")
    assert "Did you mean diverse-25?" in cli_error(*start, "--arms", "real", "divers-25")
    assert "'synthetic-100' is no arm" in cli_error(*start, "--arms", "synthetic-100")


@pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt install chromium)")
def test_the_report_stands_alone_in_a_browser(finished: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    # A copy far from its pictures, with a probe that tells what a phone would see.
    probe = (
        "<script>window.onerror=e=>document.title='ERROR '+e;window.onload=()=>{const i=[...document.images];"
        "document.title=JSON.stringify({images:i.length,broken:i.filter(x=>!x.naturalWidth).length,"
        "wide:document.documentElement.scrollWidth-window.innerWidth})}</script></body>"
    )
    page.write_text((finished / "report.html").read_text(encoding="utf-8").replace("</body>", probe), encoding="utf-8")
    assert "http" not in re.sub(
        r"https://doi\S+", "", " ".join(re.findall(r'(?:src|href)="([^"]{0,80})', page.read_text()))
    )
    result = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
            f"--user-data-dir={tmp_path / 'profile'}", "--window-size=500,900", "--virtual-time-budget=5000", "--dump-dom",
            page.as_uri(),
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    title = re.search(r"<title>(.*?)</title>", result.stdout)
    assert title is not None, result.stderr[-500:]
    seen = json.loads(title[1])
    assert seen["images"] >= 2
    assert seen["broken"] == 0
    assert seen["wide"] <= 0
    assert "CONSOLE" not in result.stderr


def test_arms_that_were_not_asked_for_are_not_judged(
    finished: Path, tiny_npz: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "fewer"
    shutil.copytree(finished, folder)
    arguments = study_command(tiny_npz, folder)
    arguments.remove("diverse-25")
    assert cli.main(arguments) == 0
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert "diverse-25" not in {cell["arm"] for cell in results["cells"]}
    assert all("diverse-25" not in regime["beats_controls"] for regime in results["regimes"])


def test_a_study_goes_on_on_a_machine_of_another_precision(
    finished: Path, tiny_npz: Path, tiny: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its finished draws count as they are; others are made in what is fast there."""
    folder = tmp_path / "moved"
    shutil.copytree(finished, folder)
    first = json.loads((folder / "precision.json").read_text())["choices"][0]["mixed_precision"]
    other = {"no": "bf16", "bf16": "no"}[first]
    monkeypatch.setattr(budget, "kind_of_machine", lambda: "another machine")
    monkeypatch.setattr(budget, "try_precision", lambda *_: (other, {}))
    before = (folder / DRAWS).read_bytes()
    assert cli.main(study_command(tiny_npz, folder)) == 0
    assert (folder / DRAWS).read_bytes() == before
    assert figures(folder) == figures(finished)
    assert {cell["precision"] for cell in figures(folder)} == {first}
    assert budget.precisions(folder, tiny) == (other, first)
    assert budget.first_precision(folder, tiny) == first
