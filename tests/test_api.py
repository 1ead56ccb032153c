"""The public API: what it names is there, takes a moment to import, and its examples run as they stand."""

import doctest
import importlib
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import medmnist_diffusion as md

# In the order of the work: an example may use what the ones before it made.
EXAMPLES = (
    "load_dataset", "audit", "training_config", "train", "load_pipeline", "distill", "generate", "sample", "evaluate", "verdict",
    "write_card", "augment",
)  # fmt: skip


STUDIES = ("study_loss", "study_augmentation")  # minutes each


def test_every_name_is_what_it_says_whatever_was_imported_before() -> None:
    for module in pkgutil.walk_packages(md.__path__, "medmnist_diffusion."):
        importlib.import_module(module.name)
    for name in md.__all__:
        assert callable(getattr(md, name)), name
        assert not inspect.isfunction(getattr(md, name)) or name in (*EXAMPLES, *STUDIES, "evaluate_images"), name
        assert getattr(md, name).__name__ == name
    with pytest.raises(AttributeError, match="nonsense"):
        md.nonsense  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    heavy = ("torch", "numpy", "pydantic", "click")
    program = f"import sys, medmnist_diffusion as md; dir(md); print([n for n in {heavy!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_functions_are_typed_and_explained() -> None:
    for name in md.__all__:
        member = getattr(md, name)
        assert inspect.getdoc(member), name
        if inspect.isfunction(member):
            signature = inspect.signature(member)
            assert signature.return_annotation is not inspect.Signature.empty, name
            for parameter in signature.parameters.values():
                assert parameter.annotation is not inspect.Parameter.empty, (name, parameter.name)


@pytest.mark.parametrize(
    "examples", [EXAMPLES, pytest.param(STUDIES, marks=pytest.mark.slow)], ids=["steps", "studies"]
)
def test_every_example_runs(examples: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"md": md, "Path": Path}
    for name in examples:
        docstring = inspect.getdoc(getattr(md, name)) or ""
        example = doctest.DocTestParser().get_doctest(docstring, names, name, None, None)
        assert example.examples, name
        said: list[str] = []
        runner = doctest.DocTestRunner(verbose=False)
        runner.run(example, out=said.append, clear_globs=False)
        assert not runner.failures, "".join(said)
        names = example.globs
