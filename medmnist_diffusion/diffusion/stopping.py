"""One process a run, and a way to stop it: signals are kept until the training loop can save."""

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from filelock import FileLock, Timeout

from medmnist_diffusion.errors import UserError

STOP_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGHUP") if hasattr(signal, name)]
AGREE_EVERY = 10  # steps: GPUs ask each other only so often, since asking makes them wait; on CPUs it costs nothing


class StopRequest:
    """Whether this run was asked to stop. Until `ready`, when there is nothing to save yet, a signal ends the process at once."""

    def __init__(self) -> None:
        self.received = self.ready = False

    def agreed(self, accelerator: Accelerator, step: int) -> bool:
        """Whether any process was asked, the same answer in all of them: they must stop after the same step."""
        if accelerator.num_processes == 1:
            return self.received
        if accelerator.device.type != "cpu" and step % AGREE_EVERY:
            return False
        asked = torch.tensor(float(self.received), device=accelerator.device)
        return float(accelerator.reduce(asked, reduction="sum")) > 0


@contextlib.contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """SIGTERM, Ctrl-C and a closed terminal (SIGHUP) fill a StopRequest instead of ending the process; a second one ends it."""
    request = StopRequest()

    def receive(number: int, frame: FrameType | None) -> None:
        if request.received or not request.ready:
            raise KeyboardInterrupt
        request.received = True
        with contextlib.suppress(
            OSError, ValueError, RuntimeError
        ):  # whoever read our output may be gone by the same Ctrl-C
            print(f"\n{signal.Signals(number).name}: saving after this step (once more: stop at once) …", flush=True)

    with handled(receive):
        yield request


@contextlib.contextmanager
def stopped_as_by_ctrl_c() -> Iterator[None]:
    """SIGTERM and a closed terminal do what Ctrl-C does: what is to be removed at the end is removed."""

    def receive(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    with handled(receive):
        yield


@contextlib.contextmanager
def handled(receive: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """The signals that stop a run go to `receive`.

    Outside the main thread, where Python allows no handlers, signals do what they did before; one that is ignored stays ignored,
    as SIGHUP under `nohup`.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[signal.Signals, Any] = {
        number: signal.signal(number, receive) for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def exclusive(folder: Path, option: str = "--output_dir") -> Iterator[None]:
    """Hold a run's folder, which is made if need be; the first of the processes that a launcher started holds it for all.

    Raises:
        UserError: if another process holds it, or nothing can be written there.
    """
    if not PartialState().is_main_process:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock")
        lock.acquire(timeout=0)
    except Timeout:
        raise UserError(
            f"another process works in {folder}. Wait for it or stop it, or choose another {option}."
        ) from None
    except OSError as error:
        raise UserError(f"{folder} cannot be written ({error.strerror}). Choose another {option}.") from None
    try:
        yield
    finally:
        lock.release()
