"""Image folders, folders of parquet and Hub data sets: read as tables by `datasets`, each an image and a label column."""

import glob
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from medmnist_diffusion.cache import cache_dir, cached_arrays, digest
from medmnist_diffusion.data.arrow import store_images
from medmnist_diffusion.data.conditioning import Conditioning, stratified_parts
from medmnist_diffusion.data.dataset import ImageDataset, Split
from medmnist_diffusion.data.images import GREY_MODES, IMAGE_SUFFIXES, decoded_squares, is_grey, open_image
from medmnist_diffusion.data.npz import SPLITS
from medmnist_diffusion.data.twins import MOST_GROUPED, WORKING_SIZE, picture_groups
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import file_hash

BESIDE_IMAGES = (".csv", ".json", ".jsonl", ".md", ".txt")


def folder_dataset(path: Path, size: int) -> ImageDataset:
    own_files, content = not any(path.rglob("*.parquet")), _content(path)
    dataset = _from_tables(path.name, str(path), _folder_tables(path, content), size, own_files, content)
    return replace(dataset, notes=[*dataset.notes, *(_passed_over(path) if own_files else [])])


def hub_dataset(name: str, size: int) -> ImageDataset:
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    try:
        tables = datasets.load_dataset(name)
    except (OSError, ValueError, HfHubHTTPError, datasets.exceptions.DatasetsError) as error:
        reason = str(error).splitlines()[0][:160]
        raise UserError(
            f"{name}: neither an existing path nor a Hub data set that can be reached ({reason}). Check the name and the "
            "network, or give the path of an npz or an image folder."
        ) from None
    return replace(_from_tables(name, name, tables, size), source="hub")


def load_labelled_folder(path: Path, dataset: str, id2label: dict[int, str], size: int, channels: int) -> Split:
    """All images of a folder, labelled as in a data set: its subfolders bear class names, ids, or ids with names.

    Nothing is resized or converted: a figure must be of the images as they are.

    Raises:
        UserError: if a subfolder fits no class, an image has another size or other channels than the data set, or the folder
            holds several splits.
    """
    import datasets

    tables = _folder_tables(path, _content(path))
    if len(tables) > 1:
        raise UserError(f"{path} holds the splits {', '.join(tables)}. Give the folder of one of them.")
    label_feature = next(iter(tables.values())).features.get("label")
    if not isinstance(label_feature, datasets.ClassLabel):
        raise UserError(
            f"{path}: no column of class labels was found. Give a folder that `sample` wrote, or one subfolder a class."
        )
    _check_labels(tables, str(path))
    conditioning, ids = Conditioning(id2label), {}
    for number, folder in enumerate(label_feature.names):
        if (label := conditioning.label_of_folder(folder)) is None:
            raise UserError(f"{path}: {folder!r} is no class of {dataset}; its classes are {id2label}.")
        ids[number] = label
    table = next(iter(tables.values())).cast_column("image", _undecoded())
    if any(path.rglob("*.parquet")):
        _check_images({"train": table}, str(path))
    _check_alike(table, path, dataset, size, channels)
    images = np.concatenate(list(decoded_squares(table, size, channels, str(path))))
    return Split("generated", images, np.array([ids[label] for label in table["label"]], np.int64))


def _check_alike(table: Any, path: Path, dataset: str, size: int, channels: int) -> None:
    """The images of a table are as large and as colourful as those of a data set."""
    grey: list[bool] = []
    sizes: dict[tuple[int, int], str] = {}  # each size with the first file that has it
    for row in table["image"]:
        with open_image(row, str(path)) as image:
            grey.append(image.mode in GREY_MODES)
            sizes.setdefault(image.size, row["path"])
    if (channels == 1 and not all(grey)) or (channels == 3 and all(grey)):
        kinds = ("colour", "grey") if channels == 1 else ("grey", "colour")
        raise UserError(
            f"{path} holds {kinds[0]} images, {dataset} {kinds[1]} ones. Convert them, or choose the right set."
        )
    for (width, height), file in sizes.items():
        if (width, height) != (size, size):
            raise UserError(
                f"{file} in {path} has {width}×{height} pixels, {dataset} {size}×{size}. Resize the images, or give --size."
            )


def _passed_over(path: Path) -> list[str]:
    """One note on the files of a folder that are neither images that are read nor notes about them."""
    known = {*IMAGE_SUFFIXES, *BESIDE_IMAGES}
    files = (file for file in path.rglob("*") if file.is_file() and not _hidden(file.relative_to(path)))
    counts = Counter(file.suffix.lower() or "without a suffix" for file in files if file.suffix.lower() not in known)
    listed = ", ".join(f"{suffix} {count}" for suffix, count in counts.most_common(5))
    return [f"{counts.total()} files of other types were passed over ({listed})."] if counts else []


def _content(path: Path) -> str:
    """What names the content of a folder's images or parquet files in a cache: their names and their bytes, never their dates."""
    parquet = sorted(path.rglob("*.parquet"))
    files = parquet or sorted(file for folder in _split_folders(path).values() for file in _image_files(folder))
    return digest([[file.relative_to(path).as_posix(), file_hash(file)] for file in files if file.is_file()])


def _folder_tables(path: Path, content: str) -> Any:
    """`datasets`' imagefolder, labelled by the subfolders even where a metadata.csv lies beside them; or its parquet reader.

    `datasets` knows its cached copies by the files' paths and dates, so that each content gets a cache of its own.
    """
    import datasets

    cache = str(cache_dir() / "datasets" / content)
    try:
        if any(path.rglob("*.parquet")):
            return datasets.load_dataset("parquet", data_dir=str(path), cache_dir=cache)
        files = {split: _image_patterns(folder) for split, folder in _split_folders(path).items()}
        return datasets.load_dataset("imagefolder", data_files=files, drop_labels=False, cache_dir=cache)
    except (datasets.exceptions.DatasetGenerationError, FileNotFoundError, ValueError) as error:
        raise UserError(
            f"{path}: no images found ({str(error).splitlines()[0][:120]}). Put them into one subfolder a class."
        ) from None


def _split_folders(path: Path) -> dict[str, Path]:
    """Split → folder, by the names of the top-level subfolders; the folder itself as `train` where there are none such.

    `datasets` would also take a file or class named `stress_test` for a split.
    """
    names = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}
    found: dict[str, Path] = {}
    for folder in sorted(path.iterdir()):
        split = names.get(folder.name.lower())
        if split and folder.is_dir():
            if split in found:
                raise UserError(f"{path}: {found[split].name} and {folder.name} are both {split}. Keep one of them.")
            found[split] = folder
    return found or {"train": path}


def _image_patterns(folder: Path) -> list[str]:
    """The image files under a folder, as patterns for `datasets` that each match one file whatever its name holds."""
    return [glob.escape(str(file)) for file in _image_files(folder)]


def _image_files(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.rglob("*")
        if file.suffix.lower() in IMAGE_SUFFIXES and not _hidden(file.relative_to(folder)) and file.is_file()
    )


def _hidden(path: Path) -> bool:
    """Whether a part of it starts with a dot: .ipynb_checkpoints, macOS's ._0.png."""
    return any(part.startswith(".") for part in path.parts)


def _from_tables(
    name: str, where: str, tables: Any, size: int, own_files: bool = False, content: str = ""
) -> ImageDataset:
    """An ImageDataset from a `datasets.DatasetDict` with an image column and a label column.

    Args:
        own_files: rows name files that we found ourselves; else they must hold the images, or a table could name any file here.
        content: names the content of local files; Hub tables have a fingerprint that comes from their commit.
    """
    import datasets

    features = next(iter(tables.values())).features
    image_columns = [key for key, feature in features.items() if isinstance(feature, datasets.Image)]
    label_columns = [key for key, feature in features.items() if isinstance(feature, datasets.ClassLabel)]
    label_columns = label_columns or [key for key in ("label", "labels") if key in features]
    if len(image_columns) != 1 or len(label_columns) != 1:
        raise UserError(
            f"{where}: one image column and one label column are needed; its columns are {list(features)}. "
            "For a folder: one subfolder a class."
        )
    tables = tables.select_columns([image_columns[0], label_columns[0]])
    tables = tables.rename_columns({image_columns[0]: "image", label_columns[0]: "label"})
    _check_labels(tables, where)
    if not isinstance(next(iter(tables.values())).features["label"], datasets.ClassLabel):
        tables = _encode_labels(tables, where)
    names = next(iter(tables.values())).features["label"].names
    tables = tables.cast_column("image", _undecoded())
    if not own_files:
        _check_images(tables, where)

    notes = [f"Images were cropped to a square and resized to {size}×{size}."]
    parts = {{"validation": "val"}.get(key, key): table for key, table in tables.items()}
    if set(parts) != set(SPLITS):
        if len(parts) == 1:
            parts = {"train": next(iter(parts.values()))}
        if "train" not in parts:
            raise UserError(f"{where}: splits {list(parts)} found; train, val and test are needed, or one folder.")

    channels = 1 if all(is_grey(row, where) for table in parts.values() for row in table["image"]) else 3
    if missing := [split for split in SPLITS if split not in parts]:
        table = parts["train"]
        small = min(size, WORKING_SIZE)
        key = f"{content or table._fingerprint}-{small}-{channels}-v1"
        groups = _groups(table, key, lambda: np.concatenate([*decoded_squares(table, small, channels, where)]))
        parts |= _draw_splits(table, missing, groups)
        together = len(table) - len(np.unique(groups))
        notes.append(
            f"No {' and no '.join(missing)} split was given: drawn from train, stratified, with seed 0."
            + (f" {together} images that show another's picture stay in one split with it." if together else "")
        )
    splits = {}
    for split in SPLITS:
        table = parts[split]
        images = store_images(
            lambda table=table: decoded_squares(table, size, channels, where),  # type: ignore[misc]
            len(table),
            (size, size, channels),
            fingerprint=f"{split}-{content or table._fingerprint}-{size}-{channels}",
            where=f"{where}: {split}",
        )
        splits[split] = Split(split, images, np.asarray(table["label"], np.int64))
    return ImageDataset(name, splits, dict(enumerate(names)), notes=notes)


def _check_labels(tables: Any, where: str) -> None:
    """Every image has one label, a text or a number."""
    import datasets

    for table in tables.values():
        if not isinstance(table.features["label"], (datasets.ClassLabel, datasets.Value)):
            raise UserError(
                f"{where}: labels are {table.features['label']}, not one per image. Give every image one class."
            )
        if any(value is None or value != value for value in table.unique("label")):  # NaN differs from itself
            raise UserError(f"{where}: some images have no label. Give every image one.")


def _check_images(tables: Any, where: str) -> None:
    """Every row of tables that somebody else wrote holds an image itself."""
    for row in (row for table in tables.values() for row in table["image"]):
        if row is None:
            raise UserError(f"{where}: a row has no image. Remove it.")
        if row["bytes"] is None:
            raise UserError(
                f"{where}: an image is no image but the path of a file, which is not read. Store its bytes."
            )


def _encode_labels(tables: Any, where: str) -> Any:
    """Labels that are text or numbers as ClassLabel, with one list of names for all splits."""
    import datasets

    values = {value for table in tables.values() for value in table.unique("label")}
    names = [str(value) for value in sorted(values)]
    tables = tables.cast_column("label", datasets.Value("string"))
    return tables.cast_column("label", datasets.ClassLabel(names=names))


def _undecoded() -> Any:
    import datasets

    return datasets.Image(decode=False)


def _groups(table: Any, key: str, images: Callable[[], np.ndarray]) -> np.ndarray:
    """int N: which images show one picture; each its own where there are too many to compare. Kept on disk by content: else every
    reading would decode them twice."""
    if len(table) > MOST_GROUPED:
        return np.arange(len(table))
    path = cache_dir() / "groups" / f"{key}.npz"
    labels = np.asarray(table["label"], np.int64)
    return cached_arrays(path, lambda: {"groups": picture_groups(Split("train", images(), labels))})["groups"]


def _draw_splits(table: Any, missing: list[str], groups: np.ndarray) -> dict[str, Any]:
    """Draw 10 % of every class (at least one image) for each split that is missing; a group of images stays together."""
    labels = np.asarray(table["label"])
    *rows, rest = stratified_parts(labels, 0.1, len(missing), np.random.default_rng(0), groups)
    return {split: table.select(part) for split, part in zip(["train", *missing], [rest, *rows], strict=True)}
