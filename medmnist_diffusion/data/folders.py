"""Image folders: which file is of which split and class, by names alone; no image is opened.

The rules. A folder that holds nothing but one other folder is its wrapper. Folders called train, val, test (or a usual synonym)
that hold class folders are splits. The first folder below a split is the class, whatever lies deeper (patients, views). Links are
followed. Hidden and system folders, masks, and images beside the class folders are left out. What is left out is said; where
two readings are possible, the folder is refused.
"""

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medmnist_diffusion.data.conditioning import LARGEST_GROUP
from medmnist_diffusion.data.folder_doubts import refuse_no_classes, refuse_two_readings
from medmnist_diffusion.data.folder_names import (
    are_persons,
    is_called_mask,
    is_hidden,
    is_mask_folder,
    is_within_class,
    picture_of_mask,
    split_name,
    unnumbered,
)
from medmnist_diffusion.data.images import is_image
from medmnist_diffusion.data.medical import stem_of
from medmnist_diffusion.errors import UserError

BESIDE_IMAGES = (".csv", ".tsv", ".json", ".jsonl", ".md", ".txt")  # notes about images
_ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar")
LABEL_TABLES = ("metadata.csv", "metadata.jsonl", "labels.csv", "_classes.csv")  # the last one: Roboflow's
_MASKS = "{} masks were left out; overlays, heat maps and thumbnails count as such"
MOST_STRAYS = 0.1  # of the images, that lie in no such folder
MOST_VERSIONS = 6  # folders of a class with files of the same names
NOBODY_KNOWN = (
    "Images of one person may stand in several splits. A table with a column `patient` says whom each image is of."
)
MOST_OF_ONE = 50  # images of a person, on average
FEWEST_PATIENTS = 10  # so many folders below the classes, or ids in DICOM files, are taken for patients


@dataclass(frozen=True)
class FolderContents:
    """Split → class → its image files, sorted; what a user should know about how that was found; and of each file the folder
    below its class that it lies in, where these can be patients."""

    splits: dict[str, dict[str, list[Path]]]
    notes: list[str]
    patients: dict[Path, str] | None = None


@dataclass
class _Tree:
    """A folder with the images in it and the folders that hold some, and the names of those that hold none."""

    path: Path
    images: list[Path] = field(default_factory=list)
    folders: dict[str, "_Tree"] = field(default_factory=dict)
    without_images: list[str] = field(default_factory=list)

    def all_images(self) -> Iterator[Path]:
        yield from self.images
        for tree in self.folders.values():
            yield from tree.all_images()

    def below(self) -> dict[str, list[str]]:
        """Each folder in it → the names of those in that."""
        return {name: list(folder.folders) for name, folder in self.folders.items()}


@dataclass
class _LeftOut:
    """What is not read, and why."""

    root: Path
    reasons: dict[str, list[str]] = field(default_factory=dict)
    other_types: Counter[str] = field(default_factory=Counter)

    def add(self, reason: str, path: Path) -> None:
        self.reasons.setdefault(reason, []).append(path.relative_to(self.root).as_posix())

    def notes(self) -> list[str]:
        lines = []
        for reason, paths in self.reasons.items():
            first = f"{paths[0]}, …" if len(paths) > 1 else paths[0]
            lines.append(f"{reason.format(len(paths))} ({first}).")
        if self.other_types:
            listed = ", ".join(f"{suffix} {count}" for suffix, count in self.other_types.most_common(5))
            lines.append(f"{self.other_types.total()} files of other types were passed over ({listed}).")
        return lines


def files_below(path: Path) -> list[Path]:
    """All files below a folder that are not hidden, sorted. Links to folders are followed, but for those that lead back."""
    found = []
    for root, folders, files in os.walk(path, followlinks=True):
        real = os.path.realpath(root)
        folders[:] = [
            one for one in folders if not f"{real}/".startswith(f"{os.path.realpath(os.path.join(root, one))}/")
        ]
        found += [Path(root) / one for one in files]
    return sorted(file for file in found if file.is_file() and not is_hidden(file.relative_to(path)))


def folder_contents(path: Path) -> FolderContents:
    """Which images a folder holds, by split and class.

    Raises:
        UserError: if there are none, or more than one reading is possible.
    """
    left_out = _LeftOut(path)
    tree, notes = _tree(path, left_out, ()), []
    while (
        len(tree.folders) == 1 and split_name(only := next(iter(tree.folders))) is None and tree.folders[only].folders
    ):
        _leave_out_strays(tree, left_out)
        tree = tree.folders[only]
        notes.append(f"Read from {tree.path.relative_to(path).as_posix()}, the only folder in it that holds images.")
    if not tree.folders:
        raise UserError(f"{path}: {_why_no_classes(tree)}")
    splits: dict[str, dict[str, list[Path]]] = {}
    found = _split_trees(tree, left_out)
    for split, part in found.items():
        _leave_out_strays(part, left_out)
        for name in part.without_images:
            left_out.add("{} folders hold no images, so that they are no classes", part.path / name)
        refuse_no_classes(
            part.path, part.below(), {name: _stems(list(one.all_images())) for name, one in part.folders.items()}
        )
        splits[split] = {name: _without_masks(folder, left_out) for name, folder in part.folders.items()}
    below = _counts_below(found, splits)
    if patients := _patients(found, splits):
        names = sorted({group for file, group in patients.items() if group != str(file)})
        notes.append(
            f"The {len(names)} folders below the classes ({', '.join(names[:3])}, …) were taken for patients: images in folders "
            "of one name belong together."
        )
        notes += _below_patients(path, patients)
    elif below:
        # Names of people, perhaps: brackets that end so are not published.
        listed = ", ".join([*sorted(below)[:3], "…"])
        count = below.total()
        notes += [
            f"Folders below the classes were not taken for classes ({listed}), nor for patients: their {count} images are trained "
            "as those of the class.",
            *([NOBODY_KNOWN] if len(below) > 1 else []),
        ]
        if (patients := _versions(splits)) is not None:
            notes.append(
                "Files of equal names in several folders of a class were taken for versions of one picture: they belong "
                "together. Whose the images are is not known."
            )
    if found.get("train") is not tree:
        notes.append(
            "Splits from the folders "
            + ", ".join(f"{part.path.name} ({split})" for split, part in found.items())
            + "."
        )
    return FolderContents(splits, [*notes, *left_out.notes()], patients)


def images_in(path: Path) -> tuple[list[Path], list[str]]:
    """All images of a folder, whatever lies deeper, without masks; of splits those for training. And what was left out.

    Raises:
        UserError: if there are none.
    """
    left_out, notes = _LeftOut(path), list[str]()
    tree = _tree(path, left_out, ())
    while not tree.images and len(tree.folders) == 1 and split_name(next(iter(tree.folders))) is None:
        tree = next(iter(tree.folders.values()))
    splits = {name: split for name in tree.folders if (split := split_name(name))}
    if len(splits) > 1:
        training = [name for name, split in splits.items() if split == "train"]
        if len(training) != 1:
            raise UserError(f"{path}: {', '.join(splits)} look like splits. Give the folder of the training images.")
        notes.append(f"Of the splits {', '.join(splits)} only the images of {training[0]} were taken.")
        tree = tree.folders[training[0]]
    files = _without_masks(tree, left_out)
    if not files:
        raise UserError(f"{path}: no images found.")
    return files, [*notes, *left_out.notes()]


def _patients(trees: dict[str, _Tree], splits: dict[str, dict[str, list[Path]]]) -> dict[Path, str] | None:
    """Each image → the folder below its class, and below a layer that all images of the class lie in; None unless nearly all
    images lie in such folders, and these can be patients. A stray image is a patient of its own."""
    below: dict[Path, str] = {}
    strays = 0
    for split, classes in splits.items():
        for name, files in classes.items():
            folders = [file.relative_to(trees[split].folders[name].path).parts[:-1] for file in files]
            while len({parts[:1] for parts in folders}) == 1 and all(len(parts) > 1 for parts in folders):
                folders = [parts[1:] for parts in folders]
            below |= {file: parts[0] if parts else str(file) for file, parts in zip(files, folders, strict=True)}
            strays += sum(not parts for parts in folders)
    if strays > MOST_STRAYS * len(below):
        return None
    named = [group for file, group in below.items() if group != str(file)]
    return below if can_be_patients(named) else None


def _versions(splits: dict[str, dict[str, list[Path]]]) -> dict[Path, str] | None:
    """Each image → its picture, where a class has a few folders whose files have mostly the same names: `raw/7.png` and
    `CLAHE/7.png`."""
    pictures: dict[Path, str] = {}
    found = False
    for split, classes in splits.items():
        for name, files in classes.items():
            stems: dict[Path, set[str]] = {}
            for file in files:
                stems.setdefault(file.parent, set()).add(stem_of(file))
            shared = Counter(stem for of_folder in stems.values() for stem in of_folder)
            often = sum(count > 1 for count in shared.values()) > len(shared) / 2
            several = often and 1 < len(stems) <= MOST_VERSIONS and not are_persons([folder.name for folder in stems])
            found = found or several
            pictures |= {file: f"{split}/{name}/{stem_of(file)}" if several else str(file) for file in files}
    return pictures if found else None


def persons_by_folders(files: Sequence[Path], root: Path) -> dict[Path, str] | None:
    """Each image → the folder that it lies in, at the first depth below `root` where the folders are persons by their names and
    sizes (`train/patient00001/study1/…`); None where there is none."""
    parts = {file: file.relative_to(root).parts[:-1] for file in files}
    for depth in range(min((len(one) for one in parts.values()), default=0)):
        people = {file: one[depth] for file, one in parts.items()}
        sizes = Counter(people.values())
        if are_persons(sizes) and len(people) <= MOST_OF_ONE * len(sizes) and can_be_patients(list(people.values())):
            return people
    return None


def can_be_patients(groups: Collection[str]) -> bool:
    """Whether there are so many groups, and none so large, that each can be kept in one split."""
    sizes = Counter(groups)
    return len(sizes) >= FEWEST_PATIENTS and max(sizes.values()) <= LARGEST_GROUP * len(groups)


def _tree(path: Path, left_out: _LeftOut, above: tuple[str, ...]) -> _Tree:
    real = os.path.realpath(path)
    tree = _Tree(path)
    if real in above:
        left_out.add("{} links lead back to a folder above them and were not followed", path)
        return tree
    for entry in sorted(path.iterdir(), key=lambda one: one.name):
        if is_hidden(Path(entry.name)):
            images = [one for one in (entry.rglob("*") if entry.is_dir() else [entry]) if is_image(one)]
            for image in images:
                left_out.add("{} images with hidden names or in hidden or system folders were left out", image)
        elif entry.is_dir():
            folder = _tree(entry, left_out, (*above, real))
            if folder.images or folder.folders:
                tree.folders[entry.name] = folder
            else:
                tree.without_images.append(entry.name)
        elif entry.is_file() and is_image(entry):
            tree.images.append(entry)
        elif entry.is_symlink() and not entry.exists():
            left_out.add("{} links lead nowhere and were passed over", entry)
        elif entry.is_file() and entry.suffix.lower() not in BESIDE_IMAGES:
            left_out.other_types[entry.suffix.lower() or "without a suffix"] += 1
    return tree


def _below_patients(path: Path, patients: dict[Path, str]) -> list[str]:
    """A note on the folders in those of patients.

    Raises:
        UserError: if these could be the classes: two or more, each of several patients, that are no views.
    """
    people: dict[str, set[str]] = {}
    for file, patient in patients.items():
        parts = file.relative_to(path).parts[:-1]
        if patient in parts[:-1]:
            people.setdefault(parts[parts.index(patient) + 1], set()).add(patient)
    several = sorted(name for name, of in people.items() if len(of) > 1 and not is_within_class(name))
    if len(several := unnumbered(several)) > 1:
        raise UserError(
            f"{path}: the folders below the patients ({', '.join(several[:3])}) could be the classes, too. If they are, put "
            "them on top; if not, put the images right into the patients' folders."
        )
    return [f"Folders below the patients were not used ({', '.join(sorted(people)[:3])}, …)."] if people else []


def _counts_below(trees: dict[str, _Tree], splits: dict[str, dict[str, list[Path]]]) -> Counter[str]:
    """How many images lie in the folders of each name below the classes; without those that all images of a class lie in."""
    counts = Counter[str]()
    for split, classes in splits.items():
        for name, files in classes.items():
            parts = [file.relative_to(trees[split].folders[name].path).parts[:-1] for file in files]
            while parts and len({one[:1] for one in parts}) == 1 and parts[0]:
                parts = [one[1:] for one in parts]
            counts.update(one[0] for one in parts if one)
    return counts


def _why_no_classes(tree: _Tree) -> str:
    if tree.images:
        return f"its {len(tree.images)} images have no class: put them into one subfolder a class."
    if any(tree.path.rglob("*.arrow")):
        return "no images found, but Arrow files. Write parquet: datasets.load_from_disk(…)[split].to_parquet(…)."
    if npz := sorted(tree.path.rglob("*.npz")):
        return f"no images found, but npz files. Give the path of one: {npz[0].name}, say."
    if archives := [one.name for one in sorted(tree.path.rglob("*")) if one.suffix.lower() in _ARCHIVES]:
        return f"no images found, but an archive: unpack {archives[0]} first."
    types = Counter(one.suffix.lower() for one in tree.path.rglob("*") if one.is_file() and one.suffix)
    there = (
        f" (files of other types: {', '.join(f'{name} {count}' for name, count in types.most_common(3))})"
        if types
        else ""
    )
    return f"no images found{there}. Put them into one subfolder a class."


def _split_trees(tree: _Tree, left_out: _LeftOut) -> dict[str, _Tree]:
    """Split → its folder; the folder itself as `train` where no folder is a split."""
    refuse_two_readings(tree.path, tree.below())
    named = {name: split for name in tree.folders if (split := split_name(name))}
    others = [name for name in tree.folders if name not in named]
    with_classes = [name for name in named if tree.folders[name].folders]
    if not named or (not with_classes and others):
        return {"train": tree}  # folders called so that hold images themselves, beside others, are classes
    listed = ", ".join(named)
    if not with_classes:
        raise UserError(
            f"{tree.path}: {listed} hold images themselves. As splits they need one subfolder a class; as classes they need other "
            "names."
        )
    if others and len(with_classes) == 1:
        raise UserError(
            f"{tree.path}: {with_classes[0]} looks like a split and {others[0]} like a class. If both are classes, rename "
            f"{with_classes[0]}; if it is a split, move {', '.join(others)} away."
        )
    found: dict[str, _Tree] = {}
    for name in with_classes:
        if (split := named[name]) in found:
            raise UserError(f"{tree.path}: {found[split].path.name} and {name} are both {split}. Keep one of them.")
        found[split] = tree.folders[name]
    _leave_out_strays(tree, left_out)
    for name in (*others, *(name for name in named if name not in with_classes)):
        for image in tree.folders[name].all_images():
            left_out.add("{} images are in no split and class and were left out", image)
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def _leave_out_strays(tree: _Tree, left_out: _LeftOut) -> None:
    for image in tree.images:
        left_out.add("{} images lie beside the class folders and were left out", image)


def _without_masks(tree: _Tree, left_out: _LeftOut, above: Collection[str] = ()) -> list[Path]:
    """The images of a class; not those in folders for masks, nor `x_mask.png` or `mask_x.png` where `x.png` or `x_flair.png` is an
    image of the class, in whatever folder.

    Args:
        above: the names of all images of the class; of this folder alone if there are none.
    """
    own = _stems(tree.images)
    above = above or _stems(list(tree.all_images()))
    has_others = any(not is_called_mask(stem_of(image)) for image in tree.images)
    kept = []
    for image in tree.images:
        of, sure = picture_of_mask(stem_of(image)) or ("", False)
        if of in own or (sure and of in above) or (has_others and is_called_mask(stem_of(image))):
            left_out.add(_MASKS, image)
        else:
            kept.append(image)
    masks = [name for name in tree.folders if is_mask_folder(name, tree.path.name)]
    if not tree.images and len(masks) == len(tree.folders):
        masks = []  # there is nothing that they could be the masks of
    for name, folder in tree.folders.items():
        if name in masks:
            for image in folder.all_images():
                left_out.add(_MASKS, image)
        else:
            kept += _without_masks(folder, left_out, above)
    return kept


def _stems(images: Collection[Path]) -> set[str]:
    """The names of images that are not called as masks are, also without their last word."""
    stems = {stem for image in images if picture_of_mask(stem := stem_of(image)) is None}
    return stems | {re.sub(r"[-_ .]+[A-Za-z]+$", "", stem) for stem in stems}
