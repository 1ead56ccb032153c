"""The rows of a table as texts: CSV, TSV, JSON lines, in the encodings that people have."""

import codecs
import csv
import io
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from medmnist_diffusion.errors import UserError

LARGEST_TABLE = 500 * 2**20  # bytes


def read_rows(table: Path) -> list[dict[str, str]]:
    """The rows of a CSV (commas, semicolons or tabs) or of JSON lines, as texts; lists of names as texts with bars between.

    Raises:
        UserError: if it cannot be read.
    """
    try:
        if table.stat().st_size > LARGEST_TABLE:
            raise UserError(f"{table} is too large to be a table of labels.")
        text = re.sub(r"\Asep=.[\r\n]+", "", _decoded(table.read_bytes()))  # Excel's line for itself
        if table.suffix == ".jsonl":
            return _json_rows(text, table)
        delimiter = max(",;\t", key=re.split(r"[\r\n]", text, maxsplit=1)[0].count)
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        header, rows = reader.fieldnames or [], list(reader)
    except (OSError, ValueError, csv.Error, AttributeError, RecursionError) as error:
        raise UserError(f"{table} is no table that can be read ({error}). Write a CSV with a header.") from None
    if twice := [name for name, count in Counter(header).items() if count > 1 and name.strip()]:
        raise UserError(f"{table}: two columns are called {twice[0]}. Keep one of them.")
    for number, row in enumerate(rows, start=2):
        if None in row or any(value is None for value in row.values()):
            raise UserError(f"{table}: line {number} has more or fewer columns than the header. Correct it.")
    return rows


def _json_rows(text: str, table: Path) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        row = {key: _text(value, table, number) for key, value in json.loads(line).items()}
        if rows and set(row) != set(rows[0]):
            raise UserError(
                f"{table}: line {number} has other fields than the first one. Write the same in every line."
            )
        rows.append(row)
    return rows


def _decoded(data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):  # Excel's "Unicode text"
        return data.decode("utf-16")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def _text(value: Any, table: Path, number: int) -> str:
    if isinstance(value, list):
        if not all(isinstance(one, str) for one in value):
            raise UserError(
                f"{table}: line {number} holds a list of numbers: are these ids, or zeros and ones? Write names."
            )
        return "|".join(value) + "|" * (len(value) < 2)  # so that it is seen to be a list
    return "" if value is None else str(value)
