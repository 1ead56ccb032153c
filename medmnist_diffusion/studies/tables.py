"""What every study's report is made of: Markdown tables, and figures with their spread."""

from collections.abc import Sequence

import numpy as np


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a bar within a cell becomes a slash."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def mean_and_spread(values: Sequence[float]) -> str:
    """`mean ± standard deviation` of a few seeds."""
    if len(values) == 0:
        return "–"
    if len(values) == 1:
        return f"{values[0]:.3g}"
    return f"{np.mean(values):.3g} ± {np.std(values, ddof=1):.2g}"
