"""A pipeline's page as a static Space, over real HTTP against hub_server.py."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from medmnist_diffusion import cli
from medmnist_diffusion.app.page import RUNTIME, VERSION
from medmnist_diffusion.cache import cache_dir
from tests.app.test_page import NPM_FILE, needs_runtime
from tests.conftest import CliError
from tests.publish.hub_server import Hub
from tests.publish.publishing import REPO, publishing


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What `npm pack` would have brought lies in the cache."""
    monkeypatch.setenv("MEDMNIST_DIFFUSION_CACHE", str(tmp_path / "cache"))
    (cache_dir() / "npm").mkdir(parents=True)
    shutil.copy(NPM_FILE, cache_dir() / "npm" / f"{RUNTIME}-{VERSION}.tgz")


@needs_runtime
@pytest.mark.usefixtures("runtime")
def test_a_page_becomes_a_static_space(hub: Hub, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(publishing(folder, "--space", "--dry_run")) == 0
    assert "Dry run" in capsys.readouterr().out
    assert not hub.repos
    assert cli.main(publishing(folder, "--space")) == 0
    assert f"spaces/{REPO}" in capsys.readouterr().out
    repo = hub.repos["space", REPO]
    assert repo.private
    assert len(repo.commits) == 1
    header = yaml.safe_load(repo.files["README.md"].decode().split("---")[1])
    assert header["sdk"] == "static"
    assert header["app_file"] in repo.files
    assert json.loads(repo.files["page.json"])["name"] == REPO.split("/")[1]
    assert {"network.onnx", "page.js", "runtime/ort.wasm.min.mjs"} <= set(repo.files)
    assert ("model", REPO) not in hub.repos


def test_a_dry_run_needs_neither_npm_nor_a_network(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    cli_error: CliError,
) -> None:
    monkeypatch.setenv("MEDMNIST_DIFFUSION_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("PATH", "")
    assert cli.main(publishing(folder, "--space", "--dry_run")) == 0
    assert "npm will get it" in capsys.readouterr().out
    assert "--runtime belongs to --space" in cli_error(*publishing(folder, "--runtime", "x.tgz"))


@needs_runtime
@pytest.mark.usefixtures("runtime")
def test_what_may_not_be_published_becomes_no_space(hub: Hub, folder: Path, cli_error: CliError) -> None:
    (folder / "metrics.json").unlink()
    assert "cannot be published: it was not evaluated" in cli_error(*publishing(folder, "--space"))
    assert not hub.repos
