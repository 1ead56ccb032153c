"""What the benchmarks share: a training without pauses, and one judgement of its images."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medmnist_diffusion.data import ImageDataset, Split
from medmnist_diffusion.data.duplicates import clean_held_out
from medmnist_diffusion.metrics import memorization
from medmnist_diffusion.metrics.classifier import predict, real_data_classifier
from medmnist_diffusion.metrics.extractors import make_extractor
from medmnist_diffusion.metrics.features import extract
from medmnist_diffusion.metrics.frechet import FeatureStatistics, extrapolated, frechet_distance, frechet_estimate
from medmnist_diffusion.metrics.kernel import kernel_distance
from medmnist_diffusion.training.arguments import parse_config
from medmnist_diffusion.training.train import train

RESULTS = Path(__file__).parent / "results"
SPACES = ("classifier", "texture")
NEVER = "1000000000"


def train_quietly(dataset: str, folder: Path, options: Sequence[str]) -> tuple[Path, dict[str, Any]]:
    """A training that does nothing beside training; returns the pipeline folder and its summary. The options hold the budget."""
    arguments = [
        "--dataset",
        dataset,
        "--output_dir",
        str(folder),
        "--report_to",
        "none",
    ]
    for pause in ("--validation_steps", "--sample_steps", "--checkpointing_steps"):
        arguments += [pause, NEVER]
    pipeline = train(parse_config([*arguments, *options]))
    return pipeline, json.loads((pipeline / "training_summary.json").read_text(encoding="utf-8"))


def drawn_labels(labels: np.ndarray, count: int, seed: int = 0) -> np.ndarray:
    """As many of the labels, drawn with replacement, in order: what a benchmark generates to be judged."""
    return np.sort(np.random.default_rng(seed).choice(labels, count))


def judge(dataset: ImageDataset, images: np.ndarray, labels: np.ndarray | None = None) -> dict[str, Any]:
    """Fréchet and kernel distance to train in both spaces, with standard errors, the share of copies, and, where labels were
    asked for, how often a classifier of real images sees them."""
    split = Split("judged", images, np.zeros(len(images), np.int64) if labels is None else labels)
    figures: dict[str, Any] = {}
    for name in SPACES:
        real, features = _features(dataset, split, name)
        distance = frechet_estimate(FeatureStatistics.of(real), features)
        figures[name] = {
            "frechet_distance": distance.value,
            "standard_error": distance.error,
            "kernel_distance": kernel_distance(real, features).value,
        }
    key = f"{dataset.train.content_hash[:24]}-{dataset.splits['val'].content_hash[:24]}-benchmark-independent"
    fresh = memorization.cached_nearest(
        key,
        memorization.NearestImages,
        lambda: memorization.nearest_copies(clean_held_out(dataset), dataset.train),
    )
    threshold = memorization.Threshold.of(fresh.distances)
    near = memorization.nearest_copies(split, dataset.train).distances
    figures |= {"memorized_share": float((near < threshold.value).mean()), "memorized_floor": threshold.expected}
    if labels is not None:
        figures["label_accuracy"] = float((predict(real_data_classifier(dataset), split) == labels).mean())
    return figures


def _features(dataset: ImageDataset, split: Split, space: str) -> tuple[np.ndarray, np.ndarray]:
    """Those of the training images and of the split, N×D each."""
    extractor = make_extractor(space, dataset)
    ((_, real),) = extract(extractor, dataset.train, cache=True).items()
    ((_, features),) = extract(extractor, split).items()
    return real, features


def floor(dataset: ImageDataset, count: int) -> dict[str, float]:
    """The Fréchet distance of `count` real images that do not stand in train, in each space.

    Fewer images have a larger distance. Where fewer are held out, it is what so many would have: from distances of 15 numbers of
    them, fitted as a + b/n (Chong & Forsyth 2020, arXiv 1911.07023). A small floor may come out below zero: tables show it beside
    the distances, and do not divide by it.
    """
    held_out = clean_held_out(dataset)
    rows = np.sort(np.random.default_rng(0).permutation(len(held_out))[:count])
    floors = {}
    for space in SPACES:
        real, features = _features(dataset, held_out.subset(rows), space)
        statistics = FeatureStatistics.of(real)
        if len(rows) == count:
            floors[space] = frechet_distance(statistics, features)
        else:
            floors[space] = extrapolated(statistics, features, count, np.random.default_rng(0))
    return floors


def peak_memory_gib(process: int | str = "self") -> float:
    """The highest memory of a process since it started its program; getrusage's figure holds its parent's, too (Linux).

    0 of one that has ended.
    """
    return memory_gib(process, "VmHWM")


def memory_gib(process: int | str, kind: str) -> float:
    """A memory figure of /proc/PROCESS/status by its name there; 0 of a process that has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    return int(status.split(f"{kind}:")[1].split()[0]) / 2**20 if f"{kind}:" in status else 0.0


def dataset_options(root: str | None, size: int | None) -> list[str]:
    """--root and --size, as they were given."""
    return [word for name, value in (("root", root), ("size", size)) if value for word in (f"--{name}", str(value))]


def summary_line(judged: dict[str, Any]) -> str:
    return "Fréchet distance " + ", ".join(f"{space} {judged[space]['frechet_distance']:.3g}" for space in SPACES)
