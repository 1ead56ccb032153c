"""`medmnist-diffusion …`: one subcommand a step. Each lives where its work is done; this file only finds it.

Modules are imported when their command runs, so that `--help` does not wait for torch.
"""

import importlib
import sys
from collections.abc import Sequence

from medmnist_diffusion import __version__
from medmnist_diffusion.errors import UserError, run_command

COMMANDS = {
    "audit": ("medmnist_diffusion.data.audit", "what is in a data set, and what is wrong with it"),
    "train": (
        "medmnist_diffusion.training.train",
        "train a pipeline (the same as accelerate launch training/train.py)",
    ),
    "sample": ("medmnist_diffusion.sample", "generate labelled images: PNG folders, npz or parquet"),
    "evaluate": (
        "medmnist_diffusion.training.evaluate_fid",
        "how good generated images are, and whether they are copies, beside real images",
    ),
    "augment": ("medmnist_diffusion.augment", "a training set with generated images beside the real ones"),
    "card": ("medmnist_diffusion.publish.card", "write the model card into a pipeline folder"),
    "publish": ("medmnist_diffusion.publish.publish", "check a pipeline folder and upload it to the Hugging Face Hub"),
    "publish-dataset": ("medmnist_diffusion.publish.dataset", "the same for generated images, as parquet with a card"),
    "study": (
        "medmnist_diffusion.studies.study",
        "loss: which recipe? augmentation: do generated images help? Tested over seeds",
    ),
    "demo": (
        "medmnist_diffusion.demo",
        "audit, train, sample, evaluate and card on the phantom set, in minutes",
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns its exit code (docs/robustness.md lists them)."""
    return run_command(_dispatch, argv)


def _dispatch(argv: Sequence[str]) -> None:
    if not argv or argv[0] in ("-h", "--help"):
        print(_usage())
    elif argv[0] == "--version":
        print(__version__)
    elif argv[0] in COMMANDS:
        importlib.import_module(COMMANDS[argv[0]][0]).main(argv[1:])
    else:
        import difflib

        nearest = difflib.get_close_matches(argv[0], COMMANDS, 1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        raise UserError(f"{argv[0]!r} is no command.{hint} See medmnist-diffusion --help.")


def _usage() -> str:
    lines = "\n".join(f"  {name:15} {text}" for name, (_, text) in COMMANDS.items())
    return (
        "usage: medmnist-diffusion COMMAND …\n\n"
        "Train, evaluate and publish class-conditional diffusion models of small labelled medical image sets.\n"
        f"Research only, not for diagnosis.\n\n{lines}\n\n"
        "medmnist-diffusion COMMAND --help lists a command's arguments."
    )


if __name__ == "__main__":
    sys.exit(main())
