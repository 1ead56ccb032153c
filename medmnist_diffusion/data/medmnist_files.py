"""MedMNIST's own files: where they lie, which are official copies, and how a missing one comes from Zenodo."""

import hashlib
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np

from medmnist_diffusion.data.conditioning import Conditioning, Task, task_in
from medmnist_diffusion.data.dataset import ImageDataset, Split
from medmnist_diffusion.data.npz import read_npz
from medmnist_diffusion.errors import UserError, one_line

logger = logging.getLogger(__name__)

MEDMNIST_SIZES = (28, 64, 128, 224)
MEDMNIST_SIZES_3D = (28, 64)
# What is known to be odd about a set: in a sentence, and who says so. An audit prints it.
KNOWN_ISSUES: dict[str, tuple[tuple[str, str], ...]] = {
    "chestmnist": (
        (
            "All labels zero means no finding. The labels were mined from radiology reports and hold errors",
            "Wang et al. 2017",
        ),
        (
            "Many images labelled pneumothorax show the treated one, with a chest drain: a classifier may learn the drain",
            "Oakden-Rayner 2020, doi 10.1016/j.acra.2019.10.006",
        ),
        (
            "The split is not NIH's own (86,524 images for training and validation, 25,596 for test), whose test images show the "
            "commonest findings 1.3 to 1.8 times as often: figures on the two do not compare",
            "counts of NIH's lists of files",
        ),
    ),
    "dermamnist": (
        (
            "Pictures of one lesion stand in several splits, some pictures twice: test figures are inflated",
            "Abhishek et al. 2024, arXiv 2401.14497",
        ),
    ),
    "pneumoniamnist": (
        (
            "Train and val are drawn from the source's training images, test is another of its splits, and differs from these",
            "Yang et al. 2023, doi 10.1038/s41597-022-01721-8",
        ),
    ),
    **dict.fromkeys(
        ("organamnist", "organcmnist", "organsmnist"),
        (
            (
                "OrganAMNIST, OrganCMNIST and OrganSMNIST are views of the same patients with the same labels: one is no "
                "independent test of another",
                "Yang et al. 2023, doi 10.1038/s41597-022-01721-8",
            ),
        ),
    ),
}
MEDMNIST_CITATION = (
    "Yang et al., MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image classification. "
    "Scientific Data 10, 41 (2023), doi 10.1038/s41597-022-01721-8"
)


def medmnist_info() -> dict[str, dict[str, Any]]:
    from medmnist import INFO

    table: dict[str, dict[str, Any]] = INFO
    return table


def task_of(flag: str) -> Task:
    """What a set's images are labelled with."""
    return task_in(medmnist_info()[flag]["task"])


def sizes_of(flag: str) -> tuple[int, ...]:
    """Pixels a side that a set comes in."""
    return MEDMNIST_SIZES_3D if _dimensions(flag) == 3 else MEDMNIST_SIZES


def _dimensions(flag: str) -> int:
    return 3 if flag.endswith("3d") else 2


def _conditioning(flag: str) -> Conditioning:
    """A set's classes, grades or labels by their names."""
    return Conditioning({int(label): name for label, name in medmnist_info()[flag]["label"].items()}, task_of(flag))


def medmnist_root(root: str | Path | None = None) -> Path:
    """`root`, else $MEDMNIST_ROOT, else medmnist's own default."""
    return Path(root or os.environ.get("MEDMNIST_ROOT") or Path.home() / ".medmnist").expanduser()


def medmnist_dataset(flag: str, root: str | Path | None, size: int, download: bool) -> ImageDataset:
    info = medmnist_info()[flag]
    if size not in (sizes := sizes_of(flag)):
        raise UserError(f"{flag} comes in sizes {', '.join(map(str, sizes))}, not {size}.")

    suffix = "" if size == 28 else f"_{size}"
    folder = medmnist_root(root)
    path, url, md5 = folder / f"{flag}{suffix}.npz", info[f"url{suffix}"], info[f"MD5{suffix}"]
    if path.is_file():
        notes = _verified(path, md5)
    elif download:
        _download(url, path, md5)
        notes = []
    else:
        raise UserError(f"{path}: no such file. {_manual_steps(url, path, md5)}")
    return _described(flag, read_npz(path, notes=notes, num_labels=_conditioning(flag).num_labels), notes)


def as_medmnist(path: Path, splits: dict[str, Split]) -> ImageDataset | None:
    """An npz that is named, shaped and numbered as a MedMNIST set is that set, wherever it lies; None for any other."""
    flag, _, pixels = path.stem.partition("_")
    info = medmnist_info().get(flag)
    if info is None or pixels not in ("", *map(str, sizes_of(flag)[1:])):
        return None
    size = int(pixels or MEDMNIST_SIZES[0])
    shapes = {split.images.shape[1:] for split in splits.values()}
    same_counts = {name: len(split) for name, split in splits.items()} == info["n_samples"]
    if shapes != {(*(size,) * _dimensions(flag), info["n_channels"])} or not same_counts:
        return None
    conditioning = _conditioning(flag)
    shown = sum(
        conditioning.counts(split.labels) for split in splits.values() if not len(conditioning.outside(split.labels))
    )
    if not np.all(shown) or any(len(conditioning.outside(split.labels)) for split in splits.values()):
        return None
    notes = [
        f"{path.name} is named, shaped and numbered as MedMNIST's {flag}: it was taken for it, with its class names."
    ]
    return _described(flag, splits, [*notes, *_verified(path, info["MD5" if not pixels else f"MD5_{pixels}"])])


def _described(flag: str, splits: dict[str, Split], notes: list[str]) -> ImageDataset:
    info = medmnist_info()[flag]
    labels = {int(label): name for label, name in info["label"].items()}
    known = [f"{text} ({source})." for text, source in KNOWN_ISSUES.get(flag, ())]
    return ImageDataset(
        flag,
        splits,
        labels,
        task_of(flag),
        info["license"],
        MEDMNIST_CITATION,
        info["description"],
        source="medmnist",
        notes=[*notes, *known],
    )


def _verified(path: Path, md5: str) -> list[str]:
    """A note on a copy that is not the official one."""
    if _md5(path) == md5:
        return []
    return [
        f"{path.name} is an unverified copy: its MD5 differs from the official {md5}. Its content was read as it is."
    ]


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

    logger.info("Downloading %s from %s to %s", path.name, url, path.parent)
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
        reason = one_line(error, 160)
        raise UserError(f"{path.name} could not be downloaded ({reason}). {_manual_steps(url, path, md5)}") from None
