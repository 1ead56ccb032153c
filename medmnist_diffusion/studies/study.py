"""`medmnist-diffusion study NAME`: finds the study, as cli.py finds a command."""

import importlib
from collections.abc import Sequence

from medmnist_diffusion.arguments import CommandParser
from medmnist_diffusion.errors import UserError

STUDIES = {
    "loss": "medmnist_diffusion.studies.loss.study",
    "augmentation": "medmnist_diffusion.studies.augmentation.study",
}


def main(argv: Sequence[str]) -> None:
    names = ", ".join(STUDIES)
    parser = CommandParser(
        prog="medmnist-diffusion study",
        description="Many trainings, one answer.",
        epilog="study NAME --help lists its arguments.",
    )
    parser.add_argument("name", help=f"one of: {names}; then the data set and the study's own arguments")
    name = parser.parse_args(argv[:1]).name
    if name not in STUDIES:
        raise UserError(f"{name!r} is no study. Choose from: {names}.")
    importlib.import_module(STUDIES[name]).main(argv[1:])
