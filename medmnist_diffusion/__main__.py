"""`medmnist-diffusion` and `python -m medmnist_diffusion`: even a library that cannot be imported ends in one line."""

import medmnist_diffusion.waiting  # noqa: F401, before torch: how its threads wait

# isort: split
import sys
from collections.abc import Sequence

from medmnist_diffusion.errors import run_command


def main() -> int:
    """The command line; returns its exit code."""
    return run_command(_run)


def _run(arguments: Sequence[str]) -> None:
    from medmnist_diffusion import cli

    cli.run(arguments)


if __name__ == "__main__":
    sys.exit(main())
