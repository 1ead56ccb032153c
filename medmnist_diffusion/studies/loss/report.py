"""The loss study's tables, tests, sentences and plots, all from its cells: results.json, report.md and PNGs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib import pyplot as plt
from matplotlib.ticker import MaxNLocator, NullFormatter, ScalarFormatter
from PIL import Image
from pydantic import BaseModel

from medmnist_diffusion.artifacts import MetricRecord
from medmnist_diffusion.data import ImageDataset
from medmnist_diffusion.data.audit import describe
from medmnist_diffusion.diffusion.loss_log import BUCKETS
from medmnist_diffusion.files import write_json, write_text
from medmnist_diffusion.metrics.extractors import OFFLINE_PAIR
from medmnist_diffusion.metrics.table import record_label
from medmnist_diffusion.publish.plots import REPORT_DPI, save_figure
from medmnist_diffusion.studies.loss.cells import CellResult
from medmnist_diffusion.studies.loss.comparison import (
    ALPHA,
    Contrast,
    all_pairs,
    changes,
    contrasts,
    listed,
    one_contrast,
    verdict,
)
from medmnist_diffusion.studies.tables import markdown_table, mean_and_spread, short

TITLES = {
    "losses": "Losses",
    "waterfall": "From the source's recipe to the default",
    "parameters": "One change at a time around the default",
    "robustness": "Losses on spoiled training images",
}
SPOILED, SUFFERED = " spoiled", " ÷ clean"
PRIMARY = "Offline spaces, distance ÷ floor"
WIDE = 20  # a plot whose values span more than this factor has powers of ten on its axis
MARGIN = 1.1  # a proposed setting may be worse by so much in a space at most
Table = dict[str, dict[str, dict[int, float]]]  # figure → arm → seed → value


class PartResult(BaseModel):
    """A part's finished cells; `pairs` are the arms that are compared (None: all).

    `follow_ups` are arms that were chosen by the others' results, each with the arm that it is compared with. They stand in the
    tables, and take no part in the tests of the others.
    """

    name: str
    base: dict[str, Any]
    num_images: int
    arms: list[str]
    pairs: list[tuple[str, str]] | None
    follow_ups: list[tuple[str, str]] = []
    cells: list[CellResult]

    def of(self, arm: str) -> list[CellResult]:
        return [cell for cell in self.cells if cell.arm.name == arm]

    @property
    def diverged(self) -> dict[str, int]:
        """Arm → in how many seeds its training diverged. Such an arm is compared with none: a recipe has to work every time."""
        failed = [cell.arm.name for cell in self.cells if cell.failed]
        return {arm: failed.count(arm) for arm in self.arms if arm in failed}

    @property
    def planned(self) -> list[str]:
        """The arms that are tested: named in advance, and never diverged."""
        chosen = {first for first, _ in self.follow_ups}
        return [arm for arm in self.arms if arm not in chosen and arm not in self.diverged]

    def table(self, value: Callable[[MetricRecord], float | None]) -> Table:
        """`value(record)` of every record for which it is not None, by the record's label."""
        table: Table = {}
        for cell in self.cells:
            for record in cell.records:
                if (number := value(record)) is not None:
                    table.setdefault(record_label(record), {}).setdefault(cell.arm.name, {})[cell.seed] = number
        return table


def is_distance(record: MetricRecord) -> bool:
    return record.name == "frechet_distance"


def is_other(record: MetricRecord) -> bool:
    if record.name == "kernel_distance":
        return record.extractor == "texture" or record.dimension == 2048
    return record.name == "label_accuracy" or (record.name == "memorized_share" and record.extractor == "pixels")


def geometric_ratio(cell: CellResult) -> float | None:
    """The geometric mean of distance ÷ floor in the classifier's and the texture space (of small sets in the texture space alone):
    the figure that is named in advance."""
    ratios = [r.ratio for r in cell.records if is_distance(r) and r.extractor in OFFLINE_PAIR]
    known = [ratio for ratio in ratios if ratio]
    return float(np.exp(np.mean(np.log(known)))) if known else None


def ratios_of(part: PartResult) -> Table:
    """Distance ÷ floor, the primary figure first."""
    primary: dict[str, dict[int, float]] = {}
    for cell in part.cells:
        if (ratio := geometric_ratio(cell)) is not None:
            primary.setdefault(cell.arm.name, {})[cell.seed] = ratio
    single = part.table(lambda record: record.ratio if is_distance(record) else None)
    return {**({PRIMARY: primary} if primary else {}), **single}


def tested(part: PartResult) -> dict[str, list[Contrast]]:
    """The planned contrasts of each figure. Of spoiled images: whether a loss suffers more than another, and which is better on
    them after all.
    """
    if part.name == "robustness":
        return {figure: contrasts(figure, values, all_pairs(list(values))) for figure, values in spoiled(part).items()}
    pairs = all_pairs(part.planned) if part.pairs is None else part.pairs
    return {figure: contrasts(figure, _of(values, part.planned), pairs) for figure, values in ratios_of(part).items()}


def followed(part: PartResult) -> dict[str, list[Contrast]]:
    """The follow-ups against what they are compared with; chosen and tested on the same seeds, so somewhat flattered."""
    able = [arm for arm in part.arms if arm not in part.diverged]
    return {
        figure: contrasts(figure, _of(values, able), part.follow_ups) for figure, values in ratios_of(part).items()
    }


def _of(values: dict[str, dict[int, float]], arms: Sequence[str]) -> dict[str, dict[int, float]]:
    return {arm: values[arm] for arm in arms if arm in values}


def spoiled(part: PartResult) -> Table:
    """For each figure and share: loss → seed → the figure, and the figure ÷ that of the clean training with that seed."""
    table: Table = {}
    for figure, of_all in ratios_of(part).items():
        by_arm = _of(of_all, part.planned)
        for arm, values in by_arm.items():
            loss, _, share = arm.rpartition(", ")
            if share.endswith(SPOILED) and loss in by_arm:
                clean = by_arm[loss]
                of_loss = {seed: value / clean[seed] for seed, value in values.items() if seed in clean}
                table.setdefault(f"{figure}, {share}{SUFFERED}", {})[loss] = of_loss
                table.setdefault(f"{figure}, {share}", {})[loss] = values
    return table


def verdicts(part: PartResult) -> list[str]:
    """A sentence a figure, from the corrected p-values and nothing else."""
    lines = []
    for figure, found in tested(part).items():
        arms = list(dict.fromkeys(arm for contrast in found for arm in (contrast.first, contrast.second)))
        if not found:
            lines.append(f"{figure}: not enough seeds that all arms have.")
        elif part.pairs is None:
            lines.append(verdict(figure, arms, found, "suffers least" if figure.endswith(SUFFERED) else "is best"))
        else:
            lines.append(changes(figure, found))
    for figure, found in followed(part).items():
        lines += [f"{figure}: {one_contrast(contrast)}, chosen and tested on the same seeds." for contrast in found]
    failed = [f"{arm} (in {count} of {len(part.of(arm))} seeds)" for arm, count in part.diverged.items()]
    return [*lines, *([f"Diverged, and so compared with none: {listed(failed)}."] if failed else [])]


def proposed_settings(part: PartResult) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of training, and of sampling, that are better than the default in the primary figure and in no space worse by more
    than `MARGIN` (the interval's end); of several values of one setting the best."""
    found = tested(part)
    best: dict[str, tuple[float, CellResult]] = {}
    for contrast in found.get(PRIMARY, []):
        everywhere = [c for of_figure in found.values() for c in of_figure if c.first == contrast.first]
        safe = all(c.interval is not None and c.interval[1] < MARGIN for c in everywhere)
        if contrast.ratio < 1 and contrast.p_value < ALPHA and safe:
            setting = contrast.first.split(":")[0]
            if setting not in best or contrast.ratio < best[setting][0]:
                best[setting] = contrast.ratio, part.of(contrast.first)[0]
    arms = [cell.arm for _, cell in best.values()]
    training = {name: value for arm in arms for name, value in arm.options.items()}
    sampling = {
        name: value
        for arm in arms
        for name, value in arm.model_dump(
            include={"num_inference_steps", "guidance_scale"}, exclude_defaults=True
        ).items()
    }
    return training, sampling


def write_report(
    folder: Path, dataset: ImageDataset, parts: Sequence[PartResult], dropped: Sequence[str], command: str
) -> None:
    """results.json with every cell, report.md, and the plots."""
    result: dict[str, Any] = {
        "command": command,
        "dataset": describe(dataset).model_dump(),
        "dropped": list(dropped),
        "parts": {},
    }
    sections = [_head(dataset, command, dropped)]
    for part in parts:
        found = tested(part)
        result["parts"][part.name] = {
            **part.model_dump(),
            "contrasts": [vars(contrast) for of_figure in found.values() for contrast in of_figure],
            "follow_up_contrasts": [vars(contrast) for of_figure in followed(part).values() for contrast in of_figure],
            "verdicts": verdicts(part),
        }
        sections.append(_section(part, found, folder))
        if part.name == "parameters":
            sections.append(_proposal(part, folder))
    write_json(folder / "results.json", result)
    write_text(folder / "report.md", "\n".join(sections))


def _head(dataset: ImageDataset, command: str, dropped: Sequence[str]) -> str:
    synthetic = (
        "**Synthetic phantoms, no patients: nothing here is about real images.**\n\n" if dataset.synthetic else ""
    )
    missing = "".join(f"- not run: {line}\n" for line in dropped)
    return (
        f"# Loss study on {dataset.name}\n\nMade by `{command}`. Research only, not for diagnosis.\n\n{synthetic}"
        "Each cell is mean ± standard deviation over seeds. A distance has a meaning beside its floor, the distance of as many "
        "real images; distances of different columns do not compare. Distance ÷ floor compares better, but where a space has "
        "nearly as many dimensions as there are images, both are mostly the bias of few images, and the ratio is pressed to 1."
        f"\n\nThe figure named in advance is the first, {PRIMARY.lower()} (geometric mean of classifier and texture, of those "
        "that could be measured); others stand beside it. Tests (of logarithms): an arm differs from another where two tests say "
        "so, Student's t with the variance of all arms (arm + seed + chance), Holm's correction within a figure, and the paired "
        "t-test of the two; the p-value is the larger one. Figures, parts and shares are tested each by itself at 5 %. With "
        "fewer than three seeds take none of it "
        f"for settled.\n\n{missing}"
    )


def _section(part: PartResult, found: dict[str, list[Contrast]], folder: Path) -> str:
    steps = part.base.get("max_train_steps")
    spent = f"{steps} optimizer steps" if steps else f"{part.base['max_train_minutes']:g} minutes"
    trained: Table = {
        "steps": {arm: {c.seed: float(c.steps) for c in part.of(arm) if not c.failed} for arm in part.arms},
        "seconds": {arm: {c.seed: c.training_seconds for c in part.of(arm) if not c.failed} for arm in part.arms},
    }
    distances = part.table(lambda record: record.value if is_distance(record) else None)
    others = part.table(lambda record: record.value if is_other(record) else None)
    floors = {record_label(r): r.floor for cell in part.cells for r in cell.records}
    judged = {record_label(r): r.n_generated for cell in part.cells for r in cell.records if is_distance(r)}
    sizes = ", ".join(f"{n} in {label}" for label, n in judged.items()) or "none"
    refused = sorted({line for cell in part.cells for line in cell.refused})
    machines = sorted({cell.machine for cell in part.cells})
    lines = [
        f"## {TITLES[part.name]}\n",
        f"Every cell trains for {spent}. Images judged: {sizes}.\n",
        *(f"- {line}" for line in verdicts(part)),
        *(f"- not measured: {line}" for line in refused),
        *(
            [f"- cells of several machines, which differ in speed and features: {'; '.join(machines)}"]
            if machines[1:]
            else []
        ),
        "\nDistances:\n",
        _table(part.arms, distances, floors),
        "\nDistance ÷ floor:\n",
        _table(part.arms, ratios_of(part), {}),
        "\nOther figures, and what the training took:\n",
        _table(part.arms, {**others, **trained}, floors),
    ]
    for figure, of_figure in found.items():
        if figure.startswith(PRIMARY) and of_figure:
            lines += [f"\nContrasts, {figure.lower()}:\n", _contrast_table(of_figure)]
    if ratios_of(part):
        plot_ratios(part, folder / f"{part.name}.png")
        lines.append(f"\n![Distance ÷ floor]({part.name}.png)\n")
    if any(cell.losses for cell in part.cells):
        plot_curves(part, folder / f"{part.name}_curves.png")
        lines.append(f"![Held-out squared error of all runs]({part.name}_curves.png)\n")
    plot_grids(part, folder)
    lines.append(f"![Images of the same labels from the same seed, one row an arm]({part.name}_grids.png)\n")
    return "\n".join(lines)


def _proposal(part: PartResult, folder: Path) -> str:
    settings, sampling = proposed_settings(part)
    if not settings and not sampling:
        (folder / "proposed.yaml").unlink(missing_ok=True)
        return "Nothing that was tried is better than the default by these tests: no other settings are proposed.\n"
    note = f"# Sample with: {yaml.safe_dump(sampling).strip()}\n" if sampling else ""
    write_text(folder / "proposed.yaml", note + (yaml.safe_dump(settings) if settings else "{}\n"))
    together = (
        "All of them together are the arm *proposed*: chosen and tested on the same seeds, so its gain is flattered.\n"
    )
    return (
        "Better than the default by these tests, each alone: [proposed.yaml](proposed.yaml), for `train.py --config`. "
        f"{together if part.follow_ups else ''}"
    )


def _table(arms: Sequence[str], columns: Table, floors: dict[str, float]) -> str:
    """Markdown: a row an arm, the real images' row last."""
    rows = []
    for arm in arms:
        rows.append([arm, *(mean_and_spread(list(by_arm.get(arm, {}).values())) for by_arm in columns.values())])
    if floors:
        rows.append(["*real images*", *(short(floors[label]) if label in floors else "" for label in columns)])
    return markdown_table(["", *columns], rows)


def _contrast_table(found: Sequence[Contrast]) -> str:
    rows = []
    for c in found:
        interval = "–" if c.interval is None else f"{c.interval[0]:.2f} … {c.interval[1]:.2f}"
        rows.append([c.first, c.second, f"{c.ratio:.2f}", interval, f"{c.p_value:.2g}"])
    return markdown_table(["", "÷", "ratio", "95 % interval", "p (Holm)"], rows)


def plot_ratios(part: PartResult, path: Path) -> None:
    """Distance ÷ floor of every arm, one panel a figure; a dot a seed, a bar their mean."""
    ratios = ratios_of(part)
    figure, axes = plt.subplots(
        1, len(ratios), figsize=(2.2 + 2.4 * len(ratios), 1 + 0.28 * len(part.arms)), sharey=True, squeeze=False,
        constrained_layout=True,
    )  # fmt: skip
    for axis, (label, by_arm) in zip(axes[0], ratios.items(), strict=True):
        for at, arm in enumerate(part.arms):
            values = list(by_arm.get(arm, {}).values())
            axis.plot(values, [at] * len(values), "o", ms=4, color="C0", alpha=0.6)
            if values:
                axis.plot(np.mean(values), at, "|", ms=14, color="k")
        axis.axvline(1, color="0.5", ls="--")
        axis.set_title(label.replace("Fréchet distance, ", "").replace(", distance ÷ floor", ""), fontsize=9)
        axis.set(xscale="log", xlabel="÷ floor")
        known = [value for of_arm in by_arm.values() for value in of_arm.values()]
        if max(known, default=1) < WIDE * min(known, default=1):
            axis.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10]))
            axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
    axes[0][0].set_yticks(range(len(part.arms)), part.arms, fontsize=8)
    axes[0][0].invert_yaxis()
    save_figure(figure, path, REPORT_DPI)


def plot_curves(part: PartResult, path: Path) -> None:
    """The squared error on the same held-out images, noise and timesteps, of every run: over all noise levels, beside that on
    training images, and by noise level."""
    panels = ["val_l2", "val_l2 ÷ train_l2", *(f"val_l2_bucket_{bucket}" for bucket in range(BUCKETS))]
    figure, axes = plt.subplots(2, 3, figsize=(12, 6.5), constrained_layout=True)
    for axis, name in zip(axes.flat, panels, strict=True):
        for at, arm in enumerate(part.arms):
            for which, cell in enumerate(part.of(arm)):
                values = [row["val_l2"] / row["train_l2"] if "÷" in name else row[name] for row in cell.losses]
                steps = [row["step"] for row in cell.losses]
                axis.plot(steps, values, color=f"C{at % 10}", lw=1, label=None if which else arm)
        title = name.replace("val_l2_bucket_", "timesteps, quarter ").replace("val_l2", "held-out squared error")
        axis.set_title(title.replace("train_l2", "that on training images"), fontsize=9)
        axis.set(xlabel="step", yscale="linear" if "÷" in name else "log")
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8)
    save_figure(figure, path, REPORT_DPI)


def plot_grids(part: PartResult, folder: Path) -> None:
    """The arms' images under each other, of the first seed: the same labels in every column."""
    seed = part.cells[0].seed
    cells = [cell for arm in part.arms for cell in part.of(arm) if cell.seed == seed and not cell.failed]
    names = 0.07 * max((len(cell.arm.name) for cell in cells), default=0)  # inches
    size = (names + 5.4, 0.56 * max(1, len(cells)))
    figure, axes = plt.subplots(max(1, len(cells)), 1, figsize=size, squeeze=False)
    figure.subplots_adjust(left=names / size[0], right=0.99, bottom=0.01, top=0.99, hspace=0.05)
    for axis, cell in zip(axes[:, 0], cells, strict=False):
        path = folder / "grids" / f"{cell.fingerprint}.png"
        if path.is_file():
            with Image.open(path) as picture:
                half = picture.crop((0, 0, picture.width // 2, picture.height))  # room for large enough images
                axis.imshow(np.asarray(half), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_ylabel(cell.arm.name, rotation=0, ha="right", va="center", fontsize=8)
        axis.set(xticks=[], yticks=[], anchor="E")
    save_figure(figure, folder / f"{part.name}_grids.png", REPORT_DPI)
