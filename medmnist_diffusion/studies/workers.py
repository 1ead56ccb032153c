"""Who runs a study's cells: this process, processes of this machine with one core each, or other machines by dask.distributed.

Small networks gain little from a second thread, and results do not depend on how many workers share a study: each has one thread.
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from medmnist_diffusion.console import bar_options
from medmnist_diffusion.errors import StoppedError, UserError
from medmnist_diffusion.processes import available_cores

CONNECT_SECONDS = 20
LOOK_SECONDS, NO_WORKER_SECONDS = 5, 120  # a worker that died needs a while to be back
_one_at_a_time = threading.Lock()  # a dask worker may have several threads; torch's random state is the process's


@dataclass(frozen=True)
class Workers:
    """Where cells run.

    Attributes:
        processes: of this machine, one core each; 0: this process itself, with all its cores.
        scheduler: the address of a dask scheduler whose workers run them instead; they see the study's folder and the data under
            the same paths.
        log: takes what worker processes print.
    """

    log: Path
    processes: int = 0
    scheduler: str | None = None


def run_tasks(
    task: Callable[..., Any],
    arguments: Sequence[tuple[Any, ...]],
    workers: Workers,
    desc: str = "",
    unit: str = "cell",
) -> Iterator[Any]:
    """`task(*each)` for each of the arguments, as they finish, beside a progress bar. A task that a dying dask worker took with it
    is run again, at last alone, and then left out.

    Stopped by Ctrl-C or SIGTERM, or by the death of this process, this machine's workers stop too.
    """
    if arguments:
        with tqdm(total=len(arguments), desc=desc or None, unit=unit, **bar_options()) as bar:
            for result in _results(task, arguments, workers):
                bar.update()
                yield result


def _results(task: Callable[..., Any], arguments: Sequence[tuple[Any, ...]], workers: Workers) -> Iterator[Any]:
    if workers.scheduler is None and not workers.processes:
        for each in arguments:
            yield task(*each)
        return
    if workers.scheduler:
        task = partial(_on_one_core, task)
    executors = _scheduler(workers) if workers.scheduler else _processes(workers, len(arguments))
    with _stopped_by_sigterm(), executors as executor:
        lost = []  # with a worker that died, by their own fault or another's
        futures = {executor.submit(task, *each): each for each in arguments}
        for future in _finished(futures, workers):
            if _died(future):
                lost.append(futures[future])
            else:
                yield future.result()
        for each in lost:  # one at a time: the guilty one takes no other with it
            (future,) = _finished([executor.submit(task, *each)], workers)
            if error := _died(future):
                tqdm.write(f"a cell's worker died again ({error}); the cell is left out.")
            else:
                yield future.result()


def _finished(futures: Iterable[Future[Any]], workers: Workers) -> Iterator[Future[Any]]:
    """The futures as they end. A scheduler whose last worker is gone is not waited for for ever."""
    waiting, alone_since = set(futures), time.monotonic()
    while waiting:
        ended, waiting = wait(waiting, LOOK_SECONDS, FIRST_COMPLETED)
        yield from ended
        if ended or workers.scheduler is None or _has_workers():
            alone_since = time.monotonic()
        elif time.monotonic() - alone_since > NO_WORKER_SECONDS:
            raise UserError(
                f"the dask scheduler at {workers.scheduler} has no worker. Start one: dask worker {workers.scheduler}. The same "
                "command goes on with what is missing."
            )


def _has_workers() -> bool:
    from distributed import get_client

    return bool(get_client().scheduler_info(n_workers=-1)["workers"])


def _died(future: Future[Any]) -> BaseException | None:
    """The error of a task whose dask worker died; None of any other task, failed or not."""
    error = future.exception()
    return error if type(error).__name__ == "KilledWorker" else None  # of distributed, which need not be installed


@contextlib.contextmanager
def _processes(workers: Workers, tasks: int) -> Iterator[Executor]:
    workers.log.parent.mkdir(parents=True, exist_ok=True)
    context = get_context("spawn")
    cores, available = context.Queue(), available_cores()
    for at in range(workers.processes):
        cores.put(available[at % len(available)])
    executor = ProcessPoolExecutor(
        min(workers.processes, tasks), context, initializer=_start, initargs=(cores, os.getpid(), workers.log)
    )
    try:
        yield executor
    except BrokenProcessPool:
        raise UserError(
            f"a process of the study died (out of memory?); its last words are in {workers.log}. The same command goes on; with "
            "fewer --processes it needs less memory."
        ) from None
    except BaseException:
        for process in active_children():  # also one that the executor was just starting
            process.kill()  # all that a cell writes is whole or not there; a training would want to save first
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _scheduler(workers: Workers) -> Iterator[Executor]:
    try:
        from distributed import Client
    except ImportError:
        raise UserError(
            "--scheduler needs dask.distributed. Install it: pip install 'medmnist-diffusion[distributed]'."
        ) from None
    try:
        client = Client(workers.scheduler, timeout=CONNECT_SECONDS)
    except (OSError, ValueError) as error:
        raise UserError(
            f"--scheduler: no dask scheduler answers at {workers.scheduler} ({error}). Start one: dask scheduler."
        ) from None
    with client:
        executor = client.get_executor(pure=False)
        try:
            yield executor
        except CancelledError:
            raise UserError(
                f"the dask scheduler at {workers.scheduler} is gone. The same command goes on with what is missing."
            ) from None
        except BaseException:
            executor.shutdown(wait=False)  # cells that wait or run there are cancelled, not waited for
            raise


def _on_one_core(task: Callable[..., Any], *arguments: Any) -> Any:
    with _one_at_a_time:
        torch.set_num_threads(1)
        return task(*arguments)


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """SIGTERM, within, is a StoppedError."""

    def stop(number: int, frame: Any) -> None:
        raise StoppedError("stopped. The same command goes on with what is missing.")

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _start(cores: Any, parent: int, log: Path) -> None:
    """One core and one thread; an end with the parent's; a log for all that would be printed."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    core = cores.get()
    if hasattr(os, "sched_setaffinity") and not torch.accelerator.is_available():
        os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    sys.stdout = sys.stderr = log.open("a", encoding="utf-8", buffering=1)


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    with contextlib.suppress(Exception):
        print("the study's process has ended; so does this one")
    os._exit(1)
