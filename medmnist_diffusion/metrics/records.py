"""metrics.json: what was compared, and one record a figure. Validated when it is written and when it is read."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from scipy.stats import t as student_t

from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import write_json
from medmnist_diffusion.metrics.intervals import Estimate, Z, difference_interval, ratio_interval

NAMES = {
    "frechet_distance": "Fréchet distance",
    "frechet_distance_extrapolated": "Fréchet distance, n → ∞",
    "kernel_distance": "Kernel distance",
    "precision": "Precision",
    "recall": "Recall",
    "density": "Density",
    "coverage": "Coverage",
    "intra_class_spread": "Intra-class spread",
    "label_accuracy": "Label accuracy",
    "classification_accuracy": "Classification accuracy score",
    "memorized_share": "Memorized share",
    "nearness_to_train": "Nearness to train",
    "authenticity": "Authenticity",
    "duplicate_share": "Duplicate share",
}
UNBIASED = ("kernel_distance", "frechet_distance_extrapolated")
INCEPTION_NAMES = {
    "frechet_distance": "FID",
    "frechet_distance_extrapolated": "FID∞",
    "kernel_distance": "KID",
}


class MetricRecord(BaseModel):
    """One figure with everything that is needed to read it."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True, allow_inf_nan=False)

    name: str  # one of NAMES
    extractor: str  # inception (only this one may be called FID), random-inception, classifier, texture, pixels, …
    dimension: int
    class_: int | None  # None: all classes together
    value: float
    interval: tuple[float, float] | None  # 95 %
    floor: float  # the same figure for real images
    floor_interval: tuple[float, float] | None = None
    floor_source: str  # which real images
    ratio: float | None = None  # value ÷ floor; 1 is as real images score
    ratio_interval: tuple[float, float] | None = None
    difference: float | None = None  # value − floor, of UNBIASED figures: about 0 where nothing differs
    difference_interval: tuple[float, float] | None = None
    p_value: float | None = None  # of the hypothesis that nothing is copied
    n_real: int
    n_generated: int
    reference_split: str
    seed: int
    sampling_seeds: int = 1  # independent draws of the generated images; of several, `value` is the mean
    note: str = ""

    @field_validator("name")
    @classmethod
    def known(cls, name: str) -> str:
        if name not in NAMES:
            raise ValueError(f"{name!r} is no known figure")
        return name

    @property
    def label(self) -> str:
        """What to call it: FID and KID only where the official Inception weights made the features."""
        if self.extractor == "inception" and self.name in INCEPTION_NAMES:
            return f"{INCEPTION_NAMES[self.name]} ({self.dimension})"
        if self.name in ("label_accuracy", "classification_accuracy") or self.extractor == "pixels":
            return NAMES[self.name]
        return f"{NAMES[self.name]}, {self.extractor} ({self.dimension})"


def over_seeds(draws: Sequence[Sequence[MetricRecord]]) -> list[MetricRecord]:
    """One record for each figure that every draw of the generated images has: the mean, with Student's interval of the mean.

    The interval holds the draw of the generated images and no assumption about how a figure varies; that of the ratio and of the
    difference holds the floor's error too. An interval is never narrower than one draw's ÷ √draws, as it would be where all agree
    by chance. Of several p-values, twice the median is one again (Rüger 1978).
    """
    if len(draws) == 1:
        return list(draws[0])
    by_figure = [{(r.name, r.extractor, r.dimension, r.class_): r for r in draw} for draw in draws]
    return [
        _mean_record([draw[figure] for draw in by_figure])
        for figure in by_figure[0]
        if all(figure in draw for draw in by_figure)
    ]


def _mean_record(records: list[MetricRecord]) -> MetricRecord:
    first, count = records[0], len(records)
    values = np.array([record.value for record in records])
    error = float(student_t.ppf(0.975, count - 1) * values.std(ddof=1) / np.sqrt(count)) / Z
    of_one = [_error(record.value, record.interval) or 0.0 for record in records]
    error = max(error, float(np.mean(of_one) / np.sqrt(count)))
    bounded = first.name not in (*UNBIASED, "density", "frechet_distance", "intra_class_spread")
    low = -np.inf if first.name in UNBIASED else 0.0
    mean = Estimate(float(values.mean()), error, low, 1.0 if bounded else np.inf)
    floor = Estimate(first.floor, _error(first.floor, first.floor_interval))
    note = f"{first.note}; note of the first of {count} draws" if first.note else ""
    changes: dict[str, Any] = {"value": mean.value, "interval": mean.interval, "sampling_seeds": count, "note": note}
    if first.ratio is not None:
        changes |= {"ratio": mean.value / floor.value, "ratio_interval": ratio_interval(mean, floor)}
    if first.difference is not None:
        changes |= {"difference": mean.value - floor.value, "difference_interval": difference_interval(mean, floor)}
    p_values = [record.p_value for record in records if record.p_value is not None]
    if p_values:
        changes["p_value"] = min(1.0, 2 * float(np.median(p_values)))
    return first.model_copy(update=changes)


def _error(value: float, interval: tuple[float, float] | None) -> float | None:
    """The standard error behind an interval, from its longer side: the other may have been cut at the end of the range."""
    return None if interval is None else max(interval[1] - value, value - interval[0]) / Z


class Metrics(BaseModel):
    """The file: data set, pipeline, sampling, and the records."""

    model_config = ConfigDict(extra="forbid")

    dataset: dict[str, Any]
    pipeline: dict[str, Any]
    sampling: dict[str, Any]
    metrics: list[MetricRecord]
    refused: list[str] = []  # what could not be measured, and why

    @field_validator("dataset")
    @classmethod
    def named(cls, dataset: dict[str, Any]) -> dict[str, Any]:
        if missing := {"name", "content_hash", "id2label"} - dataset.keys():
            raise ValueError(f"the data set lacks {sorted(missing)}")
        return dataset

    def write(self, path: Path) -> None:
        values = self.model_dump()
        for record in values["metrics"]:
            record["class"] = record.pop("class_")
        write_json(path, values)

    @classmethod
    def read(cls, path: Path) -> "Metrics":
        """A metrics.json; a UserError says what does not fit."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            for record in values["metrics"]:
                record["class_"] = record.pop("class")
            return cls.model_validate(values)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError, RecursionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path} is no valid metrics file ({reason}). Evaluate again.") from None
