"""A study's results: one file, one JSON line a cell of its grid. A stopped study goes on with the missing ones."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

from filelock import FileLock
from pydantic import BaseModel, ConfigDict, ValidationError

from medmnist_diffusion.cache import read_kept
from medmnist_diffusion.errors import UserError, one_line
from medmnist_diffusion.files import write_text


class CellRecord(BaseModel):
    """What is kept of a cell, found by the fingerprint of all that its figures depend on."""

    model_config = ConfigDict(extra="forbid")

    fingerprint: str

    def joined(self, newer: Self) -> Self:
        """What this line and a newer one of the same cell say together."""
        return newer


Record = TypeVar("Record", bound=CellRecord)


class ResultFile(Generic[Record]):
    """Appended to by several processes, one whole line at a time, and read as it grows.

    A line that a kill or a power cut left half-written is no record; the next line takes its place.
    """

    def __init__(self, path: Path, model: type[Record]) -> None:
        self.path, self._model = path, model
        self._records: dict[str, Record] = {}
        self._read, self._file = 0, 0  # bytes that were read, of which file

    def records(self) -> dict[str, Record]:
        """All records by their fingerprint.

        Raises:
            UserError: for a line that is no record.
        """
        try:
            found = self.path.stat()
        except FileNotFoundError:
            self._records, self._read = {}, 0
            return {}
        if found.st_ino != self._file or found.st_size < self._read:
            self._records, self._read, self._file = {}, 0, found.st_ino
        with self.path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if line.endswith(b"\n"):  # else it is being written, or was cut off
                    self._take(line)
                    self._read += len(line)
        return self._records

    def get(self, fingerprint: str) -> Record | None:
        return self.records().get(fingerprint)

    def append(self, record: Record) -> None:
        """Add a line; it is on the disk when this returns."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.path.with_name(f".{self.path.name}.lock")), self.path.open("a+b") as file:
            file.truncate(_end_of_last_line(file))
            file.write(_line(record).encode())
            file.flush()
            os.fsync(file.fileno())

    def import_once(self, older: Path, whole: Callable[[Path, Record], Record] = lambda path, record: record) -> None:
        """Start the file with what an older version kept in a folder, a JSON file a record; an existing file stays as it is.

        Args:
            whole: the record with what lay in files beside it.
        """
        if not self.path.exists():
            kept = [(path, read_kept(path, self._model, "result")) for path in sorted(older.glob("[!.]*.json"))]
            if lines := [_line(whole(path, record)) for path, record in kept if record is not None]:
                write_text(self.path, "".join(lines))

    def _take(self, line: bytes) -> None:
        try:
            record = self._model.model_validate_json(line)
        except ValidationError as error:
            number = self.path.read_bytes()[: self._read].count(b"\n") + 1
            reason = one_line(error)
            raise UserError(
                f"{self.path} is no valid results file: line {number} ({reason}). Remove that line: its cell will be made again."
            ) from None
        older = self._records.get(record.fingerprint)
        self._records[record.fingerprint] = older.joined(record) if older else record


def _line(record: CellRecord) -> str:
    return json.dumps(record.model_dump(), ensure_ascii=False, allow_nan=False) + "\n"


def _end_of_last_line(file: Any) -> int:
    """Where a file's last whole line ends, searched from the end."""
    at = file.seek(0, os.SEEK_END)
    while at:
        start = max(0, at - 2**16)
        file.seek(start)
        if (newline := file.read(at - start).rfind(b"\n")) >= 0:
            return start + newline + 1
        at = start
    return 0
