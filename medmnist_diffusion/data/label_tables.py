"""Labels beside images: a CSV, TSV or JSON-lines table with one row an image. Which table, which of its columns, which file a row
means.

The rules. One of LABEL_TABLES in the folder (or in each of its split folders), else the one other CSV or TSV there that names its
images, is the table; classes are then its labels, not folders. One column names the file, with or without its folder and suffix.
One holds the label, several of them with `|` or `;` between; or a column of zeros and ones for each label. Columns called split
and patient are used where they are there. What is left out is said; what could mean two things is refused.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from medmnist_diffusion.data.conditioning import same_name
from medmnist_diffusion.data.folder_names import (
    are_persons,
    is_hidden,
    is_split_like,
    is_within_class,
    split_in,
    split_name,
)
from medmnist_diffusion.data.folders import LABEL_TABLES, files_below, persons_by_folders
from medmnist_diffusion.data.images import is_image
from medmnist_diffusion.data.named_files import NamedImages, files_of, rows_of_files
from medmnist_diffusion.data.parquet import GROUP_COLUMNS, NO_LABEL, usual_column
from medmnist_diffusion.data.table_columns import (
    FILE_COLUMNS,
    UNSURE,
    YES,
    Columns,
    check_columns,
    check_other_names,
    column_notes,
    columns_of,
    file_column,
    may_hold_labels,
    same_label_columns,
    split_column,
)
from medmnist_diffusion.data.table_rows import read_rows
from medmnist_diffusion.errors import UserError

TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".xlsx", ".xls", ".ods")
READ_SUFFIXES = (".csv", ".tsv", ".jsonl")
SEPARATORS = ("|", ";")
NOTHING_FOUND = ("no finding", "no findings", "none", "no label")  # of several labels: none of them
MOST_NAMED = 0.5  # of the images: a table of no usual name that names fewer is about something else
UNKNOWN = (*NO_LABEL, "unknown", "anonymous", "anonymized", "anonymised", "none", "-")  # as names of patients


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
    present = [path / name for name in LABEL_TABLES if (path / name).is_file()]
    candidates = [file for file in sorted(path.iterdir()) if _may_hold_labels(file)]
    if not present and not candidates:
        return _tables_in_splits(path)
    images = NamedImages.of(path)
    known = {table: columns_of(read_rows(table), images) for table in present}
    usual = [table for table, columns in known.items() if columns]
    named = [
        table for table, columns in known.items() if columns and len(columns.labels) == 1
    ]  # one called label, or so
    if len(named) > 1:
        raise UserError(f"{path}: {named[0].name} and {named[1].name} both hold labels. Keep one of them.")
    if usual:
        return {None: (named or usual)[0]}
    if in_splits := _tables_in_splits(path):
        return in_splits
    others = [file for file in candidates if _names_images(file, images)]
    by_split = {next(iter(split_in(file.stem)), None): file for file in others if len(split_in(file.stem)) == 1}
    if by_split and len(by_split) == len(others):
        rest = [file for file in candidates if file not in others and len(split_in(file.stem) - by_split.keys()) == 1]
        wanted = columns_of(read_rows(others[0]), images)
        labels = wanted.labels if wanted else ()
        by_split |= {split_in(file.stem).pop(): file for file in rest if _has_labels(file, labels, images)}
        if len(by_split) > 1:
            return dict(by_split)
    if len(others) > 1:
        listed = " and ".join(file.name for file in others[:2])
        raise UserError(f"{path}: {listed} could both hold the labels. Call the right one metadata.csv.")
    return {None: others[0]} if others else {}


def _tables_in_splits(path: Path) -> dict[str | None, Path]:
    """Split → the table in its folder."""
    found: dict[str | None, Path] = {
        split: folder / name
        for folder in sorted(path.iterdir())
        if folder.is_dir() and (split := split_name(folder.name))
        for name in LABEL_TABLES
        if (folder / name).is_file() and columns_of(read_rows(folder / name), NamedImages.of(folder))
    }
    without = [
        folder.name for folder in path.iterdir() if folder.is_dir() and split_name(folder.name) not in (None, *found)
    ]
    if found and without:
        listed = next(iter(found.values())).relative_to(path).as_posix()
        raise UserError(
            f"{path}: {listed} holds labels, and {without[0]} has no such table. Write one there, or move it away."
        )
    return found


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
            names = [usual_column(rows[0], columns) if rows else None for columns in (FILE_COLUMNS, GROUP_COLUMNS)]
            named_by, group_column = names
            if named_by is None or group_column is None:
                continue
            meant, _ = files_of(rows, named_by, NamedImages.of(path), table, [])
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
    notes, used = list[str](), list(used)
    read_from = used[0].name if used else None
    images_in = cache(NamedImages.of)
    for table in sorted({*path.glob("*"), *path.glob("*/*")} - set(used)):
        if table.suffix.lower() == ".json" and table.parent == path and table.is_file():
            listed = table.relative_to(path).as_posix()
            notes.append(
                f"{listed} was not used: labels, splits and patients are read from a CSV (write one with file_name)."
            )
        elif table.suffix.lower() in TABLE_SUFFIXES and table.is_file() and not is_hidden(table.relative_to(path)):
            notes.append(
                f"{table.relative_to(path).as_posix()} was not used: {_why_unused(table, images_in(table.parent), read_from)}."
            )
        elif table.suffix.lower() == ".txt" and table.is_file() and is_split_like(table.stem):
            notes.append(
                f"{table.relative_to(path).as_posix()} was not used, though it may list a split: its images may stand in any. "
                "Write a table with a column `split`, or put the images into folders called train, val and test."
            )
    return notes


def _why_unused(table: Path, images: NamedImages, read_from: str | None = None) -> str:
    """Why no labels were read from a table.

    Args:
        images: beside it.
        read_from: the table that they were read from.
    """
    if table.suffix.lower() not in READ_SUFFIXES:
        return "it is no CSV (write one with file_name and label)"
    if _is_form(table):
        return "it is a form for answers"
    try:
        if not (rows := read_rows(table)):
            return "it has no rows"
        listed = f"its columns: {', '.join(name.strip() for name in list(rows[0])[:8])}"
        if (named_by := file_column(rows, images)) is None:
            return f"none of its columns is called file_name ({listed})"
        if (columns := columns_of(rows, images)) is None:
            return f"none of its columns is called label ({listed}); call the right one so"
        named = len(rows) if columns.by_folder else len(rows) - files_of(rows, named_by, images, table, [])[1]
        instead = f", but {read_from} was" if read_from else ""
        return f"it names {named} {'folders' if columns.by_folder else 'images'} that are there ({listed}){instead}"
    except UserError as error:
        return f"{error}".removeprefix(f"{table}: ").rstrip(".")


def refuse_unread_labels(path: Path, classes: Iterable[str], count: int) -> None:
    """Where folders are the classes, a table beside them may have other labels of as many images, and name none of them.

    Raises:
        UserError: if so: whoever wrote it meant these labels.
    """
    tables = [file for file in sorted(path.iterdir()) if _may_hold_labels(file)]
    if not tables:
        return
    known, images = set(map(same_name, classes)), NamedImages.of(path)
    for table in tables:
        try:
            columns = columns_of(rows := read_rows(table), images)
        except UserError:
            continue
        if len(rows) < MOST_NAMED * count:
            continue
        named_by = file_column(rows, images)
        names_images = named_by is not None and images.names_any(row[named_by] for row in rows)
        if columns is None and named_by and names_images and (column := may_hold_labels(rows, named_by)):
            raise UserError(
                f"{path}: the labels could be the column {column} of {table.name}, and the classes the folders "
                f"({', '.join(sorted(classes)[:3])}). Call the column `label`, or move the table away."
            )
        if columns is None or not columns.are_sure:
            continue
        labels = {row[columns.labels[0]].strip() for row in rows}
        if not known & set(map(same_name, labels)) and len(labels) > 1:
            raise UserError(
                f"{path}: {table.name} was not used: {_why_unused(table, images)}. It holds other labels "
                f"({', '.join(sorted(labels)[:3])}) than the folders ({', '.join(sorted(classes)[:3])}). Mend it, or move it away "
                "if the folders are the classes."
            )


def labelled_files(path: Path, tables: dict[str | None, Path]) -> tuple[dict[str, LabelledFiles], list[str]]:
    """Split → its files and labels; and notes on how they were found.

    Raises:
        UserError: naming the table, if a row names no file, or two, or has no label.
    """
    splits: dict[str, LabelledFiles] = {}
    notes: list[str] = []
    used: set[Path] = set()
    folders = {table: table.parent if split is not None else path for split, table in tables.items()}
    images = {folder: NamedImages.of(folder) for folder in set(folders.values())}
    read = {}
    for table, folder in folders.items():
        rows = read_rows(table)
        columns = columns_of(rows, images[folder]) or _columns_without_labels(rows, images[folder])
        read[table] = rows, columns
    columns_by_table = same_label_columns(read)
    for split, table in tables.items():
        found, said = _read(table, read[table][0], columns_by_table[table], images[folders[table]], split)
        splits |= found
        notes += said
        used |= {file for one in found.values() for file in one.files}
    if all(one.groups is None for one in splits.values()) and (people := persons_by_folders(sorted(used), path)):
        persons = sorted(set(people.values()))
        splits = {name: replace(one, groups=[people[file] for file in one.files]) for name, one in splits.items()}
        notes.append(
            f"The {len(persons)} folders ({', '.join(persons[:3])}, …) were taken for patients: images in folders of one name "
            "belong together."
        )
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


def _columns_without_labels(rows: list[dict[str, str]], images: NamedImages) -> Columns:
    """Of a split's table whose columns of zeros and ones do not look so: a rare label is 0 everywhere."""
    group = usual_column(rows[0], GROUP_COLUMNS)
    named_by = file_column(rows, images)
    assert named_by is not None
    return Columns(named_by, (), None if group == named_by else group)


def _has_labels(file: Path, labels: Sequence[str], images: NamedImages) -> bool:
    """Whether a table names images, be they few, and has columns of these names, though some may hold 0 alone."""
    try:
        named_by = file_column(rows := read_rows(file), images)
    except UserError:
        return False
    return named_by is not None and set(labels) <= rows[0].keys() and images.names_any(row[named_by] for row in rows)


def _names_images(table: Path, images: NamedImages) -> bool:
    """Whether a CSV of any name is a table of labels: it can be read, and names images that are there; where folders could be the
    classes, most of the images."""
    try:
        if (columns := columns_of(rows := read_rows(table), images)) is None:
            return False
        rows = rows_of_files(rows, columns.file, images) if columns.by_folder else rows
        named = {file for file in files_of(rows, columns.file, images, table, [])[0] if file}
        classes = _possible_classes(images)
        by_folders = len(classes) > 1 and not are_persons(classes)
        return len(named) >= MOST_NAMED * len(images.files) if by_folders else bool(named)
    except UserError:
        return False


def _possible_classes(images: NamedImages) -> set[str]:
    """The names of folders that could be classes, were there no table."""
    below = (file.relative_to(images.root).parts[:-1] for file in images.files)
    within = (parts[1:] if parts and split_name(parts[0]) else parts for parts in below)
    return {parts[0] for parts in within if parts}


def _refuse_two_kinds_of_classes(table: Path, columns: Columns, labels: Sequence[Any], images: NamedImages) -> None:
    """Raises:
    UserError: if folders look like classes and bear none of the labels' names, unless the table is one of labels by its name and
        its column.
    """
    classes = {name for name in _possible_classes(images) if not (is_within_class(name) or is_split_like(name))}
    alike = len({re.sub(r"\d+", "", name) for name in classes}) < 2  # part_1, part_2; or one alone
    if alike or are_persons(classes) or (table.name in LABEL_TABLES and columns.are_sure) or columns.by_folder:
        return
    known = {same_name(one) for label in labels for one in (label if isinstance(label, list) else [label])}
    if not known & set(map(same_name, classes)):
        what = (
            f"the column {columns.labels[0]}"
            if len(columns.labels) == 1
            else f"the columns {', '.join(columns.labels[:3])}"
        )
        raise UserError(
            f"{table}: the labels could be {what}, and the classes the folders {', '.join(sorted(classes)[:3])}. If the table has "
            "the labels, call it metadata.csv and one column `label`, or move the images out of these folders; else move it away."
        )


def _read(
    table: Path, rows: list[dict[str, str]], columns: Columns, images: NamedImages, given: str | None
) -> tuple[dict[str, LabelledFiles], list[str]]:
    said_by = None if given else split_column(rows, table)
    found_by = check_columns(rows, columns, said_by, table)
    if columns.by_folder:
        _labels(rows, columns.labels, table)  # a mistake is named by its line
        rows = rows_of_files(rows, columns.file, images)
    files, missing = files_of(rows, columns.file, images, table, found_by)
    check_other_names(rows, files, columns, images, table)
    labels, names, said = _labels(rows, columns.labels, table)
    _check_folders(files, labels, table)
    _refuse_two_kinds_of_classes(table, columns, labels, images)
    by_folder = None if given or said_by else _splits_of_folders(files, images.root)
    if said_by:
        _check_splits(rows, files, said_by, images.root, table)
    splits: dict[str, LabelledFiles] = {}
    seen: dict[Path, tuple[Any, str, str]] = {}
    for number, (row, file, label) in enumerate(zip(rows, files, labels, strict=True), start=2):
        if file is None:
            continue
        split = given or (by_folder or {}).get(file) or _split_of(row, said_by, table, number)
        group = _group(row[columns.group], table, number) if columns.group else ""
        if file in seen:
            if seen[file] != (label, split, group):
                what = "labels" if seen[file][0] != label else "splits" if seen[file][1] != split else "patients"
                raise UserError(
                    f"{table}: line {number}: {file.name} stands in two rows with different {what}. Keep one."
                )
            continue
        seen[file] = label, split, group
        part = splits.setdefault(split, LabelledFiles([], [], [] if columns.group else None, names))
        part.files.append(file)
        part.labels.append(label)
        if part.groups is not None:
            part.groups.append(group)
    repeated = len(rows) - missing - len(seen)
    if by_folder and len(splits) > 1:
        said = [*said, "Splits from the folders that the files lie in."]
    notes = column_notes(table, rows, columns, said_by)
    if missing:
        wanted = next(row[columns.file].strip() for row, file in zip(rows, files, strict=True) if file is None)
        alike = images.written_otherwise(wanted)
        notes.append(f"{missing} rows of {table.name} name files that are not there, and were passed over{alike}.")
    if repeated:
        notes.append(f"{repeated} rows of {table.name} repeat another one, and were passed over.")
    return splits, [*notes, *found_by, *said]


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


def _labels(
    rows: list[dict[str, str]], columns: Sequence[str], table: Path
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
    both = sum(1 < len(one) != len(set(one) - set(nothing)) for one in labels)
    also = f" In {both} rows it stands beside other labels, which count." if both else ""
    labels = [[part for part in dict.fromkeys(one) if part not in nothing] for one in labels]
    note = f"Images have any number of labels, {separator!r} between them in the column {column}"
    return labels, None, [note + (f"; {', '.join(nothing)} was taken for no label.{also}" if nothing else ".")]
