"""What the names of files say of their pictures: which are made from another one, and which may be of one person.

`case07_rot90`, `case07_flip` and `case07 - Copy` are the picture case07 again; `CNV-1005-11` and `CNV-1005-12`, or `1034_left` and
`1034_right`, are probably of one person. Names are a habit and no proof: what follows from them is always said.
"""

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal

import numpy as np

from medmnist_diffusion.data.conditioning import Conditioning
from medmnist_diffusion.data.folders import can_be_patients
from medmnist_diffusion.data.medical import stem_of

MOST_WORDS = 6  # at the end of a name that say which image of a person it is
MOST_IN_COMMON = 0.8  # of the names, that share with others what may be a person
FEWEST_PERSONS = 6  # of each class: of fewer names none are kept together, so that a guess never takes a class away
_END, _START = r"[-_ .]+", r"[-_ ]+"
_CHANGES = (
    r"aug(mented|mentation)?|rot(ate|ated|ation)?|[hv]?flip(ped|_?lr|_?ud)?|mirror(ed)?|bright(ness|er|ened)?|dark(er|ened)?|"
    r"contrast|clahe|noisy?|blur(red)?|zoom(ed)?|shift(ed)?|shear(ed)?|crop(ped)?|scaled?|resized?|jitter|gamma|copy|kopie|copie|copia"
)
_CHANGE_AT_END = re.compile(rf"(?P<of>.+?){_END}({_CHANGES})({_START})?[-+]?(\d+([._]\d+)?)?", re.IGNORECASE)
_CHANGE_AT_START = re.compile(rf"({_CHANGES})({_START})?\d*{_START}(?P<of>.+)", re.IGNORECASE)
_ROBOFLOW = re.compile(r"(?P<of>.+?)(_(jpe?g|png|bmp|tiff?))?\.rf\.[0-9A-Za-z]{8,}")
# Keras's copies: a prefix, the picture's number, a random one.
_KERAS = re.compile(r"(?P<of>([a-z]+_)?aug(mented)?[-_]\d+)_\d+", re.IGNORECASE)
_VIEW = re.compile(
    rf"(?P<of>.+?){_END}(left|right|[lr]|o[ds]|cc|mlo|ap|pa|lat(eral)?|front(al)?|[a-z]{{0,6}}\d+)", re.IGNORECASE
)


_SIDE = r"left|right|[lr]|o[ds]"
_WORD = re.compile(
    r"(?<![a-z])(?P<of>(patient|pat|subject|subj|sub|case|person|participant|pid|id)[-_ ]?\d+)", re.IGNORECASE
)
_SIDE_BEFORE = re.compile(rf"^({_SIDE}){_END}(?P<of>.*\d.*)$", re.IGNORECASE)
_SIDE_GLUED = re.compile(rf"^(?P<of>.*\d)({_SIDE})$", re.IGNORECASE)
_SEQUENCE = re.compile(
    rf"{_END}(?P<view>t1\w{{0,3}}|t2w?|flair|dwi|adc|pd|swi|cc|mlo|ap|pa|lat(eral)?|frontal)$", re.IGNORECASE
)
# A person of The Cancer Genome Atlas, wherever in a name: project, site, participant.
_TCGA = re.compile(r"TCGA-\w\w-\w{4}")


@dataclass(frozen=True)
class Families:
    """Images that belong together by their names.

    Attributes:
        of: of each image, the name that it has in common with others.
        kind: `picture`: made from one picture; `person`: of one person, perhaps.
        example: two names that belong together.
    """

    of: list[str]
    kind: Literal["picture", "person"]
    example: tuple[str, str]

    def in_words(self) -> str:
        what = "made from one picture" if self.kind == "picture" else "perhaps of one person"
        return f"{what} ({self.example[0]} and {self.example[1]}, …)"  # brackets that end so are left out where it is published


def groups_by_name(
    names: Mapping[str, list[str] | None], labels: Mapping[str, np.ndarray], conditioning: Conditioning, draws: bool
) -> tuple[list[str] | None, list[str]]:
    """Of the training images, which belong together by the names of their files, if splits are to be drawn from them and the names
    say so; and what a user should know of it, of the given splits, too.

    Args:
        names: split → the names of its files; None where they are not known.
        labels: split → the conditions of its images.
    """
    known = [one for one in names.values() if one is not None]
    if len(known) < len(names):
        return None, []
    found = families(list(chain.from_iterable(known)), np.concatenate([labels[split] for split in names]).tolist())
    if found is None:
        return None, []
    ends = np.cumsum([len(one) for one in known])[:-1]
    family_of = dict(zip(names, np.split(np.array(found.of), ends), strict=True))
    notes = []
    in_train: dict[str, set[str]] = {}
    for name, family in zip(names["train"] or [], family_of["train"].tolist(), strict=True):
        in_train.setdefault(family, set()).add(stem_of(Path(name)))
    for split in [split for split in names if split != "train"]:
        members = zip(names[split] or [], family_of[split].tolist(), strict=True)
        # Equal names say nothing: every split may be numbered anew.
        if count := sum(bool(in_train.get(family, set()) - {stem_of(Path(name))}) for name, family in members):
            notes.append(
                f"{count} {split} images are by their names {found.in_words()} with training images: figures measured on {split} "
                "may be inflated. A table with a column `patient` says whom each image is of."
            )
    groups = family_of["train"]
    together = sum(count > 1 for count in Counter(groups.tolist()).values())
    if not draws or not together:
        return None, notes
    fewest = min(len(set(groups[rows])) for rows in conditioning.members(labels["train"]))
    if found.kind == "person" and fewest < FEWEST_PERSONS:
        note = (
            f"Some images are by their names {found.in_words()}, but a class has too few such names to keep each in one split: "
            "images of one may stand in several. A table with a column `patient` says whom each image is of."
        )
        return None, [*notes, note]
    note = f"Images are by their names {found.in_words()}: of {together} such names all images stay in one split."
    return groups.tolist(), [*notes, note]


def families(names: Sequence[str], labels: Sequence[int]) -> Families | None:
    """Which of the images belong together by the names of their files; None where the names say nothing.

    Of pictures: a name without words as `rot90`, `flip`, `aug1`, `copy`, where one with such a word and another one of the same
    label have it in common. Of persons: that without the last numbers or sides, too (`left`, `MLO`, `x1024`), where a number is
    left and where so many have something in common, and none too much, that they can be persons; whatever the label, since the
    images of a person may have several.
    """
    own = [f"{label}/{stem_of(Path(name))}" for name, label in zip(names, labels, strict=True)]
    pictures = [_picture(name) for name in own]
    # `TCGA-A1-A0SB_x1024_y2048`; or `CNV-1005-11`, where without 1005 all would be one person.
    for often in (MOST_WORDS, 1):
        persons = [_person(picture, often) for picture in pictures]
        if _are_persons(persons, pictures, labels):
            return _families(persons, names)
    others = [one for one in _other_persons(pictures) if _are_persons(one, pictures, labels)]
    if others:
        return _families(max(others, key=lambda one: (_in_common(one), len(set(one)))), names)
    example = _example(names, pictures)
    return example and Families(pictures, "picture", example)


def _families(persons: Sequence[str], names: Sequence[str]) -> Families | None:
    example = _example(names, persons)
    return example and Families([person.partition("/")[2] for person in persons], "person", example)


def _are_persons(persons: Sequence[str], pictures: Sequence[str], labels: Sequence[int]) -> bool:
    whatever_label = [person.partition("/")[2] for person in persons]
    a_class = len(set(whatever_label)) <= len(set(labels))  # `3_17`, perhaps
    return can_be_patients(whatever_label) and not a_class and _in_common(persons) > _in_common(pictures)


def _other_persons(pictures: Sequence[str]) -> Iterator[list[str]]:
    """Ways in which a person may stand in a name but before numbers or sides: by a word (`slice1_patient10`), after a side or
    glued to one (`OD_002`, `002OD`), or as any part of it that most names share with others (`20190301_4012345`)."""
    split = [picture.partition("/")[::2] for picture in pictures]
    for way in (_WORD, _SIDE_BEFORE, _SIDE_GLUED):
        found = [(label, way.search(name)) for label, name in split]
        if all(match for _, match in found):
            yield [f"{label}/{match['of']}" for label, match in found if match]
    parts = [(label, re.split(_END, name)) for label, name in split]
    if len({len(one) for _, one in parts}) == 1:
        for at in range(len(parts[0][1])):
            persons = [f"{label}/{one[at]}" for label, one in parts]
            if _in_common(persons) >= MOST_IN_COMMON * len(persons):
                yield persons


def _picture(own: str) -> str:
    """A label and the name of the picture that one was made from, its own where it says none."""
    label, _, name = own.partition("/")
    if match := _ROBOFLOW.fullmatch(name):
        name = match["of"]
    if match := _KERAS.fullmatch(name):
        return f"{label}/{match['of']}"
    while match := _CHANGE_AT_END.fullmatch(name) or _CHANGE_AT_START.fullmatch(name):
        name = match["of"]
    return f"{label}/{name}"


def _person(picture: str, often: int) -> str:
    """A label and name without the name's last numbers or sides, as long as a number is left; or with TCGA's number alone."""
    label, _, name = picture.partition("/")
    if match := _TCGA.search(name):
        return f"{label}/{match[0]}"
    for _ in range(often):
        if (match := _VIEW.fullmatch(name)) and re.search(r"\d", match["of"]):
            name = match["of"]
    return f"{label}/{name}"


def _in_common(groups: Sequence[str]) -> int:
    """How many images have a group with others."""
    return sum(count for count in Counter(groups).values() if count > 1)


def _example(names: Sequence[str], groups: Sequence[str]) -> tuple[str, str] | None:
    """Two names of one group that differ, by more than a suffix if there are such; None where there are none."""
    first: dict[str, str] = {}
    differ = [
        (first[group], name)
        for name, group in zip(names, groups, strict=True)
        if first.setdefault(group, name) != name
    ]
    by_more = (pair for pair in differ if stem_of(Path(pair[0])) != stem_of(Path(pair[1])))
    return next(by_more, differ[0] if differ else None)


def views_in(names: Mapping[str, list[str] | None]) -> list[str]:
    """A note where most files are called by several views or sequences (`_t1`, `_flair`), of which each becomes an image."""
    every = [stem_of(Path(name)) for one in names.values() for name in one or []]
    found = Counter(match["view"].lower() for name in every if (match := _SEQUENCE.search(name)))
    if len(found) < 2 or found.total() < MOST_IN_COMMON * len(every):
        return []
    listed = ", ".join(f"{view} {count}" for view, count in found.most_common(4))
    return [
        f"By their names the files are of several views or sequences ({listed}): all are trained as images of one kind."
    ]
