"""How long should the average of the weights be? Several lengths of one training, kept at once and judged side by side.

    python benchmarks/average_length.py --steps 800 --seeds 3      # PneumoniaMNIST from $MEDMNIST_ROOT

An average's decay after s steps is 1 - (1 + s)^(-power), as in diffusers' EMAModel: power 1 is the mean of all weights so far, 2/3
(the default) remembers the last (1 + s)^(2/3) steps, 0 is the last weights alone. All averages of a seed see the same training and
draw the same noise, so that what differs is their length. Seeds that stand in the result file already are not trained again.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, ClassVar

import torch
from diffusers.training_utils import EMAModel
from trainings import Row, judge_pipeline, run_trainings, train_cell, trainings_parser

from medmnist_diffusion.diffusion import training_state
from medmnist_diffusion.diffusion.sampling import load_pipeline
from medmnist_diffusion.errors import run_command

POWERS = (0.0, 1 / 2, 2 / 3, 3 / 4, 0.85, 1.0)


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


def run(args: argparse.Namespace, cell: Row) -> Iterator[Row]:
    """One training; a row for each length."""
    training_state.EMAModel = SeveralAverages  # type: ignore[attr-defined]
    with tempfile.TemporaryDirectory() as folder:
        pipeline, _ = train_cell(args, cell["seed"], folder, ["--max_train_steps", str(args.steps)])
        pipe = load_pipeline(pipeline)
    for power, average in SeveralAverages.made.pop().by_power.items():
        average.copy_to(pipe.unet.parameters())
        yield {"power": round(power, 3), **judge_pipeline(args, pipe, cell["seed"])}


def main(argv: Sequence[str]) -> None:
    parser = trainings_parser(__doc__)
    parser.add_argument("--steps", type=int, default=800, help="of each training (default 800)")
    args = parser.parse_args(argv)
    run_trainings("average_length", f"--steps {args.steps}", args, [{"seed": s} for s in range(args.seeds)], run)


if __name__ == "__main__":
    sys.exit(run_command(main))
