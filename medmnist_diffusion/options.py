"""What our commands add to click's: several values after one option, and groups of options that commands share."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from medmnist_diffusion import choices
from medmnist_diffusion.choices import OPEN_LICENSES, OTHER_SPELLINGS
from medmnist_diffusion.diffusion.samplers import DEFAULT_SAMPLER, DEFAULT_STEPS, SAMPLERS

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


class _UserPath(click.Path):
    """A path in which `~` is the user's home, also behind an equals sign, where the shell leaves it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return Path(str(super().convert(value, param, ctx))).expanduser()


FOLDER_OR_FILE = _UserPath(path_type=Path)
NOTHING = ""  # stands for no value, after an option of several that was given without any


def underscores(name: str) -> str:
    """`--max-train-steps` is `--max_train_steps`."""
    return name.replace("-", "_")


class Command(click.Command):
    """A command whose `multiple` options take their values one after another: `--shares 0.05 0.25 1.0`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        names = {name for option in self.params for name in option.opts}
        for argument in args:
            name = underscores(argument.partition("=")[0].removeprefix("--"))
            if argument.startswith("--") and f"--{name}" not in names and (hint := OTHER_SPELLINGS.get(name)):
                raise click.UsageError(f"No such option --{name}. {hint}", ctx)
        several = {name for option in self.params if getattr(option, "multiple", False) for name in option.opts}
        return super().parse_args(ctx, one_value_each([_known_name(one, names) for one in args], several))


def _known_name(argument: str, names: set[str]) -> str:
    """`--max-train-steps` is `--max_train_steps`."""
    name, equals, value = argument.partition("=")
    written = "--" + underscores(name.removeprefix("--"))
    return written + equals + value if name.startswith("--") and written in names else argument


def one_value_each(arguments: Sequence[str], several: set[str]) -> list[str]:
    """`--shares 0.05 0.25` as `--shares 0.05 --shares 0.25`, for the options named in `several`."""
    written: list[str] = []
    rest = list(arguments)
    while rest:
        name = rest.pop(0)
        if name not in several:
            written.append(name)
            continue
        values = []
        while rest and not _is_option(rest[0]):
            values.append(rest.pop(0))
        for value in values or [NOTHING]:
            written += [name, value]
    return written


def _is_option(argument: str) -> bool:
    return argument.startswith("-") and not argument[1:2].isdigit()


def _together(options: Sequence[Decorator]) -> Decorator:
    return lambda command: functools.reduce(lambda wrapped, option: option(wrapped), reversed(options), command)


DATASET_HELP = "A MedMNIST flag, an npz, an image folder, a Hub id, or phantom."
_DATASET_PLACE: list[Decorator] = [
    click.option("--root", help="Where MedMNIST files lie (default: $MEDMNIST_ROOT, else ~/.medmnist)."),
    click.option(
        "--size", multiple=True, type=int, metavar="N ...", help="Pixels a side, or height and width (default 28)."
    ),
    click.option(
        "--fit", type=click.Choice(choices.FITS), help="How images of a folder become so large (default crop)."
    ),
    click.option("--window", multiple=True, metavar="WINDOW ...", help=choices.WINDOW_HELP),
    click.option("--slices", type=int, help="Read each volume of a folder of NIfTI files as so many slices."),
]


def _with_source(name: Decorator) -> Decorator:
    """A data set's name and how it is to be read; the command gets both together as `dataset`, a `DataSource`."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(command)
        def wrapped(*context: Any, **given: Any) -> Any:
            from medmnist_diffusion.data.sources import DataSource

            size, window = given.pop("size"), [one for one in given.pop("window") if one != NOTHING]
            how = {option: given.pop(option) for option in ("root", "fit", "slices")}
            name = given.pop("dataset")  # None where it need not be given
            source = DataSource(name, size=size or None, window=window or None, **how) if name is not None else None
            return command(*context, dataset=source, **given)

        return _together([name, *_DATASET_PLACE])(wrapped)

    return decorate


dataset_argument = _with_source(click.argument("dataset"))
dataset_option = _with_source(click.option("--dataset", required=True, help=DATASET_HELP))

shown_dataset_option = _with_source(
    click.option(
        "--dataset",
        help="What the pipelines were trained on: shows beside each image the nearest of these, and asks real or generated?",
    )
)

_STEPS = ", ".join(f"{name} {steps}" for name, steps in DEFAULT_STEPS.items())
sampling_options = _together(
    [
        click.option(
            "--sampler",
            type=click.Choice(list(SAMPLERS)),
            help=f"Default: {DEFAULT_SAMPLER}; a distilled pipeline has its own.",
        ),
        click.option("--num_inference_steps", type=int, help=f"Default: {_STEPS}; a distilled pipeline has its own."),
        click.option("--guidance_scale", type=float, help="1 is no guidance. Default: the pipeline's own."),
        click.option("--batch_size", type=int, default=128, help="Images through the network at once."),
        click.option("--seed", type=int, default=0),
    ]
)


def study_options(processes: str) -> Decorator:
    """How long a study may take, and who runs it; `processes` is the default in words."""
    return _together(
        [
            click.option("--budget", "time_budget", help="As many seeds and parts as fit into this time: 90m, 2h."),
            click.option(
                "--processes", type=click.IntRange(min=0), default=0, help=f"Of one core each (default: {processes})."
            ),
            click.option(
                "--scheduler",
                metavar="ADDRESS",
                help="Run on the workers of this dask scheduler (tcp://host:8786); they need the same folders and package "
                "versions.",
            ),
            click.option("--status", is_flag=True, help="Instead: how far the study in --output is, running or not."),
        ]
    )


publishing_options = _together(
    [
        click.argument("repo_id"),
        click.option("--public", is_flag=True, help="For everybody to see (default: private)."),
        click.option("--update", is_flag=True, help="Replace what a repository holds (the Hub keeps its history)."),
        click.option("--dry_run", is_flag=True, help="Check and show all, without a network; upload nothing."),
        click.option(
            "--data_license",
            type=click.Choice(sorted(OPEN_LICENSES)),
            help="The licence of a training set of your own: publishing needs one that permits it.",
        ),
    ]
)
