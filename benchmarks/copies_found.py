"""Which copies are found, and are fresh images left in peace? The power of the copied share, by simulation and by real generators.

    python benchmarks/copies_found.py                # the sets in $MEDMNIST_ROOT and beside it; half an hour of one core
    python benchmarks/copies_found.py --generators   # generators trained on 200 images, too long and in time; an hour of one core

A simulated evaluation draws training images, 100 val images of which some are twins of training images (saved again as JPEG,
shifted, or noised), and 600 images to be judged: fresh real ones, and copies of training images in a disguise. Twins are
recognised as `evaluate` does it, by nothing but the distances. What is counted: how often the copied share by pixels is called
more than chance. Fresh images at the test's own level (p < 0.01); copies at the strictest level that Holm's correction for a
hundred copy tests of an evaluation asks for. And how often the answer is "cannot be judged", and how often "no sign" although
there are copies.

Beside the statistic that `evaluate` takes, others are counted with redrawn copies: what it is chosen from.

The generators are the default recipe on 200 images, --keep latest for 1,500 steps; the weights of their lowest held-out loss are
those that the default keeps. Both are judged as `evaluate` does it, by 600 images.

Of images that are twins by nature (fellow eyes in RetinaMNIST) only one is drawn to be judged or for val: two of them are no fresh
images to each other.
"""

import argparse
import io
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from judging import RESULTS
from PIL import Image
from tqdm import tqdm

from medmnist_diffusion.artifacts import MetricRecord, Metrics, TrainingSummary
from medmnist_diffusion.data import ImageDataset, Split, load_dataset
from medmnist_diffusion.data.audit import describe
from medmnist_diffusion.data.dataset import without_grey_axis
from medmnist_diffusion.data.medmnist_files import medmnist_root
from medmnist_diffusion.data.twins import (
    Nearest,
    clusters,
    interior,
    nearest_pictures,
    shifts,
    twin_limit,
    working_blocks,
)
from medmnist_diffusion.diffusion.sampling import generate_images, load_pipeline
from medmnist_diffusion.errors import run_command
from medmnist_diffusion.files import write_json
from medmnist_diffusion.metrics.evaluation import evaluate_images
from medmnist_diffusion.metrics.extractors import OFFLINE_PAIR, make_extractor
from medmnist_diffusion.metrics.memorization import NEAR, SURE, Threshold, redrawn
from medmnist_diffusion.publish.copies import COPYING, CopyTests, copy_tests
from medmnist_diffusion.publish.plots import save_figure
from medmnist_diffusion.training.config import training_config
from medmnist_diffusion.training.train import train

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SETS = ("pneumoniamnist", "retinamnist", "own/pbc_blood_28.npz")
POOL, TRAIN, VAL, JUDGED = 3000, (200, 500, 2000), 100, 600
TWINS, SHARES = (0.0, 0.15, 0.4), (0.02, 0.05, 0.1, 0.2)
RUNS = 200
FEW, LONG, NEVER = 200, 1500, 10**9  # training images and steps of a generator that is trained too long
Disguise = Callable[[np.ndarray, np.random.Generator], np.ndarray]  # float N×H×W×C → the same


def exact(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return images


def noised(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return images + rng.normal(0, 8, images.shape)


def shifted(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    moves = rng.integers(-2, 3, (len(images), 2))
    return np.stack([np.roll(image, move, (0, 1)) for image, move in zip(images, moves, strict=True)])


def mirrored(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return images[:, :, ::-1]


def twins(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A third saved again as JPEG, a third shifted, a third noised by 3 grey levels."""
    kinds = np.arange(len(images)) % 3
    again = images.copy()
    again[kinds == 0] = [_saved_again(image, int(rng.integers(75, 96))) for image in images[kinds == 0]]
    again[kinds == 1] = shifted(images[kinds == 1], rng)
    again[kinds == 2] += rng.normal(0, 3, images[kinds == 2].shape)
    return again


def _saved_again(image: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(without_grey_axis(image.astype(np.uint8))).save(file, "JPEG", quality=quality, subsampling=0)
    return np.asarray(Image.open(file)).reshape(image.shape)


COPIES: dict[str, Disguise] = {one.__name__: one for one in (exact, noised, shifted, mirrored, redrawn)}


def named(name: str) -> ImageDataset:
    """A flag's data set, or that of a file beside $MEDMNIST_ROOT."""
    beside = medmnist_root().parent / name
    return load_dataset(str(beside) if beside.is_file() else name)


def pool_of(dataset: ImageDataset) -> Split:
    """Up to 3,000 images of all splits, in random order."""
    images = np.concatenate([split.images[:] for split in dataset.splits.values()])
    labels = np.concatenate([split.labels for split in dataset.splits.values()])
    rows = np.random.default_rng(0).permutation(len(labels))[:POOL]
    return Split("pool", images[rows], labels[rows])


def distances_to(pool: Split, images: np.ndarray, own_rows: np.ndarray | None = None) -> np.ndarray:
    """float32 N×P: of each image to each of the pool, by `nearest_pictures`; infinite to itself."""
    queries = Split("queries", images.round().clip(0, 255).astype(np.uint8), pool.labels)
    found = nearest_pictures(queries, pool, own_rows, most=len(pool))
    whole = np.full((len(images), len(pool)), np.inf, np.float32)
    np.put_along_axis(whole, found.rows, found.distances, 1)
    return whole


def grey_distances_to(pool: Split, images: np.ndarray, own_rows: np.ndarray | None = None) -> np.ndarray:
    """float32 N×P: the same in root-mean-square grey levels, as `memorization.nearest_copies` compares."""
    queries = Split("queries", images.round().clip(0, 255).astype(np.uint8), pool.labels)
    targets = torch.cat([interior(block, (0, 0)).flatten(1) for block in working_blocks(pool)])
    whole, norms = [], (targets**2).sum(1)
    for block in working_blocks(queries):
        best = torch.full((len(block), len(targets)), torch.inf)
        for one in (block, block.flip(-1)):
            for by in shifts(block):
                moved = interior(one, by).flatten(1)
                squares = (moved**2).sum(1, keepdim=True) + norms - 2 * moved @ targets.T
                best = torch.minimum(best, squares)
        whole.append((best.clamp(min=0) / targets.shape[1]).sqrt())
    distances = torch.cat(whole).numpy()
    if own_rows is not None:
        distances[np.arange(len(distances)), own_rows] = np.inf
    return distances


def nearest_of(distances: np.ndarray) -> np.ndarray:
    """The 51 lowest of each row, ascending; without the distance of an image to itself."""
    nearest = np.sort(np.partition(distances, 51, axis=1)[:, :51], axis=1)
    return nearest[:, : int(np.isfinite(nearest).all(0).sum())]


def relative(nearest: np.ndarray, others: int = 50) -> np.ndarray:
    """The distance to the nearest one ÷ the mean of those to the next ones: with 50, `Nearest.relative`."""
    return nearest[:, 0] / np.maximum(nearest[:, 1 : 1 + others].mean(1), 1e-12)


# Name → which distances, and what is made of the 51 nearest. The last is what `evaluate` takes.
STATISTICS: dict[str, tuple[str, Callable[[np.ndarray], np.ndarray]]] = {
    "grey levels (RMS)": ("grey", lambda nearest: nearest[:, 0]),
    "grey levels ÷ the next 50": ("grey", relative),
    "pictures": ("pictures", lambda nearest: nearest[:, 0]),
    "pictures ÷ the next one": ("pictures", partial(relative, others=1)),
    "pictures ÷ the next 10": ("pictures", partial(relative, others=10)),
    "pictures ÷ the next 50": ("pictures", relative),
}
CHOSEN = "pictures ÷ the next 50"


@dataclass(frozen=True)
class Simulated:
    """Of one simulated evaluation, by one statistic: the threshold, and the values of fresh images and of copies by disguise."""

    threshold: Threshold
    fresh: np.ndarray
    of_copies: dict[str, np.ndarray]
    near: float

    def p_value(self, kind: str | None = None, share: float = 0.0) -> float:
        """Of the images to be judged, with a share of copies among them."""
        count = round(share * JUDGED)
        below = int((self.fresh[count:] < self.threshold.value).sum())
        if kind is not None:
            below += int((self.of_copies[kind][:count] < self.threshold.value).sum())
        return self.threshold.p_value(below, JUDGED)

    @property
    def unjudged(self) -> bool:
        """Whether "no sign" would not be said."""
        judge = MetricRecord(
            name="copied_share", extractor="pixels", dimension=1, class_=None, value=0.0, interval=None,
            floor=self.threshold.expected, floor_source="", detectable=self.threshold.detectable(JUDGED), near_fresh=self.near,
            seen_copies=float((self.of_copies["redrawn"] < self.threshold.value).mean()), n_real=0, n_generated=JUDGED,
            reference_split="train", seed=0,
        )  # fmt: skip
        return CopyTests([judge], [], [judge]).unjudged is not None


def simulated(
    between: dict[str, dict[str, np.ndarray]],
    lone: np.ndarray,
    size: int,
    share_of_twins: float,
    rng: np.random.Generator,
) -> dict[str, Simulated]:
    """One evaluation, by each of the `STATISTICS`.

    Args:
        between: kind of distance → those from the pool's images, as they are (`real`) and disguised, to the pool's.
        lone: rows of the pool that are nobody's twin.
    """
    order = rng.permutation(lone)
    judged, val = order[:JUDGED], order[JUDGED : JUDGED + VAL]
    train = rng.permutation(np.setdiff1d(np.arange(len(between["pictures"]["real"])), np.concatenate([judged, val])))[
        :size
    ]
    count = round(share_of_twins * VAL)
    twins_in_val, copied = rng.choice(train, count), rng.choice(train, round(max(SHARES) * JUDGED))
    found: dict[str, dict[str, np.ndarray]] = {}
    for kind, of in between.items():
        known = [("real", val[count:]), ("twins", twins_in_val), ("real", train)]
        nearest = [nearest_of(of[name][np.ix_(rows, train)]) for name, rows in known if len(rows)]
        width = min(one.shape[1] for one in nearest)
        found[kind] = {
            "known": np.concatenate([one[:, :width] for one in nearest]),
            "fresh": nearest_of(of["real"][np.ix_(judged, train)]),
            **{name: nearest_of(of[name][np.ix_(copied, train)]) for name in COPIES if name in of},
        }  # fmt: skip
    relative_known = relative(found["pictures"]["known"])
    independent = relative_known >= twin_limit(relative_known)  # twins are told by one and the same figure
    near = float((relative_known[independent] < NEAR).mean())
    results = {}
    for name, (kind, statistic) in STATISTICS.items():
        values = {what: statistic(nearest) for what, nearest in found[kind].items()}
        of_copies = {disguise: values[disguise] for disguise in COPIES if disguise in values}
        results[name] = Simulated(Threshold.of(values["known"][independent]), values["fresh"], of_copies, near)
    return results


def measure(dataset: ImageDataset, bar: tqdm) -> list[dict[str, Any]]:
    """A row for each number of training images and share of twins."""
    pool, rng = pool_of(dataset), np.random.default_rng(1)
    images, every = pool.images[:].astype(float), np.arange(len(pool))
    disguised = {name: disguise(images, rng) for name, disguise in {**COPIES, "twins": twins}.items()}
    between = {
        "pictures": {
            "real": distances_to(pool, images, every),
            **{name: distances_to(pool, of) for name, of in disguised.items()},
        },
        "grey": {
            "real": grey_distances_to(pool, images, every),
            **{name: grey_distances_to(pool, disguised[name]) for name in ("redrawn", "twins")},
        },
    }
    order = np.argsort(between["pictures"]["real"], axis=1)[:, :51]
    links = Nearest(np.take_along_axis(between["pictures"]["real"], order, 1), order)
    by_nature = np.argwhere(links.links < twin_limit(links.relative))
    groups = clusters(np.stack([by_nature[:, 0], links.rows[by_nature[:, 0], by_nature[:, 1]]], 1), len(pool))
    lone = np.flatnonzero(np.bincount(groups)[groups] == 1)
    rows = []
    for size in (size for size in TRAIN if size + JUDGED + VAL <= len(pool)):
        for share_of_twins in TWINS:
            draws = []
            for run in range(RUNS):
                draws.append(simulated(between, lone, size, share_of_twins, np.random.default_rng([2, size, run])))
                bar.update()
            rows.append({"train": size, "twins_in_val": share_of_twins, **_counted(draws)})
    return rows


def _counted(draws: Sequence[dict[str, Simulated]]) -> dict[str, Any]:
    """Over the evaluations of a cell, how often what was said."""
    ours = [draw[CHOSEN] for draw in draws]

    def found(draws: Sequence[Simulated], kind: str) -> dict[str, float]:
        return {f"{share:.0%}": float(np.mean([one.p_value(kind, share) < SURE for one in draws])) for share in SHARES}

    def alarms(draws: Sequence[Simulated]) -> float:
        return float(np.mean([one.p_value() < COPYING for one in draws]))

    by_statistic = {name: [draw[name] for draw in draws] for name in STATISTICS}
    missed = [one.p_value("redrawn", 0.1) >= SURE and not one.unjudged for one in ours]
    return {
        "fresh_called_copies": alarms(ours),
        "cannot_be_judged": float(np.mean([one.unjudged for one in ours])),
        "no_sign_of_10_percent_redrawn": float(np.mean(missed)),
        "found": {kind: found(ours, kind) for kind in COPIES},
        "redrawn_by_statistic": {
            name: {"fresh_called_copies": alarms(of), **found(of, "redrawn")} for name, of in by_statistic.items()
        },
    }


def few_of(whole: ImageDataset, pool: Split, images: int) -> ImageDataset:
    """A set of so few images: the first of the pool, and the next 200 as val and test."""
    edges = np.cumsum([0, images, VAL, VAL])
    splits = {
        name: Split(name, pool.images[start:end], pool.labels[start:end])
        for name, start, end in zip(("train", "val", "test"), edges, edges[1:], strict=False)
    }
    return replace(whole, name=f"{whole.name}-{images}", splits=splits)


def generators(dataset: ImageDataset) -> list[dict[str, Any]]:
    """A row for the latest and for the best weights of a training on 200 of the images."""
    few, rows = few_of(dataset, pool_of(dataset), FEW), []
    with tempfile.TemporaryDirectory() as folder:
        config = training_config(
            dataset=few.name, output_dir=folder, max_train_steps=LONG, validation_steps=50, sample_steps=NEVER, keep="latest",
            report_to="none",
        )  # fmt: skip
        train(config, few)
        extractors, labels = [make_extractor(name, few) for name in OFFLINE_PAIR], few.labels_in_shares(JUDGED)
        for name in ("pipeline", "pipeline_best"):
            summary = TrainingSummary.of(Path(folder) / name)
            images = generate_images(load_pipeline(Path(folder) / name), labels)
            found = evaluate_images(few, Split(name, images, labels), extractors, parts=["features", "copies"])
            measured = Metrics(
                dataset=describe(few).model_dump(),
                pipeline={},
                sampling={},
                metrics=found.records,
                refused=found.refused,
            )
            tests = copy_tests(measured)
            overall = [record for record in tests.shares if record.class_ is None]
            rows.append({
                "weights": summary.weights, "step": summary.step, "held_out_loss": summary.val_loss,
                "called_copies": bool(tests.flagged), "cannot_be_judged_because": tests.unjudged, "tests": len(tests.shares),
                "flagged": len(tests.flagged),
                "shares": {f"{r.name}, {r.extractor}": {"value": r.value, "p_value": r.p_value} for r in overall},
            })  # fmt: skip
    return rows


def draw(results: dict[str, Any], path: Path) -> None:
    """The power by the share of copies: a row a data set, a column a number of training images, a line a disguise (40 % twins)."""
    sizes = [str(size) for size in TRAIN]
    figure, axes = plt.subplots(
        len(results), len(sizes), figsize=(9, 2.4 * len(results)), sharex=True, sharey=True, squeeze=False,
        constrained_layout=True,
    )  # fmt: skip
    for line, (name, rows) in zip(axes, results.items(), strict=True):
        for axis, size in zip(line, sizes, strict=True):
            axis.set_title(f"{name}, {size} training images", fontsize=8)
            axis.axhline(0.9, color="0.7", lw=1)
            axis.set(xlabel="copies among 600 images", ylim=(-0.03, 1.03))
            axis.grid(alpha=0.3)
            shown = [row for row in rows if str(row["train"]) == size and row["twins_in_val"] == max(TWINS)]
            if not shown:
                axis.text(0.1, 0.5, "not so many images", ha="center", color="0.5")
            for row in shown:
                axis.plot(0, row["fresh_called_copies"], "kx", label="none")
                for kind, of in row["found"].items():
                    axis.plot(list(SHARES), list(of.values()), "o-", ms=3, label=kind)
        line[0].set_ylabel("found")
    axes[0][0].legend(fontsize=7)
    save_figure(figure, path)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--sets", nargs="+", default=list(SETS), help="flags, or files beside $MEDMNIST_ROOT")
    parser.add_argument("--generators", action="store_true", help="judge trained generators instead of planted copies")
    parser.add_argument("--output", type=Path, help="default: in benchmarks/results")
    args = parser.parse_args(argv)
    if args.generators:
        judge_generators(args.sets, args.output or RESULTS / "copies_of_generators.json")
    else:
        simulate(args.sets, args.output or RESULTS / "copies_found.json")


def judge_generators(names: Sequence[str], output: Path) -> None:
    results: dict[str, Any] = {}
    for name in names:
        dataset = named(name)
        results[dataset.name] = generators(dataset)
        write_json(output, {
            "command": "python benchmarks/copies_found.py --generators", "training_images": FEW, "judged_images": JUDGED,
            "sets": results,
        })  # fmt: skip
        lines = (f"{row['weights']}: {row['flagged']} of {row['tests']} tests" for row in results[dataset.name])
        print(f"{dataset.name}: {', '.join(lines)}")


def simulate(names: Sequence[str], output: Path) -> None:
    results: dict[str, Any] = {}
    with tqdm(unit="evaluation", dynamic_ncols=True) as bar:
        for name in names:
            dataset = named(name)
            bar.set_description(dataset.name)
            results[dataset.name] = measure(dataset, bar)
            write_json(output, {
                "command": "python benchmarks/copies_found.py", "simulated_evaluations_a_cell": RUNS, "val_images": VAL,
                "judged_images": JUDGED, "level": COPYING, "strict_level": SURE, "sets": results,
            })  # fmt: skip
    draw(results, output.with_suffix(".png"))
    worst = max(row["fresh_called_copies"] for rows in results.values() for row in rows)
    power = min(row["found"]["redrawn"]["10%"] for rows in results.values() for row in rows if row["train"] >= 500)
    silent = max(row["no_sign_of_10_percent_redrawn"] for rows in results.values() for row in rows)
    print(
        f"Fresh images were called copies in at most {worst:.1%} of a cell's evaluations; 10 % of redrawn copies were found in at "
        f'least {power:.1%}, from 500 training images on. "No sign" was said of them in at most {silent:.1%}.'
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
