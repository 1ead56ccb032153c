"""A plain, not editable, install: no general names in site-packages, all files there, usable from another folder."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, run_python


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--target"]
    subprocess.run([*command, str(target), str(ROOT)], check=True, capture_output=True)
    return target


def test_only_our_own_name_lands_in_site_packages(installed: Path) -> None:
    names = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert names <= {"medmnist_diffusion", "bin"}


def test_templates_configurations_and_types_are_included(installed: Path) -> None:
    for name in (
        "py.typed",
        "model_cards/template.md",
        "training/configs/default.yaml",
        "pipelines/class_conditional_ddpm.py",
        "model_cards/pneumoniamnist-28/unet/diffusion_pytorch_model.safetensors",
        "model_cards/pneumoniamnist-28/metrics.json",
    ):
        assert (installed / "medmnist_diffusion" / name).is_file(), name


def test_it_works_from_another_folder(installed: Path, tmp_path: Path) -> None:
    """Isolated from the checkout: the editable install's finder is switched off by -S and the path set by hand."""
    import site

    code = (
        f"import sys; sys.path[:0] = [{str(installed)!r}, *{site.getsitepackages()!r}]\n"
        "import medmnist_diffusion; assert medmnist_diffusion.__file__.startswith(sys.path[0]), medmnist_diffusion.__file__\n"
        "from medmnist_diffusion.cli import main\n"
        "options = '--max_train_steps 2 --train_batch_size 8 --mixed_precision no --report_to none'.split()\n"
        "code = main(['train', '--dataset', 'phantom', '--output_dir', 'run', *options])\n"
        "sys.exit(code or main(['card', 'run/pipeline']))\n"
    )
    result = run_python("-S", "-c", code, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert (tmp_path / "run" / "pipeline" / "README.md").is_file()


def test_no_code_of_ours_unpickles() -> None:
    """What ruff's security rules have no rule for: torch.load without weights_only."""
    sources = [
        path
        for name in ("medmnist_diffusion", "training", "pipelines", "benchmarks")
        for path in (ROOT / name).rglob("*.py")
    ]
    assert len(sources) > 60
    for path in sources:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in (
                "torch.load",
                "torch.jit.load",
                "joblib.load",
            ):
                safe = any(word.arg == "weights_only" and ast.unparse(word.value) == "True" for word in node.keywords)
                assert safe, f"{path}:{node.lineno}"
