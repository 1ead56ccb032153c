"""What a command says: the library logs, and a command shows its messages on stdout as plain lines.

A program that imports the package decides for itself what it shows of the logger `medmnist_diffusion`.
"""

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any, TextIO

from tqdm import tqdm

PACKAGE = "medmnist_diffusion"
SECONDS_IN_A_LOG = 30.0


def bar_options() -> dict[str, Any]:
    """How progress bars are drawn: where nobody watches them grow, in a log file, a line every half minute."""
    watched = sys.stderr.isatty() or "ipykernel" in sys.modules
    return {"dynamic_ncols": True, "mininterval": 0.1 if watched else SECONDS_IN_A_LOG}


class _Stdout(logging.Handler):
    """To whatever is stdout at that moment, above a progress bar if there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        warning = "warning: " if record.levelno >= logging.WARNING else ""
        with tqdm.external_write_mode():
            print(warning + record.getMessage(), flush=True)


@contextlib.contextmanager
def messages_shown() -> Iterator[None]:
    """The package's messages and warnings are shown for a while; then all is as before, for a program that calls a command."""
    logger = logging.getLogger(PACKAGE)
    before = logger.handlers[:], logger.level, logger.propagate
    try:
        if not any(isinstance(handler, _Stdout) for handler in logger.handlers):
            logger.addHandler(_Stdout())
            logger.propagate = False
        logger.setLevel(logging.INFO)
        yield
    finally:
        logger.handlers[:], _, logger.propagate = before
        logger.setLevel(before[1])  # an assignment would leave what its children have looked up


@contextlib.contextmanager
def messages_in(file: TextIO) -> Iterator[None]:
    """The package's messages, and all that is printed, go to a file for a while."""
    with contextlib.redirect_stdout(file), messages_shown():
        yield
