"""What documents tell a reader to type exists: every command and every option of it."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import click
import pytest

from medmnist_diffusion.cli import commands
from medmnist_diffusion.training.config import TrainingConfig
from tests.conftest import ROOT

PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted(path for path in (ROOT / "docs").glob("*.md") if path.name not in (ROOT / ".gitignore").read_text()),
    *sorted((ROOT / "examples").rglob("*.md")),
    *sorted((ROOT / "model_cards").glob("*/README.md")),
]
CODE = re.compile(r"```\w*\n(.*?)```|`([^`\n]+)`", re.DOTALL)
TYPED = re.compile(r"^\s*(?:python -m )?medmnist[-_]diffusion (?![|-])([^\n#]+)", re.MULTILINE)
TRAINED = re.compile(r"training/train\.py ([^\n#]+)")


def typed(pattern: re.Pattern[str], text: str) -> Iterator[list[str]]:
    """Arguments of the commands in a text; lines that end in a backslash go on."""
    code = "\n".join(block or line for block, line in CODE.findall(text))
    for found in pattern.finditer(re.sub(r"\\\n\s*", " ", code)):
        yield shlex.split(found[1].replace("…", ""))


def unknown(words: list[str]) -> list[str]:
    """What a command line names that does not exist."""
    command: click.Command = commands
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, *words = words
        if name not in command.commands:
            return [name]
        command = command.commands[name]
    options = {option for parameter in command.params for option in parameter.opts} | {"--help", "--debug"}
    return [word for word in asked(words) if word not in options]


def asked(words: list[str]) -> list[str]:
    return [word.split("=")[0].rstrip(",.;:)") for word in words if re.match(r"--\w", word)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_exist(page: Path) -> None:
    text, settings = page.read_text(encoding="utf-8"), {f"--{one.name}" for one in fields(TrainingConfig)}
    wrong = [[*words, *missing] for words in typed(TYPED, text) if words and (missing := unknown(list(words)))]
    wrong += [
        missing for words in typed(TRAINED, text) if (missing := sorted({*asked(words)} - settings - {"--config"}))
    ]
    assert not wrong


def test_a_wrong_option_would_be_found() -> None:
    (line,) = typed(TYPED, "Type `medmnist-diffusion study loss DATA --rate`.")
    assert unknown(line) == ["--rate"]
