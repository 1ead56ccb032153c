"""A folder's manifest: the SHA-256 of every file in it, by which a changed or incomplete folder is known."""

import json
from collections.abc import Sequence
from pathlib import Path

from medmnist_diffusion.files import file_hash

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
