"""Whether memory and disk suffice, asked before the work starts: an estimate is kinder than a process that is killed."""

import os
import shutil
from pathlib import Path

import psutil

from medmnist_diffusion.errors import UserError

_GIB = 2**30
_CGROUP = Path("/sys/fs/cgroup")  # a container's own limit, which the machine's figures do not show


def available_memory() -> int:
    """Bytes that this process can still take, in its container if it is in one."""
    free = psutil.virtual_memory().available
    try:
        limit, used = (int((_CGROUP / f"memory.{name}").read_text()) for name in ("max", "current"))
        counts = dict(line.split() for line in (_CGROUP / "memory.stat").read_text().splitlines())
        used -= int(counts["inactive_file"])  # files that were read and can be forgotten
    except (OSError, ValueError, KeyError):  # no such limit
        return free
    return min(free, max(0, limit - used))


def cpu_quota() -> int:
    """How many cores' time a container may use, rounded down, at least 1; no limit is the machine's number of cores."""
    cores = os.cpu_count() or 1
    try:
        quota, period = (_CGROUP / "cpu.max").read_text().split()
        return cores if quota == "max" else min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError, ZeroDivisionError):
        return cores


def check_memory(needed: float, what: str, remedy: str) -> None:
    """Refuse what cannot fit.

    Args:
        needed: bytes, estimated.

    Raises:
        UserError: with the estimate, what there is, and the remedy.
    """
    if needed > (available := available_memory()):
        raise UserError(
            f"{what} needs about {needed / _GIB:.3g} GiB of memory, and {available / _GIB:.3g} GiB are free. {remedy}"
        )


def check_disk(folder: Path, needed: float, what: str, remedy: str) -> None:
    """As `check_memory`, for the disk that holds `folder`, which need not be there yet."""
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    if needed > (free := shutil.disk_usage(existing).free):
        raise UserError(
            f"{what} needs about {needed / _GIB:.3g} GiB on the disk of {folder}, and {free / _GIB:.3g} GiB are free. {remedy}"
        )
