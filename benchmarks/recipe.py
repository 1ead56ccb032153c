"""The default recipe and its neighbours, one change at a time, several seeds each, for the same training time.

    python benchmarks/recipe.py --seconds 60 --seeds 3              # PneumoniaMNIST from $MEDMNIST_ROOT

Each run is judged by 1,000 images with the default sampler: Fréchet distance to train in both spaces, held-out loss, label
accuracy, memorized share. Runs that stand in the result file already are not done again, so that an interrupted benchmark goes on.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
from medmnist_diffusion.training.config import parse_config
from medmnist_diffusion.training.train import train
from time_to_quality import RESULTS, SPACES, judge

from medmnist_diffusion.data import ImageDataset, Split, load_dataset
from medmnist_diffusion.data.audit import add_dataset_arguments
from medmnist_diffusion.diffusion.sampling import generate, load_pipeline
from medmnist_diffusion.errors import run_command
from medmnist_diffusion.files import write_json
from medmnist_diffusion.metrics.classifier import predict, real_data_classifier

ARMS = {
    "default": [],
    "adamw": ["--optimizer", "adamw"],
    "uniform timesteps": ["--timestep_sampling", "uniform"],
    "wider (48, 64)": ["--block_out_channels", "48", "64"],
}
IMAGES = 1000
NEVER = "1000000000"


def run(dataset: ImageDataset, args: argparse.Namespace, options: list[str], seed: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        given = [*(["--root", args.root] if args.root else []), *(["--size", str(args.size)] if args.size else [])]
        pipeline = train(
            parse_config(
                ["--dataset", args.dataset, "--output_dir", folder, "--max_train_minutes", str(args.seconds / 60), "--seed",
                 str(seed), "--validation_steps", NEVER, "--sample_steps", NEVER, "--checkpointing_steps", NEVER,
                 "--report_to", "none", *given, *options]
            )
        )  # fmt: skip
        summary = json.loads((pipeline / "training_summary.json").read_text(encoding="utf-8"))
        pipe = load_pipeline(pipeline)
        labels = np.sort(np.random.default_rng(seed).choice(dataset.train.labels, IMAGES))
        images = generate(pipe, labels, seed=seed)
    right = predict(real_data_classifier(dataset), Split("generated", images, labels)) == labels
    return {
        "seed": seed,
        "images_per_second": summary["images_seen"] / summary["seconds"],
        "val_loss": summary["val_loss"],
        "label_accuracy": float(right.mean()),
        **judge(dataset, images),
    }


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add_dataset_arguments(parser, default="pneumoniamnist")
    parser.add_argument("--seconds", type=float, default=60, help="training time of each run (default 60)")
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args(argv)
    dataset = load_dataset(args.dataset, args.root, args.size)
    path = RESULTS / f"recipe_{dataset.name}.json"
    command = f"python benchmarks/recipe.py --dataset {args.dataset} --seconds {args.seconds:g} --seeds {args.seeds}"
    result: dict[str, Any] = {"command": command, "arms": {}}
    if path.is_file() and (saved := json.loads(path.read_text(encoding="utf-8")))["command"] == command:
        result = saved
    for seed in range(args.seeds):  # seed by seed, so that an interrupted benchmark has every arm
        for name, options in ARMS.items():
            arm = result["arms"].setdefault(name, {"options": options, "runs": []})
            if any(done["seed"] == seed for done in arm["runs"]):
                continue
            arm["runs"].append(run(dataset, args, options, seed))
            write_json(path, result)
    for name, arm in result["arms"].items():
        figures = [
            f"{space} {np.mean(values := [r[space]['frechet_distance'] for r in arm['runs']]):.3g} ± {np.std(values, ddof=1):.2g}"
            for space in SPACES
        ]
        losses = [r["val_loss"] for r in arm["runs"]]
        print(f"{name}: Fréchet distance {', '.join(figures)}; held-out loss {np.mean(losses):.4f}")


if __name__ == "__main__":
    sys.exit(run_command(main))
