"""Splits that nobody gave: drawn with seed 0, stratified; images of one patient and files of one picture stay together."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from medmnist_diffusion.cache import cache_dir, cached_arrays
from medmnist_diffusion.data.conditioning import Conditioning, stratified_parts
from medmnist_diffusion.data.dataset import Split
from medmnist_diffusion.data.twins import MOST_GROUPED, alike_in_words, joined_groups, picture_groups
from medmnist_diffusion.errors import UserError

SHARE = 0.1  # of the images, for each split that is drawn


class Pictures(Protocol):
    """All images, uint8 N×H×W×C, made only when they are needed; and a key that names their content."""

    @property
    def key(self) -> str: ...

    def images(self) -> np.ndarray: ...


def drawn_splits(
    labels: np.ndarray,
    patients: Sequence[str] | None,
    conditioning: Conditioning,
    missing: Sequence[str],
    pictures: Pictures,
    where: str,
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Rows for train and for each missing split, 10 % of every class (of several labels an image: of every stratum) and at
    least one image; images of one picture, and of one patient, stay together. And notes on how that was done.

    Raises:
        UserError: if a class has too few images.
    """
    counts, names = conditioning.counts(labels), conditioning.names
    if counts.min() <= len(missing):
        rare = int(np.argmin(counts))
        raise UserError(
            f"{where}: class {names[rare]} has {counts[rare]} images; {len(missing) + 1} are needed: {' and '.join(missing)} must "
            "be drawn from them, too. Add images, or give these splits yourself."
        )
    groups, alike = _picture_groups(labels, pictures)
    if patients is not None:
        groups = joined_groups(groups, np.unique(patients, return_inverse=True)[1])
    strata = Conditioning(conditioning.id2label, conditioning.task, labels).strata(labels)
    *rows, rest = stratified_parts(strata, SHARE, len(missing), np.random.default_rng(0), groups)
    if not all(map(len, rows)):
        raise UserError(
            f"{where}: so many of the images are of one patient, or show one picture, that no {' and no '.join(missing)} split "
            "could be drawn: images of one stay together. Add others, or give the splits yourself."
        )
    if lost := np.flatnonzero(conditioning.counts(labels[rest]) == 0).tolist():
        raise UserError(
            f"{where}: the images of class {names[min(lost)]} show so few different pictures that they all went to "
            f"{' or '.join(missing)}: files of one picture stay together. Add other images, or give the splits yourself."
        )
    note = f"No {' and no '.join(missing)} split was given: drawn from train, stratified, with seed 0."
    if together := len(labels) - len(np.unique(groups)):
        same = "patient or picture" if patients else "picture"
        note += f" {together} images stay in one split with another one of the same {same}."
    notes = [note, *([alike_in_words(alike)] if alike else [])]
    return dict(zip(["train", *missing], [rest, *rows], strict=True)), notes


def _picture_groups(labels: np.ndarray, pictures: Pictures) -> tuple[np.ndarray, int]:
    """int N: which images show one picture, each its own where there are too many to compare; and how many are too much alike
    (`picture_groups`). Kept on disk by content: else every reading would decode them twice."""
    if len(labels) > MOST_GROUPED:
        return np.arange(len(labels)), 0

    def found() -> dict[str, np.ndarray]:
        groups, alike = picture_groups(Split("train", pictures.images(), labels))
        return {"groups": groups, "alike": np.array(alike)}

    kept = cached_arrays(cache_dir() / "groups" / f"{pictures.key}-v2.npz", found)
    return kept["groups"], int(kept["alike"])
