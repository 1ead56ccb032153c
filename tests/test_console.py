"""What the library says is shown by commands alone: a program that trains a generator within a study keeps its own logging."""

import io
import logging

from medmnist_diffusion.console import PACKAGE, messages_in


def test_messages_go_to_the_file_and_logging_is_as_before() -> None:
    logger, file = logging.getLogger(PACKAGE), io.StringIO()
    before = logger.handlers[:], logger.level, logger.propagate
    with messages_in(file):
        logger.getChild("training").info("step 20")
        print("saved")
    assert file.getvalue() == "step 20\nsaved\n"
    assert (logger.handlers[:], logger.level, logger.propagate) == before
