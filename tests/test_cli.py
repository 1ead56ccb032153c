"""The command line as a stranger meets it: help, mistakes, and the demo from end to end."""

import pytest
from PIL import Image

from medmnist_diffusion import __version__, cli
from medmnist_diffusion.metrics import classifier
from medmnist_diffusion.metrics.records import Metrics


def test_help_names_every_command(capsys):
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in cli.COMMANDS)
    assert cli.main([]) == 0


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_explains_its_arguments(command, capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main([command, "--help"])
    assert stop.value.code == 0
    assert "usage:" in capsys.readouterr().out


def test_a_misspelt_command_gets_a_suggestion(cli_error):
    assert "Did you mean 'evaluate'?" in cli_error("evalute")


def test_demo_makes_all_it_names(tmp_path, capsys, monkeypatch):
    """Three seconds of training: the files and the summary, not the quality."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(classifier, "STEPS", 40)
    monkeypatch.setattr(classifier, "RECIPE", "short")
    assert cli.main(["demo", "--minutes", "0.05", "--output", "demo"]) == 0
    out = capsys.readouterr().out
    paths = [line.split()[-1] for line in out.splitlines() if line.startswith("  ") and " demo/" in line]
    assert len(paths) >= 7
    for path in paths:
        assert (tmp_path / path).exists(), path
    assert Image.open("demo/real_beside_generated.png").size[0] > 800
    metrics = Metrics.read(tmp_path / "demo" / "run" / "pipeline" / "metrics.json")
    assert metrics.dataset["synthetic"] is True
    assert "synthetic phantom" in out
    assert cli.main(["demo", "--output", "demo"]) == 2  # not overwritten
