"""Units of a study in processes of their own, one core each: small networks gain little from a second thread, and a study's
results do not depend on how many processes share it."""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import active_children, get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from medmnist_diffusion.errors import StoppedError, UserError

Task = Callable[..., Any]


def available_cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def run_in_processes(
    task: Task, arguments: Sequence[tuple[Any, ...]], processes: int, log: Path, bar: tqdm
) -> Iterator[Any]:
    """`task(*arguments)` for each, as they finish; what they print goes to the log.

    Stopped by Ctrl-C or SIGTERM, or by the death of this process, the workers stop too.
    """
    context = get_context("spawn")
    cores, available = context.Queue(), available_cores()
    for at in range(processes):
        cores.put(available[at % len(available)])
    before = signal.signal(signal.SIGTERM, _stop)
    executor = ProcessPoolExecutor(
        min(processes, len(arguments)), mp_context=context, initializer=_start, initargs=(cores, os.getpid(), log)
    )
    try:
        futures = [executor.submit(task, *each) for each in arguments]
        for future in as_completed(futures):
            bar.update()
            yield future.result()
    except BrokenProcessPool:
        raise UserError(
            f"a process of the study died (out of memory?); its last words are in {log}. The same command goes on; with fewer "
            "--processes it needs less memory."
        ) from None
    except BaseException:
        for process in active_children():  # also one that the executor was just starting
            process.kill()  # all that a unit writes is whole or not there; a training would want to save first
        executor.shutdown(wait=False, cancel_futures=True)
        raise
    finally:
        executor.shutdown(wait=True, cancel_futures=True)
        signal.signal(signal.SIGTERM, before)


def _stop(number: int, frame: Any) -> None:
    raise StoppedError("stopped. The same command goes on with what is missing.")


def _start(cores: Any, parent: int, log: Path) -> None:
    """One core and one thread; an end with the parent's; a log for all that would be printed."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    core = cores.get()
    if hasattr(os, "sched_setaffinity") and not torch.accelerator.is_available():
        os.sched_setaffinity(0, {core})
    torch.set_num_threads(1)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    stream = log.open("a", encoding="utf-8", buffering=1)
    sys.stdout = sys.stderr = stream


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    with contextlib.suppress(Exception):
        print("the study's process has ended; so does this one")
    os._exit(1)
