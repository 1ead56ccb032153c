"""What the names of folders and files say: which are splits or masks, which may be persons, views or versions of images."""

import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path

SYSTEM_FOLDERS = ("@eaDir", "__MACOSX")
SPLIT_NAMES = {
    "train": r"train(ing)?|trn",
    "val": r"val(id(ation)?)?|dev",
    "test": r"test(ing)?|tst",
}
# Words in which other languages and habits call splits: a folder called so that holds the same folders as others is refused.
_SPLIT_LIKE = re.compile(
    r"train|test|valid|^fold|^cv[-_ ]?\d|hold[-_ ]?out|^dev(elop)?|entren|prueba|treino|apprentis|adde?str|prova|prüf"
    r"|pruef|обуч|тест|训练|测试|验证|訓練|テスト|検証",
    re.IGNORECASE,
)
# What a name loses that is left of `trainA` and `testA`, or of `a. Training Set` and `b. Testing Set`.
_SPLIT_WORDS = re.compile(r"^[a-z0-9]{1,2}[.)]|train(ing)?|test(ing)?|val(id(ation)?)?|sets?$|[^a-z0-9]+")
# Words for another version of the same images.
_VERSION = re.compile(
    r"augment|original|\braw\b|^\d{2,4} ?x ?\d{2,4}|processed|enhanced|resized|cropped|mask|segment|images?\b|(^|[-_ ])png|jpe?g",
    re.IGNORECASE,
)
_VERSION_TAIL = re.compile(
    r"([-_ ]+(aug(mented)?|original|raw|(pre)?processed|enhanced|resized|cropped|copy|flipped|rotated|clahe|images?|imgs?))+$",
    re.IGNORECASE,
)
_SPLIT_TAIL = r"([-_ ]?(set|data|images|split))?"
_SURE_WORDS = (
    r"masks?|seg(s|mented|mentations?)?|annotat(ed|ions?)|heat[-_ ]?maps?|saliency|grad[-_ ]?cam(\+\+)?|cam|pred(iction)?s?|"
    r"ground[-_ ]?truths?|contours?|outlines?|overlays?|superpixels?"
)
_UNSURE_WORDS = r"lesions?|gts?|thumb(nail)?s?|rois?"
_MASK_WORDS = rf"{_SURE_WORDS}|{_UNSURE_WORDS}"
_MASK_FOLDER = re.compile(
    rf"({_MASK_WORDS}|labels?([-_ ]?(tr|ts|va))?|derivatives|(.*[-_ ])?({_SURE_WORDS})([-_ ].*)?)", re.IGNORECASE
)
_MASK_FILE = re.compile(
    rf"(?P<of>.+?)[-_ .]+((?P<sure>{_SURE_WORDS})|{_UNSURE_WORDS}|label)([-_ ]*\d+)?|({_SURE_WORDS})[-_ .]+(?P<before>.+)",
    re.IGNORECASE,
)
# `mask.png` and `mask_2.png` beside `image.png`; `lesion_2.png` is an image.
_MASK_ALONE = re.compile(rf"{_MASK_WORDS}|labels?([-_ ]?viz)?|masks?[-_ ]*\d+", re.IGNORECASE)
# Ways to number persons: `Patient_001`, `P01`, `sub-03`, `LIDC-IDRI-0001`; UIDs; slides of TCGA.
_PERSON = re.compile(
    r"((patients?|pat|p|subjects?|subj?|cases?|persons?|participants?|volunteers?|donors?|id|mrn|lidc[-_ ]?idri)[-_ .]*\d+"
    r"|\d+(\.\d+){4,}|TCGA-\w\w-\w{4}.*)[a-z]?",
    re.IGNORECASE,
)
_CLASS_NUMBER = re.compile(
    r"(class|grade|level|stage|type|category|cat|label|score|bi-?rads|pi-?rads|kl|cluster|group|digit|c|g)?[-_ ]*\d{1,3}",
    re.IGNORECASE,
)
MANY = 10  # names that differ in their numbers alone are persons, or images
# What may be several times of one person: sides, views, planes, sequences, magnifications, visits.
_VIEW = re.compile(
    r"left|right|l|r|o[ds]|ap|pa|lat(eral)?|front(al)?|cc|mlo|ax(ial)?|cor(onal)?|sag(ittal)?|t1\w{0,3}|t2\w{0,3}|flair|dwi|adc"
    r"|anterior|posterior|oblique|\d+ ?x|(study|series|scan|visit|day|slice|frame|ses(sion)?|view|part|batch|level)[-_ ]*\d+|\d+",
    re.IGNORECASE,
)
_PICTURES = re.compile(
    r"images?|imgs?|pictures?|photos?|data|png|jpe?g|dicom|dcm|files?|clahe|normalized|grey|gray|rgb", re.IGNORECASE
)


def split_name(name: str) -> str | None:
    """The split that a folder's name means: train, val, test; None for any other name."""
    matches = (
        split for split, words in SPLIT_NAMES.items() if re.fullmatch(rf"({words}){_SPLIT_TAIL}", name, re.IGNORECASE)
    )
    return next(matches, None)


def split_in(name: str) -> set[str]:
    """The splits that stand as words in a file's name: `train-00000-of-00001`, `my_test_v2`, `trainset`."""
    words = re.split(r"[^a-z]+", name.lower())
    return {
        split
        for split, known in SPLIT_NAMES.items()
        if any(re.fullmatch(f"({known}){_SPLIT_TAIL}", word) for word in words)
    }


def is_split_like(name: str) -> bool:
    """Whether a name looks like that of a split in some language or habit."""
    return _SPLIT_LIKE.search(name) is not None


def without_split(name: str) -> str:
    """What is left of a name without its words for splits: `a` of `trainA`."""
    return _SPLIT_WORDS.sub("", name.lower())


def is_mask_folder(name: str, parent: str = "") -> bool:
    """Whether a folder's name says that it holds masks, also where words are joined as in `SegmentationClass`, or where it is that
    of the folder that it lies in and one word more: `IMD003/IMD003_lesion`."""
    if parent and (mask := picture_of_mask(name)) and mask[0] == parent:
        return True
    return _MASK_FOLDER.fullmatch(re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name)) is not None


def may_be_class(mask: str) -> bool:
    """Whether a folder that is called as masks are may as well be a class: `lesion`, or `seg`, a kind of blood cells."""
    return re.fullmatch(rf"{_UNSURE_WORDS}|seg", mask, re.IGNORECASE) is not None


def picture_of_mask(stem: str) -> tuple[str, bool] | None:
    """Of a file called as masks are, the name of the picture that it would be of, and whether the name can hardly mean anything
    else (`x_mask`; `x_lesion` may be a picture); None of other files."""
    if (match := _MASK_FILE.fullmatch(stem)) is None:
        return None
    return match["of"] or match["before"], bool(match["sure"] or match["before"])


def is_called_mask(stem: str) -> bool:
    """Whether a file is called nothing but a word for masks."""
    return _MASK_ALONE.fullmatch(stem) is not None


def is_version(name: str) -> bool:
    """Whether a folder's name says that it holds other versions of the same images."""
    return _VERSION.search(name) is not None


def without_version(name: str) -> str:
    """What is left of a name without its last words for another version: `benign` of `benign_augmented`."""
    return _VERSION_TAIL.sub("", name)


def is_within_class(name: str) -> bool:
    """Whether a folder's name is that of a view, a version or masks of images rather than that of a class."""
    return (
        bool(_VIEW.fullmatch(name) or _PICTURES.fullmatch(name) or _PERSON.fullmatch(name))
        or is_version(name)
        or is_mask_folder(name)
    )


def are_persons(names: Collection[str]) -> bool:
    """Whether two names or more are numbers of persons or of images: `Patient_001`, `P01`; or ten that differ in their numbers
    alone, where these are no grades."""
    if len(names) < 2:
        return False
    if all(map(_PERSON.fullmatch, names)):
        return True
    return len(names) >= MANY and not unnumbered(names) and not all(map(_CLASS_NUMBER.fullmatch, names))


def unnumbered(names: Collection[str]) -> list[str]:
    """The names without those that ten or more, equal but for their numbers, have in common."""
    alike = Counter(re.sub(r"\d+", "0", name) for name in names)
    return [name for name in names if alike[re.sub(r"\d+", "0", name)] < MANY]


def is_hidden(path: Path) -> bool:
    """Whether a part of it starts with a dot (.ipynb_checkpoints, macOS's ._0.png) or is a system's own folder."""
    return any(part.startswith(".") or part in SYSTEM_FOLDERS for part in path.parts)
