"""Workers of a study: processes of this machine, and those of a dask scheduler; one that dies costs its own task."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medmnist_diffusion.errors import UserError
from medmnist_diffusion.studies.workers import Workers, run_tasks


def drawn(seed: int) -> tuple[int, float]:
    return seed, float(np.random.default_rng(seed).normal())


def dies(path: Path, always: bool, seed: int) -> int:
    """Seed 1 takes its process with it: always, or where `path` is not there yet."""
    if seed == 1 and (always or not path.exists()):
        path.touch()
        os._exit(1)
    return seed


def done(task: Any, arguments: list[tuple[Any, ...]], workers: Workers) -> list[Any]:
    return sorted(run_tasks(task, arguments, workers))


@pytest.fixture(scope="module")
def scheduler() -> Iterator[str]:
    distributed = pytest.importorskip("distributed")
    import dask

    settings = {"distributed.scheduler.allowed-failures": 1, "distributed.worker.daemon": True}
    with (
        dask.config.set(settings),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, host="127.0.0.1", dashboard_address=None, worker_dashboard_address=None
        ) as cluster,
    ):
        yield cluster.scheduler_address


def test_all_kinds_of_workers_give_the_same(scheduler: str, tmp_path: Path) -> None:
    arguments = [(seed,) for seed in range(4)]
    kinds = [Workers(tmp_path / "log"), Workers(tmp_path / "log", 1), Workers(tmp_path / "log", scheduler=scheduler)]
    here, processes, cluster = (done(drawn, arguments, workers) for workers in kinds)
    assert here == processes == cluster == [drawn(seed) for seed in range(4)]


def test_a_worker_that_dies_costs_at_most_its_own_task(scheduler: str, tmp_path: Path) -> None:
    workers = Workers(tmp_path / "log", scheduler=scheduler)
    tasks = [(tmp_path / "died", False, seed) for seed in range(3)]
    assert done(dies, tasks, workers) == [0, 1, 2]  # it is run again
    tasks = [(tmp_path / "died", True, seed) for seed in range(3)]
    assert done(dies, tasks, workers) == [0, 2]


def test_a_process_that_dies_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="a process of the study died"):
        done(dies, [(tmp_path / "died", True, 1)], Workers(tmp_path / "log", 1))


def test_a_scheduler_without_workers_is_not_waited_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr("medmnist_diffusion.studies.workers.LOOK_SECONDS", 0.2)
    monkeypatch.setattr("medmnist_diffusion.studies.workers.NO_WORKER_SECONDS", 1)
    with (
        distributed.LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address=None) as cluster,
        pytest.raises(UserError, match="has no worker"),
    ):
        done(drawn, [(1,)], Workers(tmp_path / "log", scheduler=cluster.scheduler_address))


def test_no_scheduler_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("medmnist_diffusion.studies.workers.CONNECT_SECONDS", 1)
    with pytest.raises(UserError, match="no dask scheduler answers"):
        done(drawn, [(1,)], Workers(tmp_path / "log", scheduler="tcp://127.0.0.1:9"))
