"""Which columns of a table of labels are what: the one that names files, those of labels, of splits and of patients.

Columns are known by their usual names. The one of files must also name some: `subject_id` is a patient where `dicom_id` names the
files. What could mean two things is refused.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from medmnist_diffusion.data.conditioning import same_name
from medmnist_diffusion.data.folder_names import are_persons, is_split_like
from medmnist_diffusion.data.folders import FEWEST_PATIENTS
from medmnist_diffusion.data.named_files import FOLDER, NamedImages, files_of
from medmnist_diffusion.data.parquet import GROUP_COLUMNS, LABEL_COLUMNS, SPLIT_COLUMNS, names_splits, usual_column
from medmnist_diffusion.errors import UserError

Rows = list[dict[str, str]]
SURE_FILE_COLUMNS = (
    "file_name", "filename", "file", "filepath", "file_path", "image_file", "image_path", "path", "image", "image_id",
    "image_name", "image_index", "img", "img_id", "imageid", "dateiname", "fichier", "archivo",
)  # fmt: skip
FILE_COLUMNS = (*SURE_FILE_COLUMNS, "id_code", "id", "name")  # the last three may mean something else
NAME_COLUMNS = ("label_name", "class_name", "finding_labels")  # before all other columns of labels
SYNTHETIC = "synthetic"  # what `sample` and `augment` write of each image
SPLIT_WORDS = ("set", "phase", "cohort", "usage", "part")  # beside those that are read
SURE_LABELS = ("label", "labels", "class", "classes")
PERHAPS_LABELS = ("grade", "level", "group", "choice")  # after all others; the last one is Label Studio's
UNSURE = ("", "nan", "na", "-1", "-1.0", "u")
YES, NO = ("1", "1.0", "true", "yes"), ("0", "0.0", "false", "no")
NEARLY_ALL = 0.9  # of a column's values: it is one of zeros and ones with some mistakes
MOST_GRADES = 20
_LABEL_WORD = re.compile(
    r"(^|[_ -])(grade|level|stage|class|diagnos\w*|label|severity|category|dx)([_ -]|$)", re.IGNORECASE
)
_SPLIT_FLAG = re.compile(r"((?P<is>is|in)[-_ ]?)?(train(ing)?|val(id(ation)?)?|test(ing)?)([-_ ]?set)?", re.IGNORECASE)


@dataclass(frozen=True)
class Columns:
    """The names of a table's columns.

    Attributes:
        file: that names files; or folders, if `by_folder`.
        labels: one of labels, or several of zeros and ones.
        group: who an image is of.
        by_folder: a row names a folder, and its label is that of all images in it.
    """

    file: str
    labels: tuple[str, ...]
    group: str | None = None
    by_folder: bool = False

    @property
    def are_sure(self) -> bool:
        """Whether the labels' column is called so: zeros and ones may be anything that was written down of a person."""
        return len(self.labels) == 1 and usual_column(self.labels, (*NAME_COLUMNS, *LABEL_COLUMNS)) is not None


def columns_of(rows: Rows, images: NamedImages) -> Columns | None:
    """Which columns name files and hold labels; None where a table has no such columns."""
    if not rows:
        return None
    usual = _usual_labels(rows)
    file, by_folder = _file_column(rows, usual, images)
    labels = _label_columns(rows, file) if file else []
    if not file or not labels:
        return None
    group = usual_column(rows[0], GROUP_COLUMNS)
    if by_folder and group in (None, file):
        group = FOLDER
    return Columns(file, tuple(labels), None if group in (file, *labels) else group, by_folder)


def file_column(rows: Rows, images: NamedImages) -> str | None:
    """The column that names files, or folders; where none does, the one that is called so."""
    return _file_column(rows, _usual_labels(rows), images)[0] if rows else None


def _file_column(rows: Rows, labels: Sequence[str], images: NamedImages) -> tuple[str | None, bool]:
    called = [name for usual in FILE_COLUMNS if (name := usual_column(rows[0], (usual,)))]
    people = [name for usual in GROUP_COLUMNS if (name := usual_column(rows[0], (usual,)))]  # one file each
    for name in [*called, *people]:
        if images.names_any(row[name] for row in rows):
            return name, False
    others = [name for name in rows[0] if name.strip() and name not in (*called, *people, *labels)]
    for name in others:  # whatever it is called, it names files: no numbers, which may be those of rows
        values = [row[name].strip() for row in rows]
        if len(set(values)) == len(values) and not all(map(str.isdigit, values)) and images.names_all(values):
            return name, False
    for name in [*called, *people]:  # folders of persons: a table of the classes' folders says their names
        folders = {row[name] for row in rows if images.folder(row[name])}
        if folders and (are_persons(folders) or len(folders) >= FEWEST_PATIENTS):
            return name, True
    return next(iter([*called, *people]), None), False


def _usual_labels(rows: Rows) -> list[str]:
    labels = [name for name in LABEL_COLUMNS if name != "y" or usual_column(rows[0], ("x",)) is None]  # x, y: a place
    one = usual_column(rows[0], (*NAME_COLUMNS, *labels, *PERHAPS_LABELS))
    return [] if one is None else [one]


def _label_columns(rows: Rows, file: str) -> list[str]:
    """One column of labels; or where none is called so, two or more of zeros and ones."""
    if (usual := _usual_labels(rows)) and usual != [file]:
        return usual
    binary = [
        name
        for name in rows[0]
        if name != file
        and not _SPLIT_FLAG.fullmatch(name.strip())
        and usual_column((name,), (*GROUP_COLUMNS, *SPLIT_COLUMNS)) is None
        and _is_binary([row[name] for row in rows])
    ]
    return binary if len(binary) > 1 else []


def _is_binary(values: Sequence[str]) -> bool:
    """Both 0 and 1 are there, and nothing else but holes and CheXpert's −1, which are refused later."""
    found = {value.strip().lower() for value in values}
    return bool(found & set(YES)) and bool(found & set(NO)) and found <= {*YES, *NO, *UNSURE}


def same_label_columns(tables: dict[Path, tuple[Rows, Columns]]) -> dict[Path, Columns]:
    """The columns of several tables of one set: a label that one of them has as a column of zeros and ones, all have.

    Raises:
        UserError: if one has not.
    """
    wanted = tuple(dict.fromkeys(name for _, one in tables.values() if len(one.labels) > 1 for name in one.labels))
    if not wanted:
        return {table: one for table, (_, one) in tables.items()}
    owner = {name: table for table, (_, one) in reversed(tables.items()) for name in one.labels}
    for table, (rows, _) in tables.items():
        if lacking := [name for name in wanted if name not in rows[0]]:
            raise UserError(
                f"{table}: the column {lacking[0]} of {owner[lacking[0]].name} is not there. Write it; or take it out there."
            )
    return {table: replace(one, labels=wanted) for table, (_, one) in tables.items()}


def may_hold_labels(rows: Rows, file: str) -> str | None:
    """A column that may hold grades or diagnoses, but is not called so that it is read."""
    for name in rows[0]:
        if name != file and _may_be_grade(name, {row[name].strip() for row in rows}):
            return name.strip()
    return None


def _may_be_grade(name: str, values: set[str]) -> bool:
    """Whether a column is called like a grade or a diagnosis, and has few values."""
    return _LABEL_WORD.search(name.strip()) is not None and 1 < len(values) <= MOST_GRADES


def check_columns(rows: Rows, columns: Columns, split: str | None, table: Path) -> list[str]:
    """Of zeros and ones, what is said of the other columns.

    Raises:
        UserError: if one of them may be one of labels, too: zeros and ones with a mistake, or grades.
    """
    if len(columns.labels) == 1:
        _check_other_labels(rows, columns.labels[0], table)
        return []
    alone = []
    for name in rows[0]:
        values = [value for row in rows if (value := row[name].strip().lower()) not in UNSURE]
        if name in (columns.file, *columns.labels, split, columns.group) or not values:
            continue
        binary = [value for value in values if value in (*YES, *NO)]
        if len(set(binary)) > 1 and NEARLY_ALL * len(values) <= len(binary) < len(values):
            odd = next(value for value in values if value not in (*YES, *NO))
            raise UserError(
                f"{table}: its column {name.strip()} holds 0 and 1, but also {odd!r}. Is it a label? Correct it, or take it out."
            )
        if _may_be_grade(name, set(values)):
            raise UserError(
                f"{table}: its column {name.strip()} could hold the labels, and so could {', '.join(columns.labels[:3])}. Call "
                "the right one `label`, or take it out."
            )
        if len(set(values)) == 1 and len(binary) == len(values):
            alone.append(name.strip())
    return [f"{', '.join(alone)} {'hold' if len(alone) > 1 else 'holds'} one value alone, no label."] if alone else []


def _check_other_labels(rows: Rows, label: str, table: Path) -> None:
    """Raises:
    UserError: if several columns could hold the labels, and say different things: only `label` and `class` are sure.
    """
    if usual_column((label,), (*NAME_COLUMNS, *SURE_LABELS)):
        return
    for other in [
        name for name in rows[0] if name != label and usual_column((name,), (*LABEL_COLUMNS, *PERHAPS_LABELS))
    ]:
        pairs = {(row[label].strip(), row[other].strip()) for row in rows}
        values = [{pair[at] for pair in pairs} for at in (0, 1)]
        if 1 < len(values[1]) <= MOST_GRADES and not len(pairs) == len(values[0]) == len(values[1]):
            raise UserError(
                f"{table}: its columns {label.strip()} and {other.strip()} could both hold the labels. Call the right one "
                "`label`, or take the other one out."
            )


def check_other_names(
    rows: Rows, files: Sequence[Path | None], columns: Columns, images: NamedImages, table: Path
) -> None:
    """Raises:
    UserError: if another column names other files: the first one may be numbers of rows or of people.
    """
    if usual_column((columns.file,), SURE_FILE_COLUMNS) or columns.by_folder:
        return
    for name in [name for name in rows[0] if name not in (columns.file, *columns.labels)]:
        try:
            others, missing = files_of(rows, name, images, table, [])
        except UserError:
            continue
        if missing == 0 and others != list(files):
            raise UserError(
                f"{table}: its columns {columns.file} and {name.strip()} could both name the files. Call the right one file_name."
            )


def split_column(rows: Rows, table: Path) -> str | None:
    """The column that says which split a row is of: one called split or so, or one that holds the splits' names.

    Raises:
        UserError: if one seems to say it in other words.
    """
    usual = usual_column(rows[0], SPLIT_COLUMNS[:3])
    found = usual or next((name for name in rows[0] if names_splits(row[name] for row in rows)), None)
    for name in () if found else rows[0]:
        values = sorted({row[name].strip() for row in rows})
        like_splits = len(values) in (2, 3) and all(map(is_split_like, values)) and "train" in " ".join(values).lower()
        other_words = usual_column((name,), SPLIT_WORDS) and len(values) > 1 and any(map(is_split_like, values))
        flag = _SPLIT_FLAG.fullmatch(name.strip())
        if (flag and (flag["is"] or _is_binary(values))) or like_splits or other_words:
            raise UserError(
                f"{table}: its column {name.strip()} seems to say which split a row is of ({', '.join(values[:3])}). Write train, "
                "val and test in a column `split`, or take it out."
            )
    return found


def column_notes(table: Path, rows: Rows, columns: Columns, split: str | None) -> list[str]:
    """Which columns were used for what, and which were not."""
    read = ", ".join([columns.file, *columns.labels])
    notes = [f"Labels are read from {table.name} (columns {read}); names of folders were not used."]
    if split:
        notes.append(f"Splits are read from its column {split}.")
    if columns.by_folder:
        notes.append("Its rows name folders: all images in one have the row's label.")
    if columns.group:
        notes.append(f"Images with the same {columns.group} belong together.")
    if generated := sum(row.get(SYNTHETIC, "").strip().lower() in YES for row in rows):
        notes.append(f"{generated} of {len(rows)} images are generated, not real (its column {SYNTHETIC}).")
    used = (columns.file, *columns.labels, split, columns.group, FOLDER)
    unused = [name.strip() or "one without a name" for name in rows[0] if name not in used]
    if folds := [name for name in unused if same_name(name) in ("fold", "folds", "kfold", "cvfold")]:
        notes.append(f"Its column {folds[0]} was not used: folds of a cross-validation are no train, val and test.")
    if unused:
        notes.append(f"Its other columns were passed over: {', '.join(unused)}.")
    return notes
