"""Writing files and folders so that they are whole or not there."""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from medmnist_diffusion.errors import UserError, one_line

STDOUT = "-"  # as the name of a file


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success fsync it and rename it to `path`, on failure remove it.

    A link keeps leading to its file, which is the one that is written. A pipe or a device is written into.
    """
    path = Path(os.path.realpath(Path(path).expanduser()))
    if path.exists() and not path.is_file() and not path.is_dir():
        with tempfile.TemporaryDirectory() as folder:
            yield (temporary := Path(folder) / path.name)
            with path.open("wb") as file:
                file.write(temporary.read_bytes())
        return
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
    path = Path(os.path.realpath(Path(path).expanduser()))  # a link keeps leading to its folder
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
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        if (
            type(error) is RuntimeError
            and "PytorchStreamWriter" not in str(error)
            and "inline_container" not in str(error)
        ):
            raise  # something else than writing
        raise UserError(f"{what} could not be written ({one_line(error, 160)}). {remedy}") from None


def has_suffix(path: Path, suffix: str) -> bool:
    """Whether a path ends so, in small or capital letters."""
    return path.suffix.lower() == suffix


def write_text(path: str | Path, text: str) -> None:
    """Write a text file; `-` is stdout."""
    if str(path) == STDOUT:
        print(text, end="", flush=True)
        return
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def file_hash(path: str | Path) -> str:
    """SHA-256 of a file's content."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_hub_id(name: str) -> bool:
    """Whether a text can be namespace/name on the Hub, and names nothing here."""
    return name.count("/") == 1 and not name.startswith((".", "/", "~")) and not Path(name).exists()
