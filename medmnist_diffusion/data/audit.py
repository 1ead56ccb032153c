"""What is in a data set, and what is wrong with it: counts, pixels, blank images, duplicates, leaks."""

import io
import re
from itertools import combinations, islice

import numpy as np
from sklearn.metrics import roc_auc_score

from medmnist_diffusion.artifacts import (
    Audit,
    ClassBrightness,
    DatasetDescription,
    LabelConflict,
    SplitAudit,
    SplitTwins,
    TwinsAudit,
)
from medmnist_diffusion.cache import cache_dir, cached_record, digest
from medmnist_diffusion.data.conditioning import NO_LABEL
from medmnist_diffusion.data.dataset import ImageDataset, Split, size_in_words
from medmnist_diffusion.data.duplicates import Place, image_hashes, in_other, label_conflicts, near_pairs, repeats
from medmnist_diffusion.data.sources import NEARLY_BLACK
from medmnist_diffusion.data.twins import Twins, alike_in_words, clusters, find_twins

AUDIT_VERSION = 6  # of the way it is counted: audits kept by another are made again
NEAR_DUPLICATE_GREY_LEVELS = 5.0  # root mean square; a picture saved again as JPEG differs by 2 to 4
TASKS = {"multi-class": "", "ordinal": ", ordered grades", "multi-label": ", any number of labels an image"}
MOST_PAIRS = 100_000  # counted no further: of a thousand all alike images there are half a million pairs
_FILE_NAMES = re.compile(r" \((?:first: )?(?:[^()]|\([^()]*\))*(?:\.[A-Za-z0-9]{2,5}|, …|/[^()]*)\)")  # behind a note
TELLING_BRIGHTNESS = 0.98  # AUC of the mean grey level alone, from which on it is said
MOST_COMBINATIONS = 12  # printed
MOST_CONFLICTS = 100  # listed; all are counted
LOOKED_UP = 50_000  # of a larger split so many images, drawn at random, are looked up among all: a million would take half an hour


def audit(dataset: ImageDataset, file_names: bool = True) -> Audit:
    """Count and compare the images of a data set; of content that was audited before the result is read from the cache.

    Args:
        file_names: whether notes and conflicts may name files. These can be names of people: what gets published has none.

    Returns:
        For each split its number of images, images a class, pixel mean and standard deviation (grey levels, a channel),
        constant images, images that repeat an earlier one, near-duplicate pairs, and how many images were looked up for these;
        for each two splits, how many images of the first stand in the second, and the other way round.

    Example:
        >>> report = md.audit(dataset)
        >>> report.splits["train"].images, report.leaks["train-test"]["test_images_in_train"]
        (2400, 0)
    """
    depends_on = [
        AUDIT_VERSION,
        dataset.task,
        dataset.conditioning.names,
        NEAR_DUPLICATE_GREY_LEVELS,
        MOST_PAIRS,
        LOOKED_UP,
    ]
    path = cache_dir() / "audits" / f"{dataset.content_hash}-{digest(depends_on)}.json"
    found = cached_record(path, Audit, lambda: _audited(dataset))
    # Name, licence, notes and the files' names are no content.
    conflicts, description = found.conflicts or [], describe(dataset)
    if file_names:
        conflicts = [one.model_copy(update={"files": _file_names(one.files, dataset)}) for one in conflicts]
        description = description.model_copy(update={"notes": dataset.notes})
    return found.model_copy(
        update={"dataset": description, "conflicts": conflicts, "shared_groups": _shared_groups(dataset)}
    )


def _shared_groups(dataset: ImageDataset) -> dict[str, int] | None:
    """How many groups (people, lesions) have images in both of two splits; None where the data do not say."""
    groups = {name: set(split.groups) for name, split in dataset.splits.items() if split.groups is not None}
    if not groups:
        return None
    return {f"{one}-{other}": len(groups[one] & groups[other]) for one, other in combinations(groups, 2)}


def _audited(dataset: ImageDataset) -> Audit:
    hashes = {name: image_hashes(split) for name, split in dataset.splits.items()}
    leaks = {}
    for first, second in combinations(dataset.splits, 2):
        few, many = sorted((dataset.splits[first], dataset.splits[second]), key=len)
        leaks[f"{first}-{second}"] = {
            f"{first}_images_in_{second}": int(in_other(hashes[first], hashes[second]).sum()),
            f"{second}_images_in_{first}": int(in_other(hashes[second], hashes[first]).sum()),
            "near_duplicate_pairs": _near_pairs(few, many, looked_up := _looked_up(np.arange(len(few)))),
            "looked_up_for_near_duplicates": len(looked_up),
        }
    counts = dataset.conditioning.counts(dataset.train.labels)
    found = find_twins(dataset)
    conflicts = label_conflicts(dataset, hashes, found)
    return Audit(
        dataset=describe(dataset),
        imbalance=round(float(counts.max() / max(1, counts.min())), 3),
        splits={name: _audit_split(split, dataset, hashes[name]) for name, split in dataset.splits.items()},
        leaks=leaks,
        twins=_audit_twins(dataset, found),
        label_conflicts=len(conflicts),
        conflicts=[_conflict(one, dataset) for one in conflicts[:MOST_CONFLICTS]],
    )


def _conflict(found: tuple[Place, Place, bool], dataset: ImageDataset) -> LabelConflict:
    """Named by rows; `_file_names` knows the files."""
    *places, exact = found
    classes = [dataset.conditioning.name_of(int(dataset.splits[split].labels[row])) for split, row in places]
    names = [f"{split} row {row}" for split, row in places]
    return LabelConflict(files=(names[0], names[1]), classes=(classes[0], classes[1]), exact=exact)


def _file_names(rows: tuple[str, str], dataset: ImageDataset) -> tuple[str, str]:
    """`train row 17` as the name of its file, where the data set has files."""
    names = []
    for name in rows:
        split, row = name.split(" row ")
        files = dataset.splits[split].files
        names.append(files[int(row)] if files else name)
    return names[0], names[1]


def _audit_twins(dataset: ImageDataset, found: Twins) -> TwinsAudit:
    pairs = found.pairs_over(dataset.splits)
    sizes = np.bincount(clusters(pairs, sum(len(split) for split in dataset.splits.values())))
    return TwinsAudit(
        limit=round(found.limit, 3),
        splits={
            name: SplitTwins(
                images_with_twin_in_train=len(found.rows(name)),
                looked_up=len(found.looked_up[name]),
                pairs=_different_pairs(found.pairs[name], within=name == "train"),
            )
            for name in dataset.splits
        },
        clusters=int((sizes > 1).sum()),
        largest_cluster=int(sizes.max()),
        alike=found.alike,
    )


def describe(dataset: ImageDataset) -> DatasetDescription:
    """The data set's identity, as every result file carries it; its notes without names of files."""
    return DatasetDescription(
        name=dataset.name,
        content_hash=dataset.content_hash,
        unordered_hash=dataset.unordered_hash,
        image_size=dataset.shape[-2],
        shape=list(dataset.shape),
        task=dataset.task,
        channels=dataset.channels,
        id2label={str(label): name for label, name in dataset.id2label.items()},
        license=dataset.license,
        citation=dataset.citation,
        description=dataset.description,
        synthetic=dataset.synthetic,
        source=dataset.source,
        notes=[_FILE_NAMES.sub("", note) for note in dataset.notes],
    )


def _different_pairs(pairs: np.ndarray, within: bool) -> int:
    """How many pairs M×2 there are; within one split (i, j) and (j, i) are one."""
    return len(np.unique(np.sort(pairs, axis=1) if within else pairs, axis=0))


def _audit_split(split: Split, dataset: ImageDataset, hashes: np.ndarray) -> SplitAudit:
    total, squares, means = np.zeros(dataset.channels), np.zeros(dataset.channels), list[np.ndarray]()
    pixels, blank, dark = 0, 0, 0
    low, high = 255, 0
    for chunk in split.chunks():
        values = chunk.reshape(len(chunk), -1, chunk.shape[-1]).astype(np.float64)
        total, squares = total + values.sum((0, 1)), squares + (values**2).sum((0, 1))
        means.append(values.mean((1, 2)))
        pixels += values.shape[0] * values.shape[1]
        is_blank = (values.max(1) == values.min(1)).all(-1)
        blank += int(is_blank.sum())
        dark += int((~is_blank & (values.max((1, 2)) <= NEARLY_BLACK)).sum())
        low, high = min(low, int(chunk.min())), max(high, int(chunk.max()))
    mean = total / pixels
    deviation = np.sqrt(np.maximum(squares / pixels - mean**2, 0))
    counts = dataset.conditioning.counts(split.labels)
    # Of images that repeat each other one: or all pairs would be looked at.
    unique = np.sort(np.unique(hashes, return_index=True)[1])
    looked_up = _looked_up(unique)
    return SplitAudit(
        images=len(split),
        per_class={dataset.id2label[label]: int(count) for label, count in enumerate(counts)},
        combinations=dataset.conditioning.combinations(split.labels) if dataset.conditioning.multi_label else None,
        pixel_mean=np.round(mean, 2).tolist(),
        pixel_std=np.round(deviation, 2).tolist(),
        pixel_range=[low, high],
        brightness=_brightness(np.concatenate(means), split, dataset),
        constant_images=blank,
        dark_images=dark,
        repeated_images=repeats(hashes),
        near_duplicate_pairs=_near_pairs(split, split, looked_up, unique),
        looked_up_for_near_duplicates=len(looked_up),
    )


def _brightness(means: np.ndarray, split: Split, dataset: ImageDataset) -> dict[str, ClassBrightness]:
    """Of the images' mean grey levels, float N: the mean of each class that the split has, and their AUC."""
    found = {}
    for class_, name in dataset.id2label.items():
        has = dataset.conditioning.shows(split.labels, class_)
        if has.any() and not has.all():
            area = float(roc_auc_score(has, means))
            found[name] = ClassBrightness(mean=round(float(means[has].mean()), 2), auc=round(max(area, 1 - area), 4))
    return found


def _near_pairs(split: Split, other: Split, looked_up: np.ndarray, among: np.ndarray | None = None) -> int:
    """How many near pairs there are, counted to MOST_PAIRS."""
    pairs = near_pairs(split, other, NEAR_DUPLICATE_GREY_LEVELS, looked_up, among)
    return sum(1 for _ in islice(pairs, MOST_PAIRS))


def _looked_up(rows: np.ndarray) -> np.ndarray:
    """All of the rows, or LOOKED_UP of them."""
    return rows if len(rows) <= LOOKED_UP else np.sort(np.random.default_rng(0).choice(rows, LOOKED_UP, replace=False))


def findings(report: Audit) -> list[str]:
    """The audit's findings as sentences, worst first; empty if there is nothing to report."""
    lines = _conflict_findings(report)
    for pair, leak in report.leaks.items():
        first, second = pair.split("-")
        count = leak[f"{second}_images_in_{first}"]
        if count:
            rows = leak[f"{first}_images_in_{second}"]
            lines.append(f"{count} {second} images also stand in {first} (as {rows} rows).")
        if pairs := leak["near_duplicate_pairs"]:
            images = min(report.splits[name].images for name in (first, second))
            looked_up = _of(leak.get("looked_up_for_near_duplicates"), images)
            lines.append(f"{_pairs(pairs)} between {first} and {second}{looked_up}.")
    for pair, count in (report.shared_groups or {}).items():
        if count:
            first, second = pair.split("-")
            lines.append(
                f"{count} patients (or lesions) have images in {first} and in {second}: figures measured on {second} are inflated."
            )
    for name, split in report.splits.items():
        lines += _split_findings(name, split)
    if report.twins:
        lines += _twin_findings(report.twins)
    lines += _brightness_findings(report.splits["train"])
    if report.imbalance >= 2:
        lines.append(f"The largest class has {report.imbalance:.1f} times the images of the smallest.")
    return lines


def _split_findings(name: str, split: SplitAudit) -> list[str]:
    """What is odd about the images of one split."""
    lines = []
    if split.constant_images:
        lines.append(f"{split.constant_images} {name} images are constant (blank).")
    if split.dark_images and split.dark_images < split.images:  # where all are, the data set's notes say it
        lines.append(
            f"{split.dark_images} {name} images are nearly black, others are not: no pixel of theirs is above {NEARLY_BLACK} "
            "of 255. Were they saved on another scale, or are they masks?"
        )
    if split.repeated_images:
        lines.append(f"{split.repeated_images} {name} images repeat an earlier one of the split.")
    if split.near_duplicate_pairs:
        looked_up = _of(split.looked_up_for_near_duplicates, split.images)
        lines.append(f"{_pairs(split.near_duplicate_pairs)} within {name}{looked_up}.")
    return lines


def _conflict_findings(report: Audit) -> list[str]:
    if not report.label_conflicts:
        return []
    named = [
        f"{' and '.join(f'{file} ({label})' for file, label in zip(one.files, one.classes, strict=True))}"
        f"{'' if one.exact else ', saved differently'}"
        for one in (report.conflicts or [])[:3]
    ]
    more = ", …" if report.label_conflicts > 3 else ""
    pictures = "picture stands" if report.label_conflicts == 1 else "pictures stand"
    return [
        f"{report.label_conflicts} {pictures} in two classes: {'; '.join(named)}{more}. One of the labels is wrong."
    ]


def _brightness_findings(train: SplitAudit) -> list[str]:
    """A classifier takes the shortest way: one that has nothing to do with medicine makes all figures look good."""
    told = {name: one for name, one in (train.brightness or {}).items() if one.auc >= TELLING_BRIGHTNESS}
    if not told:
        return []
    listed = ", ".join(f"{name} (mean grey level {one.mean:.0f}, AUC {one.auc:.3f})" for name, one in told.items())
    return [
        f"Brightness alone tells these classes from the others: {listed}; train has {np.mean(train.pixel_mean):.0f}. If it comes "
        "from the scanner, the files or how they were saved, and not from what they show, make the classes alike first."
    ]


def _twin_findings(twins: TwinsAudit) -> list[str]:
    """What twins mean for whoever reads figures of val and test images."""
    shares = []
    for name in ("val", "test"):
        split = twins.splits[name]
        if split.images_with_twin_in_train:
            share = split.images_with_twin_in_train / split.looked_up
            shares.append(f"{split.images_with_twin_in_train} of {split.looked_up} {name} images ({share:.0%})")
    lines = [alike_in_words(twins.alike)] if twins.alike else []
    if shares:
        lines.append(
            f"{' and '.join(shares)} have a twin in train, another file of the same picture: figures measured on them, "
            "such as test accuracy, are inflated. `--drop_leaks twins` trains without the twins."
        )
    if count := twins.splits["train"].images_with_twin_in_train:
        lines.append(
            f"{count} of {twins.splits['train'].looked_up} training images have a twin in train ({twins.clusters} clusters "
            f"over all splits, the largest of {twins.largest_cluster} images)."
        )
    return lines


def _pairs(count: int) -> str:
    return f"{count}{' or more' if count >= MOST_PAIRS else ''} near-duplicate pairs"


def _of(looked_up: int | None, images: int) -> str:
    """Which part of the images was looked up, where it was not all of them."""
    return "" if looked_up is None or looked_up >= images else f", of {looked_up:,} of {images:,} images looked up"


def print_audit(report: Audit) -> None:
    """The audit as a table and its findings, in the terminal."""
    from rich.console import Console
    from rich.table import Table

    info, drawn = report.dataset, io.StringIO()
    console = Console(file=drawn, highlight=False, markup=False, width=Console().width)
    console.print(f"{info.name}: {size_in_words(info.full_shape)}{TASKS[info.task]}, licence {info.license}")
    table = Table("images")
    for name in report.splits:
        table.add_column(name, justify="right")
    splits = list(report.splits.values())
    for class_name in info.id2label.values():
        table.add_row(class_name, *(str(split.per_class[class_name]) for split in splits))
    if info.task == "multi-label":
        table.add_row(NO_LABEL, *(str((split.combinations or {}).get(NO_LABEL, 0)) for split in splits))
        table.add_row("several labels", *(str(_several(split)) for split in splits))
    table.add_row("all", *(str(split.images) for split in splits), end_section=True)
    table.add_row("pixels, mean ± sd", *(_pixels(split) for split in splits))
    table.add_row("constant (blank)", *(str(split.constant_images) for split in splits))
    table.add_row("repeated", *(str(split.repeated_images) for split in splits))
    table.add_row("near-duplicates", *(str(split.near_duplicate_pairs) for split in splits))
    console.print(table)
    for line in [*info.notes, *findings(report), *_combination_lines(report)]:
        console.print(f"- {line}", soft_wrap=True)
    print(drawn.getvalue(), end="", flush=True)


def _combination_lines(report: Audit) -> list[str]:
    """Of several labels an image: the most common combinations."""
    counts = report.splits["train"].combinations or {}
    common = [f"{name} {count}" for name, count in list(counts.items())[:MOST_COMBINATIONS]]
    more = f" and {len(counts) - MOST_COMBINATIONS} more" if len(counts) > MOST_COMBINATIONS else ""
    return [f"Combinations in train: {', '.join(common)}{more}."] if common else []


def _several(split: SplitAudit) -> int:
    """Images with two labels or more."""
    return sum(count for name, count in (split.combinations or {}).items() if name not in (NO_LABEL, *split.per_class))


def _pixels(split: SplitAudit) -> str:
    pairs = zip(split.pixel_mean, split.pixel_std, strict=True)
    return "\n".join(f"{mean:.0f} ± {std:.0f}" for mean, std in pairs)
