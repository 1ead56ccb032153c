"""diffusers' own tests of a pipeline, where DIFFUSERS_REPO names a checkout: its wheel has no tests, and we copy none."""

import os
import re
import shutil
from pathlib import Path

import pytest

from tests.conftest import run_python


def test_our_pipeline_passes_diffusers_own_tests(tmp_path: Path) -> None:
    if not (checkout := os.environ.get("DIFFUSERS_REPO")):
        pytest.skip(
            "set DIFFUSERS_REPO to a checkout of huggingface/diffusers, and install parameterized and requests_mock"
        )
    case = shutil.copy(Path(__file__).with_name("diffusers_own.py"), tmp_path / "test_ours.py")
    options = (
        "-q",
        "-W",
        "ignore",
        "-c",
        os.devnull,
        "--rootdir",
        str(tmp_path),
        "--import-mode=importlib",
        "-p",
        "no:cacheprovider",
    )
    done = run_python("-m", "pytest", *options, str(case), cwd=tmp_path, PYTHONPATH=checkout)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed
    assert int(passed[1]) >= 15, done.stdout
