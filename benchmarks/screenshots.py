"""The pictures of docs/images that show pages: app, a page without a server, documentation, a report; as they are now.

    make docs runtime && python benchmarks/screenshots.py

Needs Chromium, and a font with emoji (Debian: apt install chromium fonts-noto-color-emoji). PneumoniaMNIST from MEDMNIST_ROOT.
"""

import argparse
import contextlib
import functools
import http.server
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import Page, sync_playwright

from medmnist_diffusion.app.page import RUNTIME, VERSION, write_page
from medmnist_diffusion.errors import run_command
from medmnist_diffusion.files import atomic_file

ROOT = Path(__file__).parent.parent
IMAGES, REPORT = ROOT / "docs" / "images", ROOT / "benchmarks" / "results" / "augmentation" / "pneumoniamnist"
MOST_MS = 120_000
PHONE, SCREEN = {"width": 390, "height": 844}, {"width": 1000, "height": 1500}


@contextlib.contextmanager
def app() -> Iterator[str]:
    """The address of the page of `medmnist-diffusion app`, with the data beside it."""
    command = [sys.executable, "-m", "medmnist_diffusion.cli", "app", "pneumoniamnist-28", "--no_browser"]
    with tempfile.TemporaryDirectory() as folder, subprocess.Popen(
        [*command, "--dataset", "pneumoniamnist"], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:  # fmt: skip
        try:
            assert process.stdout
            yield next(
                found[1] for line in process.stdout if (found := re.search(r"The page is at (http://\S+/)", line))
            )
        finally:
            process.terminate()


@contextlib.contextmanager
def files(folder: Path) -> Iterator[str]:
    """The address of a server of a folder's files."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


def keep(page: Page, name: str) -> None:
    """A PNG of 256 colours under docs/images."""
    with tempfile.TemporaryDirectory() as folder:
        page.screenshot(path=Path(folder) / "shot.png")
        with Image.open(Path(folder) / "shot.png") as shot, atomic_file(IMAGES / f"{name}.png") as temporary:
            shot.convert("RGB").quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
                temporary, optimize=True
            )


def show_app(browser: Any) -> None:
    for name, size, scheme in (("app", SCREEN, "light"), ("app_phone", PHONE, "dark")):
        with app() as address:
            page = browser.new_page(viewport=size, color_scheme=scheme)
            page.goto(address)
            page.get_by_label("pneumonia", exact=True).first.wait_for(timeout=MOST_MS)
            page.locator("#make").click()
            page.locator("#made-pairs img").nth(7).wait_for(timeout=MOST_MS)
            page.wait_for_timeout(1000)
            keep(page, name)
            if name == "app":
                page.get_by_role("tab", name="How good?").click()
                page.locator("#ratios img").wait_for(timeout=MOST_MS)
                page.wait_for_timeout(1000)
                keep(page, "app_figures")


def show_static_page(browser: Any) -> None:
    with tempfile.TemporaryDirectory() as folder:
        npm_file = ROOT / "build" / f"{RUNTIME}-{VERSION}.tgz"
        written = write_page("pneumoniamnist-28", Path(folder) / "xrays", npm_file)
        with files(written) as address:
            page = browser.new_page(viewport=PHONE, device_scale_factor=1.5)
            page.goto(address)
            page.click("#make")
            page.locator("#save").wait_for(timeout=MOST_MS)
            keep(page, "page")


def show_docs_and_report(browser: Any) -> None:
    for name, folder, inside in (("docs", ROOT / "build" / "docs", "index.html"), ("report", REPORT, "report.html")):
        with files(folder) as address:
            page = browser.new_page(viewport={"width": 1100, "height": 1000})
            page.goto(address + inside)
            page.wait_for_timeout(1000)
            keep(page, name)


def main(argv: Sequence[str]) -> None:
    argparse.ArgumentParser(description=__doc__.split("\n", 1)[0]).parse_args(argv)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path="/usr/bin/chromium", args=["--no-sandbox", "--disable-gpu"]
        )
        show_app(browser)
        show_static_page(browser)
        show_docs_and_report(browser)


if __name__ == "__main__":
    sys.exit(run_command(main))
