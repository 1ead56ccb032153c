"""What an evaluation costs: time and memory by the number of images, and our Fréchet distance beside its neighbours'.

    make evaluation-cost

Each size is evaluated twice in processes of their own: the first fills the cache, the second is measured. Then the Fréchet
distance of the same 2048-dimensional features by this package, torchmetrics and torch-fidelity, one after the other.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.fid import _compute_fid

from medmnist_diffusion.data import phantom
from medmnist_diffusion.data.npz import write_npz
from medmnist_diffusion.errors import run_command
from medmnist_diffusion.files import write_json
from medmnist_diffusion.metrics.frechet import FeatureStatistics, frechet_distance, frechet_estimate
from medmnist_diffusion.processes import available_cores

RESULT = Path(__file__).parent / "results" / "evaluation_cost.json"
SIZES = (1250, 2500, 5000)
SPACES = ("classifier", "texture", "pca")


def evaluate_size(n: int, folder: Path) -> dict[str, float]:
    """n generated against n training images, with as many val images for the floor; everything but Inception."""
    data, generated = folder / f"real{n}.npz", folder / f"generated{n}.npz"
    write_npz(data, phantom.make_phantom(counts={"train": n, "val": int(1.02 * n), "test": n // 5}))
    write_npz(generated, phantom.make_phantom(seed=1, counts={"train": int(1.02 * n), "val": 8, "test": 8}))
    command = [
        sys.executable, "-m", "medmnist_diffusion.cli", "evaluate", str(generated), "--dataset", str(data),
        "--features", *SPACES, "--output", str(folder / f"metrics{n}.json"),
    ]  # fmt: skip
    environment = os.environ | {"MEDMNIST_DIFFUSION_CACHE": str(folder / "cache")}
    for cached in (False, True):
        if cached:  # another model's images: the real side is cached, the generated one is not
            write_npz(generated, phantom.make_phantom(seed=2, counts={"train": int(1.02 * n), "val": 8, "test": 8}))
        began = time.monotonic()
        subprocess.run(command, check=True, env=environment, capture_output=True)
        seconds = time.monotonic() - began
    records = json.loads((folder / f"metrics{n}.json").read_text())["metrics"]
    compared = next(r for r in records if r["name"] == "frechet_distance" and r["extractor"] == "texture")
    return {
        "generated": compared["n_generated"],
        "real": compared["n_real"],
        "seconds": round(seconds, 1),
        "peak_memory_gib": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20, 2),  # of all so far
    }


def timed(function: Callable[[], float]) -> dict[str, float]:
    began = time.monotonic()
    value = function()
    return {"seconds": round(time.monotonic() - began, 2), "value": round(float(value), 4)}


def frechet_side_by_side(n: int = 5000, dim: int = 2048) -> dict[str, dict[str, float]]:
    """From features to the distance, statistics of both sides included."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(dim, dim)) / np.sqrt(dim)
    real, generated = rng.normal(size=(n, dim)) @ mixing, rng.normal(0.05, 1.05, (n, dim)) @ mixing
    tensors = torch.from_numpy(real), torch.from_numpy(generated)

    def torchmetrics() -> float:
        moments = [(x.mean(0), x.T.cov()) for x in tensors]
        return float(_compute_fid(*moments[0], *moments[1]))

    def torch_fidelity() -> float:
        statistics = [fid_features_to_statistics(x) for x in tensors]
        return fid_statistics_to_metric(*statistics, False)["frechet_inception_distance"]

    return {
        "medmnist-diffusion": timed(lambda: frechet_distance(FeatureStatistics.of(real), generated)),
        "medmnist-diffusion with its interval": timed(
            lambda: frechet_estimate(FeatureStatistics.of(real), generated).value
        ),
        "torchmetrics": timed(torchmetrics),
        "torch-fidelity": timed(torch_fidelity),
    }


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--output", type=Path, default=RESULT)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        evaluations = [evaluate_size(n, Path(folder)) for n in SIZES]
    result = {
        "command": "python benchmarks/evaluation_cost.py",
        "cores": len(available_cores()),
        "features": SPACES,
        "evaluations": evaluations,
        "frechet_distance_5000x2048": frechet_side_by_side(),
    }
    write_json(args.output, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    sys.exit(run_command(main))
