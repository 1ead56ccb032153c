"""Can it be known beforehand whether generated images help? Over all cells of results/situations.json.

    python benchmarks/predictor.py              # the table, as Markdown, for docs/augmentation.md; and results/predictor.json

A cell is a study of one set in one situation with the small CNN. Its gain is that of the arm with generated images that was named
in advance against the classical one, in AUC. What is known beforehand is how many real images there are, how even the classes are,
and how near the generated images are to the whole training set's (÷ floor), which a user with few images does not know.
`sharing` is left out: there generated images stand in the place of real ones. All of this is the same in all cells of a set that
share its generators: *different values* says how many there are, and where they are as few as the sets, not much can be found.

Each of these is asked two questions. Does it go with the gain (rank correlation)? And does a straight line through the cells of
all other sets foretell the cells of a set that it has not seen? `foretold` is the share of the gains' variance that is foretold,
1 at best; 0 or less: the mean of the other sets does as well. Intervals are from a bootstrap over sets and over their cells: cells
of a set share its images. Only where the interval of `foretold` lies above 0 is there a predictor.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from judging import RESULTS
from trainings import Row, table_head

from medmnist_diffusion.errors import UserError, run_command
from medmnist_diffusion.files import write_json
from medmnist_diffusion.studies.statistics import spearman

CELLS, RESULT = RESULTS / "situations.json", RESULTS / "predictor.json"
FEWEST, BOOTSTRAPS = 8, 2000
KNOWN: dict[str, Callable[[Row], float]] = {
    "real images (log)": lambda row: float(np.log10(row["n_real"])),
    "evenness of the classes": lambda row: row["evenness"],
    "distance ÷ floor, classifier (log)": lambda row: _log(row, "frechet_distance, classifier"),
    "distance ÷ floor, texture (log)": lambda row: _log(row, "frechet_distance, texture"),
    "coverage ÷ floor, texture": lambda row: row["pool"].get("coverage, texture", np.nan),
    "right labels": lambda row: row["pool"].get("label_accuracy", np.nan),
}


def _log(row: Row, figure: str) -> float:
    return float(np.log10(row["pool"].get(figure, np.nan)))


def usable(rows: Sequence[Row]) -> list[Row]:
    """The cells that have a gain; another classifier's share draws and generators with the small CNN's."""
    with_gain = [row for row in rows if row.get("gain") is not None and row["classifier"] == "small-cnn"]
    return [row for row in with_gain if row["situation"] != "sharing"]


def foretold(values: np.ndarray, gains: np.ndarray, sets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared errors of N cells: of a line through the other sets' cells, and of their mean; NaN where there is no line."""
    of_line, of_mean = np.full((2, len(gains)), np.nan)
    for name in np.unique(sets):
        others, own = sets != name, sets == name
        if np.ptp(values[others]) == 0:
            continue
        slope, start = np.polyfit(values[others], gains[others], 1)
        of_line[own] = np.square(gains[own] - (start + slope * values[own]))
        of_mean[own] = np.square(gains[own] - gains[others].mean())
    return of_line, of_mean


def judged(rows: Sequence[Row], name: str, rng: np.random.Generator) -> Row:
    """What one predictor knows of the gains; of too few cells or sets nothing but their number."""
    known = np.array([(KNOWN[name](row), row["gain"]) for row in rows]).reshape(-1, 2)
    finite = np.isfinite(known[:, 0])
    values, gains = known[finite].T
    sets = np.array([row["set"] for row in rows])[finite]
    result: Row = {"predictor": name, "cells": len(gains), "values": len(np.unique(values.round(6)))}
    if len(gains) < FEWEST or len(np.unique(sets)) < 3:
        return result
    of_line, of_mean = foretold(values, gains, sets)

    def figures(draw: np.ndarray) -> tuple[float, float]:
        ranks = spearman(list(zip(values[draw], gains[draw], strict=True)))
        lines = draw[np.isfinite(of_line[draw])]
        share = 1 - of_line[lines].sum() / of_mean[lines].sum() if len(lines) else np.nan
        return np.nan if ranks is None else ranks, share

    again = np.array([figures(_resampled(sets, rng)) for _ in range(BOOTSTRAPS)])
    ends = np.nanquantile(again, (0.025, 0.975), axis=0).T
    for figure, value, interval in zip(("correlation", "foretold"), figures(np.arange(len(gains))), ends, strict=True):
        if np.isfinite(value):
            result |= {figure: float(value), f"{figure}_interval": interval.tolist()}
    return result


def _resampled(sets: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows of sets that are drawn with repetition, and of each of these of its cells."""
    names = np.unique(sets)
    parts = [rng.choice(np.flatnonzero(sets == name), (sets == name).sum()) for name in rng.choice(names, len(names))]
    return np.concatenate(parts)


def table(rows: Sequence[Row]) -> Iterator[str]:
    yield from table_head(
        "known beforehand", "cells", "different values", "goes with the gain (rank correlation)",
        "of an unseen set's gains foretold",
    )  # fmt: skip
    for row in rows:
        found = _shown(row, "correlation"), _shown(row, "foretold")
        yield f"| {row['predictor']} | {row['cells']} | {row['values']} | {' | '.join(found)} |"


def _shown(row: Row, figure: str) -> str:
    if figure not in row:
        return "too few cells, or the same in all"
    low, high = row[f"{figure}_interval"]
    return f"{row[figure]:+.2f} ({low:+.2f} … {high:+.2f})"


def main(argv: Sequence[str]) -> None:
    argparse.ArgumentParser(description=__doc__.split("\n", 1)[0]).parse_args(argv)
    if not CELLS.is_file():
        raise UserError(f"{CELLS.name} is not there: run benchmarks/situations.py first.")
    rows, rng = usable(json.loads(CELLS.read_text(encoding="utf-8"))["rows"]), np.random.default_rng(0)
    found = [judged(rows, name, rng) for name in KNOWN]
    write_json(RESULT, {"command": "python benchmarks/predictor.py", "predictors": found})
    print("\n".join(table(found)))


if __name__ == "__main__":
    sys.exit(run_command(main))
