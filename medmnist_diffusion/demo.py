"""The whole line on the generated phantom set, in minutes: audit → train → sample → evaluate → card, and the verdict."""

import logging
import time
from pathlib import Path

import numpy as np

from medmnist_diffusion.artifacts import Metrics
from medmnist_diffusion.data import load_dataset
from medmnist_diffusion.data.audit import audit, print_audit
from medmnist_diffusion.data.npz import read_npz
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import write_json
from medmnist_diffusion.publish.card import write_card
from medmnist_diffusion.publish.plots import real_beside_generated
from medmnist_diffusion.publish.verdict import verdict
from medmnist_diffusion.samples import sample
from medmnist_diffusion.training.config import training_config
from medmnist_diffusion.training.evaluate_fid import evaluate
from medmnist_diffusion.training.train import train

logger = logging.getLogger(__name__)
COLUMNS, NUM_PER_CLASS = 8, 100


def demo(output: str | Path, minutes: float = 1.0) -> Metrics:
    """Do what the commands do that are printed, one after another.

    Args:
        output: a new folder.
        minutes: training time.

    Raises:
        UserError: if the folder exists.
    """
    output = Path(output)
    if output.exists():
        raise UserError(f"{output} exists already. Remove it, or choose another --output.")
    run = output / "run"
    config = training_config(
        dataset="phantom", output_dir=str(run), max_train_minutes=minutes, report_to="none"
    )  # a wrong number of minutes leaves no folder
    samples, picture = output / "samples.npz", output / "real_beside_generated.png"
    pipeline, seconds, began = run / "pipeline", {}, time.monotonic()

    def begin(name: str, arguments: str) -> None:
        logger.info("\n$ medmnist-diffusion %s %s", name, arguments)
        seconds[name] = time.monotonic() - began

    begin("audit", f"phantom --json {output / 'audit.json'}")
    dataset = load_dataset("phantom")
    report = audit(dataset)
    write_json(output / "audit.json", report.model_dump())
    print_audit(report)
    begin("train", f"--dataset phantom --output_dir {run} --max_train_minutes {minutes:g} --report_to none")
    train(config)
    begin("sample", f"{pipeline} --num_per_class {NUM_PER_CLASS} --output {samples}")
    sample(pipeline, samples, NUM_PER_CLASS)
    begin("evaluate", f"{pipeline} --dataset phantom")
    metrics = evaluate(pipeline, dataset)
    begin("card", str(pipeline))
    write_card(pipeline)

    held_out, generated = dataset.splits["val"], read_npz(samples, ("train",))["train"]
    members = [dataset.conditioning.members(split.labels) for split in (held_out, generated)]
    first = [np.concatenate([rows[:COLUMNS] for rows in of_split]) for of_split in members]
    real_images, made = held_out.images[first[0]], generated.images[first[1]]
    title = "Synthetic chest phantom (no patient): held-out images beside generated ones"
    real_beside_generated(real_images, made, dataset.conditioning.names, COLUMNS, picture, title)
    marks = [*seconds.values(), time.monotonic() - began]
    took = ", ".join(
        f"{name} {end - start:.0f} s" for name, start, end in zip(seconds, marks, marks[1:], strict=False)
    )
    logger.info("\nDone, on the synthetic phantom set (computed shapes, no patients): %s.\n", took)
    for line in verdict(metrics):
        logger.info("%s", line)
    logger.info(
        "Look at %s\nand read %s (every figure, what it means, the recipe).\n"
        "Next: the same with your images (README.md, 'Train your own'), and whether they help a classifier (study augmentation).",
        picture, pipeline / "README.md",
    )  # fmt: skip
    return metrics
