"""metrics.json: what was compared, and one record a figure. Validated when it is written and when it is read."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import write_json


class MetricRecord(BaseModel):
    """One figure with everything that is needed to read it."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    name: Literal["frechet_distance", "label_accuracy", "memorized_share"]
    extractor: str  # inception (only this one may be called FID), random-inception, classifier, texture, pixels
    dimension: int
    class_: int | None  # None: all classes together
    value: float
    interval: tuple[float, float] | None  # 95 %
    floor: float  # the same figure for real images
    floor_source: str  # which real images
    n_real: int
    n_generated: int
    reference_split: str
    seed: int
    note: str = ""

    @property
    def label(self) -> str:
        """What to call it: FID only where the official Inception weights made the features."""
        if self.name == "frechet_distance":
            return (
                f"FID ({self.dimension})"
                if self.extractor == "inception"
                else f"Fréchet distance, {self.extractor} ({self.dimension})"
            )
        return {"label_accuracy": "Label accuracy", "memorized_share": "Memorized share"}[self.name]


class Metrics(BaseModel):
    """The file: data set, pipeline, sampling, and the records."""

    model_config = ConfigDict(extra="forbid")

    dataset: dict[str, Any]
    pipeline: dict[str, Any]
    sampling: dict[str, Any]
    metrics: list[MetricRecord]

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
