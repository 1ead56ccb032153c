"""How `make docs` builds the site: Markdown by MyST, furo's theme, commands from click, the API from docstrings. No network."""

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

from medmnist_diffusion import __version__
from medmnist_diffusion.shipped import MODEL_CARDS, shipped_names

project, author, release = "medmnist-diffusion", "the medmnist-diffusion authors", __version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_click"]
html_theme, html_title = "furo", f"medmnist-diffusion {__version__}"
myst_heading_anchors = 3  # links to headings work as on GitHub
autodoc_typehints = "description"
autodoc_member_order = "bysource"

# What lies outside of this folder, where it is made or where GitHub looks for it, is shown on a page of its own.
HERE = Path(__file__).parent
ROOT = HERE.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = {f"models/{name}": MODEL_CARDS / name / "README.md" for name in shipped_names()}
PAGES |= {f"reports/{study}": RESULTS / study / "pneumoniamnist" / "report.md" for study in ("augmentation", "loss")}
PAGES |= {"examples": ROOT / "examples" / "README.md", "space": ROOT / "examples" / "space" / "README.md"}
PAGES |= {"extending": ROOT / "CONTRIBUTING.md", "changes": ROOT / "CHANGELOG.md", "security": ROOT / "SECURITY.md"}
LINK = re.compile(r"\]\((?!\w+:|#)([^)#]+)")  # to a file


def write_pages(_: Sphinx) -> None:
    for page, shown in PAGES.items():
        path = (HERE / page).with_suffix(".md")
        path.parent.mkdir(exist_ok=True)
        path.write_text(with_links(shown.read_text(encoding="utf-8"), shown.parent, path.parent), encoding="utf-8")


def link_to_pages(_: Sphinx, page: str, source: list[str]) -> None:
    folder = (HERE / page).parent
    source[0] = with_links(source[0], folder, folder)


def with_links(text: str, was_in: Path, is_in: Path) -> str:
    """The text with its links to files as they are from its new folder; those to a file that has a page lead to the page."""

    def link(match: re.Match[str]) -> str:
        linked = Path(os.path.normpath(was_in / match[1]))
        page = next((HERE / f"{name}.md" for name, shown in PAGES.items() if linked in (shown, shown.parent)), linked)
        return "](" + os.path.relpath(page, is_in)

    return LINK.sub(link, text)


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", write_pages)
    app.connect("source-read", link_to_pages)
