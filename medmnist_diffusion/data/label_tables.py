"""Labels beside images: a CSV, TSV or JSON-lines table with one row an image. Which table, which of its columns, which file a row
means.

The rules. One of LABEL_TABLES in the folder (or in each of its split folders), else the one other CSV or TSV there that names its
images, is the table; classes are then its labels, not folders. One column names the file, with or without its folder and suffix.
One holds the label, several of them with `|` or `;` between; or a column of zeros and ones for each label. Columns called split
and patient are used where they are there. What is left out is said; what could mean two things is refused.
"""

import codecs
import csv
import io
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medmnist_diffusion.data.conditioning import same_name
from medmnist_diffusion.data.folders import LABEL_TABLES, files_below, is_hidden, is_split_like, split_in, split_name
from medmnist_diffusion.data.images import is_image
from medmnist_diffusion.data.medical import stem_of
from medmnist_diffusion.data.parquet import (
    GROUP_COLUMNS,
    LABEL_COLUMNS,
    NO_LABEL,
    SPLIT_COLUMNS,
    names_splits,
    usual_column,
)
from medmnist_diffusion.errors import UserError

SURE_FILE_COLUMNS = (
    "file_name", "filename", "file", "filepath", "file_path", "image_file", "image_path", "path", "image", "image_id",
    "image_name", "image_index", "img", "img_id", "imageid",
)  # fmt: skip
FILE_COLUMNS = (*SURE_FILE_COLUMNS, "id_code", "id", "name")  # the last three may mean something else
MORE_LABEL_COLUMNS = ("grade", "choice")  # after all others; the second one is Label Studio's
NAME_COLUMNS = ("label_name", "class_name", "finding_labels")  # before all other columns of labels
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".xlsx", ".xls", ".ods")
READ_SUFFIXES = (".csv", ".tsv", ".jsonl")
SEPARATORS = ("|", ";")
NOTHING_FOUND = ("no finding", "no findings", "none", "no label")  # of several labels: none of them
UNSURE = ("", "nan", "na", "-1", "-1.0", "u")
YES, NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")
MOST_NAMED = 0.5  # of the images: a table of no usual name that names fewer is about something else
UNKNOWN = (*NO_LABEL, "unknown", "anonymous", "anonymized", "anonymised", "none", "-")  # as names of patients
_SPLIT_FLAG = re.compile(r"(is|in)[-_ ]?(train(ing)?|val(id(ation)?)?|test(ing)?)([-_ ]?set)?", re.IGNORECASE)
_UPLOADED = re.compile(r"^/data/upload/(\d+/)?[0-9a-f]{8}-")  # what Label Studio writes before the name of a file
LARGEST_TABLE = 500 * 2**20  # bytes


@dataclass(frozen=True)
class LabelledFiles:
    """Files of one split with their labels: names or numbers, or of several labels an image lists of names; their groups
    (patients) where the table has them; the labels' names in the table's own order, where it has one."""

    files: list[Path] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    groups: list[str] | None = None
    names: list[str] | None = None


def find_tables(path: Path) -> dict[str | None, Path]:
    """Split → its table; None → the table of the whole folder; empty where there is none.

    Raises:
        UserError: if several could be it.
    """
    known = {path / name: _columns_of(read_rows(path / name)) for name in LABEL_TABLES if (path / name).is_file()}
    usual = [table for table, columns in known.items() if columns]
    named = [
        table for table, columns in known.items() if columns and len(columns[1]) == 1
    ]  # a column called label, or so
    if len(named) > 1:
        raise UserError(f"{path}: {named[0].name} and {named[1].name} both hold labels. Keep one of them.")
    if usual:
        return {None: (named or usual)[0]}
    in_splits: dict[str | None, Path] = {
        split: folder / name
        for folder in sorted(path.iterdir())
        if folder.is_dir() and (split := split_name(folder.name))
        for name in LABEL_TABLES
        if (folder / name).is_file() and _columns_of(read_rows(folder / name))
    }
    if in_splits:
        without = [
            folder.name
            for folder in path.iterdir()
            if folder.is_dir() and split_name(folder.name) not in (None, *in_splits)
        ]
        if without:
            listed = next(iter(in_splits.values())).relative_to(path).as_posix()
            raise UserError(
                f"{path}: {listed} holds labels, and {without[0]} has no such table. Write one there, or move it away."
            )
        return in_splits
    others = [file for file in sorted(path.iterdir()) if _may_hold_labels(file) and _names_images(file)]
    by_split = {next(iter(split_in(file.stem)), None): file for file in others if len(split_in(file.stem)) == 1}
    if len(by_split) == len(others) > 1:
        return dict(by_split)
    if len(others) > 1:
        listed = " and ".join(file.name for file in others[:2])
        raise UserError(f"{path}: {listed} could both hold the labels. Call the right one metadata.csv.")
    return {None: others[0]} if others else {}


def patients_beside(path: Path, files: Sequence[Path]) -> tuple[Path, dict[Path, str]] | None:
    """A table without labels that names the patient of every file, and whom it names; None where there is none.

    Raises:
        UserError: if a row names no patient, or two rows name two of one file.
    """
    for table in sorted(path.glob("*")):
        if table.suffix.lower() not in READ_SUFFIXES or is_hidden(Path(table.name)) or not table.is_file():
            continue
        try:
            rows = read_rows(table)
            names = [_first_column(rows[0], columns) if rows else None for columns in (FILE_COLUMNS, GROUP_COLUMNS)]
            file_column, group_column = names
            if file_column is None or group_column is None:
                continue
            meant, _ = _files(rows, file_column, _Images.of(path), table, [])
        except UserError:  # no table of these files: `unused_tables` names it
            continue
        known: dict[Path, str] = {}
        for number, (row, file) in enumerate(zip(rows, meant, strict=True), start=2):
            if file is None:
                continue
            patient = _group(row[group_column], table, number)
            if known.setdefault(file, patient) != patient:
                raise UserError(f"{table}: line {number}: {file.name} is of two patients. Keep one row.")
        if set(files) <= set(known):
            return table, known
    return None


def unused_tables(path: Path, used: Iterable[Path]) -> list[str]:
    """A note on each table in a folder, or in one of its own, that no labels were read from."""
    notes = []
    for table in sorted({*path.glob("*"), *path.glob("*/*")} - set(used)):
        if table.suffix.lower() in TABLE_SUFFIXES and table.is_file() and not is_hidden(table.relative_to(path)):
            notes.append(f"{table.relative_to(path).as_posix()} was not used: {_why_unused(table)}.")
        elif table.suffix.lower() == ".txt" and table.is_file() and is_split_like(table.stem):
            notes.append(
                f"{table.relative_to(path).as_posix()} was not used, though it may list a split: its images may stand in any. "
                "Write a table with a column `split`, or put the images into folders called train, val and test."
            )
    return notes


def _why_unused(table: Path) -> str:
    if table.suffix.lower() not in READ_SUFFIXES:
        return "it is no CSV (write one with file_name and label)"
    if _is_form(table):
        return "it is a form for answers"
    try:
        rows = read_rows(table)
        if not rows:
            return "it has no rows"
        listed = f"its columns: {', '.join(name.strip() for name in list(rows[0])[:8])}"
        file = _first_column(rows[0], FILE_COLUMNS) or _first_column(rows[0], GROUP_COLUMNS)
        if file is None:
            return f"none of its columns is called file_name ({listed})"
        if not _label_columns(rows, file):
            return f"none of its columns is called label ({listed})"
        _, missing = _files(rows, file, _Images.of(table.parent), table, [])
        return f"it names {len(rows) - missing} images that are there ({listed})"
    except UserError as error:
        return f"{error}".removeprefix(f"{table}: ").rstrip(".")


def labelled_files(path: Path, tables: dict[str | None, Path]) -> tuple[dict[str, LabelledFiles], list[str]]:
    """Split → its files and labels; and notes on how they were found.

    Raises:
        UserError: naming the table, if a row names no file, or two, or has no label.
    """
    splits: dict[str, LabelledFiles] = {}
    notes: list[str] = []
    used: set[Path] = set()
    for split, table in tables.items():
        folder = table.parent if split is not None and table.parent != path else path
        found, said = _read(table, folder, split)
        splits |= found
        notes += said
        used |= {file for one in found.values() for file in one.files}
    left = sum(map(is_image, files_below(path))) - len(used)
    if left > 0:
        notes.append(f"{left} images are not named in the table and were left out.")
    return splits, notes


def _may_hold_labels(file: Path) -> bool:
    """By its name: `sample_submission.csv` is a competition's form for answers."""
    known = file.suffix.lower() in (".csv", ".tsv") and file.is_file() and not is_hidden(Path(file.name))
    return known and not _is_form(file)


def _is_form(file: Path) -> bool:
    return "submission" in file.stem.lower()


def _names_images(table: Path) -> bool:
    """Whether a CSV of any name is a table of labels: it can be read, and names images that are there; where folders could be the
    classes, most of the images."""
    try:
        columns = _columns_of(rows := read_rows(table))
        if columns is None:
            return False
        images = _Images.of(table.parent)
        named = {file for file in _files(rows, columns[0], images, table, [])[0] if file}
        tops = {image.relative_to(table.parent).parts[0] for image in images.files if image.parent != table.parent}
        by_folders = len([top for top in tops if split_name(top) is None]) > 1  # which could be the classes
        return len(named) >= MOST_NAMED * len(images.files) if by_folders else bool(named)
    except UserError:
        return False


def _columns_of(rows: list[dict[str, str]]) -> tuple[str, list[str]] | None:
    """The column that names files, and those that hold labels; None where a table has no such columns."""
    if not rows:
        return None
    file = _first_column(rows[0], FILE_COLUMNS) or _first_column(rows[0], GROUP_COLUMNS)  # one file a patient
    labels = _label_columns(rows, file) if file else []
    return (file, labels) if file and labels else None


def _first_column(row: dict[str, str], names: Sequence[str]) -> str | None:
    return usual_column(row, names)


def _label_columns(rows: list[dict[str, str]], file: str) -> list[str]:
    """One column of labels; or where none is called so, two or more of zeros and ones."""
    usual = [name for name in LABEL_COLUMNS if name != "y" or _first_column(rows[0], ("x",)) is None]  # x, y: a place
    if (one := _first_column(rows[0], (*NAME_COLUMNS, *usual, *MORE_LABEL_COLUMNS))) is not None:
        return [one]
    binary = [
        name
        for name in rows[0]
        if name != file
        and not _SPLIT_FLAG.fullmatch(name.strip())
        and _first_column({name: ""}, (*GROUP_COLUMNS, *SPLIT_COLUMNS)) is None
        and _is_binary(rows, name)
    ]
    return binary if len(binary) > 1 else []


def _is_binary(rows: list[dict[str, str]], name: str) -> bool:
    """Both 0 and 1 are there, and nothing else but holes and CheXpert's −1, which `_labels` refuses."""
    values = {row[name].strip().lower() for row in rows}
    return bool(values & set(YES)) and bool(values & set(NO)) and values <= {*YES, *NO, *UNSURE}


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


def _read(table: Path, folder: Path, given: str | None) -> tuple[dict[str, LabelledFiles], list[str]]:
    columns = _columns_of(rows := read_rows(table))
    assert columns is not None
    file_column, label_columns = columns
    split_column = None if given else _split_column(rows, table)
    group_column = _first_column(rows[0], GROUP_COLUMNS)
    if group_column in (file_column, *label_columns):
        group_column = None
    found_by: list[str] = []
    images = _Images.of(folder)
    files, missing = _files(rows, file_column, images, table, found_by)
    if _first_column({file_column: ""}, SURE_FILE_COLUMNS) is None:
        _check_other_names(rows, files, file_column, label_columns, images, table)
    labels, names, said = _labels(rows, label_columns, table)
    _check_folders(files, labels, table)
    by_folder = None if given or split_column else _splits_of_folders(files, folder)
    if split_column:
        _check_splits(rows, files, split_column, folder, table)
    splits: dict[str, LabelledFiles] = {}
    seen: dict[Path, tuple[Any, str, str]] = {}
    for number, (row, file, label) in enumerate(zip(rows, files, labels, strict=True), start=2):
        if file is None:
            continue
        split = given or (by_folder or {}).get(file) or _split_of(row, split_column, table, number)
        group = _group(row[group_column], table, number) if group_column else ""
        if file in seen:
            if seen[file] != (label, split, group):
                what = "labels" if seen[file][0] != label else "splits" if seen[file][1] != split else "patients"
                raise UserError(
                    f"{table}: line {number}: {file.name} stands in two rows with different {what}. Keep one."
                )
            continue
        seen[file] = label, split, group
        part = splits.setdefault(split, LabelledFiles([], [], [] if group_column else None, names))
        part.files.append(file)
        part.labels.append(label)
        if part.groups is not None:
            part.groups.append(group)
    repeated = len(rows) - missing - len(seen)
    if by_folder:
        said = [*said, "Splits from the folders that the files lie in."]
    notes = _column_notes(table, list(rows[0]), file_column, label_columns, split_column, group_column)
    if missing:
        wanted = next(row[file_column].strip() for row, file in zip(rows, files, strict=True) if file is None)
        alike = images.written_otherwise(wanted)
        notes.append(f"{missing} rows of {table.name} name files that are not there, and were passed over{alike}.")
    if repeated:
        notes.append(f"{repeated} rows of {table.name} repeat another one, and were passed over.")
    return splits, [*notes, *found_by, *said]


def _check_other_names(
    rows: list[dict[str, str]],
    files: Sequence[Path | None],
    column: str,
    labels: Sequence[str],
    images: "_Images",
    table: Path,
) -> None:
    """Raises:
    UserError: if another column names other files: the first one may be numbers of rows or of people.
    """
    for name in [name for name in rows[0] if name not in (column, *labels)]:
        try:
            others, missing = _files(rows, name, images, table, [])
        except UserError:
            continue
        if missing == 0 and others != list(files):
            raise UserError(
                f"{table}: its columns {column} and {name.strip()} could both name the files. Call the right one file_name."
            )


def _splits_of_folders(files: Sequence[Path | None], folder: Path) -> dict[Path, str] | None:
    """The split of each file by the folders that it lies in; None where none of them is called so.

    Raises:
        UserError: if some files lie in such folders and others do not, or in folders of two splits.
    """
    there = [file.relative_to(folder) for file in files if file is not None]
    splits = {file: {split for part in file.parts[:-1] if (split := split_name(part))} for file in there}
    if not any(splits.values()):
        return None
    for file, found in splits.items():
        if len(found) != 1:
            where = "folders of two splits" if found else "no folder of a split, and others do"
            raise UserError(f"{folder}: {file.as_posix()} lies in {where}. Write a column `split`, or move it.")
    return {folder / file: next(iter(found)) for file, found in splits.items()}


def _check_splits(
    rows: list[dict[str, str]], files: Sequence[Path | None], column: str, folder: Path, table: Path
) -> None:
    """Raises:
    UserError: if a file lies in the folder of another split than the table says.
    """
    for number, (row, file) in enumerate(zip(rows, files, strict=True), start=2):
        parts = file.relative_to(folder).parts[:-1] if file else ()
        there = {split for part in parts if (split := split_name(part))}
        if there and (said := split_name(row[column].strip())) and said not in there:
            raise UserError(
                f"{table}: line {number}: {column} is {said}, but {parts[-1]}/{file.name if file else ''} lies in the folder of "
                f"{', '.join(there)}. Correct one of them."
            )


def _split_column(rows: list[dict[str, str]], table: Path) -> str | None:
    """The column that says which split a row is of: one called split or so, or one that holds the splits' names."""
    usual = _first_column(rows[0], SPLIT_COLUMNS[:3])
    found = usual or next((name for name in rows[0] if names_splits(row[name] for row in rows)), None)
    for name in () if found else rows[0]:
        values = sorted({row[name].strip() for row in rows})
        like_splits = len(values) in (2, 3) and all(map(is_split_like, values)) and "train" in " ".join(values).lower()
        if _SPLIT_FLAG.fullmatch(name.strip()) or like_splits:
            raise UserError(
                f"{table}: its column {name.strip()} seems to say which split a row is of ({', '.join(values[:3])}). Write train, "
                "val and test in a column `split`, or take it out."
            )
    return found


def _check_folders(files: Sequence[Path | None], labels: Sequence[Any], table: Path) -> None:
    """Where folders bear the labels' names, the table says the same as they do.

    Raises:
        UserError: if not: one of the two is wrong.
    """
    known = {same_name(label) for label in labels if isinstance(label, str)}
    if len(known & {same_name(file.parent.name) for file in files if file}) < 2:
        return
    for number, (file, label) in enumerate(zip(files, labels, strict=True), start=2):
        if file is None or not isinstance(label, str):
            continue
        if (folder := same_name(file.parent.name)) in known and folder != same_name(label):
            raise UserError(
                f"{table}: line {number} says {label!r}, but {file.name} lies in the folder {file.parent.name!r}. Correct one of "
                "them, or move the table away."
            )


def _column_notes(
    table: Path, columns: list[str], file: str, labels: list[str], split: str | None, group: str | None
) -> list[str]:
    """Which columns were used for what, and which were not."""
    used = ", ".join([file, *labels])
    notes = [f"Labels are read from {table.name} (columns {used}); names of folders were not used."]
    if split:
        notes.append(f"Splits are read from its column {split}.")
    if group:
        notes.append(f"Images with the same {group} belong together.")
    if unused := [
        name.strip() or "one without a name" for name in columns if name not in (file, *labels, split, group)
    ]:
        notes.append(f"Its other columns were passed over: {', '.join(unused)}.")
    return notes


def _split_of(row: dict[str, str], column: str | None, table: Path, number: int) -> str:
    if column is None:
        return "train"
    split = split_name(row[column].strip())
    if split is None:
        raise UserError(
            f"{table}: line {number}: {column} is {row[column]!r}; train, val and test are needed. Correct it."
        )
    return split


def _group(value: str, table: Path, number: int) -> str:
    if value.strip().lower() in UNKNOWN:
        raise UserError(
            f"{table}: line {number}: who the image is of is missing ({value.strip()!r}). Give every row a patient, or leave "
            "the column out."
        )
    return value.strip()


@dataclass(frozen=True)
class _Images:
    """The images below a folder, looked up once: by their paths in it, by their names with and without suffix; and the folders."""

    root: Path
    files: list[Path]
    by_path: dict[str, Path]
    by_name: dict[str, list[Path]]
    folders: set[str]

    @classmethod
    def of(cls, root: Path) -> "_Images":
        files = list(filter(is_image, files_below(root)))
        by_name: dict[str, list[Path]] = {}
        for file in files:
            for name in {file.name, stem_of(file)}:
                by_name.setdefault(_composed(name), []).append(file)
        by_path = {_composed(file.relative_to(root).as_posix()): file for file in files}
        folders = {_composed(parent.as_posix()) for file in files for parent in file.relative_to(root).parents}
        return cls(root, files, by_path, by_name, folders)

    def written_otherwise(self, wanted: str) -> str:
        """In brackets, a hint where a file is there whose name differs only in case, in zeros before a number, or in a suffix."""

        def key(name: str) -> str:
            return re.sub(r"0+(?=\d)", "", _composed(name).casefold())

        name = Path(wanted.replace("\\", "/"))
        meant = {key(name.name), key(stem_of(name))}
        alike = next((file for file in self.files if {key(file.name), key(stem_of(file))} & meant), None)
        return "" if alike is None else f" ({name.name} is not there, {alike.name} is, …)"


def _files(
    rows: list[dict[str, str]], column: str, images: _Images, table: Path, said: list[str]
) -> tuple[list[Path | None], int]:
    """The file that each row means, None where there is none; and how many there are not. What a user should know is added to
    `said`.

    Raises:
        UserError: if a name means several files, or none is there.
    """
    by_path, by_name = images.by_path, images.by_name
    found: list[Path | None] = []
    elsewhere: list[str] = []
    every = [_composed(row[column].strip().replace("\\", "/").removeprefix("./")) for row in rows]
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


def _composed(name: str) -> str:
    """The same letters in one encoding: a zip of macOS holds ü as u and two dots."""
    return unicodedata.normalize("NFC", name)


def _labels(
    rows: list[dict[str, str]], columns: list[str], table: Path
) -> tuple[list[Any], list[str] | None, list[str]]:
    """The label of each row, a text, or where images have several a list of texts; names in their own order; and a note."""
    if len(columns) > 1:
        for number, row in enumerate(rows, start=2):
            if odd := next((name for name in columns if row[name].strip().lower() in UNSURE), None):
                raise UserError(
                    f"{table}: line {number}: {odd} is {row[odd]!r}, neither 0 nor 1. Decide what it means, and write that."
                )
        names = [name.strip() for name in columns]
        several = [[name for name in columns if row[name].strip().lower() in YES] for row in rows]
        labels = [[name.strip() for name in one] for one in several]
        if all(len(one) == 1 for one in labels):
            return (
                [one[0] for one in labels],
                names,
                ["Every image has exactly one of the labels: they were taken for classes."],
            )
        nothing = [name for name in names if name.strip().lower() in NOTHING_FOUND]
        labels = [[name for name in one if name not in nothing] for one in labels]
        names = [name for name in names if name not in nothing]
        left = [f"{', '.join(nothing)} was taken for no label."] if nothing else []
        return labels, names, ["Images have any number of labels, a column of zeros and ones each.", *left]
    column = columns[0]
    texts = [row[column].strip() for row in rows]
    separator = next((mark for mark in SEPARATORS if any(mark in text for text in texts)), None)
    if empty := [number for number, text in enumerate(texts, start=2) if text.lower() in NO_LABEL]:
        raise UserError(f"{table}: line {empty[0]} has no {column}. Give every image a label, or remove the row.")
    if lists := [number for number, text in enumerate(texts, start=2) if text.startswith("[") and text.endswith("]")]:
        raise UserError(f"{table}: line {lists[0]}: {column} is a list written as text. Write names with | between.")
    if separator is None:
        return texts, None, []
    labels = [
        [part.strip() for part in text.split(separator) if part.strip().lower() not in NO_LABEL] for text in texts
    ]
    counts = Counter(part for one in labels for part in one)
    if counts and set(counts) <= {"0", "1"}:
        raise UserError(
            f"{table}: line 2: {column} is a row of zeros and ones ({texts[0]}), whose labels have no names. Write the "
            "names, or a column for each label."
        )
    nothing = [part for part in counts if part.lower() in NOTHING_FOUND]
    labels = [[part for part in dict.fromkeys(one) if part not in nothing] for one in labels]
    note = f"Images have any number of labels, {separator!r} between them in the column {column}"
    return labels, None, [note + (f"; {', '.join(nothing)} was taken for no label." if nothing else ".")]
