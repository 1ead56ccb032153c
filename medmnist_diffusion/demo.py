"""`medmnist-diffusion demo`: the whole line on the generated phantom set, in minutes: audit → train → sample → evaluate → card."""

import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from medmnist_diffusion.arguments import CommandParser
from medmnist_diffusion.errors import UserError

TRAIN_MINUTES = 1.0
COLUMNS = 8


def demo(output: Path, minutes: float) -> None:
    """Each step is the command that a user would type, with its arguments printed."""
    from medmnist_diffusion import sample
    from medmnist_diffusion.artifacts import Metrics
    from medmnist_diffusion.data import audit, load_dataset
    from medmnist_diffusion.data.npz import read_npz
    from medmnist_diffusion.metrics.table import record_label
    from medmnist_diffusion.publish import card
    from medmnist_diffusion.publish.plots import real_beside_generated
    from medmnist_diffusion.training import evaluate_fid, train

    if output.exists():
        raise UserError(f"{output} exists already. Remove it, or choose another --output.")
    run, samples = output / "run", output / "samples.npz"
    pipeline = run / "pipeline"
    steps = [
        ("audit", audit.main, ["phantom", "--json", str(output / "audit.json")]),
        ("train", train.main, ["--dataset", "phantom", "--output_dir", str(run), "--max_train_minutes", f"{minutes:g}",
                               "--report_to", "none"]),
        ("sample", sample.main, [str(pipeline), "--num_per_class", "100", "--output", str(samples)]),
        ("evaluate", evaluate_fid.main, [str(pipeline), "--dataset", "phantom"]),
        ("card", card.main, [str(pipeline)]),
    ]  # fmt: skip
    seconds = {}
    for name, main_of_step, arguments in steps:
        print(f"\n$ medmnist-diffusion {name} {' '.join(arguments)}", flush=True)
        began = time.monotonic()
        main_of_step(arguments)
        seconds[name] = time.monotonic() - began

    dataset, generated = load_dataset("phantom"), read_npz(samples, ("train",))["train"]
    real_rows = [np.flatnonzero(dataset.splits["val"].labels == label)[:COLUMNS] for label in dataset.id2label]
    fake_rows = [np.flatnonzero(generated.labels == label)[:COLUMNS] for label in dataset.id2label]
    picture = output / "real_beside_generated.png"
    real_beside_generated(
        dataset.splits["val"].images[np.concatenate(real_rows)],
        generated.images[np.concatenate(fake_rows)],
        list(dataset.id2label.values()),
        COLUMNS,
        picture,
        "Synthetic chest phantom (no patient): held-out images beside generated ones",
    )
    metrics = Metrics.read(pipeline / "metrics.json")
    took = ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items())
    print(f"\nDone, on the synthetic phantom set (computed shapes, no patients): {took}.")
    for record in metrics.metrics:
        if record.class_ is None:
            print(f"  {record_label(record)}: {record.value:.3g} (real images: {record.floor:.3g})")
    for what, path in (
        ("picture ", picture), ("pipeline", pipeline), ("card    ", pipeline / "README.md"),
        ("figures ", pipeline / "metrics.json"), ("loss    ", run / "loss.png"), ("samples ", samples),
        ("audit   ", output / "audit.json"),
    ):  # fmt: skip
        print(f"  {what}  {path}")


def main(argv: Sequence[str]) -> None:
    parser = CommandParser(prog="medmnist-diffusion demo", description=__doc__.split(": ", 1)[1])
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="a new folder (default runs/demo)")
    parser.add_argument(
        "--minutes", type=float, default=TRAIN_MINUTES, help=f"training time (default {TRAIN_MINUTES:g})"
    )
    args = parser.parse_args(argv)
    if not 0 < args.minutes < math.inf:
        raise UserError(f"--minutes is {args.minutes:g}; more than 0 is needed.")
    demo(args.output, args.minutes)
