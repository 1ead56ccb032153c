"""How long until the images are as good: our defaults beside peers, on the same images and cores, in one run.

    make benchmark                                                  # 30 minutes for each peer, PneumoniaMNIST from $MEDMNIST_ROOT
    python benchmarks/time_to_quality.py --seconds 300 --dataset phantom

Each peer trains once for --seconds. Ours trains anew for each of a few shorter budgets, since its learning rate decays to fit the
budget: so its curve is one of finished trainings. Every contender has a process of its own, for its peak memory. All are judged by
the same Fréchet distances of as many images to the training split, in classifier and in texture features, beside the memorized
share.
`time_ratio` is the time of our shortest call that is at least as good as the peer in both spaces, ÷ the peer's training time.
The last line printed is one JSON object; the whole result goes to benchmarks/results.
"""

import argparse
import json
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from contenders import CONTENDERS
from dataset_arguments import add_dataset_arguments
from judging import RESULTS, SPACES, dataset_options, floor, judge, peak_memory_gib, summary_line

from medmnist_diffusion.data import load_dataset
from medmnist_diffusion.errors import UserError, run_command
from medmnist_diffusion.files import atomic_file, write_json
from medmnist_diffusion.processes import available_cores, start_processes

matplotlib.use("Agg")
from matplotlib import pyplot as plt

JUDGED = 300  # images; the floor is the distance of as many val images
OUR_SHARES = (1 / 60, 1 / 40, 1 / 30, 1 / 20, 1 / 10)  # of a peer's time


def contend(args: argparse.Namespace) -> None:
    """One contender in this process: train, sample, judge; the result goes to a file."""
    start_processes()
    dataset = load_dataset(args.dataset, args.root, args.size)
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        sample, facts = CONTENDERS[args.contender](
            np.asarray(dataset.train.images[:]), dataset.train.labels, args.seconds, Path(folder)
        )
        total = time.monotonic() - began
        memory = peak_memory_gib()
        began = time.monotonic()
        images = sample(JUDGED, 0)
        sampling = JUDGED / (time.monotonic() - began)
    result = {
        "seconds": args.seconds, "seconds_with_start": total, "peak_memory_gib": memory,
        "sampling_images_per_second": sampling, **facts, **judge(dataset, images),
    }  # fmt: skip
    write_json(args.output, result)


def matmul_gflops(dtype: torch.dtype, size: int = 2048, seconds: float = 2.0, device: str = "cpu") -> float:
    """The best rate of square matrix products seen within so many seconds."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    best, began = 0.0, time.monotonic()
    while time.monotonic() - began < seconds:
        start = time.monotonic()
        left @ right
        if device == "cuda":
            torch.cuda.synchronize()
        best = max(best, 2 * size**3 / (time.monotonic() - start) / 1e9)
    return best


def run_contender(args: argparse.Namespace, name: str, seconds: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "result.json"
        command = [sys.executable, __file__, "--contender", name, "--seconds", str(seconds), "--dataset", args.dataset]
        command += dataset_options(args.root, args.size)
        print(f"{name}: {seconds:.0f} s", flush=True)
        done = subprocess.run([*command, "--output", str(output)], capture_output=True, text=True)
        if done.returncode:
            raise UserError(f"{name} failed: {done.stderr[-500:]}")
        result = json.loads(output.read_text(encoding="utf-8"))
    print(f"  {result['images_per_second']:.0f} images/s, {summary_line(result)}", flush=True)
    return result


def as_good(mine: dict[str, Any], peer: dict[str, Any]) -> bool:
    return all(mine[space]["frechet_distance"] <= peer[space]["frechet_distance"] for space in SPACES)


def compare(curve: list[dict[str, Any]], peer: dict[str, Any]) -> dict[str, Any]:
    """Ratios of ours to a peer; time_ratio is null where none of our budgets sufficed.

    Our time is that of the whole call, from reading the data to the saved pipeline; a peer's is its training alone.
    """
    reached = next((point for point in curve if as_good(point, peer)), None)
    chosen = reached or curve[-1]
    own = peer.get("own_sampling_images_per_second", peer["sampling_images_per_second"])
    return {
        "time_ratio": None if reached is None else reached["seconds_with_start"] / peer["seconds"],
        "training_images_ratio": chosen["images_per_second"] / peer["images_per_second"],
        "sampling_ratio": chosen["sampling_images_per_second"] / own,
        "memory_ratio": chosen["peak_memory_gib"] / peer["peak_memory_gib"],
    }


def plot(result: dict[str, Any], path: Path) -> None:
    figure, axes = plt.subplots(1, len(SPACES), figsize=(9, 3.6), constrained_layout=True)
    for axis, space in zip(axes, SPACES, strict=True):
        points = result["ours"]
        axis.plot(
            [p["seconds_with_start"] for p in points],
            [p[space]["frechet_distance"] for p in points],
            "o-",
            label="medmnist-diffusion",
        )
        for (name, peer), marker in zip(result["peers"].items(), "sD^v", strict=True):
            axis.plot(peer["seconds"], peer[space]["frechet_distance"], marker, ms=8, label=name)
        axis.axhline(result["floor"][space], color="0.5", ls="--", label="real images (val)")
        axis.set(
            xscale="log", yscale="log", xlabel="time, s (ours: of the whole call)", title=f"Fréchet distance, {space}"
        )
        axis.grid(alpha=0.3, which="both")
    axes[0].legend(fontsize=8)
    figure.suptitle(
        f"{result['dataset']}, {result['machine']['cores']} core(s): distance to the training images by time",
        fontsize=10,
    )
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=90)
    plt.close(figure)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add_dataset_arguments(parser, default="pneumoniamnist")
    parser.add_argument("--seconds", type=float, default=1800, help="training time of each peer (default 1800)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="a folder")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.contender:
        contend(args)
        return
    dataset = load_dataset(args.dataset, args.root, args.size)
    real = floor(dataset, JUDGED)
    start_processes()  # threads as the contenders have them
    peaks = {"no": matmul_gflops(torch.float32), "bf16": matmul_gflops(torch.bfloat16)}
    peers = {name: run_contender(args, name, args.seconds) for name in CONTENDERS if name != "ours"}
    curve = [run_contender(args, "ours", share * args.seconds) for share in OUR_SHARES]
    gflops = curve[-1]["images_per_second"] * curve[-1]["training_gflop_per_image"]
    result = {
        "command": f"python benchmarks/time_to_quality.py --dataset {args.dataset} --seconds {args.seconds:g}",
        "dataset": dataset.name,
        "judged_images": JUDGED,
        "machine": {
            "processor": platform.processor() or platform.machine(),
            "cores": len(available_cores()),
            "torch": torch.__version__,
            "matmul_gflops": {name: round(value) for name, value in peaks.items()},
        },
        "floor": real,
        "ours": curve,
        "peers": peers,
        "achieved_gflops": gflops,
    }
    last = {
        "seconds": args.seconds,
        "peers": {name: compare(curve, peer) for name, peer in peers.items()},
        "matmul_share": gflops / peaks[curve[-1]["precision"]],
    }
    write_json(args.output / f"time_to_quality_{dataset.name}.json", {**result, "ratios": last})
    plot(result, args.output / f"time_to_quality_{dataset.name}.png")
    print(json.dumps(last))


if __name__ == "__main__":
    sys.exit(run_command(main))
