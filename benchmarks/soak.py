"""Fifty random kills over training, evaluation and the augmentation study, each started again: is the end bit-identical?

    python benchmarks/soak.py                 # half an hour of one core; tasks in soak.json are kept

Each task first runs undisturbed. Then it is started, killed after a random time (SIGKILL, SIGTERM, Ctrl-C or a closed terminal),
and started again by the same command in the same folder, until it has been killed as often as planned; the last start may finish.
What it leaves is compared with what the undisturbed run left: weights, average, optimizers, random states, losses and samples of
the training, every figure of the evaluation and of the study. Times, which a clock writes, are left out.
"""

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from judging import RESULTS

from medmnist_diffusion.data import phantom
from medmnist_diffusion.data.npz import write_npz
from medmnist_diffusion.diffusion.checkpoints import newest_checkpoint
from medmnist_diffusion.diffusion.loss_log import read_loss_csv
from medmnist_diffusion.diffusion.machine import describe_machine, kind_of_machine
from medmnist_diffusion.errors import UserError, run_command
from medmnist_diffusion.files import file_hash, write_json
from medmnist_diffusion.manifest import MANIFEST

SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
CLOCKS = {"seconds", "images_per_second", "training_seconds", "command"}
PRECISION = "bf16" if "bf16" in kind_of_machine() else "no"  # emulated, it would be killed before it gets anywhere
# 7.5 steps an epoch: checkpoints and kills fall amid the shuffled order.
TRAINING = [
    "--block_out_channels", "16", "32", "--train_batch_size", "16", "--lr_warmup_steps", "10", "--mixed_precision", PRECISION,
    "--dropout", "0.2", "--gradient_accumulation_steps", "2", "--random_shift", "2", "--logging_steps", "10",
    "--validation_steps", "40", "--sample_steps", "150", "--checkpointing_steps", "50", "--report_to", "none",
    "--max_train_steps", "400",
]  # fmt: skip
EVALUATION = ["--features", "texture", "--num_images", "300", "--num_inference_steps", "5"]
STUDY = [
    "--shares", "0.5", "--imbalance", "0", "--seeds", "2", "--classifier_steps", "30", "--max_train_steps", "40",
    "--num_images", "80", "--processes", "1", "--arms", "diverse-25", "variants-25",
]  # fmt: skip
CHOSEN = "study/precision.json"  # by a trial of a second: the same for all


@dataclass(frozen=True)
class Task:
    """A command in a folder, and what of it must always be the same."""

    name: str
    kills: int
    command: Callable[[Path], list[str]]
    outcome: Callable[[Path], Any]


def training_outcome(folder: Path) -> Any:
    run = folder / "run"
    checkpoint = newest_checkpoint(run / "checkpoints")
    if checkpoint is None:
        raise UserError(f"{run} has no whole checkpoint")
    manifest = json.loads((checkpoint / MANIFEST).read_text())
    manifest.pop("state.json")
    rows = [{key: value for key, value in row.items() if key not in CLOCKS} for row in read_loss_csv(run / "loss.csv")]
    names = [
        "pipeline/unet/diffusion_pytorch_model.safetensors",
        "pipeline_best/unet/diffusion_pytorch_model.safetensors",
    ]
    grids = sorted((run / "samples").glob("*.png"))
    return [
        manifest,
        rows,
        *(file_hash(run / name) for name in names),
        *((path.name, file_hash(path)) for path in grids),
    ]


def without_clocks(value: Any) -> Any:
    """A JSON value without the entries that a clock wrote."""
    if isinstance(value, dict):
        return {key: without_clocks(item) for key, item in value.items() if key not in CLOCKS}
    return [without_clocks(item) for item in value] if isinstance(value, list) else value


def json_outcome(name: str) -> Callable[[Path], Any]:
    return lambda folder: without_clocks(json.loads((folder / name).read_text()))


def run(command: list[str], after: float | None, number: signal.Signals, log: Path, cache: Path) -> int:
    """The command's exit code; killed after so many seconds if it still runs. Its cache is its own: what it writes there can be
    cut off, too."""
    arguments = [sys.executable, "-m", "medmnist_diffusion.cli", *command]
    with log.open("ab") as stream:
        process = subprocess.Popen(
            arguments,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=os.environ | {"MEDMNIST_DIFFUSION_CACHE": str(cache)},
            preexec_fn=lambda: signal.signal(
                signal.SIGINT, signal.default_int_handler
            ),  # ignored in a shell's background job
        )
        try:
            return process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            return process.wait(120)


def share_precision(whole: Path, killed: Path) -> None:
    if (whole / CHOSEN).is_file():
        (killed / CHOSEN).parent.mkdir(parents=True)
        shutil.copyfile(whole / CHOSEN, killed / CHOSEN)


def soak(task: Task, folder: Path, rng: random.Random) -> dict[str, Any]:
    """Kill and start again; what happened, and whether the end is the same."""
    whole, killed = folder / "whole", folder / "killed"
    for path in (whole, killed):
        path.mkdir(parents=True)
    log, began = folder / "log.txt", time.monotonic()
    if code := run(task.command(whole), None, signal.SIGKILL, log, whole / "cache"):
        raise UserError(f"{task.name} failed undisturbed (exit code {code}): {log.read_text()[-800:]}")
    duration = time.monotonic() - began
    codes: list[str] = []
    ended_before = 0
    share_precision(whole, killed)
    while len(codes) < task.kills:
        number, after = rng.choice(SIGNALS), rng.uniform(0.2, 1.0) * min(duration, 20.0)
        code = run(task.command(killed), after, number, log, killed / "cache")
        if code == 0:  # it was done before the signal: begin anew, or the others would have nothing to kill
            if task.outcome(killed) != task.outcome(whole):
                break
            ended_before += 1
            killed = folder / f"killed{ended_before}"
            killed.mkdir()
            share_precision(whole, killed)
            continue
        codes.append(f"{number.name} → {code}")
        print(f"{task.name}: {len(codes)} of {task.kills}: {codes[-1]}", flush=True)
    code = run(task.command(killed), None, signal.SIGKILL, log, killed / "cache")
    same = code == 0 and task.outcome(killed) == task.outcome(whole)
    unexpected = {key: count for key, count in Counter(codes).items() if key.endswith((" → 1", " → 2", " → 3"))}
    same = same and not unexpected  # an end by a mistake of ours is no kill
    print(f"{task.name}: {'bit-identical' if same else 'DIFFERS'} after {len(codes)} kills", flush=True)
    return {
        "kills": len(codes),
        "runs_ended_and_compared": ended_before + 1,
        "signals_and_exit_codes": dict(sorted(Counter(codes).items())),
        "unexpected_exit_codes": unexpected,
        "bit_identical": same,
        "seconds_undisturbed": round(duration, 1),
    }


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--kills", type=int, nargs=3, default=[25, 10, 15], help="of training, evaluation and study")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "soak.json")
    args = parser.parse_args(argv)
    tasks = json.loads(args.output.read_text(encoding="utf-8"))["tasks"] if args.output.is_file() else {}
    with tempfile.TemporaryDirectory() as temporary:
        data, made = Path(temporary) / "data.npz", Path(temporary) / "made"
        write_npz(data, phantom.make_phantom(counts={"train": 240, "val": 80, "test": 80}))
        run(
            ["train", "--dataset", str(data), "--output_dir", str(made), *TRAINING],
            None,
            signal.SIGKILL,
            Path(temporary) / "log",
            Path(temporary) / "cache",
        )
        for task in (
            Task("training", args.kills[0],
                 lambda folder: ["train", "--dataset", str(data), "--output_dir", str(folder / "run"), *TRAINING],
                 training_outcome),
            Task("evaluation", args.kills[1],
                 lambda folder: ["evaluate", str(made / "pipeline"), "--dataset", str(data), "--output",
                                 str(folder / "metrics.json"), *EVALUATION],
                 json_outcome("metrics.json")),
            Task("augmentation study", args.kills[2],
                 lambda folder: ["study", "augmentation", str(data), "--output", str(folder / "study"), *STUDY],
                 json_outcome("study/results.json")),
        ):  # fmt: skip
            if task.name in tasks:
                continue
            tasks[task.name] = soak(task, Path(temporary) / task.name, random.Random(args.seed))  # noqa: S311
            result = {
                "command": f"python benchmarks/soak.py --kills {' '.join(map(str, args.kills))}",
                "machine": describe_machine(),
                "mixed_precision_of_the_training": PRECISION,
                "kills": sum(one["kills"] for one in tasks.values()),
                "bit_identical": all(one["bit_identical"] for one in tasks.values()),
                "tasks": tasks,
            }
            write_json(args.output, result)


if __name__ == "__main__":
    sys.exit(run_command(main))
