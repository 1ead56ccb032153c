"""Every example runs as it stands, and the notebook, too."""

import re
import runpy
import shutil
import sys
import tomllib
import urllib.request
from pathlib import Path

import nbclient
import nbformat
import pytest

from medmnist_diffusion.metrics.table import METRICS
from medmnist_diffusion.shipped import pipeline_folder
from tests.app.browser import served
from tests.conftest import ROOT, WITHOUT_US, run_python

EXAMPLES = ROOT / "examples"


@pytest.mark.parametrize("name", ["torch_dataset", "classifier", "own_training_loop", "own_metric", "own_features"])
def test_it_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    if name == "own_metric":
        monkeypatch.setitem(METRICS, "centre_distance", None)  # what it puts there is taken away after the test
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    said = capsys.readouterr().out
    assert re.search(r"\d", said), said
    if name == "own_training_loop":
        assert (tmp_path / "my_pipeline" / "pipeline.py").is_file()


def test_plain_diffusers_needs_nothing_of_us(tmp_path: Path) -> None:
    program = f"import runpy; runpy.run_path({str(EXAMPLES / 'plain_diffusers.py')!r}, run_name='__main__')"
    done = run_python("-c", WITHOUT_US + program, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert len(list(tmp_path.glob("xray_*.png"))) == 8


@pytest.mark.slow
def test_the_notebook_runs(tmp_path: Path) -> None:
    """As it stands, but for a training of fewer steps and fewer images to judge."""
    book = nbformat.read(EXAMPLES / "quickstart.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in book.cells)  # a reader makes them
    for cell in book.cells:
        cell.source = cell.source.replace("max_train_minutes=1", "max_train_steps=30").replace("=400", "=100")
    run = nbclient.NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in run.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert any("Are they copies of training images?" in output.get("text", "") for output in outputs)


def test_the_space_asks_for_what_the_package_needs() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = (EXAMPLES / "space" / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in asked if not line.startswith("#")] == [
        *project["dependencies"],
        *project["optional-dependencies"]["app"],
    ]


def test_the_space_serves_the_page(tmp_path: Path) -> None:
    """`python app.py`, as the Hub starts it, with a pipeline of one's own."""
    space = shutil.copytree(EXAMPLES / "space", tmp_path / "space")
    shutil.copytree(pipeline_folder("phantom-28"), space / "pipelines" / "mine")
    with served([sys.executable, "app.py"], space, GRADIO_SERVER_NAME="127.0.0.1") as address:
        page = urllib.request.urlopen(f"{address}config").read().decode()
    assert "send it no images of patients" in page
    assert '"mine"' in page
    assert "phantom-28" not in page


def test_the_list_is_whole() -> None:
    listed = re.findall(r"\]\((\w+\.(?:py|ipynb))\)", (EXAMPLES / "README.md").read_text(encoding="utf-8"))
    there = [path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")]
    assert sorted(set(listed)) == sorted(there)
