"""The command line as a stranger meets it: help, mistakes, and the demo from end to end."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from PIL import Image

from medmnist_diffusion import __version__, choices, cli
from medmnist_diffusion.artifacts import Metrics
from medmnist_diffusion.metrics.inception import INCEPTION_DIMENSIONS
from medmnist_diffusion.metrics.selection import SELECTIONS
from medmnist_diffusion.options import one_value_each

Capture = pytest.CaptureFixture[str]
HEAVY = ("torch", "diffusers", "transformers", "datasets", "matplotlib", "scipy")  # what a help text must not wait for


def paths_of(group: click.Group, *above: str) -> list[tuple[str, ...]]:
    """Every command with the words that call it."""
    found: list[tuple[str, ...]] = []
    for name, command in group.commands.items():
        found += paths_of(command, *above, name) if isinstance(command, click.Group) else [(*above, name)]
    return found


COMMANDS = paths_of(cli.commands)


def test_help_names_every_command(capsys: Capture) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in cli.commands.commands)
    assert cli.main([]) == 0
    assert "Research only" in capsys.readouterr().out


def test_version(capsys: Capture) -> None:
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_its_arguments(command: tuple[str, ...], capsys: Capture) -> None:
    assert cli.main([*command, "--help"]) == 0
    out = capsys.readouterr().out
    assert "Usage:" in out
    assert "--help" in out


def test_help_and_mistakes_wait_for_no_heavy_package() -> None:
    """In one clean process: every help, and a wrong option and a wrong value of the command with the most of them."""
    asked = [[*command, "--help"] for command in COMMANDS]
    asked += [["train", "--nonsense"], ["train", "--dataset", "x", "--output_dir", "y", "--learning_rate", "-1"]]
    program = (
        "import sys\nfrom medmnist_diffusion import cli\n"
        f"codes = [cli.main(arguments) for arguments in {asked!r}]\n"
        f"print('codes', codes, 'heavy', [name for name in {HEAVY!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    expected = [0] * len(COMMANDS) + [2, 2]
    assert done.stdout.splitlines()[-1] == f"codes {expected} heavy []", done.stderr


def test_a_misspelt_command_gets_a_suggestion(cli_error: Callable[..., str]) -> None:
    assert "Did you mean 'evaluate'?" in cli_error("evalute")
    assert "Did you mean 'loss'?" in cli_error("study", "los", "phantom")


def test_a_misspelt_option_gets_a_suggestion(cli_error: Callable[..., str]) -> None:
    assert "'--num_per_class'?" in cli_error("sample", "x", "--num_per_clas", "3").replace(")", "")
    assert "See medmnist-diffusion sample --help." in cli_error("sample", "x", "--num_per_clas", "3")


def test_several_values_follow_one_option() -> None:
    written = one_value_each(["x", "--shares", "0.05", "-1", "--seed", "3", "--shares", "1"], {"--shares"})
    assert written == ["x", "--shares", "0.05", "--shares", "-1", "--seed", "3", "--shares", "1"]
    assert one_value_each(["--features", "--seed", "3"], {"--features"}) == ["--features", "", "--seed", "3"]


def test_what_can_be_chosen_is_what_there_is() -> None:
    assert tuple(SELECTIONS) == choices.SELECTIONS
    assert tuple(INCEPTION_DIMENSIONS) == choices.INCEPTION_DIMENSIONS


def test_demo_makes_all_it_names_and_ends_with_a_verdict(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three seconds of training: the files and the words, not the quality."""
    monkeypatch.chdir(tmp_path)
    assert cli.main(["demo", "--minutes", "0.05", "--output", "demo"]) == 0
    last = capsys.readouterr().out.split("Done, on the synthetic phantom set")[1]
    assert len(last.splitlines()) <= 12
    for question in ("Are the images realistic?", "Do they show their class?", "Are they copies of training images?"):
        assert question in last
    for path in ("demo/real_beside_generated.png", "demo/run/pipeline/README.md"):
        assert path in last
        assert (tmp_path / path).is_file()
    for path in ("demo/audit.json", "demo/samples.npz", "demo/run/loss.png"):
        assert (tmp_path / path).is_file()
    assert Image.open("demo/real_beside_generated.png").size[0] > 800
    metrics = Metrics.read(tmp_path / "demo" / "run" / "pipeline" / "metrics.json")
    assert metrics.dataset["synthetic"] is True
    assert cli.main(["demo", "--output", "demo"]) == 2  # not overwritten
