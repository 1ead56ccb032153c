"""Any table of labels beside any images, some of them links, is read by the rules, as twenty lines state them."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medmnist_diffusion.data.label_tables import find_tables, labelled_files
from medmnist_diffusion.errors import UserError

SPLIT_OF = {"train": "train", "Training": "train", "valid": "val", "VAL": "val", "test": "test"}
# The last two are links, one of them a folder's.
FILES = [
    "0.png",
    "a/1.png",
    "a/2.JPG",
    "b/3.tif",
    "b/c/4.png",
    "b/5 x.png",
]
SPELLINGS = ("as it is", "./", "\\", "name", "stem")
Row = tuple[str, str, str, str]  # how the file is spelt, its label, split and patient


def spelt(file: str, spelling: str) -> str:
    match spelling:
        case "./":
            return f"./{file}"
        case "\\":
            return file.replace("/", "\\")
        case "name":
            return Path(file).name
        case "stem":
            return Path(file).stem
    return file


def by_the_rules(files: set[str], rows: list[Row]) -> tuple[dict[str, Any], int, int] | None:
    """File → split, label and patient; rows that name no file; rows that repeat one. None: the table is refused."""
    found: dict[str, Any] = {}
    missing = repeated = 0
    for file, label, split, patient in rows:
        said = (SPLIT_OF[split], label, patient)
        if file not in files:
            missing += 1
        elif file not in found:
            found[file] = said
        elif found[file] == said:
            repeated += 1
        else:
            return None
    return (found, missing, repeated) if found else None


@settings(max_examples=300, deadline=None)
@given(
    st.sets(st.sampled_from(FILES), min_size=1),
    st.lists(
        st.tuples(
            st.tuples(st.sampled_from(FILES), st.sampled_from(SPELLINGS)),
            st.sampled_from(["x", "x", "y", "été"]),
            st.sampled_from(sorted(SPLIT_OF)),
            st.sampled_from(["p1", "p2"]),
        ),
        min_size=1,
        max_size=9,
    ),
    st.booleans(),
    st.booleans(),
    st.sampled_from([",", ";", "\t"]),
)
def test_any_table_is_read_by_the_rules(
    there: set[str], rows: list[Any], splits: bool, patients: bool, delimiter: str
) -> None:
    with tempfile.TemporaryDirectory() as name:
        root, elsewhere = Path(name) / "root", Path(name) / "elsewhere"
        make_tree(root, elsewhere, there)
        columns = ["image", "label", *(["split"] if splits else []), *(["patient_id"] if patients else [])]
        lines = [delimiter.join(columns)]
        stated: list[Row] = []
        for (file, spelling), label, split, patient in rows:
            values = [spelt(file, spelling), label, *([split] if splits else []), *([patient] if patients else [])]
            lines.append(delimiter.join(values))
            stated.append((file, label, split if splits else "train", patient if patients else ""))
        (root / "labels.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
        expected = by_the_rules(there, stated)
        if expected is None:
            with pytest.raises(UserError):
                labelled_files(root, find_tables(root))
            return
        found, notes = labelled_files(root, find_tables(root))
        assert expected[0] == {
            file.relative_to(root).as_posix(): (split, label, part.groups[at] if part.groups else "")
            for split, part in found.items()
            for at, (file, label) in enumerate(zip(part.files, part.labels, strict=True))
        }
        # Not one image or row goes unsaid.
        assert expected[1:] == (counted(notes, "rows", "not there"), counted(notes, "rows", "repeat another"))
        assert len(there) - len(expected[0]) == counted(notes, "images", "not named in the table")


def counted(notes: list[str], what: str, why: str) -> int:
    return sum(int(note.split(" ")[0]) for note in notes if f" {what} " in note and why in note)


def make_tree(root: Path, elsewhere: Path, files: set[str]) -> None:
    """The images; `b/5 x.png` is a link to a file, `b/c` a link to a folder; one link leads nowhere."""
    for folder in (root / "a", root / "b", elsewhere):
        folder.mkdir(parents=True)
    (root / "b" / "c").symlink_to(elsewhere)
    (root / "gone.png").symlink_to(Path("nowhere.png"))
    for file in files:
        if file == "b/5 x.png":
            (elsewhere / "linked.dat").write_bytes(b"5")
            (root / file).symlink_to(elsewhere / "linked.dat")
        else:
            (root / file).write_bytes(file.encode())
