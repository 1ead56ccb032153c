"""Where few images are learnt by heart, what is best: to stop, to stop and decay the learning rate, or to start again with less?

    python benchmarks/early_stopping.py      # three hours of one core; cells that the result file has are kept

A training on few images of a set is given far more steps than they bear. Its arms:

- stop: the default. The held-out loss rises, training stops, and the weights of the lowest one are the pipeline.
- stop, decay: these weights are trained on for a quarter as many steps, while the learning rate falls from what it was to nothing.
- restart: trained anew with as many steps as the best weights took, over which the learning rate falls to nothing.
- rule of thumb: no first training; as many steps as 170 passes over the images are (`bearable_steps`).

Judged are 1,000 images against the training split of the whole set, by the held-out loss of the few, and by the share that lies
nearer to one of the few, relative to its neighbours, than all but 1 % of the set's other images do. The steps of an arm count all
that its weights took, first training included.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from copies_found import NEVER, VAL, few_of, named, pool_of
from judging import RESULTS, SPACES, drawn_labels, floor, judge
from trainings import IMAGES, Row, run_missing

from medmnist_diffusion.artifacts import TrainingSummary
from medmnist_diffusion.data import Split
from medmnist_diffusion.data.twins import nearest_pictures
from medmnist_diffusion.diffusion.machine import describe_machine
from medmnist_diffusion.diffusion.sampling import generate_images, load_pipeline
from medmnist_diffusion.errors import run_command
from medmnist_diffusion.training.budget import learning_rate_factor
from medmnist_diffusion.training.config import training_config
from medmnist_diffusion.training.overfitting import bearable_steps
from medmnist_diffusion.training.train import train

# And how many of its images are trained on.
SETS = {"pneumoniamnist": 560, "retinamnist": 200, "own/pbc_blood_28.npz": 200}
LONG, VALIDATE = 3000, 50
DECAY = 0.25  # of the best step


def run(args: argparse.Namespace, cell: Row) -> Iterator[Row]:
    """The arms, of one set and seed."""
    whole, seed = named(cell["set"]), cell["seed"]
    pool, images = pool_of(whole), cell["images"]
    pool = pool.subset(np.random.default_rng(seed).permutation(len(pool)))
    few, others = few_of(whole, pool, images), pool.subset(np.arange(images + 2 * VAL, len(pool)))
    of_others = nearest_pictures(others, few.train).relative
    limit = float(np.quantile(of_others, 0.01))
    labels = drawn_labels(few.train.labels, IMAGES, seed)
    floors = floor(whole, IMAGES)

    def arm(name: str, folder: Path, steps: int, before: int = 0, **options: Any) -> Row:
        config = training_config(
            dataset=few.name, output_dir=str(folder), max_train_steps=steps, validation_steps=VALIDATE, sample_steps=NEVER,
            checkpointing_steps=NEVER, report_to="none", seed=seed, mixed_precision="no", **options,
        )  # fmt: skip
        pipeline = train(config, few)
        summary = TrainingSummary.of(pipeline)
        images = generate_images(load_pipeline(pipeline), labels, seed=seed)
        figures = judge(whole, images, labels)
        near = nearest_pictures(Split("generated", images, labels), few.train).relative
        return {
            "arm": name, "steps": before + (summary.last_step or summary.step), "kept_step": summary.step,
            "held_out_loss": summary.val_loss, "nearer_than_1_percent_of_others": float((near < limit).mean()),
            "floors": floors, **{what: figures[what] for what in ("label_accuracy", *SPACES)},
        }  # fmt: skip

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        first = arm("stop", folder / "stop", LONG)
        yield first
        best, taken = first["kept_step"], first["steps"]
        usual = training_config(dataset="phantom", output_dir="unused")
        rate = usual.learning_rate * learning_rate_factor(usual, usual.lr_warmup_steps + best, best / LONG)
        muon = usual.muon_learning_rate * rate / usual.learning_rate
        base = str(folder / "stop" / "pipeline")
        yield arm(
            "stop, decay", folder / "decay", round(DECAY * best), taken, pretrained_model_name_or_path=base,
            learning_rate=rate, muon_learning_rate=muon, lr_warmup_steps=1,
        )  # fmt: skip
        yield arm("restart", folder / "restart", best, taken)
        images_a_step = usual.train_batch_size * usual.gradient_accumulation_steps
        yield arm("rule of thumb", folder / "rule", bearable_steps(len(few.train), images_a_step))


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS / "early_stopping.json")
    args = parser.parse_args(argv)
    cells: list[Row] = [
        {"set": name, "images": images, "seed": seed} for seed in range(args.seeds) for name, images in SETS.items()
    ]
    head = {
        "command": "python benchmarks/early_stopping.py", "machine": describe_machine(), "steps_allowed": LONG,
        "judged_images": IMAGES,
    }  # fmt: skip
    run_missing(args.output, head, args, cells, run)


if __name__ == "__main__":
    sys.exit(run_command(main))
