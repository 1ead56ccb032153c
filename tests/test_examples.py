"""Every example runs as it stands, and says what its README promises."""

import os
import re
import subprocess
import sys
from pathlib import Path

import nbclient
import nbformat
import pytest

from tests.conftest import ROOT, WITHOUT_US

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs(path: Path, tmp_path: Path) -> None:
    program = f"import runpy; runpy.run_path({str(path)!r}, run_name='__main__')"
    if path.stem == "plain_diffusers":
        program = WITHOUT_US + program
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=os.environ, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip()


def test_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As it stands, but for a training of fewer steps."""
    book = nbformat.read(ROOT / "examples" / "quickstart.ipynb", as_version=4)
    assert not any(cell.get("outputs") for cell in book.cells)  # a reader makes them
    for cell in book.cells:
        cell.source = cell.source.replace("max_train_minutes=1", "max_train_steps=30")
    run = nbclient.NotebookClient(book, timeout=180, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [output for cell in run.cells if cell.cell_type == "code" for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 2
    assert any("Are they copies of training images?" in output.get("text", "") for output in outputs)


def test_the_list_is_whole() -> None:
    listed = re.findall(r"\]\((\w+\.(?:py|ipynb))\)", (ROOT / "examples" / "README.md").read_text(encoding="utf-8"))
    there = [path.name for path in (ROOT / "examples").iterdir() if path.suffix in (".py", ".ipynb")]
    assert sorted(set(listed)) == sorted(there)
