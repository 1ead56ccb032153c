"""What every study's report is made of: Markdown tables, and figures with their spread."""

from collections.abc import Sequence

import numpy as np


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; a bar within a cell becomes a slash."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |" for line in lines)


def short(value: float, digits: int = 3) -> str:
    """A few digits, and no exponent for what a reader would write out."""
    return f"{value:.0f}" if 100 <= abs(value) < 1e6 else f"{value:.{digits}g}"


def mean_and_spread(values: Sequence[float]) -> str:
    """`mean ± standard deviation` of a few seeds."""
    if len(values) == 0:
        return "–"
    if len(values) == 1:
        return short(values[0])
    return f"{short(float(np.mean(values)))} ± {short(float(np.std(values, ddof=1)), 2)}"
