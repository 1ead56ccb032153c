"""What a user can do something about is a UserError: one line, no traceback, a non-zero exit code."""

import sys
from collections.abc import Callable, Sequence


class UserError(Exception):
    """Says what is wrong, where, and what to do about it. Exit code 2, as argparse uses for bad arguments."""

    exit_code = 2


class TrainingDivergedError(UserError):
    """The loss became NaN or exploded; the last good checkpoint is kept. Exit code 3."""

    exit_code = 3


def run_command(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> int:
    """Run a command's main; return its exit code, with a user's mistake as one line on stderr."""
    try:
        main(sys.argv[1:] if argv is None else argv)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0
