"""Which image a row of a table means: by its path, or by its name with or without folder and suffix; or which folder of images."""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medmnist_diffusion.data.folders import files_below, images_in
from medmnist_diffusion.data.images import IMAGE_SUFFIXES, is_image
from medmnist_diffusion.data.medical import stem_of
from medmnist_diffusion.errors import UserError

_UPLOADED = re.compile(r"^/data/upload/(\d+/)?[0-9a-f]{8}-")  # what Label Studio writes before the name of a file


@dataclass(frozen=True)
class NamedImages:
    """The images below a folder, looked up once.

    Attributes:
        by_path: by their paths in it.
        by_name: by their names with and without suffix.
        folders: the paths in it of those that hold some, however deep, itself as `.`.
        folder_names: of these, by their own names.
    """

    root: Path
    files: list[Path]
    by_path: dict[str, Path]
    by_name: dict[str, list[Path]]
    folders: set[str]
    folder_names: dict[str, list[str]]

    @classmethod
    def of(cls, root: Path) -> "NamedImages":
        files = list(filter(is_image, files_below(root)))
        by_name: dict[str, list[Path]] = {}
        for file in files:
            for name in {file.name, stem_of(file)}:
                by_name.setdefault(_composed(name), []).append(file)
        by_path = {_composed(file.relative_to(root).as_posix()): file for file in files}
        folders = {_composed(parent.as_posix()) for file in files for parent in file.relative_to(root).parents}
        folder_names: dict[str, list[str]] = {}
        for folder in folders:
            folder_names.setdefault(folder.rsplit("/", 1)[-1], []).append(folder)
        return cls(root, files, by_path, by_name, folders, folder_names)

    def names_any(self, values: Iterable[str]) -> bool:
        """Whether one of the values can be the name of an image; which one is not looked for."""
        return any(self._last(value) in self.by_name for value in values)

    def names_all(self, values: Iterable[str]) -> bool:
        return all(self._last(value) in self.by_name for value in values)

    def folder(self, value: str) -> Path | None:
        """The folder that a value names, by its path or by its own name alone; None where there is none, or several."""
        wanted = _plain(value)
        if not wanted or wanted == ".":
            return None
        if wanted in self.folders:
            return self.root / wanted
        several = self.folder_names.get(wanted, [])
        return self.root / several[0] if len(several) == 1 else None

    def written_otherwise(self, wanted: str) -> str:
        """In brackets, a hint where a file is there whose name differs only in case, in zeros before a number, or in a suffix."""

        def key(name: str) -> str:
            return re.sub(r"0+(?=\d)", "", _composed(name).casefold())

        name = Path(wanted.replace("\\", "/"))
        meant = {key(name.name), key(stem_of(name))}
        alike = next((file for file in self.files if {key(file.name), key(stem_of(file))} & meant), None)
        return "" if alike is None else f" ({name.name} is not there, {alike.name} is, …)"

    def _last(self, value: str) -> str:
        return _plain(_UPLOADED.sub("", value)).rsplit("/", 1)[-1]


def files_of(
    rows: list[dict[str, str]], column: str, images: NamedImages, table: Path, said: list[str]
) -> tuple[list[Path | None], int]:
    """The file that each row means, None where there is none; and how many there are not. What a user should know is added to
    `said`.

    Raises:
        UserError: if a name means several files, or none is there.
    """
    by_path, by_name = images.by_path, images.by_name
    found: list[Path | None] = []
    elsewhere: list[str] = []
    every = [_plain(row[column]) for row in rows]
    # A name without its folder means a file only where the table has no other file of that name.
    names = Counter(one.rsplit("/", 1)[-1] for one in set(every))
    for number, wanted in enumerate(every, start=2):
        parts = wanted.split("/")
        ends = ("/".join(parts[at:]) for at in range(len(parts)))  # the table's own first folders may not be there
        exact = next((by_path[end] for end in ends if end in by_path and (end == wanted or "/" in end)), None)
        # Where the folder that a row names is there, a file that is not in it is missing, whatever lies elsewhere.
        in_vain = any("/".join(parts[at:-1]) in images.folders for at in range(len(parts) - 1))
        by_name_alone = len(parts) == 1 or (names[parts[-1]] == 1 and not in_vain)
        candidates = [exact] if exact else by_name.get(parts[-1], []) if by_name_alone else []
        candidates = candidates or by_name.get(_UPLOADED.sub("", wanted), [])
        if candidates and not exact and len(parts) > 1:
            elsewhere.append(wanted)
        if len(candidates) > 1:
            listed = " and ".join(one.relative_to(images.root).as_posix() for one in candidates[:2])
            raise UserError(
                f"{table}: line {number}: {wanted!r} could mean {listed}. Write the path within the folder."
            )
        found.append(candidates[0] if candidates else None)
    if elsewhere:
        said.append(
            f"{len(elsewhere)} rows of {table.name} name a folder that is not there ({elsewhere[0]}): found by name alone."
        )
    missing = sum(file is None for file in found)
    if missing == len(rows):
        raise UserError(
            f"{table}: none of the files that its column {column} names is there"
            f"{images.written_otherwise(rows[0][column].strip()) or f' ({rows[0][column]})'}. Correct it."
        )
    return found, missing


FOLDER = "folder that a row names"  # a column that `rows_of_files` adds


def rows_of_files(rows: Sequence[dict[str, str]], column: str, images: NamedImages) -> list[dict[str, str]]:
    """Rows that name folders as rows that name the images in them, without masks. A row whose folder is not there stays."""
    every = []
    for row in rows:
        folder = images.folder(row[column])
        files = images_in(folder)[0] if folder else []
        every += [{**row, FOLDER: row[column], column: file.relative_to(images.root).as_posix()} for file in files]
        every += [] if files else [{**row, FOLDER: row[column]}]
    return every


def _plain(value: str) -> str:
    return _composed(value.strip().replace("\\", "/").removeprefix("./").rstrip("/"))


def _composed(name: str) -> str:
    """The same letters in one encoding, as a zip of macOS holds ü as u and two dots; and a suffix in small letters."""
    composed = unicodedata.normalize("NFC", name)
    stem, dot, suffix = composed.rpartition(".")
    return f"{stem}.{suffix.lower()}" if dot and f".{suffix.lower()}" in IMAGE_SUFFIXES else composed
