"""Which metric sees what: known faults planted into real images, at rising strength, and what each metric says.

    make sanity                                             # PneumoniaMNIST from $MEDMNIST_ROOT
    python benchmarks/metric_sanity.py --dataset phantom

The images under test are real ones that no generator made: half of the training split is the reference, 600 images of the other
half are the candidates, val is held out. Faults are planted into the candidates. A metric's reaction is how far it moved
from the unspoiled candidates', in standard errors of the two. One more row compares the interval by random halves
with the bootstrap. Writes a JSON file and a heat map beside it.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from scipy.ndimage import gaussian_filter
from tqdm import tqdm

from medmnist_diffusion.artifacts import MetricRecord
from medmnist_diffusion.data import ImageDataset, Split, load_dataset
from medmnist_diffusion.data.npz import npz_arrays, write_npz
from medmnist_diffusion.diffusion.sampling import generate_images, load_pipeline
from medmnist_diffusion.errors import run_command
from medmnist_diffusion.files import atomic_file, write_json
from medmnist_diffusion.metrics.evaluation import evaluate_images
from medmnist_diffusion.metrics.extractors import make_extractor
from medmnist_diffusion.metrics.frechet import FeatureStatistics, frechet_distance, frechet_estimate
from medmnist_diffusion.metrics.intervals import replicate_error
from medmnist_diffusion.metrics.real_side import RealSide
from medmnist_diffusion.metrics.table import record_label
from medmnist_diffusion.training.arguments import parse_config
from medmnist_diffusion.training.train import train

matplotlib.use("Agg")
from matplotlib import pyplot as plt

CANDIDATES = 600
SPACES = ("classifier", "texture", "pca")
RESULTS = Path(__file__).parent / "results"
# (candidates, data set with the reference as train, pool of unseen real images, strength, random numbers) → spoiled candidates
Fault = Callable[[Split, ImageDataset, Split, float, np.random.Generator], Split]


def changed(split: Split, images: np.ndarray) -> Split:
    return Split(split.name, images.round().clip(0, 255).astype(np.uint8), split.labels)


def blur(split: Split, dataset: ImageDataset, pool: Split, strength: float, rng: np.random.Generator) -> Split:
    return changed(split, gaussian_filter(split.images[:].astype(float), (0, strength, strength, 0)))


def noise(split: Split, dataset: ImageDataset, pool: Split, strength: float, rng: np.random.Generator) -> Split:
    return changed(split, split.images[:] + rng.normal(0, strength, split.images.shape))


def contrast(split: Split, dataset: ImageDataset, pool: Split, strength: float, rng: np.random.Generator) -> Split:
    mean = split.images[:].mean((1, 2, 3), keepdims=True)
    return changed(split, mean + (split.images[:] - mean) * (1 - strength))


def wrong_labels(split: Split, dataset: ImageDataset, pool: Split, strength: float, rng: np.random.Generator) -> Split:
    labels = split.labels.copy()
    rows = rng.permutation(len(labels))[: int(strength * len(labels))]
    labels[rows] = (labels[rows] + 1) % dataset.num_classes
    return Split(split.name, split.images, labels)


def drop_modes(split: Split, dataset: ImageDataset, pool: Split, strength: float, rng: np.random.Generator) -> Split:
    """Each class anew from the pool, without the images that are farthest from the class's mean: no image twice."""
    flat, rows = pool.images[:].reshape(len(pool), -1).astype(float), []
    for label in np.unique(split.labels):
        members = np.flatnonzero(pool.labels == label)
        distance = ((flat[members] - flat[members].mean(0)) ** 2).mean(1)
        near = members[np.argsort(distance)][: int((1 - strength) * len(members))]
        rows.append(rng.permutation(near)[: (split.labels == label).sum()])
    return pool.subset(np.concatenate(rows))


def drop_class(split: Split, dataset: ImageDataset, pool: Split, strength: float, rng: np.random.Generator) -> Split:
    """The first class is gone; others from the pool take its place."""
    others = rng.permutation(np.flatnonzero(pool.labels != 0))[: len(split)]
    return pool.subset(others)


def undertrained(split: Split, dataset: ImageDataset, pool: Split, strength: float, rng: np.random.Generator) -> Split:
    """Samples of our own generator, trained for so few steps on the reference; no pool image is involved."""
    with tempfile.TemporaryDirectory() as folder:
        data, run = Path(folder) / "reference.npz", Path(folder) / "run"
        write_npz(data, npz_arrays(dataset.splits, dataset.conditioning))
        steps = ["--max_train_steps", str(int(strength)), "--lr_warmup_steps", "20", "--report_to", "none"]
        train(parse_config(["--dataset", str(data), "--output_dir", str(run), *steps]))
        images = generate_images(load_pipeline(run / "pipeline"), split.labels)
    return Split("undertrained", images, split.labels)


def duplicates(split: Split, dataset: ImageDataset, pool: Split, strength: float, rng: np.random.Generator) -> Split:
    """So many images are replaced by repetitions of other candidates of their class."""
    rows = np.arange(len(split))
    for label in np.unique(split.labels):
        members = rng.permutation(np.flatnonzero(split.labels == label))
        count = int(strength * len(members))
        rows[members[:count]] = rng.choice(members[count:], count)
    return split.subset(rows)


def copies(disguise: Callable[[np.ndarray], np.ndarray]) -> Fault:
    def fault(split: Split, dataset: ImageDataset, pool: Split, strength: float, rng: np.random.Generator) -> Split:
        images = split.images[:].astype(float)
        for label in np.unique(split.labels):
            members = rng.permutation(np.flatnonzero(split.labels == label))[
                : int(strength * (split.labels == label).sum())
            ]
            originals = rng.permutation(np.flatnonzero(dataset.train.labels == label))[: len(members)]
            images[members] = disguise(dataset.train.images[originals].astype(float))
        return changed(split, images)

    return fault


FAULTS: dict[str, tuple[Fault, tuple[float, ...]]] = {
    "blur (σ px)": (blur, (0.3, 0.6, 1.2)),
    "blobs: blur (σ px)": (blur, (4.0,)),
    "noise (grey levels)": (noise, (2, 6, 20)),
    "contrast lost": (contrast, (0.05, 0.15, 0.4)),
    "wrong labels": (wrong_labels, (0.05, 0.2, 0.5)),
    "modes dropped": (drop_modes, (0.2, 0.5, 0.7)),
    "class dropped": (drop_class, (1.0,)),
    "undertrained (steps, falling)": (undertrained, (800, 200, 50)),
    "images repeated": (duplicates, (0.05, 0.2, 0.5)),
    "training copies, exact": (copies(lambda x: x), (0.05, 0.2, 0.5)),
    "training copies, noised (6)": (
        copies(lambda x: x + np.random.default_rng(1).normal(0, 6, x.shape)),
        (0.05, 0.2, 0.5),
    ),
    "training copies, shifted (1, 2 px)": (copies(lambda x: np.roll(x, (1, 2), (1, 2))), (0.05, 0.2, 0.5)),
    "training copies, mirrored": (copies(lambda x: x[:, :, ::-1]), (0.05, 0.2, 0.5)),
}


# What each figure is for: at a fault's greatest strength these must move, up (+1) or down (−1), by 3 standard errors or more.
# For figures of copying in the feature spaces see the table: there the disguised copies need not be seen.
EXPECTED: dict[str, tuple[tuple[str, int], ...]] = {
    "blur (σ px)": (
        ("Fréchet distance, texture (81)", 1), ("Kernel distance, texture (81)", 1), ("Precision, texture (81)", -1),
    ),
    "blobs: blur (σ px)": (
        ("Fréchet distance, texture (81)", 1), ("Fréchet distance, classifier (64)", 1), ("Fréchet distance, pca (64)", 1),
    ),
    "noise (grey levels)": (("Fréchet distance, texture (81)", 1), ("Precision, texture (81)", -1)),
    "contrast lost": (
        ("Fréchet distance, pca (64)", 1), ("Fréchet distance, texture (81)", 1), ("Intra-class spread, pca (64)", -1),
    ),
    "wrong labels": (("Label accuracy", -1),),
    "modes dropped": (
        ("Recall, pca (64)", -1), ("Intra-class spread, pca (64)", -1), ("Fréchet distance, pca (64)", 1),
    ),
    "class dropped": (("Fréchet distance, classifier (64)", 1), ("Coverage, classifier (64)", -1)),
    "undertrained (steps, falling)": (
        ("Fréchet distance, texture (81)", 1), ("Fréchet distance, classifier (64)", 1),
    ),
    "images repeated": (("Duplicate share", 1), ("Coverage, pca (64)", -1)),
    "training copies, exact": (("Memorized share", 1), ("Nearness to train", 1), ("Authenticity", -1)),
    "training copies, noised (6)": (("Memorized share", 1),),
    "training copies, shifted (1, 2 px)": (("Memorized share", 1),),
    "training copies, mirrored": (("Memorized share", 1),),
}  # fmt: skip


def measure(dataset: ImageDataset, candidates: Split, real_side: RealSide) -> list[MetricRecord]:
    extractors = [make_extractor(space, dataset) for space in SPACES]
    return evaluate_images(
        dataset, candidates, extractors, per_class=False, parts=["features", "labels", "copies"], real_side=real_side
    ).records


def reaction(record: MetricRecord, unspoiled: MetricRecord) -> float:
    """How far a figure moved, in standard errors of the two; p-values' figures against chance are shown the same way."""
    errors = [r.error or 0.0 for r in (record, unspoiled)]
    return float((record.value - unspoiled.value) / max(np.hypot(errors[0], errors[1]), 1e-9))


def interval_check(
    features: np.ndarray, reference: np.ndarray, repetitions: int = 40, n: int = 300
) -> dict[str, float]:
    """The true spread over draws of n images, against what random halves and the bootstrap say of one draw.

    The draws overlap, as the images are finite: the true spread comes out a few per cent too small.
    """
    statistics, rng = FeatureStatistics.of(reference), np.random.default_rng(0)
    values, by_halves, by_bootstrap, bootstrap_means = [], [], [], []
    for i in range(repetitions):
        draw = features[rng.permutation(len(features))[:n]]
        estimate = frechet_estimate(statistics, draw, i)
        values.append(estimate.value)
        by_halves.append(estimate.error or 0.0)
        again = [frechet_distance(statistics, draw[rng.integers(n, size=n)]) for _ in range(20)]
        by_bootstrap.append(replicate_error(again))
        bootstrap_means.append(np.mean(again))
    return {
        "n": n,
        "mean_distance": float(np.mean(values)),
        "true_standard_error": float(np.std(values, ddof=1)),
        "halves_standard_error": float(np.mean(by_halves)),
        "bootstrap_standard_error": float(np.mean(by_bootstrap)),
        "bootstrap_mean_distance": float(np.mean(bootstrap_means)),
    }


def plot(result: dict[str, Any], path: Path) -> None:
    rows = [(f"{row['fault']} {row['strength']:g}", row["reactions"]) for row in result["faults"]]
    columns = list(rows[0][1])
    table = np.array([[reactions[column] for column in columns] for _, reactions in rows])
    figure, axes = plt.subplots(figsize=(0.34 * len(columns) + 3.2, 0.24 * len(rows) + 2.6), constrained_layout=True)
    picture = axes.imshow(np.sign(table) * np.log2(1 + np.abs(table)), cmap="RdBu_r", vmin=-6, vmax=6, aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=90, fontsize=7)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=7)
    for (y, x), value in np.ndenumerate(table):
        if abs(value) >= 3:
            axes.text(x, y, f"{min(abs(value), 99):.0f}", ha="center", va="center", fontsize=5.5)
    axes.set_title(f"Standard errors moved ({result['dataset']}; blank: fewer than 3)", fontsize=9)
    figure.colorbar(picture, ax=axes, shrink=0.4, ticks=[-6, -3, 0, 3, 6], label="± log₂(1 + |standard errors|)")
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=85)
    plt.close(figure)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--dataset", default="pneumoniamnist")
    parser.add_argument("--root")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args(argv)
    whole = load_dataset(args.dataset, args.root)
    rng = np.random.default_rng(0)
    order = rng.permutation(len(whole.train))
    half = len(order) // 2
    dataset = replace(whole, splits={**whole.splits, "train": whole.train.subset(np.sort(order[:half]))})
    rest = whole.train.subset(np.sort(order[half:]))
    candidates = rest.subset(np.sort(rng.permutation(len(rest))[:CANDIDATES]))

    real_side = RealSide(dataset)
    unspoiled = {record_label(record): record for record in measure(dataset, candidates, real_side)}
    faults: list[dict[str, Any]] = []
    cases = [(name, fault, strength) for name, (fault, strengths) in FAULTS.items() for strength in strengths]
    for name, fault, strength in tqdm(cases, desc="faults"):
        spoiled = measure(dataset, fault(candidates, dataset, rest, strength, np.random.default_rng(1)), real_side)
        faults.append(
            {
                "fault": name,
                "strength": strength,
                "values": {record_label(record): record.value for record in spoiled},
                "p_values": {record_label(record): record.p_value for record in spoiled if record.p_value is not None},
                "reactions": {
                    record_label(r): reaction(r, unspoiled[record_label(r)])
                    for r in spoiled
                    if record_label(r) in unspoiled
                },
            }
        )
    texture = make_extractor("texture", dataset)
    checks = interval_check(
        next(iter(texture.embed(rest.images[:]).values())), next(iter(texture.embed(dataset.train.images[:]).values()))
    )
    expectations = []
    for name, expected in EXPECTED.items():
        strongest = [row for row in faults if row["fault"] == name][-1]
        for figure, direction in expected:
            moved = strongest["reactions"].get(figure, 0.0)
            expectations.append(
                {"fault": name, "strength": strongest["strength"], "figure": figure, "direction": direction,
                 "standard_errors": round(moved, 1), "met": direction * moved >= 3}
            )  # fmt: skip
    result = {
        "command": f"python benchmarks/metric_sanity.py --dataset {args.dataset}",
        "dataset": args.dataset,
        "reference_images": len(dataset.train),
        "candidates": len(candidates),
        "unspoiled": {
            label: record.model_dump(include={"value", "interval", "floor", "ratio_interval", "p_value"})
            for label, record in unspoiled.items()
        },
        "faults": faults,
        "expected": expectations,
        "intervals": checks,
    }  # fmt: skip
    write_json(args.output / f"metric_sanity_{args.dataset}.json", result)
    plot(result, args.output / f"metric_sanity_{args.dataset}.png")
    for row in expectations:
        met = "met  " if row["met"] else "UNMET"
        print(f"{met} {row['fault']} {row['strength']:g}: {row['figure']} {row['standard_errors']:+g}")
    print(f"Written to {args.output}")


if __name__ == "__main__":
    sys.exit(run_command(main))
