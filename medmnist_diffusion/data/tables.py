"""Image folders, tables beside images, folders of parquet and Hub data sets as one data set: labels joined by name, splits drawn,
images decoded."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from medmnist_diffusion.cache import cache_dir, cached_arrays, cached_record, digest
from medmnist_diffusion.data.arrow import store_images
from medmnist_diffusion.data.conditioning import (
    MOST_LABELS,
    Conditioning,
    class_order,
    condition_of,
    nearly_equal,
    no_class,
    several_in_one,
    without_visit,
)
from medmnist_diffusion.data.dataset import ImageDataset, Split
from medmnist_diffusion.data.drawn_splits import drawn_splits
from medmnist_diffusion.data.file_names import groups_by_name, views_in
from medmnist_diffusion.data.folder_names import is_hidden, split_name
from medmnist_diffusion.data.folders import (
    BESIDE_IMAGES,
    NOBODY_KNOWN,
    can_be_patients,
    files_below,
    folder_contents,
    images_in,
)
from medmnist_diffusion.data.images import DECODER, IMAGE_SUFFIXES, SURVEY, Seen, decoded, image_shape, survey
from medmnist_diffusion.data.label_tables import (
    LabelledFiles,
    find_tables,
    labelled_files,
    patients_beside,
    refuse_unread_labels,
    unused_tables,
)
from medmnist_diffusion.data.medical import as_slices, is_dicom, patients
from medmnist_diffusion.data.nifti import is_nifti
from medmnist_diffusion.data.npz import SPLITS
from medmnist_diffusion.data.parquet import PARQUET_SUFFIXES, Part, all_rows, hub_parts, parquet_parts
from medmnist_diffusion.data.reading import SMALLEST, Reading
from medmnist_diffusion.data.twins import WORKING_SIZE, joined_groups
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import file_hash

Table = Any  # a `datasets.Dataset` with one column `image`, undecoded


def folder_dataset(path: Path, reading: Reading) -> ImageDataset:
    parts, notes, content = folder_parts(path, reading.slices)
    return _dataset(path.name, str(path), parts, reading, notes, content)


def hub_dataset(name: str, reading: Reading) -> ImageDataset:
    parts, notes = hub_parts(name)
    _check_images(parts, name)
    # Hub tables have a fingerprint that comes from their commit.
    content = digest([[split, part.table._fingerprint] for split, members in parts.items() for part in members])
    return _dataset(name, name, parts, reading, notes, content, source="hub")


def folder_parts(
    path: Path, slices: int | None = None, tables: bool = True
) -> tuple[dict[str, list[Part]], list[str], str]:
    """What a folder of images or of parquet files holds by split, notes on how that was found, and what names the content.

    The content is named by the files' names and bytes, never by their dates.

    Args:
        slices: read each volume as so many slices.
        tables: look for a table of labels before folders are taken for classes.

    Raises:
        UserError: if it holds neither, both, or more than one reading is possible.
    """
    everything = files_below(path)
    parquet = [file for file in everything if file.suffix.lower() in PARQUET_SUFFIXES]
    if not parquet:
        path = _inner(path)
        found = find_tables(path) if tables else {}
        labelled, notes = labelled_files(path, found) if found else _by_folders(path, tables)
        files = [file for one in labelled.values() for file in one.files]
        read = list(found.values())
        known = any(one.groups for one in labelled.values())
        if tables and not (read and known) and (beside := patients_beside(path, files)):
            table, patient_of = beside
            labelled = _with_groups(labelled, patient_of)
            notes = [*notes, f"Images of one patient in {table.name} belong together."]
            read = [*read, table]
        notes = [*notes, *(unused_tables(path, read) if tables else [])]
        content = _content(path, [*files, *read])
        labelled, said = _with_patients(labelled, content)
        notes += said
        if all(one.groups for one in labelled.values()):
            notes = [note for note in notes if note != NOBODY_KNOWN]
        if slices:
            names = {file: as_slices(file, slices, str(path)) for file in files}
            notes += _sliced_notes(names, slices, str(path))
        else:
            names = {file: [str(file)] for file in files}
        parts = {split: [_table(one, names, sliced=bool(slices))] for split, one in labelled.items()}
        return parts, notes, content + (f"-{slices}" if slices else "")
    images = (file for file in everything if file.suffix.lower() in IMAGE_SUFFIXES)
    if image := next(images, None):
        raise UserError(
            f"{path} holds parquet files ({parquet[0].name}) and images ({image.name}). Move one of the two kinds away."
        )
    content = _content(path, parquet)
    parts, notes = parquet_parts(path, parquet, content)
    _check_images(parts, str(path))
    others = [file for file in everything if file not in parquet and file.suffix.lower() not in BESIDE_IMAGES]
    if others:
        notes.append(f"{len(others)} files of other types were passed over ({others[0].name}).")
    return parts, notes, content


def _content(path: Path, files: list[Path]) -> str:
    return digest([[file.relative_to(path).as_posix(), file_hash(file)] for file in files])


def _inner(path: Path) -> Path:
    """The folder itself, or the one in it that holds everything and a table."""
    inner = [entry for entry in path.iterdir() if not is_hidden(Path(entry.name))]
    if len(inner) == 1 and inner[0].is_dir() and split_name(inner[0].name) is None and find_tables(inner[0]):
        return inner[0]
    return path


def _by_folders(path: Path, tables: bool) -> tuple[dict[str, LabelledFiles], list[str]]:
    """The folders' names as labels.

    Raises:
        UserError: naming the tables that could not be used, if the folders cannot, either.
    """
    try:
        contents = folder_contents(path)
    except UserError as error:
        unused = unused_tables(path, []) if tables else []
        raise UserError(" ".join([str(error), *unused])) from None
    if tables:
        names = {name for classes in contents.splits.values() for name in classes}
        count = sum(len(files) for classes in contents.splits.values() for files in classes.values())
        refuse_unread_labels(path, names, count)
    splits, patients = {}, contents.patients
    for split, classes in contents.splits.items():
        rows = [(file, name) for name, files in classes.items() for file in files]
        groups = [patients[file] for file, _ in rows] if patients else None
        splits[split] = LabelledFiles([file for file, _ in rows], [name for _, name in rows], groups)
    return splits, contents.notes


def _with_patients(labelled: dict[str, LabelledFiles], content: str) -> tuple[dict[str, LabelledFiles], list[str]]:
    """The same with the patients that DICOM files name as groups, joined with those that are known; kept on disk by content, as
    numbers."""
    files = [file for one in labelled.values() for file in one.files]
    if not all(map(is_dicom, files)):
        return labelled, []
    path = cache_dir() / "patients" / f"{content}-v3.npz"  # v1 took `PAT 001` and pat001 for two, v2 visits
    numbers = cached_arrays(path, lambda: {"patients": patients(files)})["patients"]
    nobody = int((numbers == -1).sum())
    # Whoever is not named is somebody of their own.
    of_file = {file: str(one) if one >= 0 else str(file) for file, one in zip(files, numbers.tolist(), strict=True)}
    count = len(np.unique(numbers[numbers >= 0]))
    _refuse_persons_as_classes(labelled, of_file)
    if not count or not can_be_patients(of_file.values()):
        note = f"The DICOM files name {count} patients, not enough to keep each in one split: images of one may stand in several."
        if count == 1 and not nobody:
            note = (
                "All DICOM files bear one and the same PatientID, perhaps because they were anonymized: whom they are of is "
                "not known, and images of one person may stand in several splits."
            )
        return labelled, [note]
    unnamed = f" {nobody} files name nobody: their images may be of any of them." if nobody else ""
    note = f"The DICOM files name {count} patients: images of one belong together.{unnamed}"
    known = [group for one in labelled.values() for group in one.groups or []]
    if len(known) == len(files):
        joined = joined_groups(
            np.unique(known, return_inverse=True)[1],
            np.unique([of_file[file] for file in files], return_inverse=True)[1],
        )
        of_file = {file: str(group) for file, group in zip(files, joined.tolist(), strict=True)}
    return _with_groups(labelled, of_file), [note]


def _refuse_persons_as_classes(labelled: dict[str, LabelledFiles], of_file: dict[Path, str]) -> None:
    """Raises:
    UserError: if every class shows one person alone, and each another one: what looks like classes are people.
    """
    persons: dict[str, set[str]] = {}
    for one in labelled.values():
        for file, label in zip(one.files, one.labels, strict=True):
            persons.setdefault(str(label), set()).add(of_file[file])
    people = [one for of_class in persons.values() for one in of_class]
    if len(persons) > 1 and len(people) == len(set(people)) == len(persons) < len(of_file):
        raise UserError(
            f"each class ({', '.join(list(persons)[:3])}) shows one patient alone, by the DICOM files' PatientID. Are the classes "
            "people? Put the images into one subfolder a class, or write a table with file_name and label."
        )


def _with_groups(labelled: dict[str, LabelledFiles], group_of: dict[Path, str]) -> dict[str, LabelledFiles]:
    return {split: replace(one, groups=[group_of[file] for file in one.files]) for split, one in labelled.items()}


def _sliced_notes(names: dict[Path, list[str]], slices: int, where: str) -> list[str]:
    """What `--slices` did: file → the names of its slices.

    Raises:
        UserError: if no file has slices or frames.
    """
    if not any(len(several) > 1 or is_nifti(file) for file, several in names.items()):
        raise UserError(f"{where} holds no volumes and no files of several frames: leave --slices out.")
    note = f"Of each volume {slices} slices, evenly spaced, are images of their own, with the volume's label."
    fewer = sum(len(several) < slices for several in names.values())
    return [note + (f" {fewer} volumes have fewer: all of theirs were read." if fewer else "")]


def _table(labelled: LabelledFiles, names: dict[Path, list[str]], sliced: bool) -> Part:
    """A row an image: file → the names of its images. Slices of one volume belong together."""
    import datasets

    groups = labelled.groups or ([str(file) for file in labelled.files] if sliced else None)
    rows = [(name, at) for at, file in enumerate(labelled.files) for name in names[file]]
    features = datasets.Features({"image": datasets.Image(decode=False)})
    table = datasets.Dataset.from_dict(
        {"image": [{"path": name, "bytes": None} for name, _ in rows]}, features=features
    )
    labels = [labelled.labels[at] for _, at in rows]
    return Part(table, labels, labelled.names, None if groups is None else [groups[at] for _, at in rows])


def seen_in(parts: dict[str, list[Part]], content: str, where: str) -> Seen:
    """What the images of all parts are like; kept on disk by content, since every one is decoded for it."""
    return cached_record(
        cache_dir() / "seen" / f"{content}-{SURVEY}.json", Seen, lambda: survey(all_rows(parts), where)
    )


def _dataset(
    name: str,
    where: str,
    parts: dict[str, list[Part]],
    reading: Reading,
    notes: list[str],
    content: str,
    source: str = "file",
) -> ImageDataset:
    tables, labels, groups, conditioning = _joined(parts, where)
    if len(parts) == 1:
        only = next(iter(parts))
        notes = notes if only == "train" else [*notes, f"The only split, {only}, was taken for the whole set."]
        tables, labels, groups = {"train": tables[only]}, {"train": labels[only]}, {"train": groups[only]}
    if "train" not in tables:
        raise UserError(f"{where}: splits {list(parts)} found; train, val and test are needed, or one folder.")
    seen = seen_in(parts, content, where)
    seen.check(reading, where)
    groups, said = _without_visits(groups)
    notes = [*notes, *said]
    what = "Labels" if conditioning.multi_label else "Classes"
    notes = [*notes, f"{what} in the order of their ids: {', '.join(conditioning.names)}.", *seen.notes(reading)]
    missing = [split for split in SPLITS if split not in tables]
    names = {split: _names(table) for split, table in tables.items()}
    notes += views_in(names)
    if not any(groups.values()):
        groups["train"], said = groups_by_name(names, labels, conditioning, draws=bool(missing))
        notes += said
    if missing:
        if lost := np.flatnonzero(conditioning.counts(labels["train"]) == 0).tolist():
            others = ", ".join(split for split in tables if split != "train")
            raise UserError(
                f"{where}: class {conditioning.names[lost[0]]} stands in {others} alone, and has no training image. Are the "
                "classes written otherwise there?"
            )
        pictures = _SmallPictures(tables["train"], reading, seen, content, where)
        rows, said = drawn_splits(labels["train"], groups["train"], conditioning, missing, pictures, where)
        notes += said
        whole = groups["train"]
        tables |= {split: tables["train"].select(chosen) for split, chosen in rows.items()}
        labels |= {split: labels["train"][chosen] for split, chosen in rows.items()}
        groups |= {split: None if whole is None else [whole[row] for row in chosen] for split, chosen in rows.items()}
    splits = {}
    for split in SPLITS:
        table = tables[split]
        images = store_images(
            lambda table=table: decoded(table, reading, seen, where),  # type: ignore[misc]
            len(table),
            image_shape(reading, seen),
            fingerprint=f"{split}-{content}-{_way(reading, seen)}",
            where=f"{where}: {split}",
        )
        splits[split] = Split(split, images, labels[split], _file_names(table, where), groups[split])
    return ImageDataset(name, splits, conditioning.id2label, conditioning.task, source=source, notes=notes)


def _without_visits(groups: dict[str, list[str] | None]) -> tuple[dict[str, list[str] | None], list[str]]:
    """The groups with visits of a person joined, where ids say them, and a note on it."""
    people = {one for of_split in groups.values() for one in of_split or []}
    persons = {one: without_visit(one) for one in people}
    visits = sorted(one for one in people if persons[one] != one)
    if len(set(persons.values())) == len(people):
        count = sum(len(one or []) for one in groups.values())
        alone = f"There are {count} patients for {count} images: none are kept together."
        return groups, [alone] if count and count == len(people) else []
    note = f"Visits or sides of one person ({visits[0]} and others of {persons[visits[0]]}, …) belong together."
    return {split: one and [persons[person] for person in one] for split, one in groups.items()}, [note]


def _names(table: Table) -> list[str] | None:
    """The names of a table's files without folders, None where some are not known; the images themselves are not loaded."""
    import pyarrow.compute as pc

    paths = pc.struct_field(table.with_format("arrow")[:]["image"], "path").to_pylist()
    return None if None in paths else [Path(path).name for path in paths]


def folder_images(path: Path, reading: Reading) -> tuple[Any, list[str]]:
    """All images of a folder without labels, uint8 N×H×W×C, and notes on what was read.

    Raises:
        UserError: if there are none, or they cannot be read.
    """
    files, notes = images_in(path)
    where, content = str(path), _content(path, files)
    part = _table(LabelledFiles(files, [0] * len(files)), {file: [str(file)] for file in files}, sliced=False)
    seen = seen_in({"train": [part]}, content, where)
    seen.check(reading, where)
    images = store_images(
        lambda: decoded(part.table, reading, seen, where),
        len(files),
        image_shape(reading, seen),
        fingerprint=f"unlabeled-{content}-{_way(reading, seen)}",
        where=where,
    )
    return images, [f"Unlabeled: {note}" for note in [*notes, *seen.notes(reading)]]


def _way(reading: Reading, seen: Seen) -> str:
    """What pixels depend on beside the files, as text for a cache's key."""
    sides = "x".join(map(str, image_shape(reading, seen)))
    return f"{sides}-{reading.fit}-{digest([seen.window(reading), reading.window])[:8]}-{DECODER}"


def _joined(
    parts: dict[str, list[Part]], where: str
) -> tuple[dict[str, Table], dict[str, np.ndarray], dict[str, list[str] | None], Conditioning]:
    """The tables, conditions and groups of each split, and what the conditions can be, the classes in the order of their ids.

    Raises:
        UserError: if some labels are names and others numbers: nobody knows which number means which name.
    """
    import datasets

    every = [part for members in parts.values() for part in members]
    kinds = {type(label) for part in every for label in part.labels}
    if list in kinds and len(kinds) > 1:
        raise UserError(f"{where}: some files hold one label an image, others lists of them. Write lists everywhere.")
    if len(kinds) > 1:
        raise UserError(f"{where}: labels are names in one file and numbers in another. Write names everywhere.")
    several = list in kinds
    texts = [label if several else [str(label)] for part in every for label in part.labels]
    found = class_order({text for one in texts for text in one})
    # The files' own order, where they have one; of several orders the first.
    own = list(dict.fromkeys(name for part in every for name in part.names or []))
    names = own if set(found) <= set(own) else found
    if pair := nearly_equal(names):
        raise UserError(
            f"{where}: the classes {pair[0]!r} and {pair[1]!r} differ only in how they are written. Write them alike."
        )
    if several and len(names) > MOST_LABELS:
        raise UserError(f"{where} has {len(names)} labels; {MOST_LABELS} are possible. Leave the rarest out.")
    if (partly := [part.groups is None for part in every]) and any(partly) and not all(partly):
        raise UserError(
            f"{where}: some files say of which patient an image is, others do not. Let all say it, or none."
        )
    people = dict.fromkeys(group for part in every for group in part.groups or [])
    if pair := nearly_equal(people, blanks=False):
        raise UserError(
            f"{where}: the patients {pair[0]!r} and {pair[1]!r} differ only in how they are written. Are they one? Write them "
            "alike; if not, call them otherwise."
        )
    if (odd := no_class(names)) is not None:
        raise UserError(
            f"{where}: {odd!r} seems to mean that the class is not known. Move these images away (`train --unlabeled` trains "
            "images without a class); if it is a class of its own, call it otherwise."
        )
    if composed := several_in_one(names):
        one, parts_of_it = composed
        raise UserError(
            f"{where}: the class {one!r} looks like several of the others, {' and '.join(map(repr, parts_of_it))}, in one image. "
            f"Write {'|'.join(parts_of_it)!r} in a table of labels; if it is a class of its own, call it otherwise."
        )
    ids = {name: number for number, name in enumerate(names)}
    tables, numbers, groups = {}, {}, dict[str, list[str] | None]()
    for split, members in parts.items():
        tables[split] = datasets.concatenate_datasets([part.table for part in members])
        labels = [label for part in members for label in part.labels]
        values = [condition_of(ids[one] for one in label) if several else ids[str(label)] for label in labels]
        numbers[split] = np.array(values, np.int64)
        known = [group for part in members for group in part.groups or []]
        groups[split] = known if len(known) == len(labels) else None
    return tables, numbers, groups, Conditioning(dict(enumerate(names)), "multi-label" if several else "multi-class")


def _check_images(parts: dict[str, list[Part]], where: str) -> None:
    """Every row of tables that somebody else wrote holds an image itself: else a table could name any file here."""
    for row in all_rows(parts):
        if row is None or (row["bytes"] is None and row["path"] is None):
            raise UserError(f"{where}: a row has no image. Remove it.")
        if row["bytes"] is None:
            raise UserError(
                f"{where}: an image is no image but the path of a file, which is not read. Store its bytes."
            )


def _file_names(table: Table, where: str) -> list[str] | None:
    """Of each image, as far as they are known, within the folder that was named."""
    if not len(table) or table[0]["image"]["bytes"] is not None:
        return None
    names = [row["path"] for row in table["image"]]
    return [Path(name).relative_to(where).as_posix() if Path(name).is_relative_to(where) else name for name in names]


@dataclass(frozen=True)
class _SmallPictures:
    """All images of a table, small, to find out which show one picture."""

    table: Table
    reading: Reading
    seen: Seen
    content: str
    where: str

    @property
    def small(self) -> Reading:
        shorter = min((min(map(int, size.split("×"))) for size in self.seen.sizes), default=WORKING_SIZE)
        return replace(self.reading, size=(max(SMALLEST, min(shorter, WORKING_SIZE)),) * 2)

    @property
    def key(self) -> str:
        return f"{self.content}-{_way(self.small, self.seen)}"

    def images(self) -> np.ndarray:
        return np.concatenate([*decoded(self.table, self.small, self.seen, self.where)])
