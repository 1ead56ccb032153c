"""How many threads a process takes: what the user, the launcher and the container say."""

import os
from pathlib import Path

import pytest

from medmnist_diffusion import processes, resources, waiting
from medmnist_diffusion.processes import thread_count
from tests.conftest import ROOT, run_python


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(processes, "available_cores", lambda: [0, 1, 2, 3])
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(resources, "_CGROUP", tmp_path)
    return tmp_path


def test_what_the_user_says_counts(four_cores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert thread_count() == 4
    assert thread_count(2) == 2
    for said, threads in (("1", 1), ("3", 3), ("2,1", 2), ("", 4), ("0", 4), ("many", 4)):
        monkeypatch.setenv("OMP_NUM_THREADS", said)
        assert thread_count() == threads, said


def test_a_launchers_own_1_does_not_count(four_cores: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = ["python", "/usr/bin/accelerate", "launch", "train.py"]
    monkeypatch.setattr(processes, "_launcher_command", lambda: command)
    assert thread_count() == 4
    monkeypatch.setattr(processes, "_launcher_command", lambda: [*command, "--num_cpu_threads_per_process", "1"])
    assert thread_count() == 1


@pytest.mark.parametrize(
    ("quota", "threads"), [("max 100000", 4), ("150000 100000", 1), ("200000 100000", 2), ("5000 100000", 1), ("x", 4)]
)
def test_a_containers_share_of_time(four_cores: Path, quota: str, threads: int) -> None:
    (four_cores / "cpu.max").write_text(quota + "\n")
    assert thread_count() == threads


def test_commands_and_scripts_wait_asleep(tmp_path: Path) -> None:
    """Before torch is loaded; what somebody set stays."""
    scripts = [str(ROOT / "training" / name) for name in ("train.py", "evaluate_fid.py")]
    for start in (
        "import medmnist_diffusion.__main__",
        *(f"import runpy; runpy.run_path({path!r})" for path in scripts),
    ):
        said = "print(waiting.IN_TIME, os.environ['GOMP_SPINCOUNT'])"
        program = f"{start}; import os; from medmnist_diffusion import waiting; {said}"
        assert run_python("-c", program, cwd=tmp_path).stdout.split() == ["True", waiting.SPINS], start
        assert run_python("-c", program, cwd=tmp_path, GOMP_SPINCOUNT="7").stdout.split() == ["True", "7"]
