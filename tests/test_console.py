"""What the library says is shown by commands alone: a program that trains a generator within a study keeps its own logging."""

import io
import logging

import pytest

from medmnist_diffusion import cli
from medmnist_diffusion.console import PACKAGE, messages_in


def test_messages_go_to_the_file_and_logging_is_as_before() -> None:
    logger, file = logging.getLogger(PACKAGE), io.StringIO()
    before = logger.handlers[:], logger.level, logger.propagate
    with messages_in(file):
        logger.getChild("training").info("step 20")
        print("saved")
    assert file.getvalue() == "step 20\nsaved\n"
    assert (logger.handlers[:], logger.level, logger.propagate) == before


def test_a_command_leaves_the_logging_of_the_program_that_calls_it(capsys: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger(f"{PACKAGE}.anything")
    before = logger.parent.handlers[:], logger.isEnabledFor(logging.INFO)
    assert cli.main(["audit", "phantom"]) == 0
    assert capsys.readouterr().out
    assert (logger.parent.handlers[:], logger.isEnabledFor(logging.INFO)) == before
    logger.info("nobody asked for this")
    assert "nobody" not in capsys.readouterr().out
