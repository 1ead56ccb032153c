"""What every study's report is made of: a template beside the study, Markdown tables, and figures with their spread."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined


def render(template: Path, **content: Any) -> str:
    """A Markdown template with its content; lines that only hold a statement leave no trace."""
    environment = Environment(
        loader=FileSystemLoader(template.parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False,  # noqa: S701 (Markdown, made HTML by markdown-it, which escapes)
    )  # fmt: skip
    environment.filters["table"] = lambda rows, head: markdown_table(head, rows)
    return environment.get_template(template.name).render(content)


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
