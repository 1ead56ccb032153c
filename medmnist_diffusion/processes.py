"""The processes of one run: joining those that a launcher started, sharing work among them, and their threads."""

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object

from medmnist_diffusion.errors import UserError
from medmnist_diffusion.resources import cpu_quota


def start_processes() -> PartialState:
    """Join the processes that the launcher started, on GPUs or on this machine's cores, and share the cores among them.

    Raises:
        UserError: if the launcher was asked for several processes and started one (accelerate issue 2741).
    """
    state = PartialState(cpu=not torch.accelerator.is_available())
    asked = _launcher_processes()
    if asked > 1 and state.num_processes == 1:
        raise UserError(
            f"{asked} processes were asked for, but Accelerate started one. On CPUs, too, its launcher for several is "
            f"`accelerate launch --multi_gpu --num_processes {asked} …`, without --cpu."
        )
    if state.device.type == "cpu":
        torch.set_num_threads(thread_count(int(os.environ.get("LOCAL_WORLD_SIZE", state.num_processes))))
    return state


def start_alone(command: str) -> PartialState:
    """`start_processes` of a command that runs in one.

    Raises:
        UserError: if the launcher started several.
    """
    state = start_processes()
    if state.num_processes > 1:
        raise UserError(f"{command} runs in one process: start it without a launcher.")
    return state


def thread_count(processes: int = 1) -> int:
    """Threads for each of so many processes on this machine: OMP_NUM_THREADS, if somebody set it; else a part of the cores that
    this process may use, and no more than a container's share of time (`docker run --cpus`).

    Accelerate's launcher sets OMP_NUM_THREADS to 1 where nobody asked for it (accelerate issues 562, 3575), which would halve a
    laptop's speed: that 1 does not count.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    launcher = _launcher_command()
    by_launcher = asked == "1" and bool(launcher) and "--num_cpu_threads_per_process" not in launcher
    if asked.isdecimal() and int(asked) and not by_launcher:
        return int(asked)
    return max(1, min(len(available_cores()), cpu_quota()) // processes)


def available_cores() -> list[int]:
    """The cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


@contextlib.contextmanager
def threads_kept(count: int | None = None) -> Iterator[None]:
    """So many threads within (as many as before, of None); afterwards as many as before, whatever was set within."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _launcher_processes() -> int:
    """What `--num_processes` said to the `accelerate launch` that started this process; 1 if it cannot be told."""
    try:
        command = _launcher_command()
        return int(command[command.index("--num_processes") + 1])
    except (ValueError, IndexError):
        return 1


def _launcher_command() -> list[str]:
    """The words of the `accelerate launch` that started this process; none if none did, or if it cannot be told."""
    try:
        command = Path(f"/proc/{os.getppid()}/cmdline").read_text(errors="replace").split("\0")
    except OSError:
        return []
    is_launcher = any("accelerate" in word for word in command) and any("launch" in word for word in command)
    return command if is_launcher else []


def share_among_processes(count: int, work: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """`work(rows)` for the rows 0 … count − 1, shared among the processes; every process gets the whole result, in order.

    Each process takes every n-th row: neighbouring rows cost alike (images of one class), and so the shares do.
    """
    state = PartialState(cpu=not torch.accelerator.is_available())
    if count < state.num_processes or state.num_processes == 1:
        return work(np.arange(count))
    mine = np.arange(state.process_index, count, state.num_processes)
    parts = gather_object([(mine, work(mine))])
    whole = np.empty((count, *parts[0][1].shape[1:]), parts[0][1].dtype)
    for rows, block in parts:
        whole[rows] = block
    return whole
