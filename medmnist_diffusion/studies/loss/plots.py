"""The loss study's plots."""

from pathlib import Path

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter
from PIL import Image

from medmnist_diffusion.diffusion.loss_log import BUCKETS
from medmnist_diffusion.publish.plots import save_figure
from medmnist_diffusion.studies.loss.analysis import PartResult, ratios_of
from medmnist_diffusion.studies.reports import DPI, panels

WIDE = 20  # a plot whose values span more than this factor has powers of ten on its axis


def plot_ratios(part: PartResult, path: Path) -> None:
    """Distance ÷ floor of every arm, one panel a figure; a dot a seed, a bar their mean."""
    ratios = ratios_of(part)
    titles = [label.replace("Fréchet distance, ", "").replace(", distance ÷ floor", "") for label in ratios]
    size = (2.4 + 2.2 / len(ratios), 1 + 0.28 * len(part.arms))
    with panels(path, titles, size, len(ratios), sharey=True) as axes:
        for axis, by_arm in zip(axes, ratios.values(), strict=True):
            for at, arm in enumerate(part.arms):
                values = list(by_arm.get(arm, {}).values())
                axis.plot(values, [at] * len(values), "o", ms=4, color="C0", alpha=0.6)
                if values:
                    axis.plot(np.mean(values), at, "|", ms=14, color="k")
            axis.axvline(1, color="0.5", ls="--")
            axis.set(xscale="log", xlabel="÷ floor")
            known = [value for of_arm in by_arm.values() for value in of_arm.values()]
            if max(known, default=1) < WIDE * min(known, default=1):
                axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
                axis.xaxis.set_major_formatter(ScalarFormatter())
            axis.xaxis.set_minor_formatter(NullFormatter())
        axes[0].set_yticks(range(len(part.arms)), part.arms, fontsize=8)
        axes[0].invert_yaxis()


def plot_curves(part: PartResult, path: Path) -> None:
    """The squared error on the same held-out images, noise and timesteps, of every run: over all noise levels, beside that on
    training images, and by noise level."""
    quarters = {f"val_l2_bucket_{at}": f"timesteps, quarter {at}" for at in range(BUCKETS)}
    beside = {"val_l2": "held-out squared error", "÷": "held-out squared error ÷ that on training images"}
    curves = {**beside, **quarters}
    with panels(path, list(curves.values()), (4, 3.25), 3) as axes:
        for axis, name in zip(axes, curves, strict=True):
            for at, arm in enumerate(part.arms):
                for which, cell in enumerate(part.of(arm)):
                    values = [row["val_l2"] / row["train_l2"] if name == "÷" else row[name] for row in cell.losses]
                    steps = [row["step"] for row in cell.losses]
                    axis.plot(steps, values, color=f"C{at % 10}", lw=1, label=None if which else arm)
            axis.set(xlabel="step", yscale="linear" if name == "÷" else "log")
        axes[0].legend(fontsize=8)


def plot_grids(part: PartResult, folder: Path) -> bool:
    """The arms' images under each other, of the first seed: the same labels in every column. Where the cells' own pictures are
    gone, an earlier plot stays as it is; False if there is none either."""
    target, seed = folder / f"{part.name}_grids.png", part.cells[0].seed
    cells = [cell for arm in part.arms for cell in part.of(arm) if cell.seed == seed and not cell.failed]
    pictures = [folder / "grids" / f"{cell.fingerprint}.png" for cell in cells]
    if not any(path.is_file() for path in pictures):
        return target.is_file()
    names = 0.07 * max(len(cell.arm.name) for cell in cells)  # inches
    size = (names + 5.4, 0.56 * len(cells))
    figure, axes = plt.subplots(len(cells), 1, figsize=size, squeeze=False)
    figure.subplots_adjust(left=names / size[0], right=0.99, bottom=0.01, top=0.99, hspace=0.05)
    for axis, cell, path in zip(axes[:, 0], cells, pictures, strict=True):
        if path.is_file():
            with Image.open(path) as picture:
                half = picture.crop((0, 0, picture.width // 2, picture.height))  # room for large enough images
                axis.imshow(np.asarray(half), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_ylabel(cell.arm.name, rotation=0, ha="right", va="center", fontsize=8)
        axis.set(xticks=[], yticks=[], anchor="E")
    save_figure(figure, target, DPI)
    return True
