"""What a user can do something about is a UserError: one line, no traceback, a non-zero exit code."""

import contextlib
import io
import os
import sys
import types
from collections.abc import Callable, Sequence

DEBUG = "--debug"
# Exit codes; the last two are what shells use for Ctrl-C and for a reader that is gone.
UNEXPECTED, INTERRUPTED, CLOSED_PIPE = 1, 130, 141
# What allocators and the loader of libraries say.
OUT_OF_MEMORY = (
    "cannot allocate memory",
    "can't allocate memory",
    "not enough memory",
    "failed to map segment",
    "out of memory",
)
SHADOWED = " A file or folder of yours, in PYTHONPATH or beside the script, may have its name; or install it again."


class UserError(Exception):
    """Says what is wrong, where, and what to do about it. Exit code 2, as argparse uses for bad arguments."""

    exit_code = 2


class TrainingDivergedError(UserError):
    """The loss became NaN or exploded; the last good checkpoint is kept. Exit code 3."""

    exit_code = 3


class StoppedError(UserError):
    """SIGTERM or Ctrl-C: all is saved, and the same command goes on. Exit code 4."""

    exit_code = 4


def one_line(error: BaseException, most: int = 200) -> str:
    """What an error says, as a part of one line: no line breaks, at most so many characters."""
    return " ".join(str(error).split())[:most]


def run_command(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> int:
    """Run a command's main; return its exit code, with what went wrong as one line on stderr.

    `--debug` among the arguments, of any command, shows the traceback instead.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    debug = DEBUG in argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal that knows no `×` stops no command
    try:
        main([argument for argument in argv if argument != DEBUG])
        sys.stdout.flush()
    except BrokenPipeError:  # `… | head -1`: whoever reads has enough
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
        return CLOSED_PIPE
    except (Exception, KeyboardInterrupt) as error:
        if debug:
            raise
        message, code = _explained(error)
        with contextlib.suppress(OSError):  # nobody may be reading any more
            print(f"error: {message}", file=sys.stderr)
        return code
    return 0


def _explained(error: BaseException) -> tuple[str, int]:
    """One line about an error, and the exit code."""
    if isinstance(error, UserError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return "stopped. What was begun and not finished is not there.", INTERRUPTED
    if isinstance(error, MemoryError) or any(words in str(error).lower() for words in OUT_OF_MEMORY):
        return "the memory does not suffice. Use fewer or smaller images, or a smaller batch.", UserError.exit_code
    what = one_line(error, 300)
    if isinstance(error, OSError) and error.errno is not None:  # disk full, no permission, no such file
        return f"{what}. Mend that and start again; what was complete before is untouched.", UserError.exit_code
    if isinstance(error, ImportError) and not (error.name or "").startswith("medmnist_diffusion"):
        return f"a library cannot be imported ({what}{_from_where(error)}).{SHADOWED}", UserError.exit_code
    if shadow := _shadowing(error):
        return f"{shadow} stands in the place of a library ({what}).{SHADOWED}", UserError.exit_code
    return (
        f"unexpected: {type(error).__name__}: {what}. This is a fault of medmnist-diffusion: please report it with what the same "
        f"command prints with {DEBUG}.",
        UNEXPECTED,
    )


def _from_where(error: ImportError) -> str:
    return f", from {error.path}" if error.path and str(error.path) not in str(error) else ""


def _shadowing(error: BaseException) -> str | None:
    """The file in PYTHONPATH or the current folder that a module with a missing attribute was read from; None of other errors."""
    name = getattr(error, "obj", None)
    if not isinstance(error, AttributeError) or not isinstance(name, types.ModuleType):
        return None
    file = getattr(name, "__file__", None) or next(iter(getattr(name, "__path__", [])), "")
    own = [os.getcwd(), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    inside = [folder for folder in own if os.path.realpath(file).startswith(os.path.realpath(folder) + os.sep)]
    return (
        file if inside and "site-packages" not in file and not name.__name__.startswith("medmnist_diffusion") else None
    )
