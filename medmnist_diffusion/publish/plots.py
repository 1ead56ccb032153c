"""The pictures of runs, cards and evaluations, from result files and images, never from memory; a study draws its own."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from PIL import Image

from medmnist_diffusion.artifacts import Metrics
from medmnist_diffusion.data.conditioning import Conditioning
from medmnist_diffusion.data.dataset import ImageDataset, Split, without_grey_axis
from medmnist_diffusion.data.pictures import VIEWS, grid_picture, image_grid, pictures
from medmnist_diffusion.data.twins import Nearest
from medmnist_diffusion.diffusion.loss_log import BUCKETS
from medmnist_diffusion.files import atomic_file
from medmnist_diffusion.metrics.table import record_label, shown_in_ratio_plot

matplotlib.use("Agg")
from matplotlib import pyplot as plt

MOST_CLASSES = 40  # in one picture
LONGEST_NAME = 32  # letters of a class beside its images


def _step(images: np.ndarray) -> int:
    """Pixels from one row of a grid to the next."""
    return int(pictures(images[:1]).shape[1]) + 1


def _aspect(images: np.ndarray) -> float:
    """Height of a picture ÷ its width."""
    height, width = pictures(images[:1]).shape[1:3]
    return float(height / width)


def save_grid(images: np.ndarray, path: Path, columns: int) -> None:
    """A grid of uint8 N×H×W×C images (or volumes), `columns` in a row, as PNG."""
    with atomic_file(path) as temporary:
        grid_picture(images, columns).save(temporary, optimize=True)


def plot_loss(rows: list[dict[str, float]], path: Path) -> None:
    """Raw and smoothed training loss, held-out loss, and the loss by timestep bucket, against the step."""
    steps = np.array([row["step"] for row in rows])
    loss = np.array([row["loss"] for row in rows])
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    left.plot(steps, loss, color="C0", alpha=0.3, label="training, raw")
    left.plot(steps, smoothed(loss), color="C0", label="training, smoothed")
    checked = [row for row in rows if "val_loss" in row]
    if checked:
        at = [row["step"] for row in checked]
        left.plot(
            at,
            [row["train_loss_fixed"] for row in checked],
            "o-",
            ms=3,
            color="C2",
            label="training images, EMA",
        )
        left.plot(at, [row["val_loss"] for row in checked], "o-", ms=3, color="C3", label="held-out images, EMA")
    left.set(title="Loss (EMA: fixed noise and timesteps)", xlabel="step", yscale="log")
    for bucket in range(BUCKETS):
        values = np.array([row.get(f"loss_bucket_{bucket}", np.nan) for row in rows])
        right.plot(steps, smoothed(values), label=f"timesteps {bucket * 25}–{(bucket + 1) * 25} %")
    right.set(title="Loss by noise level (smoothed)", xlabel="step", yscale="log")
    for axes in (left, right):
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    save_figure(figure, path)


def smoothed(values: np.ndarray, share: float = 0.03) -> np.ndarray:
    """An exponential moving average over about `share` of the curve, corrected for its start."""
    decay = 1 - 1 / max(1.0, share * len(values))
    out, mean, weight = np.empty(len(values)), 0.0, 0.0
    for i, value in enumerate(values):
        if np.isfinite(value):
            mean, weight = decay * mean + (1 - decay) * value, decay * weight + 1 - decay
        out[i] = mean / weight if weight else np.nan
    return out


def real_beside_generated(
    real: np.ndarray, generated: np.ndarray, names: list[str], columns: int, path: Path, title: str
) -> None:
    """Real images on the left, generated on the right, one row a class; both uint8 (K·columns)×H×W×C, class by class."""
    height = 4.8 / columns * len(names) * _aspect(real) + 0.7
    figure, axes = plt.subplots(1, 2, figsize=(11, height), constrained_layout=True)
    for axis, images, heading in ((axes[0], real, "real"), (axes[1], generated, "generated")):
        grid = image_grid(images, columns)
        axis.imshow(without_grey_axis(grid), cmap="gray", vmin=0, vmax=255)
        axis.set_title(heading)
        axis.set_xticks([])
        step = _step(images)
        axis.set_yticks([step * row + step / 2 for row in range(len(names))], names if axis is axes[0] else [])
        axis.tick_params(length=0)
        for spine in axis.spines.values():
            spine.set_visible(False)
    figure.suptitle(title)
    save_figure(figure, path)


def save_sides(sides: dict[str, Split], conditioning: Conditioning, path: Path, columns: int = 8) -> None:
    """The first images of each class, a panel a side, one row a class; again where there are fewer than `columns`."""
    names = conditioning.shown_names
    figure, axes = plt.subplots(
        1,
        len(sides),
        figsize=(2.8 * len(sides), 2.8 / columns * len(names) * _aspect(next(iter(sides.values())).images[:1]) + 0.8),
        squeeze=False,
        constrained_layout=True,
    )
    for at, (axis, (title, split)) in enumerate(zip(axes[0], sides.items(), strict=True)):
        blank = np.full((columns, *split.images.shape[1:]), 255, np.uint8)
        members = conditioning.shown_members(split.labels)
        lines = [split.images[np.resize(rows, columns)] if len(rows) else blank for rows in members]
        grid = image_grid(np.concatenate(lines), columns)
        axis.imshow(without_grey_axis(grid), cmap="gray", vmin=0, vmax=255)
        step = _step(split.images[:1])
        axis.set_title(title, fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([step * row + step / 2 for row in range(len(names))], [] if at else names, fontsize=8)
    save_figure(figure, path)


def save_preview(dataset: ImageDataset, path: Path, columns: int = 8) -> None:
    """Training images of each class, drawn at random with seed 0, one row a class, as they will be trained; of at most
    MOST_CLASSES classes."""
    rng = np.random.default_rng(0)
    columns = columns if not dataset.is_volume else columns // 2
    rows = [rng.permutation(members)[:columns] for members in dataset.conditioning.shown_members(dataset.train.labels)]
    names = dataset.conditioning.shown_names[:MOST_CLASSES]
    blank = np.full((columns, *dataset.train.images.shape[1:]), 255, np.uint8)
    lines = [np.concatenate([dataset.train.images[np.sort(row)], blank[len(row) :]]) for row in rows[:MOST_CLASSES]]
    height = 5.6 / columns * len(names) * _aspect(blank) + 0.8
    figure, axis = plt.subplots(figsize=(7, height), constrained_layout=True)
    axis.imshow(without_grey_axis(image_grid(np.concatenate(lines), columns)), cmap="gray", vmin=0, vmax=255)
    step = _step(blank)
    axis.set_xticks([])
    axis.set_yticks([step * row + step / 2 for row in range(len(names))], list(map(_short, names)), fontsize=8)
    of = f", {MOST_CLASSES} of {dataset.num_classes} classes" if dataset.num_classes > MOST_CLASSES else ""
    views = f"\n{VIEWS}" if dataset.is_volume else ""
    axis.set_title(f"{dataset.name}: training images as they are read{of}{views}", fontsize=9)
    save_figure(figure, path)


def _short(name: str) -> str:
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def ratio_rows(metrics: Metrics) -> list[tuple[str, float, float, float]]:
    """Label, figure ÷ floor and its interval of what the ratio plot shows."""
    rows = []
    for record in filter(shown_in_ratio_plot, metrics.metrics):
        low, high = record.ratio_interval or tuple(
            end / record.floor for end in record.interval or (record.value,) * 2
        )
        rows.append((record_label(record), record.value / record.floor, low, high))
    return rows


def plot_ratios(metrics: Metrics, path: Path) -> None:
    """Each overall figure ÷ its floor with its interval, on a logarithmic axis; 1 is as real images score."""
    rows = ratio_rows(metrics)
    edges = 0.1, max(10.0, 1.2 * max(ratio for _, ratio, *_ in rows))  # an interval without an end runs to the edge
    figure, axes = plt.subplots(figsize=(8, 0.22 * len(rows) + 1), constrained_layout=True)
    for at, (_, ratio, low, high) in enumerate(reversed(rows)):
        axes.plot([max(low, edges[0]), min(high, edges[1])], [at, at], color="C0")
        axes.plot(np.clip(ratio, *edges), at, "o", color="C0", ms=4)
    axes.axvline(1, color="0.5", lw=1)
    axes.set(xscale="log", xlim=edges, xlabel="figure ÷ floor (1: as real images score)", yticks=range(len(rows)))
    axes.set_yticklabels([label for label, *_ in reversed(rows)], fontsize=8)
    axes.xaxis.set_major_formatter("{x:g}")
    axes.grid(alpha=0.3)
    save_figure(figure, path)


class Pairs(NamedTuple):
    """Images, and the training images that they lie nearest to.

    Attributes:
        name: what the images are.
        images: uint8 N×H×W×C, or volumes.
        real: the training images. Leave them out of anything that is published.
        nearest: of the images, by which they are in order.
    """

    name: str
    images: np.ndarray
    real: np.ndarray | None
    nearest: Nearest


def plot_closest(blocks: Sequence[Pairs], path: Path, title: str) -> None:
    """Each image with its relative distance (data/twins.py) to the nearest training image and that one's row; where given, the
    training image. A block is a line or two; of volumes, whose views lie side by side, a column or two."""
    lines = [
        (pairs, name, images)
        for pairs in blocks
        for name, images in ((pairs.name, pairs.images), ("nearest in train", pairs.real))
        if images is not None
    ]
    wide = _aspect(blocks[0].images) < 0.5
    many, few = max(len(pairs.images) for pairs in blocks), len(lines)
    height = 1.25 * few * min(1.0, 2 * _aspect(blocks[0].images)) + 0.7
    figure, axes = plt.subplots(
        *((many, few) if wide else (few, many)),
        figsize=(max(3.4 * few + 0.8, 6), 0.85 * many + 0.7) if wide else (1.15 * many, height),
        squeeze=False,
        constrained_layout=True,
    )
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for line, (pairs, name, images) in zip(axes.T if wide else axes, lines, strict=True):
        last = images is pairs.real or pairs.real is None
        for axis, image, distance, row in zip(
            line, images, pairs.nearest.relative, pairs.nearest.rows[:, 0], strict=False
        ):
            axis.imshow(without_grey_axis(pictures(image[None])[0]), cmap="gray", vmin=0, vmax=255)
            if last:
                _say_below(axis, f"{distance:.2f}\ntrain {row}", wide)
        for axis in line[len(images) :]:
            axis.axis("off")
        if wide:
            line[0].set_title(name, fontsize=8)
        else:
            line[0].set_ylabel(name, fontsize=8)
    figure.suptitle(title, fontsize=9)
    save_figure(figure, path)


def _say_below(axis: Any, text: str, beside: bool) -> None:
    """A text below a picture, or beside it."""
    if beside:
        axis.yaxis.set_label_position("right")
        axis.set_ylabel(text, fontsize=7, rotation=0, ha="left", va="center")
    else:
        axis.set_xlabel(text, fontsize=7)


def save_figure(figure: Any, path: Path, dpi: int = 90) -> None:
    """Write a matplotlib figure as a PNG of 256 colours (a third of the size), whole or not at all, and forget it."""
    drawn = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # letters that the font lacks: a box stands for them
        figure.savefig(drawn, format="png", dpi=dpi)
    plt.close(figure)
    with Image.open(drawn) as picture, atomic_file(path) as temporary:
        picture.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(temporary, optimize=True)
