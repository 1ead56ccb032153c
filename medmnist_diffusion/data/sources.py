"""`load_dataset`: a flag, an npz, a folder, a Hub id or `phantom` in, one ImageDataset out."""

import difflib
import glob
import hashlib
import io
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from medmnist_diffusion.data import phantom
from medmnist_diffusion.data.arrow import store_images
from medmnist_diffusion.data.dataset import CHUNK, ImageDataset, Split
from medmnist_diffusion.data.npz import LARGEST, SMALLEST, SPLITS, SYNTHETIC, generated_images, read_npz
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import cache_dir

MEDMNIST_SIZES = (28, 64, 128, 224)
MEDMNIST_CITATION = (
    "Yang et al., MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image classification. "
    "Scientific Data 10, 41 (2023), doi 10.1038/s41597-022-01721-8"
)
PHANTOMS = {"phantom": 1, "phantom-rgb": 3}
DEFAULT_SIZE = 28
# What Pillow raises on a file that is no image, or a damaged one.
DAMAGED = (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError)
# Of Pillow's formats those that it reads by itself: it hands EPS to Ghostscript, a program that runs what is in the file.
SUFFIXES = {
    "BMP": (".bmp",), "DIB": (".dib",), "GIF": (".gif",), "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".jpc", ".jpf", ".j2c"), "PNG": (".png", ".apng"),
    "PPM": (".pgm", ".ppm", ".pbm", ".pnm"), "TIFF": (".tif", ".tiff"), "WEBP": (".webp",),
}  # fmt: skip
IMAGE_SUFFIXES = {suffix for suffixes in SUFFIXES.values() for suffix in suffixes}
BESIDE_IMAGES = (".csv", ".json", ".jsonl", ".md", ".txt")
GREY_MODES, COLOUR_MODES = ("1", "L", "LA"), ("RGB", "RGBA", "P", "CMYK", "YCbCr")


def load_dataset(
    name: str, root: str | Path | None = None, size: int | None = None, download: bool = True
) -> ImageDataset:
    """One data set from whatever the user named.

    Args:
        name: a MedMNIST flag (`pneumoniamnist`), the path of an npz in MedMNIST's layout, a folder with one subfolder
            a class (or train/val/test folders of such), a folder of parquet files, a Hub id with an image and a label
            column, `phantom` or `phantom-rgb`.
        root: where MedMNIST files lie; default $MEDMNIST_ROOT, else ~/.medmnist.
        size: pixels a side; MedMNIST has 28, 64, 128 and 224; folders and Hub sets are resized. Default 28.
        download: whether a MedMNIST file that is missing may be downloaded.

    Raises:
        UserError: one line that names the source, what is wrong, and the remedy.
    """
    path = Path(name).expanduser()
    if size is not None and not SMALLEST <= size <= LARGEST:
        raise UserError(f"--size is {size}; from {SMALLEST} to {LARGEST} pixels a side are possible.")
    if name in PHANTOMS:
        dataset = _phantom(name, size or DEFAULT_SIZE)
    elif name in _medmnist_info():
        dataset = _medmnist(name, root, size or DEFAULT_SIZE, download)
    elif path.suffix == ".npz":
        dataset = _npz(path, size)
    elif path.is_dir():
        dataset = _folder(path, size or DEFAULT_SIZE)
    elif name.count("/") == 1 and not name.startswith((".", "/", "~")):
        dataset = _hub(name, size or DEFAULT_SIZE)
    else:
        known = [flag for flag in _medmnist_info() if not flag.endswith("3d")] + list(PHANTOMS)
        nearest = difflib.get_close_matches(name.lower(), known, 1, cutoff=0.5)
        hint = f"Did you mean {nearest[0]!r}?" if nearest else f"Known: {', '.join(known)}."
        raise UserError(f"{name!r} is no MedMNIST flag, and no such file or folder exists. {hint}")
    return _checked(dataset, name)


def _checked(dataset: ImageDataset, where: str) -> ImageDataset:
    """Labels are 0 … K − 1, there are at least two classes, and every class has a training image."""
    k = dataset.num_classes
    for split in dataset.splits.values():
        if len(split) == 0:
            raise UserError(f"{where}: {split.name} is empty. Every split needs images: move some there.")
        outside = split.labels[(split.labels < 0) | (split.labels >= k)]
        if len(outside):
            raise UserError(
                f"{where}: {split.name} has label {outside[0]}, outside the classes 0 … {k - 1}. Correct the label, "
                "or add training images of that class."
            )
    counts = np.bincount(dataset.train.labels, minlength=k)
    if k < 2:
        raise UserError(
            f"{where}: there is one class only. A class-conditional model needs two or more: add images of another class, in a "
            "subfolder of their own or with a label of their own."
        )
    if not counts.all():
        empty = int(np.argmin(counts))
        raise UserError(
            f"{where}: class {empty} ({dataset.id2label[empty]}) has no training image. Add some, or number the "
            "classes without gaps."
        )
    shapes = {split.images.shape[1:] for split in dataset.splits.values()}
    if len(shapes) > 1:
        raise UserError(f"{where}: the splits' images differ in shape: {sorted(shapes)}. Make them alike.")
    return dataset


def _phantom(name: str, size: int) -> ImageDataset:
    if size < 16 or size % 4:
        raise UserError(f"{name}: size {size} is not supported. Use a multiple of 4 from 16 on.")
    arrays = phantom.make_phantom(PHANTOMS[name], size)
    splits = {}
    for split in SPLITS:
        images = arrays[f"{split}_images"]
        splits[split] = Split(
            split, images.reshape(*images.shape[:3], -1), arrays[f"{split}_labels"][:, 0].astype(np.int64)
        )
    return ImageDataset(
        name,
        splits,
        dict(phantom.CLASSES),
        license="CC0 1.0",
        description=phantom.DESCRIPTION,
        synthetic=True,
        source="generated",
        notes=[phantom.DESCRIPTION],
    )


# MedMNIST


def _medmnist_info() -> dict[str, dict[str, Any]]:
    from medmnist import INFO

    return INFO


def medmnist_root(root: str | Path | None = None) -> Path:
    """`root`, else $MEDMNIST_ROOT, else medmnist's own default."""
    return Path(root or os.environ.get("MEDMNIST_ROOT") or Path.home() / ".medmnist").expanduser()


def _medmnist(flag: str, root: str | Path | None, size: int, download: bool) -> ImageDataset:
    info = _medmnist_info()[flag]
    if flag.endswith("3d"):
        raise UserError(f"{flag} is a 3-D set: not supported yet. Choose one of the two-dimensional sets.")
    if "multi-label" in info["task"]:
        raise UserError(f"{flag} is a multi-label set: not supported yet. Choose a single-label set.")
    if size not in MEDMNIST_SIZES:
        raise UserError(f"{flag} comes in sizes {', '.join(map(str, MEDMNIST_SIZES))}, not {size}.")

    suffix = "" if size == 28 else f"_{size}"
    folder = medmnist_root(root)
    path, url, md5 = folder / f"{flag}{suffix}.npz", info[f"url{suffix}"], info[f"MD5{suffix}"]
    notes = []
    if path.is_file():
        if _md5(path) != md5:
            notes.append(
                f"{path.name} is an unverified copy: its MD5 differs from the official {md5}. Its content was read as it is."
            )
    elif download:
        _download(url, path, md5)
    else:
        raise UserError(f"{path}: no such file. {_manual_steps(url, path, md5)}")

    labels = {int(label): name for label, name in info["label"].items()}
    return ImageDataset(
        flag,
        read_npz(path),
        labels,
        info["license"],
        MEDMNIST_CITATION,
        info["description"],
        source="medmnist",
        notes=notes,
    )


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def _manual_steps(url: str, path: Path, md5: str) -> str:
    return (
        f"Download {url} on a machine with a network (MD5 {md5}), put it at {path}, or name its folder by --root or "
        "MEDMNIST_ROOT."
    )


def _download(url: str, path: Path, md5: str) -> None:
    import pooch

    print(f"Downloading {path.name} from {url} to {path.parent}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fetcher = pooch.create(
            path.parent,
            base_url="",
            registry={path.name: f"md5:{md5}"},
            urls={path.name: url},
            retry_if_failed=2,
        )
        fetcher.fetch(path.name, downloader=pooch.HTTPDownloader(progressbar=True, timeout=30))
    except (OSError, ValueError) as error:  # requests' errors are OSErrors; ValueError is a wrong checksum
        reason = str(error).splitlines()[0][:160]
        raise UserError(f"{path.name} could not be downloaded ({reason}). {_manual_steps(url, path, md5)}") from None


# The user's own files


def _npz(path: Path, size: int | None) -> ImageDataset:
    splits = read_npz(path)
    train = splits["train"]
    if size not in (None, train.images.shape[1]):
        raise UserError(f"{path} holds {train.images.shape[1]} px images: --size {size} does not fit. Leave it out.")
    highest = int(train.labels.max())
    if highest >= len(train):  # ids of something else, patients say: no dictionary of millions of names
        raise UserError(
            f"{path}: train has label {highest} and only {len(train)} images. Number the classes 0 … K − 1 without gaps."
        )
    classes = range(highest + 1)
    notes = []
    if generated := generated_images(path):
        notes = [f"{generated} of the training images are generated ({SYNTHETIC}), not real."]
    return ImageDataset(path.stem, splits, {label: str(label) for label in classes}, notes=notes)


def load_labelled_folder(path: Path, dataset: str, id2label: dict[int, str], size: int, channels: int) -> Split:
    """All images of a folder, labelled as in a data set: its subfolders bear class names, ids, or ids with names.

    Nothing is resized or converted: a figure must be of the images as they are.

    Raises:
        UserError: if a subfolder fits no class, an image has another size or other channels than the data set, or the folder
            holds several splits.
    """
    import datasets

    tables = _folder_tables(path)
    if len(tables) > 1:
        raise UserError(f"{path} holds the splits {', '.join(tables)}. Give the folder of one of them.")
    label_feature = next(iter(tables.values())).features.get("label")
    if not isinstance(label_feature, datasets.ClassLabel):
        raise UserError(
            f"{path}: no column of class labels was found. Give a folder that `sample` wrote, or one subfolder a class."
        )
    _check_labels(tables, str(path))
    ids = {}
    for number, folder in enumerate(label_feature.names):
        matches = [label for label, name in id2label.items() if folder in (name, str(label))]
        prefix = folder.split("_", 1)[0]
        if not matches and prefix.isdigit() and int(prefix) in id2label:
            matches = [int(prefix)]
        if not matches:
            raise UserError(f"{path}: {folder!r} is no class of {dataset}; its classes are {id2label}.")
        ids[number] = matches[0]
    table = next(iter(tables.values())).cast_column("image", _undecoded())
    if any(path.rglob("*.parquet")):
        _check_images({"train": table}, str(path))
    grey: list[bool] = []
    sizes: dict[tuple[int, int], str] = {}  # each size with the first file that has it
    for row in table["image"]:
        with _open(row, str(path)) as image:
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
    images = np.concatenate(list(_decoded(table, size, channels, str(path))))
    return Split("generated", images, np.array([ids[label] for label in table["label"]], np.int64))


def _undecoded() -> Any:
    import datasets

    return datasets.Image(decode=False)


def _folder(path: Path, size: int) -> ImageDataset:
    own_files = not any(path.rglob("*.parquet"))
    dataset = _from_tables(path.name, str(path), _folder_tables(path), size, own_files)
    return replace(dataset, notes=[*dataset.notes, *(_passed_over(path) if own_files else [])])


def _passed_over(path: Path) -> list[str]:
    """One note on the files of a folder that are neither images that are read nor notes about them."""
    known = {*IMAGE_SUFFIXES, *BESIDE_IMAGES}
    files = (file for file in path.rglob("*") if file.is_file() and not _hidden(file.relative_to(path)))
    counts = Counter(file.suffix.lower() or "without a suffix" for file in files if file.suffix.lower() not in known)
    listed = ", ".join(f"{suffix} {count}" for suffix, count in counts.most_common(5))
    return [f"{counts.total()} files of other types were passed over ({listed})."] if counts else []


def _folder_tables(path: Path) -> Any:
    """`datasets`' imagefolder, labelled by the subfolders even where a metadata.csv lies beside them; or its parquet reader."""
    import datasets

    cache = str(cache_dir() / "datasets")
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
    return sorted(
        glob.escape(str(file))
        for file in folder.rglob("*")
        if file.suffix.lower() in IMAGE_SUFFIXES and not _hidden(file.relative_to(folder)) and file.is_file()
    )


def _hidden(path: Path) -> bool:
    """Whether a part of it starts with a dot: .ipynb_checkpoints, macOS's ._0.png."""
    return any(part.startswith(".") for part in path.parts)


def _hub(name: str, size: int) -> ImageDataset:
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


def _from_tables(name: str, where: str, tables: Any, size: int, own_files: bool = False) -> ImageDataset:
    """An ImageDataset from a `datasets.DatasetDict` with an image column and a label column.

    Args:
        own_files: rows name files that we found ourselves; else they must hold the images, or a table could name any file here.
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
        parts, drawn = _draw_missing_splits(parts)
        notes.append(f"No {' and no '.join(drawn)} split was given: drawn from train, stratified, with seed 0.")

    channels = 1 if all(_is_grey(row, where) for table in parts.values() for row in table["image"]) else 3
    splits = {}
    for split in SPLITS:
        table = parts[split]
        images = store_images(
            lambda table=table: _decoded(table, size, channels, where),  # type: ignore[misc]
            len(table),
            (size, size, channels),
            fingerprint=f"{split}-{table._fingerprint}-{size}-{channels}",
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


def _draw_missing_splits(parts: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Draw 10 % of every class (at least one image) for each split that is missing."""
    table = parts["train"]
    missing = [split for split in ("val", "test") if split not in parts]
    labels, rng = np.asarray(table["label"]), np.random.default_rng(0)
    rows: dict[str, list[int]] = {split: [] for split in ["train", *missing]}
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        count = max(1, round(0.1 * len(members)))
        for position, split in enumerate(missing):
            rows[split].extend(members[position * count : (position + 1) * count])
        rows["train"].extend(members[len(missing) * count :])
    drawn = {split: table.select(sorted(indices)) for split, indices in rows.items()}
    return {**parts, **drawn}, missing


def _open(row: dict[str, Any], where: str) -> Image.Image:
    file = row["path"] or "an image"
    try:
        image = Image.open(
            io.BytesIO(row["bytes"]) if row["bytes"] is not None else row["path"], formats=list(SUFFIXES)
        )
        if image.mode not in GREY_MODES + COLOUR_MODES:
            raise UserError(f"{file}: {image.mode} images (16 bit or float) are not read. Convert to 8-bit PNG first.")
        return image
    except DAMAGED as error:
        raise UserError(f"{file} in {where} is not a readable image ({error}). Replace or remove it.") from None


def _is_grey(row: dict[str, Any], where: str) -> bool:
    with _open(row, where) as image:
        return image.mode in GREY_MODES


def _decoded(table: Any, size: int, channels: int, where: str) -> Iterator[np.ndarray]:
    for start in range(0, len(table), CHUNK):
        chunk = []
        for row in table[start : start + CHUNK]["image"]:
            with _open(row, where) as image:
                try:
                    square = ImageOps.fit(image.convert("L" if channels == 1 else "RGB"), (size, size))
                except DAMAGED as error:
                    raise UserError(
                        f"{row['path']} in {where} is a damaged image ({error}). Replace or remove it."
                    ) from None
            chunk.append(np.asarray(square, np.uint8).reshape(size, size, channels))
        yield np.stack(chunk)
