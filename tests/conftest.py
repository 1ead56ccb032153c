"""Shared fixtures: a private cache, a tiny phantom, one small trained run, and where the real data lies."""

import os

if (worker := os.environ.get("PYTEST_XDIST_WORKER")) and hasattr(os, "sched_setaffinity"):
    cores = sorted(os.sched_getaffinity(0))  # before torch counts them
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from diffusers import UNet2DModel
from hypothesis import HealthCheck, settings

from medmnist_diffusion import cli
from medmnist_diffusion.data import ImageDataset, Split, load_dataset, phantom
from medmnist_diffusion.data.conditioning import Conditioning
from medmnist_diffusion.data.npz import write_npz
from medmnist_diffusion.diffusion.unet import build_unet
from medmnist_diffusion.metrics import classifier, extractors
from medmnist_diffusion.metrics.classifier import RECIPE, STEPS
from medmnist_diffusion.pipelines import PixelUnshuffle

settings.register_profile(
    "ci", max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ci")

ROOT = Path(__file__).resolve().parent.parent
CliError = Callable[..., str]  # the fixture `cli_error`
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
REAL_DATA = Path(os.environ.get("MEDMNIST_ROOT") or ROOT.parent / "shared" / "data" / "medmnist")


# The beginning of a program on a machine where this package is not installed.
WITHOUT_US = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "medmnist_diffusion":
            raise ImportError("medmnist_diffusion is not installed here")
sys.meta_path.insert(0, Refuse())
"""


@pytest.fixture(scope="session", autouse=True)
def private_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tests neither use nor fill the user's caches, and never ask the network.

    The worker processes share trained classifiers: each takes a minute, and many tests look through the same one.
    """
    cache = tmp_path_factory.mktemp("cache")
    base = tmp_path_factory.getbasetemp()
    shared = (base.parent if worker else base) / "classifiers"
    shared.mkdir(exist_ok=True)
    (cache / "classifiers").symlink_to(shared)
    os.environ["MEDMNIST_DIFFUSION_CACHE"] = str(cache)
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["HF_MODULES_CACHE"] = str(cache / "modules")
    return cache


@pytest.fixture(scope="session", autouse=True)
def short_classifiers() -> Iterator[None]:
    """Classifiers that judge images are trained for 40 steps, with a name of their own in the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "STEPS", 40)
        for module in (classifier, extractors):
            patch.setattr(module, "RECIPE", "short")
        yield


@pytest.fixture
def whole_classifiers(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests whose figures must be right: as many steps as users get."""
    monkeypatch.setattr(classifier, "STEPS", STEPS)
    for module in (classifier, extractors):
        monkeypatch.setattr(module, "RECIPE", RECIPE)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium, driven by Playwright; of a module, as its event loop stands in the way of others'."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder with the real pneumoniamnist.npz."""
    if not (REAL_DATA / "pneumoniamnist.npz").is_file():
        pytest.skip("set MEDMNIST_ROOT to a folder with pneumoniamnist.npz (see the README) to run this test")
    return REAL_DATA


@pytest.fixture(scope="session")
def small_npz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A valid npz of 240 / 80 / 80 phantom images."""
    path = tmp_path_factory.mktemp("data") / "small.npz"
    write_npz(path, phantom.make_phantom(counts={"train": 240, "val": 80, "test": 80}))
    return path


@pytest.fixture(scope="session")
def small(small_npz: Path) -> ImageDataset:
    """The same as a data set."""
    return load_dataset(str(small_npz))


@pytest.fixture(scope="session")
def trained_run(tmp_path_factory: pytest.TempPathFactory, small_npz: Path) -> Path:
    """A run of 60 steps on the small npz; too short for good images, long enough for all files."""
    run = tmp_path_factory.mktemp("runs") / "small"
    code = cli.main(["train", *small_training(small_npz, run), "--max_train_steps", "60"])
    assert code == 0
    return run


@pytest.fixture
def pipeline(trained_run: Path, tmp_path: Path) -> Path:
    """A copy of the small run's pipeline folder, to be changed."""
    return shutil.copytree(trained_run / "pipeline", tmp_path / "pipeline")


def small_training(data: Path | str, run: Path) -> list[str]:
    """Arguments of a training that takes seconds."""
    return [
        "--dataset", str(data), "--output_dir", str(run), "--block_out_channels", "16", "32", "--train_batch_size", "16",
        "--lr_warmup_steps", "10", "--mixed_precision", "no", "--logging_steps", "10", "--validation_steps", "20",
        "--sample_steps", "1000", "--checkpointing_steps", "30", "--report_to", "none",
    ]  # fmt: skip


@pytest.fixture
def cli_error(capsys: pytest.CaptureFixture[str]) -> CliError:
    """Run a command that must fail as a user's mistake; returns its one line on stderr."""

    def run(*argv: str, code: int = 2) -> str:
        assert cli.main(list(argv)) == code
        lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, lines
        return lines[0]

    return run


def run_python(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """A clean Python process in another folder."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


def small_unet(
    size: int = 28, channels: int = 1, classes: int = 4, factor: int = 2, widths: tuple[int, ...] = (16, 32)
) -> UNet2DModel:
    """A network of our kind that takes no time."""
    names = {label: str(label) for label in range(classes)}
    encoder = PixelUnshuffle(factor, (channels, size, size), factor * 2 ** (len(widths) - 1))
    return build_unet(Conditioning(names), encoder, widths)


def grey_splits(arrays: dict[str, np.ndarray]) -> dict[str, Split]:
    """The splits of a phantom's six arrays, grey and of one class an image."""
    return {
        name: Split(name, arrays[f"{name}_images"][..., None], arrays[f"{name}_labels"][:, 0].astype(np.int64))
        for name in ("train", "val", "test")
    }


def pixels(images: np.ndarray) -> np.ndarray:
    return images.astype(np.int16)
