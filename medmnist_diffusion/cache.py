"""What was computed before and need not be computed again: where it lies, what names it, and whether it is whole."""

import contextlib
import hashlib
import json
import os
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from platformdirs import user_cache_path
from pydantic import BaseModel, ValidationError

from medmnist_diffusion.errors import UserError, one_line
from medmnist_diffusion.files import atomic_file, write_text

KeptModel = TypeVar("KeptModel", bound=BaseModel)


def cache_dir() -> Path:
    """Where features, audits, classifiers and Arrow copies are kept: $MEDMNIST_DIFFUSION_CACHE, else the user's cache."""
    return Path(os.environ.get("MEDMNIST_DIFFUSION_CACHE") or user_cache_path("medmnist-diffusion"))


def digest(content: Any) -> str:
    """16 hex digits that name JSON-ready content: what a kept result or a run depends on."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


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


def cached_record(path: Path, model: type[KeptModel], compute: Callable[[], KeptModel]) -> KeptModel:
    """A record in a cache; where it is missing or damaged it is computed and written."""
    try:
        return model.model_validate_json(path.read_bytes())
    except (OSError, ValueError):  # pydantic's ValidationError is a ValueError
        record = compute()
    with contextlib.suppress(OSError):  # a cache that cannot be written to costs time, no results
        write_text(path, record.model_dump_json(indent=2) + "\n")
    return record


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
        reason = one_line(error)
        raise UserError(f"{path} is no valid {what} ({reason}). Remove it: it will be made again.") from None
