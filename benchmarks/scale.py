"""What training costs by image size, number of images and number of processes, drawn beside what is expected.

    python benchmarks/scale.py            # about 15 minutes; needs no data set; points in scale.json are kept

Every point is `training/train.py` in a process of its own on generated phantoms, for a few dozen steps: images a second once it
runs, seconds of the whole call beside them (reading, audit, checkpoint, pipeline), and the highest memory. Expected: images a
second fall as the pixels that the network sees, and stay the same whatever the number of images; start-up grows with that number.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from judging import RESULTS, memory_gib, peak_memory_gib

from medmnist_diffusion.data import phantom
from medmnist_diffusion.diffusion.machine import describe_machine
from medmnist_diffusion.errors import UserError, run_command
from medmnist_diffusion.files import atomic_file, write_json
from medmnist_diffusion.processes import available_cores

matplotlib.use("Agg")
from matplotlib import pyplot as plt

TRAIN = Path(__file__).parents[1] / "training" / "train.py"
SIZES = ((28, 2), (64, 2), (64, 4), (128, 2), (128, 4), (224, 2), (224, 4))  # pixels, unshuffle factor
COUNTS = (1_000, 10_000, 100_000, 1_000_000)
PROCESSES = (1, 2)
STEPS, LOG_EVERY = 40, 10


def write_phantoms(path: Path, count: int, size: int = 28, distinct: int = 10_000) -> None:
    """An npz with `count` training images; beyond `distinct` of them they are means of two, since drawing takes longer."""
    arrays = phantom.make_phantom(size=size, counts={"train": min(count, distinct), "val": 200, "test": 200})
    if count > distinct:
        rng, images = np.random.default_rng(0), arrays["train_images"]
        first, second = rng.integers(distinct, size=(2, count))
        blocks = [
            (images[first[at : at + distinct]] // 2 + images[second[at : at + distinct]] // 2)
            for at in range(0, count, distinct)
        ]
        arrays |= {"train_images": np.concatenate(blocks), "train_labels": arrays["train_labels"][first]}
    np.savez(path, allow_pickle=False, **arrays)


def family(process: int) -> list[int]:
    """A process and those that it started, which started more."""
    try:
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except OSError:
        return []
    return [process, *(member for child in children for member in family(int(child)))]


def measure(data: Path, options: list[str], processes: int = 1) -> dict[str, float]:
    """One short training run."""
    launch = (
        ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)] if processes > 1 else []
    )
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, *launch, str(TRAIN), "--dataset", str(data), "--output_dir", folder,
            "--max_train_steps", str(STEPS), "--logging_steps", str(LOG_EVERY), "--report_to", "none", *options,
        ]  # fmt: skip
        began, memory, own = time.monotonic(), 0.0, 0.0
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)
            while process.poll() is None:
                members = family(process.pid)
                memory = max(memory, sum(map(peak_memory_gib, members)))
                own = max(own, sum(memory_gib(member, "RssAnon") for member in members))
                time.sleep(0.2)
        wall, status = time.monotonic() - began, process.returncode
        if status:
            raise UserError(f"{' '.join(command)} failed: {(Path(folder) / 'log').read_text()[-500:]}")
        with (Path(folder) / "loss.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
    return {
        "images_per_second": round(float(np.median([float(row["images_per_second"]) for row in rows[1:]])), 1),
        "seconds_beside_training": round(wall - float(rows[-1]["seconds"]), 1),
        # Of all processes, pages of files (libraries, mapped images: the system can drop them) counted in each; and the most that
        # was seen, five times a second, without these.
        "peak_memory_gib": round(memory, 2),
        "without_file_pages_gib": round(own, 2),
    }


def plot(result: dict[str, Any], path: Path) -> None:
    figure, (by_size, by_count, by_processes) = plt.subplots(1, 3, figsize=(12, 3.6), constrained_layout=True)
    fixed = [p for p in result["image_size"] if p["pixel_unshuffle"] == 2]
    fitted = [p for p in result["image_size"] if p["pixel_unshuffle"] == 4]
    sizes = [p["image_size"] for p in fixed]
    by_size.plot(sizes, [p["images_per_second"] for p in fixed], "o-", label="unshuffle 2")
    by_size.plot(
        sizes, [fixed[0]["images_per_second"] * (sizes[0] / size) ** 2 for size in sizes], "k:", label="∝ 1 / pixels"
    )
    fitted_sizes = [p["image_size"] for p in fitted]
    by_size.plot(fitted_sizes, [p["images_per_second"] for p in fitted], "s-", label="unshuffle 4 (the default there)")
    by_size.set(xscale="log", yscale="log", xlabel="image size, pixels a side", ylabel="training images/s")
    by_size.set_xticks(sizes, [str(size) for size in sizes], minor=False)
    by_size.minorticks_off()
    counts = [p["images"] for p in result["images"]]
    by_count.plot(counts, [p["images_per_second"] for p in result["images"]], "o-", label="training images/s")
    by_count.plot(counts, [p["seconds_beside_training"] for p in result["images"]], "s-", label="s beside training")
    by_count.plot(counts, [p["peak_memory_gib"] for p in result["images"]], "D-", label="peak memory, GiB")
    by_count.plot(counts, [p["without_file_pages_gib"] for p in result["images"]], "D:", label="without file pages")
    by_count.set(xscale="log", yscale="log", xlabel="training images of 28×28")
    processes = [p["processes"] for p in result["processes"]]
    by_processes.plot(
        processes, [p["images_per_second"] for p in result["processes"]], "o-", label="training images/s"
    )
    by_processes.axhline(
        result["processes"][0]["images_per_second"], color="k", ls=":", label="same cores, same speed"
    )
    by_processes.set(
        xlabel=f"processes on {result['cores']} cores",
        xticks=processes,
        ylim=(0, 1.1 * max(p["images_per_second"] for p in result["processes"])),
    )
    for axis in (by_size, by_count, by_processes):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=80)
    plt.close(figure)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--output", type=Path, default=RESULTS, help="a folder")
    args = parser.parse_args(argv)
    path = args.output / "scale.json"
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {
        "command": "python benchmarks/scale.py",
        "cores": len(available_cores()),
        "image_size": [],
        "images": [],
        "processes": [],
    }  # fmt: skip

    def add(kind: str, what: dict[str, int], data: Callable[[], Path], options: list[str], processes: int = 1) -> None:
        if any(what.items() <= point.items() for point in result[kind]):
            return
        result[kind].append({**what, **measure(data(), options, processes), "machine": describe_machine()})
        print(kind, result[kind][-1], flush=True)
        write_json(path, result)

    with tempfile.TemporaryDirectory() as folder:
        os.environ["MEDMNIST_DIFFUSION_CACHE"] = str(Path(folder) / "cache")  # nothing of an earlier run helps

        def phantoms(count: int, size: int = 28) -> Path:
            data = Path(folder) / f"{count}x{size}.npz"
            if not data.is_file():
                write_phantoms(data, count, size)
            return data

        for size, unshuffle in SIZES:
            options = ["--pixel_unshuffle", str(unshuffle)]
            add(
                "image_size", {"image_size": size, "pixel_unshuffle": unshuffle}, partial(phantoms, 400, size), options
            )
        for processes in PROCESSES:
            options = ["--train_batch_size", str(64 // processes)]
            add("processes", {"processes": processes}, partial(phantoms, 400), options, processes)
        for count in COUNTS:
            add("images", {"images": count}, partial(phantoms, count), [])
    plot(result, args.output / "scale.png")


if __name__ == "__main__":
    sys.exit(run_command(main))
