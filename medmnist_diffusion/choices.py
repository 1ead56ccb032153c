"""What a command line offers to choose from. Light: reading an option must not wait for torch.

Where the choices are keys of a table elsewhere, tests hold the two against each other.
"""

from typing import Literal

OPEN_LICENSES = {"CC BY 4.0": "cc-by-4.0", "CC BY-NC 4.0": "cc-by-nc-4.0", "CC0 1.0": "cc0-1.0"}  # name → the Hub's id
INCEPTION_DIMENSIONS = (64, 192, 768, 2048)
SELECTIONS = ("confident", "in-distribution", "not-memorized", "diverse")
LOSS_PARTS = ("losses", "waterfall", "parameters", "robustness")
Format = Literal["folder", "npz", "parquet"]
