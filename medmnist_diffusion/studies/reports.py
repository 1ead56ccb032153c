"""What reports are made of: a template beside the study, Markdown tables, figures with their spread, plots, a web page."""

import base64
import contextlib
import mimetypes
import re
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from matplotlib import pyplot as plt

from medmnist_diffusion.files import write_json, write_text
from medmnist_diffusion.publish.plots import save_figure

DPI = 80  # of plots
PAGE = Path(__file__).with_name("report.html.j2")


def write_results(folder: Path, results: dict[str, Any], template: Path, content: dict[str, Any], title: str) -> None:
    """Write results.json; report.md, the template with its content; and the same as report.html."""
    write_json(folder / "results.json", results)
    text = render(template, **content)
    write_text(folder / "report.md", text)
    write_text(folder / "report.html", as_html(text, folder, title))


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


@contextlib.contextmanager
def panels(
    path: Path, titles: Sequence[str], size: tuple[float, float], columns: int = 2, **options: Any
) -> Iterator[list[Any]]:
    """Matplotlib axes, one for each title, that are written as a PNG when they are drawn.

    Args:
        size: of each panel, inches.
        columns: panels a row; two are readable on a phone.
        options: of plt.subplots.
    """
    rows, columns = -(-len(titles) // columns), min(columns, len(titles))
    figure, axes = plt.subplots(
        rows, columns, figsize=(size[0] * columns, size[1] * rows), squeeze=False, constrained_layout=True, **options
    )
    for axis in axes.flat[len(titles) :]:
        axis.set_axis_off()
    for axis, title in zip(axes.flat, titles, strict=False):
        axis.set_title(title, fontsize=9)
        axis.grid(alpha=0.3)
    yield list(axes.flat[: len(titles)])
    save_figure(figure, path, DPI)


def as_html(text: str, folder: Path, title: str) -> str:
    """One file that needs no other: the Markdown's pictures stand in it, a list of its chapters follows the first answer, and its
    tables sort."""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(text)

    def inlined(match: re.Match[str]) -> str:
        path = folder / match[1]
        if Path(match[1]).name != match[1] or not path.is_file():  # none of ours: a name in the data may look like one
            return 'src="data:,"'
        kind = mimetypes.guess_type(path.name)[0]
        return f'src="data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"'

    body = re.sub(r'src="([^":]+\.png)"', inlined, body).replace("<p><img", '<p class="picture"><img')
    chapters = re.findall(r"<h2>(.*?)</h2>", body)
    numbers = iter(range(len(chapters)))
    body = re.sub(r"<h2>", lambda _: f'<h2 id="chapter-{next(numbers)}">', body)
    answer, chapter, rest = body.partition("<h2")  # first what stands before all chapters
    return render(PAGE, title=escape(title), answer=answer, chapters=chapters, rest=chapter + rest)
