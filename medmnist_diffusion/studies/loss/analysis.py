"""What the loss study's cells say: their tables, tests, sentences, and the settings that they propose."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel

from medmnist_diffusion.artifacts import MetricRecord
from medmnist_diffusion.metrics.extractors import OFFLINE_PAIR
from medmnist_diffusion.metrics.table import record_label
from medmnist_diffusion.studies.loss.cells import VariantResult
from medmnist_diffusion.studies.loss.variants import TrainingVariant
from medmnist_diffusion.studies.reports import short
from medmnist_diffusion.studies.statistics import ALPHA, Contrast, all_pairs, contrasts

SPOILED, SUFFERED = " spoiled", " ÷ clean"
MAIN_FIGURE = "Offline spaces, distance ÷ floor"
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
    cells: list[VariantResult]

    def of(self, arm: str) -> list[VariantResult]:
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
    return record.name in ("label_accuracy", "label_auc") or (
        record.name in ("memorized_share", "copied_share") and record.extractor == "pixels"
    )


def geometric_ratio(cell: VariantResult) -> float | None:
    """The geometric mean of distance ÷ floor in the classifier's and the texture space (of small sets in the texture space alone):
    the figure that is named in advance."""
    ratios = [r.ratio for r in cell.records if is_distance(r) and r.extractor in OFFLINE_PAIR]
    known = [ratio for ratio in ratios if ratio]
    return float(np.exp(np.mean(np.log(known)))) if known else None


def ratios_of(part: PartResult) -> Table:
    """Distance ÷ floor, the main figure first."""
    main: dict[str, dict[int, float]] = {}
    for cell in part.cells:
        if (ratio := geometric_ratio(cell)) is not None:
            main.setdefault(cell.arm.name, {})[cell.seed] = ratio
    single = part.table(lambda record: record.ratio if is_distance(record) else None)
    return {**({MAIN_FIGURE: main} if main else {}), **single}


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
    """Settings of training, and of sampling, that are better than the default in the main figure and in no space worse by more
    than `MARGIN` (the interval's end); of several values of one setting the best."""
    found = tested(part)
    best: dict[str, tuple[float, VariantResult]] = {}
    for contrast in found.get(MAIN_FIGURE, []):
        everywhere = [c for of_figure in found.values() for c in of_figure if c.first == contrast.first]
        safe = all(c.interval is not None and c.interval[1] < MARGIN for c in everywhere)
        if contrast.ratio < 1 and contrast.p_value < ALPHA and safe:
            setting = contrast.first.split(":")[0]
            if setting not in best or contrast.ratio < best[setting][0]:
                best[setting] = contrast.ratio, part.of(contrast.first)[0]
    arms = [cell.arm for _, cell in best.values()]
    training = {name: value for arm in arms for name, value in arm.options.items()}
    sampling: dict[str, Any] = {}
    for arm in arms:
        sampling |= arm.model_dump(include={"num_inference_steps", "guidance_scale"}, exclude_defaults=True)
    return training, sampling


def best_variant(arms: Sequence[TrainingVariant], cells: Sequence[VariantResult]) -> TrainingVariant | None:
    """The arm with the lowest distance ÷ floor over the offline pair of spaces that never diverged; None if there is none."""
    scores: dict[str, float] = {}
    failed = {cell.arm.name for cell in cells if cell.failed}
    for arm in arms:
        if arm.name in failed:
            continue
        ratios = [geometric_ratio(cell) for cell in cells if cell.arm.name == arm.name]
        known = [ratio for ratio in ratios if ratio is not None]
        if known:
            scores[arm.name] = float(np.mean(np.log(known)))
    return min((arm for arm in arms if arm.name in scores), key=lambda arm: scores[arm.name], default=None)


def verdict(figure: str, arms: Sequence[str], found: Sequence[Contrast], best_is: str = "is best") -> str:
    """Of all pairs: which are told apart, or that the data cannot tell."""
    mean_log = dict.fromkeys(arms, 0.0)
    better: dict[str, list[str]] = {}
    for contrast in found:
        mean_log[contrast.first] += np.log(contrast.ratio)
        mean_log[contrast.second] -= np.log(contrast.ratio)
        if contrast.p_value < ALPHA:
            low, high = (contrast.first, contrast.second)[:: 1 if contrast.ratio < 1 else -1]
            better.setdefault(low, []).append(high)
    best = min(mean_log, key=lambda arm: mean_log[arm])
    alike = [arm for arm in arms if arm not in (best, *better.get(best, []))]
    if not better:
        return f"{figure}: the data cannot tell {listed(arms)} apart."
    if not alike:
        return f"{figure}: {best} {best_is}."
    lines = [f"{low} is better than {listed(highs)}" for low, highs in better.items()]
    return f"{figure}: {'; '.join(lines)}; {best}, the lowest, cannot be told from {listed(alike)}."


def one_contrast(c: Contrast) -> str:
    """`a ÷ b 1.2 (0.9 … 1.5, p = 0.2)`."""
    interval = "no interval" if c.interval is None else f"{c.interval[0]:.2g} … {c.interval[1]:.2g}"
    return f"{c.first} ÷ {c.second} {c.ratio:.2g} ({interval}, p = {c.p_value:.2g})"


def changes(figure: str, found: Sequence[Contrast]) -> str:
    """Of changes (first) against what they change (second): which help, which harm."""
    better = [f"{c.first} (× {short(c.ratio, 2)})" for c in found if c.p_value < ALPHA and c.ratio < 1]
    worse = [f"{c.first} (× {short(c.ratio, 2)})" for c in found if c.p_value < ALPHA and c.ratio > 1]
    said = [f"{word}: {', '.join(arms)}" for word, arms in (("better", better), ("worse", worse)) if arms]
    return f"{figure}: {'; '.join(said) or 'no change can be told from none'}."


def listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
