"""A real browser for the tests: Debian's Chromium, driven by Playwright. What its console complains of fails a test."""

import os
import re
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from tests.conftest import CHROMIUM

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt install chromium)")
MOST_SECONDS = 180.0  # until a program says where its page is
OWN = ("data:", "blob:")  # beside the page's own address nothing may be asked for


@contextmanager
def watched_page(browser: Browser, address: str, width: int = 375) -> Iterator[Page]:
    """A new tab, by default as wide as a phone; at its end neither errors nor requests to elsewhere must have been seen."""
    tab, complaints = browser.new_page(viewport={"width": width, "height": 800}), []
    own = (*OWN, address, address.replace("http", "ws", 1))
    tab.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("request", lambda request: None if request.url.startswith(own) else complaints.append(request.url))
    tab.goto(address)
    yield tab
    tab.close()
    assert not complaints, complaints


@contextmanager
def served(command: Sequence[str], folder: Path, **environment: str) -> Iterator[str]:
    """A program that shows the page, started in a folder; its address."""
    with subprocess.Popen(
        command,
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        watch = threading.Timer(MOST_SECONDS, process.kill)  # one that says nothing would be waited for
        watch.start()
        try:
            yield _address(process.stdout, watch)
        finally:
            watch.cancel()
            process.terminate()


def _address(lines: Any, watch: threading.Timer) -> str:
    said = []
    for line in lines:
        said.append(line)
        if found := re.search(r"The page is at (http://\S+:\d+/)", line):
            watch.cancel()
            return found[1]
    raise AssertionError("".join(said))
