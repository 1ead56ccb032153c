"""metrics.json: what was compared, and one record a figure. Validated when it is written and when it is read."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import write_json

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

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

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
    difference: float | None = (
        None  # value − floor, for figures that are unbiased and so lie about 0 where nothing differs
    )
    difference_interval: tuple[float, float] | None = None
    p_value: float | None = None  # of the hypothesis that nothing is copied
    n_real: int
    n_generated: int
    reference_split: str
    seed: int
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
        except (OSError, ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path} is no valid metrics file ({reason}). Evaluate again.") from None
