"""Seconds of what a newcomer waits for: the import, `--help` of the command line and of every command, a mistake, the demo.

python benchmarks/start_up.py            # about three minutes
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from judging import RESULTS

from medmnist_diffusion.cli import commands
from medmnist_diffusion.diffusion.machine import describe_machine
from medmnist_diffusion.errors import UserError, run_command
from medmnist_diffusion.files import write_json

TIMES = 5


MISTAKE = ["train", "--dataset", "phantom", "--output_dir", "x", "--learning_rate", "-1"]


def seconds_of(arguments: list[str], code: int = 0) -> float:
    """Of a Python process with these arguments, which must end with this exit code."""
    began = time.monotonic()
    result = subprocess.run([sys.executable, *arguments], capture_output=True, text=True)
    if result.returncode != code:
        raise UserError(f"{' '.join(arguments)} failed: {result.stderr[-500:]}")
    return time.monotonic() - began


def median_seconds(arguments: list[str], code: int = 0) -> float:
    return round(float(np.median([seconds_of(arguments, code) for _ in range(TIMES)])), 2)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--output", type=Path, default=RESULTS / "start_up.json")
    args = parser.parse_args(argv)
    command = ["-m", "medmnist_diffusion.cli"]
    helps = {"": ["--help"], **{name: [name, "--help"] for name in commands.commands}}
    medians = {name: median_seconds([*command, *arguments]) for name, arguments in helps.items()}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MEDMNIST_DIFFUSION_CACHE"] = str(Path(folder) / "cache")  # nothing of an earlier run helps
        demo = seconds_of([*command, "demo", "--output", str(Path(folder) / "demo")])
    result = {
        "command": f"python benchmarks/start_up.py --output {args.output.name}",
        "machine": describe_machine(),
        "python_seconds": median_seconds(["-c", "pass"]),
        "import_seconds": median_seconds(["-c", "import medmnist_diffusion"]),
        "help_seconds": {f"medmnist-diffusion {name}".strip(): value for name, value in medians.items()},
        "mistake_seconds": median_seconds([*command, *MISTAKE], code=2),
        "demo_seconds": round(demo, 1),
    }
    print(result)
    write_json(args.output, result)


if __name__ == "__main__":
    sys.exit(run_command(main))
