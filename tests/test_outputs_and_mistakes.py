"""Outputs of every kind, spellings of other scripts, and what looks like our fault and is not."""

import json
import os
import re
import sys
import threading
from pathlib import Path

import pytest

from medmnist_diffusion import cli
from medmnist_diffusion.choices import OTHER_SPELLINGS
from medmnist_diffusion.training.config import SETTINGS
from tests.conftest import CliError, run_python


def test_outputs_of_every_kind(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "real.json").write_text("old")
    (tmp_path / "link.json").symlink_to(tmp_path / "real.json")
    assert cli.main(["audit", "phantom", "--json", str(tmp_path / "link.json")]) == 0
    assert (tmp_path / "link.json").is_symlink()
    written = json.loads((tmp_path / "real.json").read_text())

    os.mkfifo(tmp_path / "pipe")
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append((tmp_path / "pipe").read_text()))
    reader.start()
    assert cli.main(["audit", "phantom", "--json", str(tmp_path / "pipe")]) == 0
    reader.join(10)
    assert json.loads(read[0]) == written
    assert (tmp_path / "pipe").is_fifo()

    assert cli.main(["audit", "phantom", "--json", "/dev/null"]) == 0
    assert Path("/dev/null").is_char_device()

    capsys.readouterr()
    assert cli.main(["audit", "phantom", "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out) == written

    monkeypatch.setenv("HOME", str(tmp_path))
    assert cli.main(["audit", "phantom", "--json=~/home.json", "--preview=~/preview.png"]) == 0
    assert json.loads((tmp_path / "home.json").read_text()) == written
    assert (tmp_path / "preview.png").read_bytes().startswith(b"\x89PNG")


def test_an_evaluation_takes_no_device(pipeline: Path, small_npz: Path, cli_error: CliError) -> None:
    error = cli_error("evaluate", str(pipeline), "--dataset", str(small_npz), "--output", "/dev/null")
    assert "/dev/null is no regular file" in error


@pytest.mark.parametrize("name", OTHER_SPELLINGS)
def test_spellings_of_other_scripts(name: str, cli_error: CliError) -> None:
    assert name not in SETTINGS
    error = cli_error("train", "--dataset", "phantom", "--output_dir", "x", f"--{name}", "1")
    assert OTHER_SPELLINGS[name] in error
    assert not (named := re.match(r"It is --(\w+) here", OTHER_SPELLINGS[name])) or named[1] in SETTINGS


def test_a_file_in_the_place_of_a_library(tmp_path: Path) -> None:
    for name, content in (
        ("safetensors.py", "x = 1"),
        ("scipy.py", "x = 1"),
        ("click.py", "import nothing_of_that_name"),
    ):
        folder = tmp_path / name.removesuffix(".py")
        folder.mkdir()
        (folder / name).write_text(content)
        command = ("-m", "medmnist_diffusion", "train", "--dataset", "phantom", "--output_dir", "x")
        done = run_python(*command, cwd=tmp_path, PYTHONPATH=str(folder))
        assert done.returncode == 2, done.stderr
        assert done.stderr.count("\n") == 1, done.stderr
        assert "A file or folder of yours" in done.stderr
        assert "fault of medmnist-diffusion" not in done.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits address space by RLIMIT_AS")
def test_memory_that_is_limited(tmp_path: Path) -> None:
    program = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (1_500_000_000, 1_500_000_000))
from medmnist_diffusion.__main__ import main
sys.argv = ["medmnist-diffusion", "audit", "phantom"]
sys.exit(main())
"""
    done = run_python("-c", program, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert "the memory does not suffice" in done.stderr
