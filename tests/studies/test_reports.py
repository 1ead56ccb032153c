"""The web page of a report, in a real browser: whole without its folder, a list of chapters, tables that sort, fit for a phone."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, expect

from medmnist_diffusion.studies.reports import as_html, markdown_table
from tests.app.browser import needs_browser, watched_page

TEXT = """# Does it *help*?

No evidence.

![A plot](plot.png)

## How to read <this> & that

{table}

## The numbers

More.
"""


def page_of(folder: Path) -> Path:
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save(folder / "plot.png")
    rows = [["b", "1,200 ± 3", "–"], ["a", "9.5 … 10", "2"], ["c", "-3", "1"], ["d", "10", "x"]]
    page = folder / "report.html"
    page.write_text(as_html(TEXT.format(table=markdown_table(["arm", "figure", "other"], rows)), folder, "A <title>"))
    (folder / "plot.png").unlink()
    return page


@needs_browser
@pytest.mark.parametrize("dark", [False, True])
def test_it_is_whole_sorts_and_fits_a_phone(browser: Browser, tmp_path: Path, dark: bool) -> None:
    with watched_page(browser, page_of(tmp_path).as_uri()) as page:
        page.emulate_media(color_scheme="dark" if dark else "light")
        assert page.title() == "A <title>"
        assert page.locator("img").evaluate("image => image.naturalWidth") == 60
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        links = page.locator("nav a")
        assert links.all_text_contents() == ["How to read <this> & that", "The numbers"]
        links.nth(1).click()
        expect(page.locator("h2:target")).to_have_text("The numbers")
        background = page.evaluate("getComputedStyle(document.documentElement).colorScheme")
        assert background == "light dark"

        def column(at: int) -> list[str]:
            return page.locator(f"tbody tr td:nth-child({at})").all_text_contents()

        page.get_by_role("button", name="figure").focus()
        page.keyboard.press("Enter")
        assert column(2) == ["-3", "9.5 … 10", "10", "1,200 ± 3"]
        page.get_by_role("button", name="figure").click()
        assert column(1) == ["b", "d", "a", "c"]
        page.get_by_role("button", name="other").click()
        assert column(3)[:2] == ["1", "2"]
        page.get_by_role("button", name="arm").click()
        assert column(1) == ["a", "b", "c", "d"]


def test_without_chapters_there_is_no_list(tmp_path: Path) -> None:
    page = as_html("# Nothing ran\n\nThe budget was too small.\n", tmp_path, "x")
    assert "<nav" not in page
    assert "The budget was too small." in page
