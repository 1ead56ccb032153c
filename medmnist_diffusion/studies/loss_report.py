"""The loss study's tables, tests, sentences and plots, all from its cells: results.json, report.md and PNGs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import yaml
from PIL import Image
from pydantic import BaseModel

from medmnist_diffusion.data import ImageDataset
from medmnist_diffusion.data.audit import describe
from medmnist_diffusion.diffusion.loss_log import BUCKETS
from medmnist_diffusion.files import atomic_file, write_json, write_text
from medmnist_diffusion.metrics.records import MetricRecord
from medmnist_diffusion.studies.cells import CellResult, Protocol
from medmnist_diffusion.studies.comparison import ALPHA, Pair, compare_arms, mean_and_spread, verdict

matplotlib.use("Agg")
from matplotlib import pyplot as plt

TITLES = {
    "losses": "Losses",
    "waterfall": "From the source's recipe to the default",
    "parameters": "One change at a time around the default",
    "robustness": "Losses on spoiled training images",
}


class PartResult(BaseModel):
    """A part's finished cells."""

    name: str
    protocol: Protocol
    reference: str | None
    arms: list[str]
    cells: list[CellResult]

    def of(self, arm: str) -> list[CellResult]:
        return [cell for cell in self.cells if cell.arm.name == arm]


@dataclass(frozen=True)
class Figures:
    """A part's figures by label → arm → seed: distances, with their tests and verdicts, and others, which are only shown."""

    distances: dict[str, dict[str, dict[int, float]]]
    others: dict[str, dict[str, dict[int, float]]]
    floors: dict[str, float]
    pairs: list[Pair]
    verdicts: list[str]


def figures_of(part: PartResult) -> Figures:
    distances: dict[str, dict[str, dict[int, float]]] = {}
    others: dict[str, dict[str, dict[int, float]]] = {}
    floors: dict[str, float] = {}
    for arm in part.arms:
        for cell in part.of(arm):
            for record in cell.records:
                kind = distances if _is_distance(record) else others if _is_shown(record) else None
                if kind is not None:
                    kind.setdefault(record.label, {}).setdefault(arm, {})[cell.seed] = record.value
                    floors[record.label] = record.floor
    tested = {label: {arm: by_arm.get(arm, {}) for arm in part.arms} for label, by_arm in distances.items()}
    pairs = compare_arms(tested, part.reference)
    if part.reference is None:
        verdicts = [verdict(label, values, pairs) for label, values in tested.items()]
    else:
        verdicts = [_against_reference(label, part.reference, pairs) for label in tested]
    return Figures(distances, others, floors, pairs, verdicts)


def _is_distance(record: MetricRecord) -> bool:
    return record.name == "frechet_distance"


def _is_shown(record: MetricRecord) -> bool:
    if record.name == "kernel_distance":
        return record.extractor == "texture" or record.dimension == 2048
    return record.name == "label_accuracy" or (record.name == "memorized_share" and record.extractor == "pixels")


def _against_reference(label: str, reference: str, pairs: Sequence[Pair]) -> str:
    mine = [pair for pair in pairs if pair.figure == label]
    better = [pair.first for pair in mine if pair.p_value < ALPHA and pair.ratio < 1]
    worse = [pair.first for pair in mine if pair.p_value < ALPHA and pair.ratio > 1]
    said = [
        f"{', '.join(arms)} {word} than {reference}" for arms, word in ((better, "better"), (worse, "worse")) if arms
    ]
    return f"{label}: {'; '.join(said) or f'no change can be told from {reference}'}."


def write_report(
    folder: Path, dataset: ImageDataset, parts: Sequence[PartResult], dropped: Sequence[str], command: str
) -> None:
    """results.json with every cell, report.md, and the plots."""
    figures = {part.name: figures_of(part) for part in parts}
    result: dict[str, Any] = {"command": command, "dataset": describe(dataset), "dropped": list(dropped), "parts": {}}
    for part in parts:
        of_part = figures[part.name]
        result["parts"][part.name] = {
            **part.model_dump(),
            "floors": of_part.floors,
            "pairs": [vars(pair) for pair in of_part.pairs],
            "verdicts": of_part.verdicts,
        }
    write_json(folder / "results.json", result)
    sections = [_head(dataset, command, dropped)]
    for part in parts:
        plot_ratios(part, figures[part.name], folder / f"{part.name}.png")
        grids = plot_grids(part, folder)
        sections.append(_section(part, figures[part.name], grids))
        if part.name == "parameters":
            settings = proposed_settings(part, figures[part.name])
            text = yaml.safe_dump(settings) if settings else "# nothing tried is better than the default\n"
            write_text(folder / "proposed.yaml", text)
            sections.append(
                "Settings better than the default in some space and worse in none: [proposed.yaml](proposed.yaml).\n"
            )
        if part.name == "losses":
            plot_curves(part, folder / "curves.png")
            sections.append("![Held-out error of all runs](curves.png)\n")
    write_text(folder / "report.md", "\n".join(sections))


def _head(dataset: ImageDataset, command: str, dropped: Sequence[str]) -> str:
    synthetic = (
        "**Synthetic phantoms, no patients: nothing here is about real images.**\n\n" if dataset.synthetic else ""
    )
    missing = "".join(f"- not run: {line}\n" for line in dropped)
    return (
        f"# Loss study on {dataset.name}\n\nMade by `{command}`. Research only, not for diagnosis.\n\n{synthetic}"
        "Each cell is mean ± standard deviation over seeds. A distance has a meaning beside its floor, the distance of as many "
        "real images; distances of different columns do not compare, distance ÷ floor does. Verdicts rest on paired Student's "
        f"t-tests of the logarithm over seeds, with Holm's correction over all pairs and columns of a part.\n\n{missing}"
    )


def _section(part: PartResult, figures: Figures, grids: str) -> str:
    protocol = part.protocol
    budget = protocol.base.get("max_train_steps")
    spent = f"{budget} optimizer steps" if budget else f"{protocol.base['max_train_minutes']:g} minutes"
    seconds = [np.mean([cell.training_seconds for cell in part.of(arm)]) for arm in part.arms]
    took = f"{min(seconds):.0f} … {max(seconds):.0f} s an arm"
    lines = [
        f"## {TITLES[part.name]}\n",
        f"Every cell trains for {spent} ({took}); {protocol.num_images} images are judged.\n",
        *(f"- {line}" for line in figures.verdicts),
        "\nDistances:\n",
        _table(part.arms, figures.distances, figures.floors),
        "\nDistance ÷ floor (these columns compare):\n",
        _table(part.arms, _over_floor(figures), dict.fromkeys(figures.distances, 1.0)),
        "\nOther figures:\n",
        _table(part.arms, figures.others, figures.floors),
        f"\n![Distance ÷ floor]({part.name}.png)\n",
        f"![The same noise in every arm]({grids})\n",
    ]
    return "\n".join(lines)


def _over_floor(figures: Figures) -> dict[str, dict[str, dict[int, float]]]:
    return {
        label: {
            arm: {seed: value / figures.floors[label] for seed, value in values.items()}
            for arm, values in by_arm.items()
        }
        for label, by_arm in figures.distances.items()
    }


def _table(arms: Sequence[str], columns: dict[str, dict[str, dict[int, float]]], floors: dict[str, float]) -> str:
    """Markdown: a row an arm, the real images' row last."""
    rows = [["", *columns], ["---"] * (len(columns) + 1)]
    for arm in arms:
        rows.append([arm, *(mean_and_spread(list(by_arm.get(arm, {}).values())) for by_arm in columns.values())])
    rows.append(["*real images*", *(f"{floors[label]:.3g}" for label in columns)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def proposed_settings(part: PartResult, figures: Figures) -> dict[str, Any]:
    """The training settings of the arms that are better than the reference in some space and worse in none, after Holm's
    correction; of several changes of one setting (`setting: value` in the arm's name) the best."""
    best: dict[str, tuple[float, dict[str, Any]]] = {}
    for arm in part.arms:
        mine = [pair for pair in figures.pairs if pair.first == arm and pair.p_value < ALPHA]
        if not mine or any(pair.ratio > 1 for pair in mine):
            continue
        group, score = arm.split(":")[0], min(pair.ratio for pair in mine)
        if group not in best or score < best[group][0]:
            best[group] = score, part.of(arm)[0].arm.options
    return {name: value for _, options in best.values() for name, value in options.items()}


def plot_ratios(part: PartResult, figures: Figures, path: Path) -> None:
    """Distance ÷ floor of every arm, one panel a column; a dot a seed."""
    ratios = _over_floor(figures)
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
        axis.set_title(label.replace("Fréchet distance, ", ""), fontsize=9)
        axis.set(xscale="log", xlabel="÷ floor")
        axis.grid(alpha=0.3)
    axes[0][0].set_yticks(range(len(part.arms)), part.arms, fontsize=8)
    axes[0][0].invert_yaxis()
    _save(figure, path)


def plot_curves(part: PartResult, path: Path) -> None:
    """The squared error on the same held-out images, noise and timesteps, of every run: over all noise levels, beside that on
    training images, and by noise level."""
    panels = ["val_l2", "val_l2 ÷ train_l2", *(f"val_l2_bucket_{bucket}" for bucket in range(BUCKETS))]
    figure, axes = plt.subplots(2, 3, figsize=(12, 6.5), constrained_layout=True)
    for axis, name in zip(axes.flat, panels, strict=True):
        for at, arm in enumerate(part.arms):
            for cell in part.of(arm):
                rows = cell.losses
                values = [row["val_l2"] / row["train_l2"] if "÷" in name else row[name] for row in rows]
                label = arm if cell.seed == part.of(arm)[0].seed else None
                axis.plot([row["step"] for row in rows], values, color=f"C{at}", lw=1, label=label)
        title = name.replace("val_l2_bucket_", "timesteps, quarter ").replace("val_l2", "held-out squared error")
        axis.set_title(title.replace("train_l2", "that on training images"), fontsize=9)
        axis.set(xlabel="step", yscale="linear" if "÷" in name else "log")
        axis.grid(alpha=0.3)
    axes[0][0].legend(fontsize=8)
    _save(figure, path)


def plot_grids(part: PartResult, folder: Path) -> str:
    """The arms' images under each other, of the first seed: the same noise and label in every column. Returns the file's name."""
    name = f"{part.name}_grids.png"
    seed = part.cells[0].seed
    cells = [cell for arm in part.arms for cell in part.of(arm) if cell.seed == seed]
    figure, axes = plt.subplots(len(cells), 1, figsize=(8, 0.95 * len(cells)), squeeze=False, constrained_layout=True)
    for axis, cell in zip(axes[:, 0], cells, strict=True):
        with Image.open(folder / "grids" / f"{cell.fingerprint}.png") as picture:
            axis.imshow(np.asarray(picture), cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axis.set_ylabel(cell.arm.name, rotation=0, ha="right", va="center", fontsize=8)
        axis.set(xticks=[], yticks=[])
    _save(figure, folder / name)
    return name


def _save(figure: Any, path: Path) -> None:
    with atomic_file(path) as temporary:
        figure.savefig(temporary, dpi=80)
    plt.close(figure)
