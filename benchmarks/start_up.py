"""Seconds of what a newcomer waits for: `--help` of the command line and of every command, and the demo.

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

from medmnist_diffusion.cli import COMMANDS
from medmnist_diffusion.diffusion.machine import describe_machine
from medmnist_diffusion.errors import UserError, run_command
from medmnist_diffusion.files import write_json

TIMES = 5


def seconds_of(arguments: list[str]) -> float:
    began = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-m", "medmnist_diffusion.cli", *arguments], capture_output=True, text=True
    )
    if result.returncode:
        raise UserError(f"{' '.join(arguments)} failed: {result.stderr[-500:]}")
    return time.monotonic() - began


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--output", type=Path, default=RESULTS / "start_up.json")
    args = parser.parse_args(argv)
    helps = {"": ["--help"], **{name: [name, "--help"] for name in COMMANDS}}
    medians = {name: float(np.median([seconds_of(command) for _ in range(TIMES)])) for name, command in helps.items()}
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MEDMNIST_DIFFUSION_CACHE"] = str(Path(folder) / "cache")  # nothing of an earlier run helps
        demo = seconds_of(["demo", "--output", str(Path(folder) / "demo")])
    result = {
        "command": f"python benchmarks/start_up.py --output {args.output.name}",
        "machine": describe_machine(),
        "help_seconds": {f"medmnist-diffusion {name}".strip(): round(value, 2) for name, value in medians.items()},
        "demo_seconds": round(demo, 1),
    }
    print(result)
    write_json(args.output, result)


if __name__ == "__main__":
    sys.exit(run_command(main))
