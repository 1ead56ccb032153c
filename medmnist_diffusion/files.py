"""Writing files and folders so that they are whole or not there, and where caches live."""

import contextlib
import hashlib
import json
import os
import shutil
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError

from medmnist_diffusion.errors import UserError

KeptModel = TypeVar("KeptModel", bound=BaseModel)


def cache_dir() -> Path:
    """Where features, neighbours, classifiers and Arrow copies are kept: $MEDMNIST_DIFFUSION_CACHE, else the user's cache."""
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(os.environ.get("MEDMNIST_DIFFUSION_CACHE") or home / "medmnist-diffusion")


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success fsync it and rename it to `path`, on failure remove it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: writers such as savefig and np.savez choose the format by it.
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; on success it takes `path`'s place, on failure it is removed."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def replace_folder(source: Path, target: Path) -> None:
    """fsync all of `source` and rename it to `target`; an old `target` is moved away first, then removed."""
    for path in (*source.rglob("*"), source):
        _sync(path)
    recover_folder(target)
    old = _aside(target)
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    source.rename(target)
    _sync(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover_folder(target: Path) -> None:
    """Put the old `target` back, where `replace_folder` died after it had moved it away and before the new one came."""
    if not target.exists():
        with contextlib.suppress(FileNotFoundError):  # there is none, or another process was faster
            _aside(target).rename(target)


def _aside(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _sync(path: Path) -> None:
    """Have a file's content, or a folder's list of names, on the disk: a rename is safe against a power cut only after that."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def could_not_write(what: str, remedy: str) -> Iterator[None]:
    """A full disk or a missing permission, in the words of the system, of torch.save or of safetensors, as a UserError."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if (
            type(error) is RuntimeError
            and "PytorchStreamWriter" not in str(error)
            and "inline_container" not in str(error)
        ):
            raise  # something else than writing
        raise UserError(f"{what} could not be written ({' '.join(str(error).split())[:160]}). {remedy}") from None


def cached_arrays(
    path: Path, compute: Callable[[], dict[str, np.ndarray]], write: bool = True
) -> dict[str, np.ndarray]:
    """The arrays of an npz in a cache; where it is missing or damaged they are computed, and written if `write`."""
    if (kept := kept_arrays(path)) is not None:
        return kept
    values = compute()
    if write:
        with atomic_file(path) as temporary:
            np.savez(temporary, allow_pickle=False, **values)
    return values


def kept_arrays(path: Path) -> dict[str, np.ndarray] | None:
    """The arrays of an npz of our own; None where there is none that is whole."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):
        return None


def write_text(path: str | Path, text: str) -> None:
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def read_kept(path: Path, model: type[KeptModel], what: str) -> KeptModel | None:
    """A result file of an earlier run, checked; None where there is none.

    Raises:
        UserError: for a damaged one.
    """
    if not path.is_file():
        return None
    try:
        return model.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is no valid {what} ({reason}). Remove it: it will be made again.") from None


def digest(content: Any) -> str:
    """16 hex digits that name JSON-ready content: what a kept result or a run depends on."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def write_json(path: str | Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's content."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


MANIFEST = "manifest.json"


def folder_manifest(folder: Path) -> dict[str, str]:
    """SHA-256 of every file under a folder, by its relative name; not of the manifest itself."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): file_hash(path) for path in files if path != folder / MANIFEST}


def intact(folder: Path, needed: Sequence[str]) -> bool:
    """Whether a folder holds the files that its manifest names, the needed ones among them, as they were, and no others."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return set(needed) <= set(manifest) and manifest == folder_manifest(folder)
    except (OSError, ValueError, TypeError, RecursionError):
        return False
