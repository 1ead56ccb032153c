"""The default recipe and its neighbours, one change at a time, several seeds each, for the same training time.

    python benchmarks/recipe.py --cpu_seconds 240 --seeds 3          # PneumoniaMNIST from $MEDMNIST_ROOT
    python benchmarks/recipe.py --dataset ../shared/data/own/pbc_blood_64.npz --cpu_seconds 1200 --arms default contrastive
    python benchmarks/recipe.py --table                              # of all results/recipe_*.json, as Markdown, for docs/speed.md

Each run has one core to itself, as many run at once as there are cores, and all of a seed's arms run before the next seed's. Time
is that of the processor (one thread), which other work on the machine does not lengthen. What the data decide by default
(encoder, width, target) is named in every run, so that an arm changes what its name says and nothing else. A run is judged by
1,000 images with the default sampler: Fréchet distance to train in both spaces, beside that of as many real ones, label accuracy,
memorized share. Runs that stand in the result file already are not done again, so that an interrupted benchmark goes on, and a
longer list of arms adds to it; another machine needs another file. The arm `guided` draws from one training with guidance of two
kinds: by the unknown class, and by a weaker network, which takes a fifth of the arm's time.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple
from unittest import mock

from changes import (
    APART,
    CANDIDATES,
    MOST_WEIGHT,
    POOL,
    Change,
    CoupledByClass,
    CoupledNoise,
    NearestNoise,
    contrastive_loss,
    errors_in_velocity,
    guide_by,
    see_what_it_said,
    seeing_what_it_said,
    with_room,
)
from judging import floor
from trainings import (
    IMAGES,
    Row,
    floors_shown,
    judge_pipeline,
    kept_results,
    run_trainings,
    table_head,
    train_cell,
    trainings_parser,
    with_spread,
)

from medmnist_diffusion.data import load_dataset
from medmnist_diffusion.diffusion.sampling import load_pipeline
from medmnist_diffusion.errors import UserError, run_command
from medmnist_diffusion.training.config import training_config
from medmnist_diffusion.training.setup import with_choices

# What the data decide where nothing is said.
CHOSEN = ("pixel_unshuffle", "block_out_channels", "prediction_type")


class Arm(NamedTuple):
    """What differs from the default: settings of `train`, of which some follow from the default's; and a change that no setting
    makes, with its own numbers."""

    settings: Callable[[Row], Row] = lambda default: {}
    change: Change = Change()
    numbers: Mapping[str, float] = MappingProxyType({})


def times(width: float) -> Callable[[Row], Row]:
    """Channels of every block, to the next multiple of 8."""
    return lambda default: {
        "block_out_channels": [round(width * one / 8) * 8 for one in default["block_out_channels"]]
    }


def folded(factor: float) -> Callable[[Row], Row]:
    """Blocks of pixels that become channels, by the side."""
    return lambda default: {"pixel_unshuffle": max(1, round(factor * default["pixel_unshuffle"]))}


def a_block_more(default: Row) -> Row:
    widths = default["block_out_channels"]
    return {"block_out_channels": [*widths, widths[-1]]}


def says_the_image(_: Row) -> Row:
    return {"prediction_type": "sample"}


def other_target(default: Row) -> Row:
    return {"prediction_type": "v_prediction" if default["prediction_type"] == "sample" else "sample"}


def both(*parts: Callable[[Row], Row]) -> Callable[[Row], Row]:
    return lambda default: {name: value for part in parts for name, value in part(default).items()}


ARMS: dict[str, Arm] = {
    "default": Arm(),
    "wider by half": Arm(times(1.5)),
    "narrower by half": Arm(times(0.5)),
    "a block more": Arm(a_block_more),
    "two layers": Arm(lambda _: {"layers_per_block": 2}),
    "other target": Arm(other_target),
    "larger blocks folded": Arm(folded(2)),
    "larger blocks folded, other target": Arm(both(folded(2), other_target)),
    "smaller blocks folded": Arm(folded(0.5)),
    "smaller blocks folded, other target": Arm(both(folded(0.5), other_target)),
    "wider by half, other target": Arm(both(times(1.5), other_target)),
    "image, errors in velocity": Arm(says_the_image, Change(loss=errors_in_velocity), {"most": MOST_WEIGHT}),
    "attention": Arm(lambda _: {"attention": True}),
    "dropout": Arm(lambda _: {"dropout": 0.1}),
    "adamw": Arm(lambda _: {"optimizer": "adamw"}),
    "uniform timesteps": Arm(lambda _: {"timestep_sampling": "uniform"}),
    "min-SNR": Arm(lambda _: {"snr_gamma": 5.0}),
    "no label dropout": Arm(lambda _: {"label_dropout": 0.0}),
    "batch 32": Arm(lambda _: {"train_batch_size": 32}),
    "batch 128": Arm(lambda _: {"train_batch_size": 128}),
    "contrastive": Arm(change=Change(loss=contrastive_loss), numbers={"apart": APART}),
    "nearest noise": Arm(change=Change(batches=NearestNoise), numbers={"candidates": CANDIDATES}),
    "coupled noise": Arm(change=Change(batches=CoupledNoise)),
    "coupled by class": Arm(change=Change(batches=CoupledByClass), numbers={"pool": POOL}),
    "more noise": Arm(change=Change(log_snr_shift=-1.0), numbers={"log_snr_shift": -1.0}),
    "less noise": Arm(change=Change(log_snr_shift=1.0), numbers={"log_snr_shift": 1.0}),
    "self-conditioning": Arm(change=Change(loss=seeing_what_it_said, network=with_room, pipe=see_what_it_said)),
    "guided": Arm(numbers={"weaker": 1 / 5}),
}  # fmt: skip
GUIDED_BY_CLASS, GUIDED_BY_WEAKER = (1.1, 1.2, 1.5), (1.2, 1.5, 2.0)
FIGURES: dict[str, Callable[[Row], float]] = {
    "texture": lambda row: row["texture"]["frechet_distance"],
    "classifier": lambda row: row["classifier"]["frechet_distance"],
    "kernel, texture": lambda row: row["texture"]["kernel_distance"],
    "right label": lambda row: row["label_accuracy"],
    "memorized": lambda row: row["memorized_share"],
}


def chosen_by_default(args: argparse.Namespace) -> Row:
    """What the data set decides where nothing is said."""
    config = training_config(dataset=str(args.dataset), output_dir="run", report_to="none")
    choices = with_choices(config, load_dataset(args.dataset, args.root, args.size))
    return {name: getattr(choices, name) for name in CHOSEN}


def is_default(arm: str, default: Row) -> bool:
    """Whether an arm changes nothing on a set of this default."""
    settings, change, numbers = ARMS[arm]
    return settings(default).items() <= default.items() and change == Change() and not numbers


def cells_of(args: argparse.Namespace) -> list[Row]:
    """A cell each arm and seed, with all that makes it another training.

    Raises:
        UserError: for an arm that is the default here.
    """
    default, cells = chosen_by_default(args), []
    settings = {arm: {**default, **ARMS[arm].settings(default)} for arm in args.arms}
    for arm in args.arms:
        if is_default(arm, default) and arm != "default":
            raise UserError(f"{arm!r} is the default of {args.dataset}: leave it out of --arms.")
    for seed in range(args.seeds):
        cells += [{"arm": arm, **of_arm, **ARMS[arm].numbers, "seed": seed} for arm, of_arm in settings.items()]
    return cells


def run(args: argparse.Namespace, cell: Row) -> Iterator[Row]:
    """One arm with one seed."""
    arm, seconds = ARMS[cell["arm"]], args.cpu_seconds
    of_weaker = seconds * cell.get("weaker", 0.0)
    with tempfile.TemporaryDirectory() as folder, arm.change.made():
        pipeline, steps = _trained(args, cell, f"{folder}/run", seconds - of_weaker)
        if not of_weaker:
            pipe = load_pipeline(pipeline)
            arm.change.pipe(pipe)
            yield {"steps": steps, **judge_pipeline(args, pipe, cell["seed"])}
            return
        weaker = load_pipeline(_trained(args, cell, f"{folder}/weaker", of_weaker)[0])
        for how, pipe in _guided(pipeline, weaker):
            yield {"sampled": how, "steps": steps, **judge_pipeline(args, pipe, cell["seed"])}


def options_of(cell: Row) -> list[str]:
    """Words of `train`."""
    known = {"arm", "seed", *ARMS[cell["arm"]].numbers}
    return [
        word for name, value in cell.items() if name not in known
        for word in (f"--{name}", *map(str, value if isinstance(value, list) else [value]))
    ]  # fmt: skip


def _trained(args: argparse.Namespace, cell: Row, folder: str, seconds: float) -> tuple[Path, int]:
    """A training for so many seconds of this processor; its pipeline and its steps."""
    clock = SimpleNamespace(monotonic=time.process_time)
    with mock.patch("medmnist_diffusion.training.budget.time", clock):
        pipeline, summary = train_cell(
            args, cell["seed"], folder, ["--max_train_minutes", str(seconds / 60), *options_of(cell)]
        )
    return pipeline, int(summary["step"])


def _guided(pipeline: Path, weaker: Any) -> Iterator[tuple[str, Any]]:
    """The same pipeline drawn from in several ways; the first is its own."""
    yield "plain", load_pipeline(pipeline)
    for scale in GUIDED_BY_CLASS:
        pipe = load_pipeline(pipeline)
        pipe.register_to_config(default_guidance_scale=scale)
        yield f"guided by class, {scale}", pipe
    for scale in GUIDED_BY_WEAKER:
        pipe = load_pipeline(pipeline)
        guide_by(pipe, weaker, scale)
        yield f"guided by weaker, {scale}", pipe


def name_of(row: Row) -> str:
    return f"{row['arm']}: {row['sampled']}" if "sampled" in row else str(row["arm"])


def table(results: Mapping[str, Row]) -> Iterator[str]:
    """Of every arm and set the mean over seeds, ± their standard deviation, and the texture distance ÷ the default's of the same
    seed."""
    yield from table_head("change", "set", "seeds", "texture ÷ default's", *FIGURES)
    for name, result in results.items():
        floors = floors_shown(result["floors"], ("texture", "classifier"))
        yield f"| as many real images | {name} | | | {' | '.join(floors)} | | | |"
    for arm in sorted(
        dict.fromkeys(name_of(row) for result in results.values() for row in result["runs"]), key=_place
    ):
        for name, result in results.items():
            rows = result["runs"]
            those = [row for row in rows if name_of(row) == arm]
            if those:
                values = [[figure(row) for row in those] for figure in FIGURES.values()]
                shown = [with_spread(one) for one in (_paired(rows, those), *values)]
                yield f"| {arm} | {name} | {len(those)} | {' | '.join(shown)} |"


def _paired(rows: Sequence[Row], those: Sequence[Row]) -> list[float]:
    """The texture distances ÷ those of the default with the same seeds; of what is drawn from one training ÷ the plain one's."""
    plain = [row for row in rows if row["arm"] == ("guided" if "sampled" in those[0] else "default")]
    default = {
        row["seed"]: row["texture"]["frechet_distance"] for row in plain if row.get("sampled") in (None, "plain")
    }
    return [row["texture"]["frechet_distance"] / default[row["seed"]] for row in those if row["seed"] in default]


def _place(name: str) -> int:
    return list(ARMS).index(name.split(":")[0])


def main(argv: Sequence[str]) -> None:
    parser = trainings_parser(__doc__)
    parser.add_argument("--cpu_seconds", type=float, default=240, help="processor time of each training (default 240)")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["default"], help="default: the default alone")
    parser.add_argument("--table", action="store_true", help="print the table of the results that are there")
    args = parser.parse_args(argv)
    if not args.table:
        cells = cells_of(args)
        facts = {"floors": floor(load_dataset(args.dataset, args.root, args.size), IMAGES)}
        run_trainings("recipe", f"--cpu_seconds {args.cpu_seconds:g}", args, cells, run, facts, one_machine=True)
    print("\n".join(table(kept_results("recipe"))))


if __name__ == "__main__":
    sys.exit(run_command(main))
