"""Folders that can be read in two ways, or that are no classes at all: refused, with what to do.

All functions see names only: each folder that could be a class or a split, and the names of the folders in it that hold images.
"""

from collections import Counter
from collections.abc import Collection, Mapping
from itertools import chain
from pathlib import Path

from medmnist_diffusion.data.conditioning import same_name
from medmnist_diffusion.data.folder_names import (
    are_persons,
    is_mask_folder,
    is_split_like,
    is_version,
    is_within_class,
    may_be_class,
    split_name,
    unnumbered,
    without_split,
    without_version,
)
from medmnist_diffusion.errors import UserError

Below = Mapping[str, Collection[str]]


def refuse_two_readings(path: Path, below: Below) -> None:
    """Raises:
    UserError: if the folders could be splits, versions or copies of each other as well as classes.
    """
    _refuse_copies(path, below)
    _refuse_splits_of_classes(path, below)
    for name, inner in below.items():
        alike = [other for other in below if other != name and len(set(below[other]) & set(inner)) > 1]
        if not alike or split_name(name):
            continue
        if is_version(name):
            raise UserError(
                f"{path}: {name} and {alike[0]} hold the same folders. Are they versions of the same images? Give the folder of "
                "one of them. If they are classes, call them otherwise."
            )
        if is_split_like(name):
            raise UserError(
                f"{path}: {name} and {alike[0]} hold the same folders. Are they splits? Call them train, val and test. If they "
                "are classes, call them otherwise."
            )


def _refuse_copies(path: Path, below: Below) -> None:
    for name, inner in below.items():
        beside = sorted(set(inner) & below.keys() - {name})
        if len(beside) > 1 and not split_name(name):
            raise UserError(
                f"{path}: {name} holds folders that also stand beside it ({', '.join(beside[:3])}). Is it a copy of the whole "
                "set? Move it away. If it is a class, call it or the folders in it otherwise."
            )


def _refuse_splits_of_classes(path: Path, below: Below) -> None:
    """Splits below the classes, or in their names."""
    for name, inner in below.items():
        splits = [one for one in sorted(inner) if split_name(one)]
        if split_name(name) or not splits:
            continue
        if len({split_name(one) for one in splits}) > 1:
            raise UserError(
                f"{path}: {name} holds the splits {', '.join(splits)}. Turn it round: folders of splits on top, the classes in "
                "them."
            )
        if len(like := sorted(filter(is_split_like, inner))) > 1:
            raise UserError(
                f"{path}: {name} holds {', '.join(like)}, which look like splits. Turn it round: folders called train, val and "
                "test on top, the classes in them."
            )
    like = [name for name in below if is_split_like(name) and not below[name]]
    if len({without_split(name) for name in like}) < len(like) == len(below) and not all(map(split_name, like)):
        raise UserError(
            f"{path}: {', '.join(like[:4])} look like splits, or splits of classes. As splits call them train, val and test, "
            "with one subfolder a class; as classes call them otherwise."
        )


def refuse_no_classes(path: Path, below: Below, names: Mapping[str, Collection[str]]) -> None:
    """What is called like classes are.

    Args:
        names: of each folder the names of its images: one called `lesion` holds masks if they are those of the others.

    Raises:
        UserError: if a folder could hold masks, if the folders could be persons, or if the folders in them could be the classes.
    """
    for mask in filter(is_mask_folder, below):
        others = set(chain.from_iterable(names[name] for name in below if name != mask))
        if may_be_class(mask) and len(others & set(names[mask])) < len(names[mask]) / 2:
            continue
        raise UserError(
            f"{path}: is {mask} a class, or does it hold the masks of the other images? Rename it, or move it away."
        )
    for name, inner in below.items():
        classes = {same_name(one): one for one in below if one != name}
        if other := next((one for one in inner if same_name(one) in classes), None):
            raise UserError(
                f"{path}: {name} holds a folder {other}, which is called like another class. Move its images there, or call it "
                "otherwise."
            )
        if (of := classes.get(same_name(without_version(name)))) and without_version(name) != name:
            raise UserError(
                f"{path}: {name} looks like a version of the images of {of}. Put them into one folder, or move it away; if it "
                "is a class of its own, call it otherwise."
            )
    often = Counter(chain.from_iterable(below.values()))
    shared = unnumbered(sorted(name for name, count in often.items() if count > 1 and not is_within_class(name)))
    if are_persons(below):
        inside = (
            f" The folders in them ({', '.join(shared[:3])}) could be the classes: put those on top." if shared else ""
        )
        raise UserError(
            f"{path}: {', '.join(sorted(below)[:3])} look like persons, or like single images, and not like classes.{inside} "
            "Put the images into one subfolder a class, and persons below; or write a table with the columns file_name, label "
            "and patient."
        )
    if len(shared) > 1:
        above = [name for name in below if shared[0] in below[name]]
        raise UserError(
            f"{path}: {' and '.join(above[:2])} hold the same folders ({', '.join(shared[:3])}). Which are the classes? If "
            "these, put them on top; if those above, put the images right into them."
        )
