"""The page in a real browser: the same seed makes the image that Python makes; every control, by mouse, key and on a phone."""

import contextlib
import functools
import http.server
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from medmnist_diffusion.app.page import RUNTIME, VERSION, _write, page_content, write_page
from medmnist_diffusion.diffusion.samplers import DEFAULT_SAMPLER
from medmnist_diffusion.diffusion.sampling import load_pipeline, set_sampler
from medmnist_diffusion.publish.onnx_export import description
from medmnist_diffusion.shipped import pipeline_folder
from tests.app.browser import needs_browser, watched_page
from tests.conftest import ROOT, CliError
from tests.pipelines.test_kinds import FINDINGS, made

NPM_FILE = ROOT / "build" / f"{RUNTIME}-{VERSION}.tgz"
needs_runtime = pytest.mark.skipif(
    not NPM_FILE.is_file(), reason=f"needs {RUNTIME} {VERSION} (npm pack --pack-destination build {RUNTIME}@{VERSION})"
)


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The page of a shipped pipeline, served as a static Space would."""
    folder = write_page("pneumoniamnist-28", tmp_path_factory.mktemp("page") / "page", NPM_FILE)
    with served_folder(folder) as url:
        yield url


@contextlib.contextmanager
def served_folder(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()


@pytest.fixture
def page(browser: Browser, address: str) -> Iterator[Page]:
    with watched_page(browser, address) as tab:
        expect(tab.locator("body[data-ready]")).to_be_attached()
        yield tab


def colours_of(tab: Page, index: int) -> np.ndarray:
    """Red, green and blue H×W×3 of a canvas."""
    height, width, flat = (
        tab.locator("#images canvas")
        .nth(index)
        .evaluate(
            "c => [c.height, c.width, Array.from(c.getContext('2d').getImageData(0, 0, c.width, c.height).data)]"
        )
    )
    return np.array(flat, np.int16).reshape(height, width, 4)[..., :3]


def pixels_of(tab: Page, index: int) -> np.ndarray:
    """Grey levels H×W of a canvas."""
    return colours_of(tab, index)[..., 0]


def make(tab: Page, count: int, seed: int, label: str | None = None, guidance: str | None = None) -> None:
    tab.fill("#count", str(count))
    tab.fill("#seed", str(seed))
    if label:
        tab.get_by_label(label, exact=True).check()
    if guidance:
        tab.fill("#guidance", guidance)
    tab.click("#make")
    expect(tab.locator("#status")).to_contain_text(" s. Press one", timeout=120_000)


@needs_browser
@needs_runtime
@pytest.mark.parametrize("guidance", [1.0, 1.5])
def test_the_same_seed_makes_the_same_image_as_python(page: Page, guidance: float) -> None:
    make(page, 5, 4294967294, "pneumonia", str(guidance))  # 2³² − 2, and over the end to 0
    pipe: Any = load_pipeline("pneumoniamnist-28")
    seeds = [4294967294, 4294967295, 0, 1, 2]
    wanted = pipe(
        ["pneumonia"] * 5,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        timesteps=pipe.fast_timesteps(10),
        guidance_scale=guidance,
    ).images
    for index, image in enumerate(wanted):
        assert np.abs(pixels_of(page, index) - np.asarray(image, np.int16)).max() <= 2
    code = page.locator("#again pre").text_content()
    names: dict[str, Any] = {}
    exec(code, names)  # what the page tells the reader to run
    assert [
        np.abs(np.asarray(a, int) - np.asarray(b, int)).max() for a, b in zip(names["images"], wanted, strict=True)
    ] == [0] * 5


def as_in_python(pipe: Any, labels: list[Any], seeds: list[int]) -> np.ndarray:
    """Grey levels N×H×W×C, of volumes N×D×H×W×C."""
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    return pipe(labels, generator=generators, timesteps=pipe.fast_timesteps(10), output_type="np").images * 255


@needs_browser
@needs_runtime
@pytest.mark.parametrize("kind", ["colours", "volumes", "several labels"])
def test_other_kinds_of_images(kind: str, browser: Browser, tmp_path: Path) -> None:
    """Networks without training: what the page shows is what Python makes, in all channels, slices and labels."""
    shape = (1, 8, 16, 16) if kind == "volumes" else (3, 16, 16) if kind == "colours" else (1, 16, 16)
    pipe = made(shape, multi_label=kind == "several labels")
    set_sampler(pipe, DEFAULT_SAMPLER)
    _write(pipe, page_content(pipeline_folder("phantom-28"), pipe), tmp_path / "page", NPM_FILE)
    with served_folder(tmp_path / "page") as address, watched_page(browser, address) as tab:
        expect(tab.locator("body[data-ready]")).to_be_attached()
        for name in FINDINGS.values():
            if kind == "several labels" and name != "mass":
                tab.get_by_label(name, exact=True).check()
        make(tab, 2, 5)
        if kind == "several labels":
            wanted = as_in_python(pipe, [["effusion", "nodule"]] * 2, [5, 6])
            expect(tab.locator("#images button").first).to_contain_text("effusion + nodule, seed 5")
        else:
            wanted = as_in_python(pipe, ["effusion", "mass"], [5, 6])
        if kind == "volumes":
            tab.locator("#slice").fill("3")
            expect(tab.locator("#slice_number")).to_have_text("3")
            wanted = wanted[:, 3]
        for index in range(2):
            assert np.abs(colours_of(tab, index) - wanted[index]).max() <= 2.5
        with tab.expect_download() as download:
            tab.locator("#images button").nth(1).click()
        sides = (3 * 16, 3 * 16) if kind == "volumes" else (16, 16)  # eight slices in rows of three
        assert Image.open(download.value.path()).size == sides


@needs_browser
@needs_runtime
def test_by_key_and_saved(page: Page) -> None:
    page.locator("input[name=label]").first.focus()
    page.keyboard.press("ArrowDown")  # the first class
    page.locator("#count").focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("3")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_contain_text("3 images in", timeout=120_000)
    expect(page.locator("#images button")).to_have_count(3)
    expect(page.locator("#images button").first).to_contain_text("normal, seed 0")
    page.locator("#images button").nth(1).focus()
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == "pneumoniamnist-28-normal-1.png"
    saved = np.asarray(Image.open(download.value.path()).convert("L"), np.int16)
    np.testing.assert_array_equal(saved, pixels_of(page, 1))
    with page.expect_download() as download:
        page.click("#save")
    assert Image.open(download.value.path()).size == (56, 56)
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


@needs_browser
@needs_runtime
def test_stopped_and_made_again(page: Page) -> None:
    page.fill("#count", "64")
    page.click("#make")
    page.click("#stop")
    expect(page.locator("#status")).to_have_text("Stopped.")
    make(page, 2, 0)
    expect(page.locator("#images button").nth(1)).to_contain_text("pneumonia, seed 1")  # each class in turn


@needs_browser
@needs_runtime
def test_numbers_out_of_range_are_refused_by_the_browser(page: Page) -> None:
    for name, value in (("count", "65"), ("count", "0"), ("seed", "-1"), ("guidance", "0.5")):
        page.fill(f"#{name}", value)
        page.click("#make")
        assert not page.locator(f"#{name}").evaluate("input => input.validity.valid")
        expect(page.locator("#images button")).to_have_count(0)
        page.fill(f"#{name}", "1")


@needs_runtime
def test_the_folder_is_small_and_whole(tmp_path: Path) -> None:
    folder = write_page("phantom-28", tmp_path / "page", NPM_FILE)
    without_runtime = sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
    assert without_runtime < 8e6
    assert (folder / "README.md").read_text().startswith("---\ntitle: ")
    assert "sdk: static" in (folder / "README.md").read_text()
    write_page("phantom-28", folder, NPM_FILE)  # over itself


@needs_browser
@needs_runtime
def test_a_page_that_should_not_be_published_says_so(browser: Browser, trained_run: Path, tmp_path: Path) -> None:
    """A run that nobody evaluated, on data whose licence nobody knows."""
    folder = write_page(trained_run / "pipeline", tmp_path / "page", NPM_FILE)
    page = json.loads((folder / "page.json").read_text())
    assert (page["name"], page["load"]) == ("small-pipeline", "path/to/small/pipeline")
    with served_folder(folder) as address, watched_page(browser, address) as tab:
        for words in ("Not to be published", "was not evaluated", "'unknown'"):
            expect(tab.locator("#warning")).to_contain_text(words)
        expect(tab.locator(".notice")).not_to_contain_text("no pictures of patients")


def test_only_a_page_is_written_over(tmp_path: Path, cli_error: CliError) -> None:
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "README.md").write_text("mine")
    (folder / "index.html").write_text("mine")
    assert "is no page that was written before" in cli_error("page", "phantom-28", "--output", str(folder))
    assert (folder / "index.html").read_text() == "mine"


def test_volumes_and_several_labels_are_described(tmp_path: Path) -> None:
    for pipe in (made((1, 8, 16, 16)), made(multi_label=True)):
        known = description(pipe)
        assert json.loads(json.dumps(known)) == known
        assert known["multi_label"] == pipe.multi_label
        assert np.prod(known["encoded_shape"]) == np.prod(known["image_shape"])


def test_figures_are_those_of_the_card() -> None:
    page = page_content(pipeline_folder("pneumoniamnist-28"), load_pipeline("pneumoniamnist-28"))
    assert any("No sign" in line for line in page["figures"])
    assert len(page["weights"]) == len(page["timesteps"]) == 10
    assert all(len(row) == step + 2 for step, row in enumerate(page["weights"]))


def test_mistakes(tmp_path: Path, cli_error: CliError, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "other.tgz").write_bytes(b"something else")
    (tmp_path / "mine" / "page.json").write_text("{}")
    (tmp_path / "mine" / "thesis.txt").write_text("mine")
    assert "holds more than that" in cli_error("page", "phantom-28", "--output", str(tmp_path / "mine"))
    output = str(tmp_path / "page")
    assert "its hash is another" in cli_error(
        "page", "phantom-28", "--output", output, "--runtime", str(tmp_path / "other.tgz")
    )
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "npm is not installed here" in cli_error("page", "phantom-28", "--output", output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "other.tgz"]
    assert (tmp_path / "mine" / "thesis.txt").is_file()
