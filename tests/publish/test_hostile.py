"""Files of a pipeline folder of which no card can be made."""

from pathlib import Path

import pytest

from tests.conftest import CliError
from tests.pipeline_folders import sampling, without_manifest


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("training_config.yaml", "{"),
        ("training_config.yaml", "seed: 1"),
        ("metrics.json", '{"metrics": []}'),
    ],
    ids=["broken", "incomplete", "other figures"],
)
def test_no_card_of_odd_files(name: str, text: str, pipeline: Path, cli_error: CliError) -> None:
    before = (without_manifest(pipeline) / "README.md").read_text()
    (pipeline / name).write_text(text)
    assert name in cli_error("card", str(pipeline)) or "no card can be made" in cli_error("card", str(pipeline))
    assert (pipeline / "README.md").read_text() == before


@pytest.mark.parametrize("text", ["{}", "[]", '{"a": ' * 5000])
def test_a_summary_that_says_nothing(text: str, pipeline: Path, cli_error: CliError) -> None:
    (without_manifest(pipeline) / "training_summary.json").write_text(text)
    assert "no training summary" in cli_error("card", str(pipeline))
    assert "no training summary" in cli_error("publish", str(pipeline), "a/b", "--dry_run")
    assert "training_summary.json" in cli_error(*sampling(pipeline))
