"""Every picture that the project draws, from result files and images, never from memory."""

from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

from medmnist_diffusion.diffusion.loss_log import BUCKETS
from medmnist_diffusion.files import atomic_file

matplotlib.use("Agg")
from matplotlib import pyplot as plt

SCALE = 3  # each pixel of a small image becomes 3×3 in a grid


def save_grid(images: np.ndarray, path: Path, columns: int) -> None:
    """A grid of uint8 N×H×W×C images, `columns` in a row, as PNG."""
    grid = image_grid(images, columns)
    scale = max(1, min(SCALE, 1200 // grid.shape[1]))
    picture = Image.fromarray(grid.squeeze(-1) if grid.shape[-1] == 1 else grid)
    picture = picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.NEAREST)
    with atomic_file(path) as temporary:
        picture.save(temporary, optimize=True)


def image_grid(images: np.ndarray, columns: int) -> np.ndarray:
    """uint8 N×H×W×C → one uint8 image, rows of `columns` images with a thin gap; what is missing stays white."""
    rows = -(-len(images) // columns)
    height, width, channels = images.shape[1:]
    grid = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), 255, np.uint8)
    for i, image in enumerate(images):
        y, x = i // columns * (height + 1), i % columns * (width + 1)
        grid[y : y + height, x : x + width] = image
    return grid


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
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=90)
    plt.close(figure)


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
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.8 / columns * len(names) + 0.7), constrained_layout=True)
    for axis, images, heading in ((axes[0], real, "real"), (axes[1], generated, "generated")):
        grid = image_grid(images, columns)
        axis.imshow(grid.squeeze(-1) if grid.shape[-1] == 1 else grid, cmap="gray", vmin=0, vmax=255)
        axis.set_title(heading)
        axis.set_xticks([])
        step = images.shape[1] + 1
        axis.set_yticks([step * row + step / 2 for row in range(len(names))], names if axis is axes[0] else [])
        axis.tick_params(length=0)
        for spine in axis.spines.values():
            spine.set_visible(False)
    figure.suptitle(title)
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=90)
    plt.close(figure)
