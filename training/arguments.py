"""The command line of training: an option for every setting of TrainingConfig, and a YAML file with any of them."""

import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

import click

from medmnist_diffusion.options import FOLDER_OR_FILE, Command, underscores
from medmnist_diffusion.training.config import BUDGETS, SETTINGS, TrainingConfig, read_config_file, training_config


class TrainCommand(Command):
    """Also takes `--no_use_ema` for `--use_ema false`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, [part for argument in args for part in _without_no(argument)])


def _without_no(argument: str) -> list[str]:
    name = underscores(argument.removeprefix("--")).removeprefix("no_")
    is_switch = name in SETTINGS and (
        SETTINGS[name].annotation is bool or False in get_args(SETTINGS[name].annotation)
    )
    switched_off = argument.startswith(("--no_", "--no-")) and is_switch
    return [f"--{name}", "false"] if switched_off else [argument]


def training_options() -> list[click.Parameter]:
    """An option a setting. Values stay text: TrainingConfig turns them into what they should be, or says why it cannot."""
    path = click.Option(
        ["--config"], type=FOLDER_OR_FILE, help="A YAML file with any of these arguments (training/configs/)."
    )
    return [path, *(_option(name) for name in SETTINGS)]


def _option(name: str) -> click.Option:
    field = SETTINGS[name]
    default = field.get_default(call_default_factory=True)
    kind = next(iter(_alternatives(field.annotation)))
    shown = " ".join(map(str, default)) if isinstance(default, list) else default
    known = "" if default in (None, "") or "default" in (field.description or "") else f" [default: {shown}]"
    options: dict[str, Any] = {"help": f"{field.description}{known}"}
    if kind is bool:  # `--attention`, or `--attention true`
        options |= {"is_flag": False, "flag_value": "true", "metavar": "[true|false]"}
    elif False in get_args(kind):  # `--drop_leaks`, or `--drop_leaks twins`
        words = [word for word in get_args(kind) if word]
        options |= {"is_flag": False, "flag_value": words[0], "metavar": f"[{'|'.join(words)}]"}
    elif get_origin(kind) is Literal:
        options["metavar"] = f"[{'|'.join(map(str, get_args(kind)))}]"
    elif any(get_origin(one) is list for one in _alternatives(field.annotation)):
        options |= {"multiple": True, "metavar": "N ..."}
    return click.Option([f"--{name}"], type=str, **options)


def _alternatives(annotation: Any) -> list[Any]:
    """Of `int | None` the int; of anything else itself."""
    if get_origin(annotation) in (Union, types.UnionType):
        return [one for one in get_args(annotation) if one is not type(None)]
    return [annotation]


def config_from_options(config: Path | None, **given: Any) -> TrainingConfig:
    """The configuration from the file, if there is one, overridden by the options that were given.

    Raises:
        UserError: for a missing or unreadable file, an unknown key (with the nearest known one), a value out of range.
    """
    options = {name: list(value) if isinstance(value, tuple) else value for name, value in given.items() if value}
    values = read_config_file(config) if config else {}
    if any(name in options for name in BUDGETS):
        values = {name: value for name, value in values.items() if name not in BUDGETS}
    return training_config(**{**values, **options})


def parse_config(arguments: Sequence[str]) -> TrainingConfig:
    """The configuration of a command line."""
    command = TrainCommand("train", params=training_options(), callback=config_from_options)
    result: TrainingConfig = command.main(args=list(arguments), standalone_mode=False)
    return result
