"""The tutorial's commands, run one after another, and what they print put into docs/tutorial.md; its pictures into docs/images.

    python benchmarks/tutorial.py

Every block of `bash` is run in one new folder; the block of `text` after it gets the output. Progress bars are left out.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from sets import with_fewer_colours

from medmnist_diffusion.errors import UserError, run_command
from medmnist_diffusion.files import write_text

DOCS = Path(__file__).resolve().parent.parent / "docs"
BLOCKS = re.compile(r"```bash\n(.*?)```\n\n```text\n.*?```\n", re.DOTALL)
BAR = re.compile(r"(step|batch|it)/s[,\]]")
PICTURES = ("preview.png", "runs/mine/pipeline/samples.png", "runs/mine/pipeline/ratios.png")


def output_of(command: str, folder: Path) -> str:
    """What a command prints, without bars and without what this machine is called."""
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "130",
    }
    done = subprocess.run(
        shlex.split(command), cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode not in (0, UserError.exit_code):  # a refusal is a part of the story
        raise UserError(f"{command} ended with {done.returncode}: {done.stdout[-500:]}")
    lines = [line for line in done.stdout.split("\n") if "\r" not in line and not BAR.search(line)]
    return "\n".join(line.rstrip() for line in lines).replace(f"{folder}/", "").strip("\n")


def main(argv: Sequence[str]) -> None:
    if argv:
        raise UserError("this takes no arguments.")
    page = DOCS / "tutorial.md"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)

        def run(block: re.Match[str]) -> str:
            said = [output_of(command, folder) for command in block[1].strip().splitlines()]
            print(block[1], *said, sep="\n")
            return f"```bash\n{block[1]}```\n\n```text\n" + "\n".join(said) + "\n```\n"

        write_text(page, BLOCKS.sub(run, page.read_text(encoding="utf-8")))
        for name in PICTURES:
            target = DOCS / "images" / Path(name).name
            target.parent.mkdir(exist_ok=True)
            shutil.copy(folder / name, target)
            with_fewer_colours(target)


if __name__ == "__main__":
    sys.exit(run_command(main))
