"""The page of `medmnist-diffusion app` in a real browser: every control, by key, on a phone, and what it says of mistakes."""

import io
import json
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, expect

from medmnist_diffusion import cli
from medmnist_diffusion.app import interface
from medmnist_diffusion.app.start import PRIVATE
from medmnist_diffusion.app.workbench import Workbench, saved, workbenches
from medmnist_diffusion.data import load_dataset, phantom
from medmnist_diffusion.data.npz import write_npz
from medmnist_diffusion.data.sources import DataSource
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.shipped import pipeline_folder
from tests.app.browser import needs_browser, served, watched_page
from tests.conftest import CliError, small_training

SLOW_MS = 120_000  # a test machine is a busy one


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The command as a user starts it, and the folder that it was started in."""
    folder = tmp_path_factory.mktemp("app")
    counts = {"train": 40, "val": 20, "test": 20}
    write_npz(folder / "findings.npz", phantom.make_phantom(form="multi-label", counts=counts))
    about = {"label": {str(label): name for label, name in phantom.FINDINGS.items()}, "task": "multi-label"}
    (folder / "findings.json").write_text(json.dumps(about))
    arguments = small_training(folder / "findings.npz", folder / "findings")
    assert cli.main(["train", *arguments, "--max_train_steps", "2"]) == 0
    pipelines = ["phantom-28", "pbc-blood-28", "adrenalmnist3d-28", "findings/pipeline"]
    command = [sys.executable, "-m", "medmnist_diffusion.cli", "app", *pipelines]
    with served([*command, "--dataset", "phantom", "--no_browser"], folder) as address:
        assert address.startswith("http://127.0.0.1:")
        yield address, folder


@pytest.fixture
def page(browser: Browser, started: tuple[str, Path]) -> Iterator[Page]:
    with watched_page(browser, started[0]) as tab:
        expect(tab.get_by_label("clear lungs", exact=True).first).to_be_visible(timeout=SLOW_MS)
        yield tab


def tab_of(page: Page, name: str) -> None:
    """Gradio puts tabs that do not fit a phone's width behind a button."""
    tab = page.get_by_role("tab", name=name)
    if not tab.is_visible():
        page.locator(".overflow-menu > button").click()
        page.locator(".overflow-dropdown button", has_text=name).click()
    else:
        tab.click()


@needs_browser
def test_images_are_made_beside_their_nearest_and_saved(page: Page) -> None:
    page.locator("#count input").fill("2")
    page.locator("#seed input").fill("3")
    page.locator("#make").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#made img")).to_have_count(8, timeout=SLOW_MS)
    expect(page.locator("#made-likeness")).to_contain_text("of 8 count as copies")
    expect(page.locator("#made-pairs img")).to_have_count(8)
    with page.expect_download() as download:
        page.locator("#made-npz").click()
    with zipfile.ZipFile(download.value.path()) as both:
        arrays = np.load(io.BytesIO(both.read("images.npz")))
        record = json.loads(both.read("images.json"))
    assert record["synthetic"] is True
    assert record["id2label"]["1"] == "focal opacity"
    assert arrays["train_images"].shape == (8, 28, 28)
    assert arrays["train_labels"].ravel().tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    with page.expect_download() as download:
        page.locator("#made-png").click()
    assert min(Image.open(io.BytesIO(Path(download.value.path()).read_bytes())).size) > 28
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")


def made_arrays(page: Page, places: str = "made") -> np.ndarray:
    """The images that the page made, by its download."""
    with page.expect_download() as download:
        page.locator(f"#{places}-npz").click()
    with zipfile.ZipFile(download.value.path()) as both:
        return np.load(io.BytesIO(both.read("images.npz")))["train_images"]


def press(page: Page, button: str, places: str) -> None:
    """A button, and wait until other images are there than before."""
    first = page.locator(f"#{places} img").first
    before = first.get_attribute("src") if first.is_visible() else ""
    page.locator(f"#{button}").click()
    expect(first).not_to_have_attribute("src", str(before), timeout=SLOW_MS)


@needs_browser
def test_steps_and_guidance_change_the_images(page: Page) -> None:
    found: dict[tuple[int, int], list[np.ndarray]] = {}
    for steps, guidance in ((2, 1), (3, 1), (2, 3), (2, 1)):
        page.locator("#count input").fill("1")
        page.locator("#steps input").fill(str(steps))
        page.locator("#guidance input").fill(str(guidance))
        press(page, "make", "made")
        found.setdefault((steps, guidance), []).append(made_arrays(page))
    np.testing.assert_array_equal(found[2, 1][0], found[2, 1][1])
    assert not np.array_equal(found[2, 1][0], found[3, 1][0])
    assert not np.array_equal(found[2, 1][0], found[2, 3][0])


def choose(page: Page, pipeline: str, label: str) -> None:
    page.locator("#pipeline input").click()
    page.get_by_role("option", name=pipeline).click()
    expect(page.get_by_label(label, exact=True).first).to_be_visible(timeout=SLOW_MS)


@needs_browser
def test_a_volume_slice_by_slice(page: Page) -> None:
    choose(page, "adrenalmnist3d-28", "hyperplasia")
    page.get_by_label("hyperplasia", exact=True).first.uncheck()
    page.locator("#count input").fill("1")
    page.locator("#steps input").fill("2")
    page.locator("#make").click()
    shown = page.locator("#made img")
    expect(shown).to_have_count(1, timeout=SLOW_MS)
    before = shown.get_attribute("src")
    slice_number = page.locator("#slice input[type=number]")
    slice_number.fill("14")
    slice_number.press("Enter")
    expect(shown).not_to_have_attribute("src", str(before), timeout=SLOW_MS)
    assert made_arrays(page).shape == (1, 28, 28, 28)


@needs_browser
def test_several_labels_an_image(page: Page) -> None:
    choose(page, "findings/pipeline", "effusion")
    expect(page.get_by_text("Labels that every image shows, or none").first).to_be_visible(timeout=SLOW_MS)
    page.get_by_label("focal opacity", exact=True).first.check()
    page.get_by_label("effusion", exact=True).first.check()
    page.locator("#count input").fill("2")
    page.locator("#steps input").fill("1")
    page.locator("#make").click()
    expect(page.locator("#made img")).to_have_count(2, timeout=SLOW_MS)
    expect(page.locator("#made")).to_contain_text("focal opacity + effusion 2")


@needs_browser
def test_every_tab_fits_a_phone(page: Page) -> None:
    for name in ("Variants of an image", "How good?", "Real or generated?", "Make images"):
        tab_of(page, name)
        page.wait_for_timeout(500)
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), name


@needs_browser
def test_mistakes_are_sentences(page: Page) -> None:
    for name in ("clear lungs", "focal opacity", "diffuse opacities", "effusion"):
        page.get_by_label(name, exact=True).first.uncheck()
    page.locator("#make").click()
    expect(page.get_by_test_id("toast-body").first).to_contain_text("choose at least one class", timeout=SLOW_MS)
    page.locator("#count input").fill("")
    page.locator("#make").click()
    expect(page.get_by_test_id("toast-body").filter(has_text="a number is missing")).to_be_visible(timeout=SLOW_MS)


@needs_browser
def test_another_pipeline_is_chosen(page: Page) -> None:
    page.locator("#pipeline input").click()
    page.get_by_role("option", name="pbc-blood-28").click()
    expect(page.get_by_label("eosinophil", exact=True).first).to_be_visible(timeout=SLOW_MS)
    tab_of(page, "How good?")
    expect(page.locator("#answers")).to_contain_text(
        "Are they copies of training images? No sign of it.", timeout=SLOW_MS
    )
    expect(page.locator("#ratios img")).to_be_visible()


@needs_browser
def test_variants_of_an_image(page: Page, tmp_path: Path) -> None:
    image = load_dataset("phantom").splits["test"].images[:1][0]
    Image.fromarray(image[..., 0]).resize((90, 60)).save(tmp_path / "mine.png")
    (tmp_path / "broken.png").write_bytes(b"no picture")
    tab_of(page, "Variants of an image")
    page.locator("#given input[type=file]").set_input_files(tmp_path / "broken.png")
    expect(page.locator("#given")).to_contain_text("broken", timeout=SLOW_MS)
    page.locator("#vary").click()
    expect(page.get_by_test_id("toast-body").first).to_contain_text("is not a readable image", timeout=SLOW_MS)
    page.locator("#given button[aria-label*=emove], #given button[aria-label=Clear]").first.click()
    page.locator("#given input[type=file]").set_input_files(tmp_path / "mine.png")
    expect(page.locator("#given")).to_contain_text("mine", timeout=SLOW_MS)
    far = {}
    for strength in ("0.1", "1"):
        number = page.locator("#strength input[type=number]")
        number.fill(strength)
        number.press("Enter")
        press(page, "vary", "variants")
        expect(page.locator("#variants img")).to_have_count(8, timeout=SLOW_MS)
        expect(page.locator("#seen img")).to_be_visible()
        made = made_arrays(page, "variants").astype(float)
        far[strength] = np.abs(made - made.mean(0)).mean()  # variants differ the more, the more of them is noise
    assert far["0.1"] < far["1"]


def rated(path: Path) -> int:
    return int(json.loads(path.read_text())["rated"])


@needs_browser
def test_real_or_generated_by_key_is_stored(page: Page, started: tuple[str, Path]) -> None:
    tab_of(page, "Real or generated?")
    page.locator("#start").click()
    expect(page.locator("#rate img")).to_be_visible(timeout=SLOW_MS)
    folder = started[1] / "runs" / "app"
    for answers in (1, 2, 3):
        page.keyboard.press("g" if answers == 2 else "r")
        deadline = time.monotonic() + 60
        while not (stored := list(folder.glob("rating_phantom-28_*.json"))) or rated(stored[0]) < answers:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        expect(page.locator("#rated")).to_contain_text(f"{60 - answers} images are left", timeout=SLOW_MS)
    assert json.loads(stored[0].read_text())["said_real"] == [True, False, True]
    page.keyboard.press("Control+r")  # reloading is no answer
    expect(page.locator("#made")).to_be_attached(timeout=SLOW_MS)
    assert rated(stored[0]) == 3


def test_mistakes_of_the_command(cli_error: CliError, small_npz: Path, tmp_path: Path) -> None:
    assert "no pipeline folder" in cli_error("app", "nowhere")
    assert "none of these pipelines was trained on" in cli_error("app", "phantom-28", "--dataset", str(small_npz))
    assert "nowhere" in cli_error("app", "phantom-28", "--dataset", "nowhere")
    twice = [str(pipeline_folder("phantom-28")), "phantom-28"]
    assert "another pipeline is called phantom-28" in cli_error("app", *twice)


@needs_browser
def test_what_was_made_goes_with_the_page(browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended by SIGTERM it leaves nothing. What a killed page left, the next one removes; what a running one has, it does not."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    command = [sys.executable, "-m", "medmnist_diffusion.cli", "app", "phantom-28", "--no_browser"]
    killed = tmp_path / f"{PRIVATE}killed"
    killed.mkdir()
    (killed / "mine.png").touch()
    with served(command, tmp_path) as address:
        assert not killed.exists()
        with served(command, tmp_path):
            pass
        (private,) = tmp_path.glob(f"{PRIVATE}*")
        with watched_page(browser, address) as tab:
            expect(tab.get_by_label("clear lungs", exact=True).first).to_be_visible(timeout=SLOW_MS)
            tab.locator("#make").click()
            expect(tab.locator("#made img")).to_have_count(16, timeout=SLOW_MS)
            assert tab.evaluate("Object.keys(localStorage).filter((key) => /run|history/i.test(key))") == []
        assert list(private.glob("made-*/images.png"))
    assert not list(tmp_path.glob(f"{PRIVATE}*"))


def test_all_images_are_in_the_saved_picture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    bench = workbenches([Path("phantom-28")])["phantom-28"]
    made = bench.make(["effusion"], 13, 0, 2, 1.0)
    picture, zipped = saved(made)
    assert Image.open(picture).width >= 13 * 28
    assert zipfile.is_zipfile(zipped)
    with pytest.raises(UserError, match="65 images at once are not possible"):
        bench.make(["effusion"], 65, 0, 2, 1.0)


def test_work_that_takes_too_long_is_refused() -> None:
    volumes = workbenches([Path("adrenalmnist3d-28")])["adrenalmnist3d-28"]
    with pytest.raises(UserError, match="with 100 steps at most 11 at once"):
        volumes.make(volumes.conditioning.names[:1], 12, 0, 100, 1.0)


def test_a_card_of_somebody_else_loads_and_runs_nothing() -> None:
    card = (
        "---\ntitle: x\n---\n# A\n\n<img src='https://t.example/1'> ![a](https://t.example/2) ![b][r]\n\n"
        "<script>alert(1)</script>\n\n[r]: https://t.example/3\n\n| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    )
    shown = interface._card_html(card)
    assert "<table>" in shown
    assert "title" not in shown
    for tag in ("<img", "<script", "<iframe"):
        assert tag not in shown


def test_pipelines_find_their_data_in_their_own_size(tmp_path: Path) -> None:
    names = [Path("phantom-28"), Path("pneumoniamnist-28")]
    benches = workbenches(names, DataSource("phantom"))
    assert benches["phantom-28"].dataset is not None
    assert benches["pneumoniamnist-28"].dataset is None
    images = benches["phantom-28"].dataset.train.images[:3]
    likeness = benches["phantom-28"].likeness(images)
    np.testing.assert_array_equal(likeness.real, images)  # a training image is nearest to itself
    assert likeness.copies is not None
    assert likeness.copies.all()


def test_where_nobody_can_judge_nothing_is_called_no_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = workbenches([Path("phantom-28")], DataSource("phantom"))["phantom-28"]
    bench.__dict__["_threshold"] = None  # as of data without independent real images
    likeness = bench.likeness(bench.dataset.train.images[:2])
    assert likeness.copies is None
    again = workbenches([Path("phantom-28")], DataSource("phantom"))["phantom-28"]
    monkeypatch.setattr(Workbench, "metrics", None)
    never_measured = again.likeness(again.dataset.train.images[:2])
    assert never_measured.copies is None
    assert "has not been evaluated" in interface._pairs_text("x", never_measured)
    assert "cannot be judged" in interface._pairs_text("x", likeness)
