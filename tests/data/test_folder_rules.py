"""Any tree of folders is read by the rules, as twenty lines state them; any picture as a viewer shows it."""

import io
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from medmnist_diffusion.data import load_dataset
from medmnist_diffusion.data.folders import folder_contents
from medmnist_diffusion.data.images import Seen, decoded, survey
from medmnist_diffusion.data.reading import Reading
from medmnist_diffusion.errors import UserError

SPLIT_OF = {"train": "train", "Training": "train", "valid": "val", "test": "test", "Testing-set": "test"}
MASKS = {"masks", "Segmentation", "labels"}
HIDDEN = {"@eaDir", "__MACOSX", ".cache", "._x"}
CLASSES = ["benign", "10", "9", "p 1", "test_positive", "été"]
LIKE_CLASSES = {"benign", "test_positive", "été", *SPLIT_OF}
FOLDERS = st.sampled_from([*CLASSES[:2], *SPLIT_OF, *MASKS, *HIDDEN, *CLASSES])
FILES = st.sampled_from(
    [
        "0.png",
        "0.png",
        "1.JPG",
        "0_mask.png",
        "1 (2).tiff",
        "1-seg 3.png",
        "mask_0.png",
        "1_t.png",
        "1.txt",
        "x.docx",
        "._0.png",
    ]
)
Where = dict[str, tuple[str, str]]  # file → split, class


def by_the_rules(files: set[str]) -> Where | None:
    """Where each image belongs; None: the folder is refused."""
    images = [name.split("/") for name in sorted(files) if name.lower().endswith((".png", ".jpg", ".tiff"))]
    paths = [(path, path) for path in images if not any(part in HIDDEN or part.startswith(".") for part in path)]

    def tops() -> set[str]:
        return {path[0] for path, _ in paths if len(path) > 1}

    # A lone folder that holds class folders, and is no split, is a wrapper.
    while len(tops()) == 1 and not tops() & SPLIT_OF.keys() and any(len(path) > 2 for path, _ in paths):
        paths = [(path[1:], whole) for path, whole in paths if len(path) > 1]
    # Folders named for splits that hold class folders are splits; beside other folders that hold images themselves, classes.
    named = tops() & SPLIT_OF.keys()
    splits = {path[0] for path, _ in paths if path[0] in named and len(path) > 2}
    others = tops() - named
    parted = [("train", path, whole) for path, whole in paths if len(path) > 1]
    if splits:
        parted = [(SPLIT_OF[path[0]], path[1:], whole) for path, whole in paths if path[0] in splits and len(path) > 2]
    doubtful = (others and len(splits) == 1) or len({SPLIT_OF[name] for name in splits}) < len(splits)
    # Folders for masks are no classes; within a class they, and `x_mask.png` beside `x.png`, are left out.
    if (
        not tops()
        or (named and not splits and not others)
        or doubtful
        or any(path[0] in MASKS for _, path, _ in parted)
    ):
        return None
    # Folders of one name in two classes could be the classes themselves; numbers are perhaps persons.
    inner = Counter(
        name for _, name in {(path[0], path[1]) for _, path, _ in parted if len(path) > 2} if name in LIKE_CLASSES
    )
    if len([name for name, count in inner.items() if count > 1]) > 1:
        return None
    # A folder below a class that is called like another class is in the wrong place.
    classes = {(split, path[0]) for split, path, _ in parted}
    if any(len(path) > 2 and path[1] != path[0] and (split, path[1]) in classes for split, path, _ in parted):
        return None
    siblings = {(split, *path[:at], path[at]) for split, path, _ in parted for at in range(1, len(path))}

    def is_mask(split: str, path: list[str]) -> bool:
        for at in range(1, len(path) - 1):
            beside = {one[-1] for one in siblings if one[:-1] == (split, *path[:at])}
            if path[at] in MASKS and beside - MASKS:
                return True
        stems = {one[-1].rsplit(".", 1)[0] for one in siblings if one[:2] == (split, path[0]) and "." in one[-1]}
        stems -= {"0_mask", "1-seg 3", "mask_0"}
        stems |= {"1"} if "1_t" in stems else set()
        stem = path[-1].rsplit(".", 1)[0]
        return stem in {
            f"{before}{of}{tail}" for of in stems for before, tail in (("", "_mask"), ("", "-seg 3"), ("mask_", ""))
        }

    return {"/".join(whole): (split, path[0]) for split, path, whole in parted if not is_mask(split, path)}


@settings(max_examples=600)
@given(
    st.sets(
        st.tuples(st.lists(FOLDERS, max_size=4), FILES).map(lambda parts: "/".join([*parts[0], parts[1]])), max_size=9
    )
)
def test_any_tree_is_read_by_the_rules(files: set[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name) / "root"
        root.mkdir()
        for file in files:
            (root / file).parent.mkdir(parents=True, exist_ok=True)
            (root / file).write_bytes(b"")
        expected = by_the_rules(files)
        if expected is None:
            with pytest.raises(UserError):
                folder_contents(root)
            return
        found = folder_contents(root)
        assert expected == {
            path.relative_to(root).as_posix(): (split, label)
            for split, classes in found.splits.items()
            for label, paths in classes.items()
            for path in paths
        }
        images = [file for file in files if file.lower().endswith((".png", ".jpg", ".tiff"))]
        counted = sum(int(note.split(" ")[0]) for note in found.notes if "left out" in note)
        assert counted == len(images) - len(expected)  # not one goes unsaid


@st.composite
def pictures(draw: st.DrawFn) -> tuple[bytes, np.ndarray]:
    """A file, and what a viewer shows of it on white: float H×W×3."""
    height, width = draw(st.integers(8, 20)), draw(st.integers(8, 20))
    rng = np.random.default_rng(draw(st.integers(0, 2**16)))
    mode = draw(st.sampled_from(["1", "L", "LA", "RGB", "RGBA", "P", "P transparent"]))
    colour = rng.integers(0, 256, (height, width, 3), np.uint8)
    grey, alpha = colour[..., :1], rng.choice([0, 128, 255], (height, width, 1)).astype(np.uint8)
    stored, opaque, options = colour, np.ones((height, width, 1)), {}
    match mode:
        case "1":
            picture = Image.fromarray(grey[..., 0]).point(lambda level: 255 * (level > 127), "1")
            stored = np.repeat(255 * (grey > 127), 3, -1)
        case "L" | "LA":
            stored = np.repeat(grey, 3, -1)
            picture = Image.fromarray(grey[..., 0])
            if mode == "LA":
                picture.putalpha(Image.fromarray(alpha[..., 0]))
        case "RGB" | "RGBA":
            picture = Image.fromarray(colour if mode == "RGB" else np.concatenate([colour, alpha], -1))
        case _:
            indices = rng.integers(0, 4, (height, width)).astype(np.uint8)
            palette = rng.integers(0, 256, (4, 3), np.uint8)
            picture = Image.fromarray(indices, "P")
            picture.putpalette(palette.ravel().tolist())
            stored = palette[indices]
            if mode == "P transparent":
                options, opaque = {"transparency": 2}, (indices != 2)[..., None].astype(float)
    if mode in ("LA", "RGBA"):
        opaque = alpha / 255
    shown = stored * opaque + 255 * (1 - opaque)
    turn = draw(st.integers(1, 8))
    exif = Image.Exif()
    exif[0x0112] = turn
    file = io.BytesIO()
    picture.save(
        file, draw(st.sampled_from(["PNG", "TIFF"])) if not options and mode != "1" else "PNG", exif=exif, **options
    )
    # EXIF's table: where the stored rows and columns are to be seen.
    turned = {1: shown, 2: shown[:, ::-1], 3: shown[::-1, ::-1], 4: shown[::-1], 5: shown.transpose(1, 0, 2)}
    turned |= {6: np.rot90(shown, -1), 7: np.rot90(shown, 2).transpose(1, 0, 2), 8: np.rot90(shown)}
    return file.getvalue(), turned[turn]


@given(pictures())
def test_any_picture_is_what_a_viewer_shows(made: tuple[bytes, np.ndarray]) -> None:
    content, shown = made
    rows: list[dict[str, Any]] = [{"bytes": content, "path": "x.png"}]
    seen = survey(rows, "here")
    height, width = shown.shape[:2]
    assert seen.sizes == {f"{width}×{height}": "x.png"}
    if seen.channels == 1:
        assert np.ptp(shown, axis=-1).max() <= 1
    side = min(height, width)
    top, left = round((height - side) / 2), round((width - side) / 2)
    expected = shown[top : top + side, left : left + side]
    on_white = seen.model_copy(update={"visible": 0.0})
    (image,) = next(decoded(_Table(rows), Reading((side, side)), on_white, "here"))
    odd = (height - side) % 2 + (width - side) % 2  # half a pixel is left: neighbours are mixed
    if not odd:
        np.testing.assert_allclose(image.astype(float), expected[..., : seen.channels], atol=2)


class _Table:
    """A `datasets.Dataset`, as far as it is used."""

    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, rows: slice) -> dict[str, list[dict[str, Any]]]:
        return {"image": self.rows[rows]}


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["name", "bytes", "number", "category"]),
            st.lists(st.integers(0, 11), min_size=1, max_size=6),
        ),
        min_size=1,
        max_size=4,
    )
)
def test_labels_of_any_encoding_keep_their_images(files: list[tuple[str, list[int]]]) -> None:
    """The grey level of an image says its class."""
    with tempfile.TemporaryDirectory() as name:
        for place, (encoding, classes) in enumerate(files):
            write = {
                "name": lambda values: pa.array([f"grade {one}" for one in values]),
                "bytes": lambda values: pa.array([f"grade {one}".encode() for one in values]),
                "number": lambda values: pa.array(values, pa.int16()),
                "category": lambda values: pa.array([f"grade {one}" for one in values]).dictionary_encode(),
            }[encoding]
            pictures = [_picture(20 * one) for one in classes]
            pq.write_table(
                pa.table({"image": pictures, "label": write(classes)}), Path(name) / f"train-{place}.parquet"
            )
            for split in ("val", "test"):
                pq.write_table(
                    pa.table({"image": pictures, "label": write(classes)}), Path(name) / f"{split}-{place}.parquet"
                )
        kinds = {encoding == "number" for encoding, _ in files}
        different = {one for _, classes in files for one in classes}
        if len(kinds) > 1 or len(different) < 2:
            with pytest.raises(UserError):
                load_dataset(name)
            return
        dataset = load_dataset(name)
        for part in dataset.splits.values():
            shown = part.images[:][:, 0, 0, 0] // 20
            named = [int(dataset.id2label[int(label)].removeprefix("grade ")) for label in part.labels]
            assert shown.tolist() == named
        if kinds == {True}:
            assert list(dataset.id2label.values()) == [str(one) for one in sorted(different)]


def _picture(level: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (8, 8), level).save(file, "PNG")
    return file.getvalue()


def test_seen_of_nothing() -> None:
    assert survey([], "here") == Seen()
