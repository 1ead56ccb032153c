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
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3  # links to headings work as on GitHub
autodoc_typehints = "description"
autodoc_member_order = "bysource"

# Cards and reports lie outside of this folder, where they are made; each gets a page that shows it. Links to the files become
# links to the pages.
HERE = Path(__file__).parent
ROOT = HERE.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = {f"models/{name}": MODEL_CARDS / name / "README.md" for name in shipped_names()}
PAGES |= {f"reports/{study}": RESULTS / study / "pneumoniamnist" / "report.md" for study in ("augmentation", "loss")}
PAGES |= {"extending": ROOT / "CONTRIBUTING.md", "changes": ROOT / "CHANGELOG.md"}


def write_pages(_: Sphinx) -> None:
    for page, shown in PAGES.items():
        path = (HERE / page).with_suffix(".md")
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"```{{include}} {os.path.relpath(shown, path.parent)}\n:relative-images:\n```\n")


def link_to_pages(_: Sphinx, __: str, source: list[str]) -> None:
    def page(match: re.Match[str]) -> str:
        linked = (HERE / match[1]).resolve()
        found = [name for name, shown in PAGES.items() if linked in (shown, shown.parent)]
        return f"]({found[0]}.md)" if found else match[0]

    source[0] = re.sub(r"\]\((\.\./[^)#]*)\)", page, source[0])


def setup(app: Sphinx) -> None:
    app.connect("builder-inited", write_pages)
    app.connect("source-read", link_to_pages)
