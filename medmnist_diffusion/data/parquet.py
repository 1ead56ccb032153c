"""Folders of parquet files and Hub data sets: which column holds the images, which the labels, and which split a file is of.

Labels are read file by file and joined by their names: the same number may mean another class in another file.
"""

import glob
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medmnist_diffusion.cache import cache_dir
from medmnist_diffusion.data.folder_names import is_split_like, split_in, split_name
from medmnist_diffusion.errors import UserError, one_line

# The usual names of columns, where no type tells.
IMAGE_COLUMNS = ("image", "images", "img", "picture", "photo", "image_bytes", "bytes", "png", "jpg", "jpeg")
LABEL_COLUMNS = (
    "label",
    "labels",
    "class",
    "classes",
    "target",
    "targets",
    "y",
    "category",
    "diagnosis",
    "diagnostic",
    "diagnose",
    "dx",
    "finding",
    "pathology",
    "condition",
)

SPLIT_COLUMNS = ("split", "subset", "partition", "set", "fold", "phase")
GROUP_COLUMNS = (
    "patient", "patient_id", "patientid", "patient_number", "patienten_id", "subject", "subject_id", "subjectid", "participant",
    "participant_id", "mrn", "pid", "eid", "case", "case_id", "lesion_id", "person", "person_id",
)  # fmt: skip
NO_LABEL = ("", "nan", "<na>", "nat", "null", "n/a", "#n/a", "?")  # texts that stand for a hole
PARQUET_SUFFIXES = (".parquet", ".parq", ".pq")


@dataclass(frozen=True)
class Part:
    """What one file or table holds.

    Attributes:
        table: a `datasets.Dataset` with one column `image`, undecoded.
        labels: of its images, as names or whole numbers; of several labels an image as lists of names.
        names: the classes in the order of the file's own ids, where it has some.
        groups: of its images, which person or lesion they show, where that is known.
    """

    table: Any
    labels: list[Any]
    names: list[str] | None = None
    groups: list[str] | None = None


def parquet_parts(path: Path, files: list[Path], content: str) -> tuple[dict[str, list[Part]], list[str]]:
    """Split → what its files hold; and notes on files that are left out.

    `datasets` knows its cached copies by the files' paths and dates, so that each content gets a cache of its own.

    Raises:
        UserError: naming the file, if it cannot be read or has no such columns.
    """
    splits, notes = _splits_of_files(path, files)
    parts: dict[str, list[Part]] = {}
    read: set[tuple[str, str]] = set()
    others: set[str] = set()
    for split, members in splits.items():
        _check_shards(split, members)
        for file in members:
            part, columns_read, notes_on_it = _read_file(file, content)
            parts.setdefault(split, []).append(part)
            read.add(columns_read)
            others |= set(notes_on_it)
        listed = ", ".join(file.relative_to(path).as_posix() for file in members[:3])
        notes.append(f"{split} is read from {listed}{', …' if len(members) > 3 else ''}.")
    notes += [f"Images are read from the column {image}, labels from {label}." for image, label in sorted(read)]
    return parts, [*notes, *sorted(others)]


def _check_shards(split: str, files: list[Path]) -> None:
    """Files that say of how many they are one are all there, and those of one split lie in one folder.

    Raises:
        UserError: if not.
    """
    if len(folders := {file.parent for file in files}) > 1:
        listed = " and ".join(sorted(folder.name for folder in folders))
        raise UserError(f"{files[0].parent.parent}: {split} lies in several folders, {listed}. Give one of them.")
    numbered = [match for file in files if (match := re.search(r"-(\d+)-of-(\d+)$", file.stem))]
    counts = {int(match[2]) for match in numbered}
    if counts and (len(counts) > 1 or len(numbered) != len(files) or len(files) != counts.pop()):
        names = ", ".join(file.name for file in files[:4])
        raise UserError(
            f"{files[0].parent}: the parts of {split} are not complete, or of several versions ({names}). Get them again."
        )


def _splits_of_files(path: Path, files: list[Path]) -> tuple[dict[str, list[Path]], list[str]]:
    """By the names of their folders, else by words in their own; all `train` where none says a split."""
    found: dict[Path, str | None] = {}
    for file in files:
        named = {split for part in file.relative_to(path).parts[:-1] for split in split_in(part)} | split_in(file.stem)
        if len(named) > 1:
            raise UserError(f"{file}: is it of {' or of '.join(sorted(named))}? Name it for one split.")
        found[file] = next(iter(named), None)
    if not any(found.values()):
        if len(files) > 1 and (like := next((file for file in files if is_split_like(file.stem)), None)):
            raise UserError(
                f"{like}: is it a split? Call the files train, val and test; if they are parts of one, otherwise."
            )
        return {"train": files}, []
    splits: dict[str, list[Path]] = {}
    for file, split in found.items():
        if split:
            splits.setdefault(split, []).append(file)
    unused = [file.relative_to(path).as_posix() for file, split in found.items() if not split]
    return splits, [f"{len(unused)} parquet files are of no split and were left out ({unused[0]})."] if unused else []


def _read_file(file: Path, content: str) -> tuple[Part, tuple[str, str], list[str]]:
    """And the columns that were read, and notes on the others."""
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    if "::" in str(file):
        raise UserError(f"{file}: a path with '::' means something else to the parquet reader. Rename it.")
    try:
        schema = pq.read_schema(file)
        features = datasets.Features.from_arrow_schema(_without_dictionaries(schema))
        image, label = columns(features, str(file))

        def values(name: str) -> list[Any]:
            return pq.read_table(file, columns=[name]).column(0).to_pylist()

        labels, groups = values(label), _groups(features, (image, label), values, str(file))
        table = datasets.load_dataset(
            "parquet",
            data_files=[glob.escape(str(file))],
            columns=[image],
            split="train",
            cache_dir=str(cache_dir() / "datasets" / content),
        )
    except (datasets.exceptions.DatasetsError, pa.ArrowException, OSError, ValueError, NotImplementedError) as error:
        raise UserError(f"{file} is no parquet file that can be read ({one_line(error, 120)}).") from None
    part = as_part(table, image, labels, features[label], str(file), groups)
    return part, (image, label), _notes_on_others(features, (image, label))


def usual_column(names: Iterable[str], usual: Sequence[str]) -> str | None:
    """The first of the usual names of a column that is there, however it is spelled: `Patient ID` is patient_id."""
    by_name = {re.sub(r"[ -]+", "_", name.strip().lower()): name for name in names}
    return next((by_name[name] for name in usual if name in by_name), None)


def names_splits(values: Iterable[Any]) -> bool:
    """Whether a column says which split a row is of: two splits at least, and hardly anything else."""
    texts = [str(value).strip() for value in values if value is not None]
    known = [split for text in texts if (split := split_name(text))]
    return len(set(known)) > 1 and len(known) > len(texts) / 2


def _groups(features: Any, used: Sequence[str], values: Callable[[str], list[Any]], where: str) -> list[Any] | None:
    """Whom each image of a table is of, where a column says it.

    Raises:
        UserError: if a column says which split a row is of: that is not read.
    """
    import datasets

    others = [name for name in features if name not in used]
    for name in others:
        is_text = isinstance(features[name], datasets.Value) and "string" in features[name].dtype
        names = getattr(features[name], "names", None) or []
        if (is_text and names_splits(values(name))) or (names and names_splits(names)):
            raise UserError(
                f"{where}: its column {name} says which split a row is of, which is not read. Write a file for each."
            )
    group = usual_column(others, GROUP_COLUMNS)
    return None if group is None else values(group)


def _notes_on_others(features: Iterable[str], used: Sequence[str]) -> list[str]:
    """What the other columns were used for, or that they were not."""
    others = [name for name in features if name not in used]
    group = usual_column(others, GROUP_COLUMNS)
    unused = [name for name in others if name != group]
    return [
        *([f"Images with the same {group} belong together."] if group else []),
        *([f"Its other columns were passed over: {', '.join(unused)}."] if unused else []),
    ]


def _without_dictionaries(schema: Any) -> Any:
    """pandas' categories as what they stand for."""
    import pyarrow as pa

    for position, field in enumerate(schema):
        if pa.types.is_dictionary(field.type):
            schema = schema.set(position, field.with_type(field.type.value_type))
    return schema


def columns(features: Any, where: str) -> tuple[str, str]:
    """The names of the image column and of the label column.

    Raises:
        UserError: naming what is missing, or what could be meant.
    """
    import datasets

    images = [key for key, feature in features.items() if isinstance(feature, datasets.Image)]
    images = images or [key for key, feature in features.items() if _holds_files(key, feature)]
    labels = [
        key
        for key, feature in features.items()
        if isinstance(getattr(feature, "feature", feature), datasets.ClassLabel)
    ]
    labels = labels or [key for key in features if key.lower() in LABEL_COLUMNS and key not in images]
    for what, found, usual in (("image", images, "image"), ("label", labels, "label")):
        if not found and usual in features:
            raise UserError(
                f"{where}: its column {usual} holds {features[usual]}, no files of images. Store their bytes."
            )
        if not found:
            raise UserError(f"{where}: no {what} column was found among {list(features)}. Call it `{usual}`.")
        if len(found) > 1:
            raise UserError(f"{where}: {' and '.join(found)} could all be the {what} column. Keep one of them.")
    return images[0], labels[0]


def _holds_files(name: str, feature: Any) -> bool:
    """Whether a column without a type of its own holds images: bytes under a usual name, or pandas' {bytes, path}."""
    import datasets

    if isinstance(feature, dict):
        return "bytes" in feature
    is_binary = isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary")
    return is_binary and name.lower() in IMAGE_COLUMNS


def as_part(
    table: Any, image: str, labels: list[Any], feature: Any, where: str, groups: list[Any] | None = None
) -> Part:
    """A table's image column, undecoded, and its labels: names (text) where they have some, else whole numbers; lists of names
    of a column of lists."""
    import datasets

    inner = getattr(feature, "feature", feature)  # of a list of labels, what each is
    names = inner.names if isinstance(inner, datasets.ClassLabel) else None
    if groups is not None and any(group is None or group != group for group in groups):
        raise UserError(f"{where}: some images have no patient. Give every row one, or leave the column out.")
    known = None if groups is None else [str(int(one) if one == _whole(one) else one).strip() for one in groups]
    table = table.select_columns([image]).rename_columns({image: "image"} if image != "image" else {})
    table = table.cast_column("image", datasets.Image(decode=False))
    if inner is not feature:
        if any(value is None for value in labels):
            raise UserError(f"{where}: some images have no list of labels. Write an empty one where there are none.")
        if names is None and any(not isinstance(one, str) for value in labels for one in value):
            raise UserError(
                f"{where}: labels are lists of numbers, which could be ids or zeros and ones. Write lists of names."
            )
        several = [sorted({str(_label(one, names, where)) for one in value}) for value in labels]
        return Part(table, several, names, known)
    return Part(table, [_label(value, names, where) for value in labels], names, known)


def _whole(value: Any) -> int | None:
    """A float without a fraction as a whole number: pandas makes floats of whole numbers where some are missing."""
    return int(value) if isinstance(value, float) and math.isfinite(value) and value == int(value) else None


def _label(value: Any, names: list[str] | None, where: str) -> str | int:
    if isinstance(value, (list, dict)):
        raise UserError(f"{where}: labels are lists, not one per image. Give every image one class.")
    if (
        value is None or value != value or (names is not None and value == -1)
    ):  # NaN differs from itself; −1: the Hub's "none"
        raise UserError(f"{where}: some images have no label. Give every image one.")
    if names is not None:
        if not isinstance(value, int) or not 0 <= value < len(names):
            raise UserError(f"{where}: label {value!r} is none of its classes {names}. Correct it.")
        return names[value]
    if isinstance(value, bytes):
        value = value.decode("utf-8", errors="replace")
    if isinstance(value, str) and value.strip().lower() in NO_LABEL:
        raise UserError(f"{where}: some images have no label ({value!r}). Give every image one.")
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, float):
        if _whole(value) != value:
            raise UserError(f"{where}: label {value:g} is no class. Give every image one class.")
        return int(value)
    return value if isinstance(value, (str, int)) else str(value)


def hub_parts(name: str) -> tuple[dict[str, list[Part]], list[str]]:
    """The same of a Hub data set.

    Raises:
        UserError: if it cannot be reached, or has no such columns.
    """
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    try:
        tables = datasets.load_dataset(name)
    except (OSError, ValueError, HfHubHTTPError, datasets.exceptions.DatasetsError) as error:
        raise UserError(
            f"{name}: neither an existing path nor a Hub data set that can be reached ({one_line(error, 160)}). Check the name "
            "and the network, or give the path of an npz or an image folder."
        ) from None
    parts: dict[str, list[Part]] = {}
    unused, others = [], set[str]()
    for key, table in tables.items():
        split = split_name(key) or ("train" if len(tables) == 1 else None)
        if split is None:
            unused.append(f"{key} ({len(table)} rows)")
            continue
        if split in parts:
            raise UserError(f"{name}: two of its splits {list(tables)} are both {split}. Download it and keep one.")
        where = f"{name}: {key}"
        image, label = columns(table.features, where)

        def values(column: str, table: Any = table) -> list[Any]:
            return list(table.with_format(None)[column][:])

        groups = _groups(table.features, (image, label), values, where)
        parts[split] = [as_part(table, image, values(label), table.features[label], where, groups)]
        others |= set(_notes_on_others(table.features, (image, label)))
    left = [f"Splits that are none of train, val, test were left out: {', '.join(unused)}."] if unused else []
    return parts, [*left, *sorted(others)]


def all_rows(parts: dict[str, list[Part]]) -> Iterator[dict[str, Any]]:
    """Every undecoded image of all parts."""
    for members in parts.values():
        for part in members:
            yield from part.table["image"]
