"""How long should the average of the weights be? Several lengths of one training, kept at once and judged side by side.

    taskset -c 0 python benchmarks/average_length.py --steps 800 --seeds 3      # PneumoniaMNIST from $MEDMNIST_ROOT

An average's decay after s steps is 1 - (1 + s)^(-power), as in diffusers' EMAModel: power 1 is the mean of all weights so far, 2/3
(the default) remembers the last (1 + s)^(2/3) steps, 0 is the last weights alone. All averages of a seed see the same training and
draw the same noise, so that what differs is their length. Seeds that stand in the result file already are not trained again.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import torch
from diffusers.training_utils import EMAModel
from judging import RESULTS, add_trainings_arguments, drawn_labels, judge, kept_result, summary_line, train_steps

from medmnist_diffusion.data import ImageDataset, load_dataset
from medmnist_diffusion.diffusion import training_state
from medmnist_diffusion.diffusion.machine import describe_machine
from medmnist_diffusion.diffusion.sampling import generate, load_pipeline
from medmnist_diffusion.errors import run_command
from medmnist_diffusion.files import write_json

POWERS = (0.0, 1 / 2, 2 / 3, 3 / 4, 0.85, 1.0)
IMAGES = 1000


class SeveralAverages(EMAModel):
    """The training's own average, and those of other lengths beside it."""

    made: ClassVar[list["SeveralAverages"]] = []

    def __init__(self, parameters: Iterable[torch.nn.Parameter], **options: Any) -> None:
        parameters = list(parameters)
        super().__init__(parameters, **options)
        self.by_power = {power: EMAModel(parameters, **{**options, "power": power}) for power in POWERS}
        self.made.append(self)

    def step(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        parameters = list(parameters)
        super().step(parameters)
        for average in self.by_power.values():
            average.step(parameters)


def run(args: argparse.Namespace, dataset: ImageDataset, seed: int) -> list[dict[str, Any]]:
    """One training; a row for each length."""
    labels = drawn_labels(dataset.train.labels, IMAGES, seed)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        pipeline, _ = train_steps(args, seed, folder)
        pipe = load_pipeline(pipeline)
        for power, average in SeveralAverages.made.pop().by_power.items():
            average.copy_to(pipe.unet.parameters())
            judged = judge(dataset, generate(pipe, labels, seed=seed), labels)
            rows.append({"seed": seed, "power": round(power, 3), **judged})
            print(f"seed {seed}, power {power:.3g}: {summary_line(judged)}", flush=True)
    return rows


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    add_trainings_arguments(parser)
    args = parser.parse_args(argv)
    dataset = load_dataset(args.dataset, args.root, args.size)
    path = RESULTS / f"average_length_{dataset.name}.json"
    command = f"python benchmarks/average_length.py --dataset {args.dataset} --steps {args.steps}"
    result = kept_result(path, command, {"machine": describe_machine(), "judged_images": IMAGES, "runs": []})
    training_state.EMAModel = SeveralAverages  # type: ignore[attr-defined]
    for seed in range(args.seeds):
        if all(row["seed"] != seed for row in result["runs"]):
            result["runs"] += run(args, dataset, seed)
            write_json(path, result)


if __name__ == "__main__":
    sys.exit(run_command(main))
