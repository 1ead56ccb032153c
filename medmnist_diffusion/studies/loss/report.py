"""The loss study's report, all from its cells: results.json, report.md (by the template beside this), proposed.yaml, PNGs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from medmnist_diffusion.data import ImageDataset
from medmnist_diffusion.data.audit import describe
from medmnist_diffusion.files import write_text
from medmnist_diffusion.metrics.table import record_label
from medmnist_diffusion.studies.loss.analysis import (
    MAIN_FIGURE,
    PartResult,
    Table,
    followed,
    is_distance,
    is_other,
    proposed_settings,
    ratios_of,
    tested,
    verdicts,
)
from medmnist_diffusion.studies.loss.plots import plot_curves, plot_grids, plot_ratios
from medmnist_diffusion.studies.reports import markdown_table, mean_and_spread, short, write_results
from medmnist_diffusion.studies.statistics import Contrast

TEMPLATE = Path(__file__).with_name("report.md.j2")
TITLES = {
    "losses": "Losses",
    "waterfall": "From the source's recipe to the default",
    "parameters": "One change at a time around the default",
    "robustness": "Losses on spoiled training images",
}


def write_report(
    folder: Path, dataset: ImageDataset, parts: Sequence[PartResult], dropped: Sequence[str], command: str
) -> None:
    """results.json with every cell, report.md, and the plots."""
    sections, of_parts = [], {}
    for part in parts:
        found = tested(part)
        of_parts[part.name] = {
            **part.model_dump(),
            "contrasts": [vars(contrast) for of_figure in found.values() for contrast in of_figure],
            "follow_up_contrasts": [vars(contrast) for of_figure in followed(part).values() for contrast in of_figure],
            "verdicts": verdicts(part),
        }
        proposed = _write_proposal(part, folder) if part.name == "parameters" else None
        pictures = _pictures(part, folder)
        sections.append({**_section(part, found), "proposed": proposed, "pictures": pictures})
    content: dict[str, Any] = {"command": command, "dropped": list(dropped)}
    results = {**content, "dataset": describe(dataset).model_dump(), "parts": of_parts}
    shown = {**content, "dataset": dataset, "parts": sections, "main_figure": MAIN_FIGURE}
    write_results(folder, results, TEMPLATE, shown, f"Loss study: {dataset.name}")


def _section(part: PartResult, found: dict[str, list[Contrast]]) -> dict[str, Any]:
    """What the template says of a part."""
    steps = part.base.get("max_train_steps")
    done = {arm: [cell for cell in part.of(arm) if not cell.failed] for arm in part.arms}
    trained: Table = {
        "steps": {arm: {cell.seed: float(cell.steps) for cell in cells} for arm, cells in done.items()},
        "seconds": {arm: {cell.seed: cell.training_seconds for cell in cells} for arm, cells in done.items()},
    }
    records = [record for cell in part.cells for record in cell.records]
    floors = {record_label(record): record.floor for record in records}
    judged = {record_label(record): record.n_generated for record in records if is_distance(record)}
    others = part.table(lambda record: record.value if is_other(record) else None)
    return {
        "title": TITLES[part.name],
        "budget": f"{steps} optimizer steps" if steps else f"{part.base['max_train_minutes']:g} minutes",
        "judged": ", ".join(f"{n} in {label}" for label, n in judged.items()) or "none",
        "verdicts": verdicts(part),
        "refused": sorted({line for cell in part.cells for line in cell.refused}),
        "machines": sorted({cell.machine for cell in part.cells}),
        "distances": _table(part.arms, part.table(lambda r: r.value if is_distance(r) else None), floors),
        "ratios": _table(part.arms, ratios_of(part), {}),
        "others": _table(part.arms, {**others, **trained}, floors),
        "contrasts": [
            (figure, [_contrast_row(contrast) for contrast in of_figure])
            for figure, of_figure in found.items()
            if figure.startswith(MAIN_FIGURE) and of_figure
        ],
        "together": bool(part.follow_ups),
    }


def _pictures(part: PartResult, folder: Path) -> list[tuple[str, str]]:
    """Draw the part's plots; what each shows, and its file's name."""
    drawn = []
    if ratios_of(part):
        plot_ratios(part, folder / f"{part.name}.png")
        drawn.append(("Distance ÷ floor", f"{part.name}.png"))
    if any(cell.losses for cell in part.cells):
        plot_curves(part, folder / f"{part.name}_curves.png")
        drawn.append(("Held-out squared error of all runs", f"{part.name}_curves.png"))
    if plot_grids(part, folder):
        drawn.append(("Images of the same labels from the same seed, one row an arm", f"{part.name}_grids.png"))
    return drawn


def _write_proposal(part: PartResult, folder: Path) -> bool:
    """Write proposed.yaml; False, and no such file, where nothing is better than the default."""
    settings, sampling = proposed_settings(part)
    if not settings and not sampling:
        (folder / "proposed.yaml").unlink(missing_ok=True)
        return False
    note = f"# Sample with: {yaml.safe_dump(sampling).strip()}\n" if sampling else ""
    write_text(folder / "proposed.yaml", note + (yaml.safe_dump(settings) if settings else "{}\n"))
    return True


def _table(arms: Sequence[str], columns: Table, floors: dict[str, float]) -> str:
    """Markdown: a row an arm, the real images' row last."""
    rows = []
    for arm in arms:
        rows.append([arm, *(mean_and_spread(list(by_arm.get(arm, {}).values())) for by_arm in columns.values())])
    if floors:
        rows.append(["*real images*", *(short(floors[label]) if label in floors else "" for label in columns)])
    return markdown_table(["", *columns], rows)


def _contrast_row(c: Contrast) -> list[str]:
    interval = "–" if c.interval is None else f"{c.interval[0]:.2f} … {c.interval[1]:.2f}"
    return [c.first, c.second, f"{c.ratio:.2f}", interval, f"{c.p_value:.2g}"]
