"""A real browser for the tests: Debian's Chromium, driven by Playwright. What its console complains of fails a test."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, Page

from tests.conftest import CHROMIUM

needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs chromium (Debian: apt install chromium)")
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
