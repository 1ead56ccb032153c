"""The argument parser of every command: argparse's, which also says what a misspelt option was probably meant to be."""

import argparse
import difflib
import re
from typing import NoReturn


class CommandParser(argparse.ArgumentParser):
    """As argparse.ArgumentParser, with the nearest option after the name of an unknown one."""

    def error(self, message: str) -> NoReturn:
        known = [option for action in self._actions for option in action.option_strings]
        unknown = re.findall(r"--[\w-]+", message) if message.startswith("unrecognized arguments") else []
        nearest = [near[0] for option in unknown if (near := difflib.get_close_matches(option, known, 1))]
        super().error(message + (f". Did you mean {', '.join(nearest)}?" if nearest else ""))
