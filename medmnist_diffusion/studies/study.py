"""`medmnist-diffusion study NAME`: finds the study, as cli.py finds a command."""

import importlib
import sys
from collections.abc import Sequence

from medmnist_diffusion.errors import UserError

STUDIES = {"loss": "medmnist_diffusion.studies.loss"}


def main(argv: Sequence[str] | None = None) -> None:
    argv = sys.argv[1:] if argv is None else argv
    names = ", ".join(STUDIES)
    if not argv or argv[0] in ("-h", "--help"):
        print(
            f"usage: medmnist-diffusion study NAME DATASET …\n\nStudies: {names}. `study NAME --help` lists the arguments."
        )
    elif argv[0] not in STUDIES:
        raise UserError(f"{argv[0]!r} is no study. Choose from: {names}.")
    else:
        importlib.import_module(STUDIES[argv[0]]).main(argv[1:])
