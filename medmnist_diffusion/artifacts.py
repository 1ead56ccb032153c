"""The record of every file that one step writes and another reads: validated when it is written and when it is read; no logic."""

import json
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import write_json


class MetricRecord(BaseModel):
    """One figure with everything that is needed to read it; `class_` is `class` in the file.

    A name that metrics/table.py does not know (somebody else's metric) is taken, and shown as it is.
    """

    model_config = ConfigDict(extra="forbid", populate_by_name=True, allow_inf_nan=False)

    name: str  # of an entry of metrics/table.py
    extractor: str  # inception (only this one may be called FID), random-inception, classifier, texture, pixels, …
    dimension: int
    class_: int | None = Field(validation_alias="class", serialization_alias="class")  # None: all classes together
    value: float
    error: float | None = None  # standard error; files of version 0.1 hold none
    interval: tuple[float, float] | None  # 95 %
    floor: float  # the same figure for real images
    floor_error: float | None = None
    floor_interval: tuple[float, float] | None = None
    floor_source: str  # which real images
    ratio: float | None = None  # value ÷ floor; 1 is as real images score
    ratio_interval: tuple[float, float] | None = None
    difference: float | None = None  # value − floor, of unbiased figures: about 0 where nothing differs
    difference_interval: tuple[float, float] | None = None
    p_value: float | None = None  # of the hypothesis that nothing is copied
    n_real: int
    n_generated: int
    reference_split: str
    seed: int
    sampling_seeds: int = 1  # independent draws of the generated images; of several, `value` is the mean
    note: str = ""


class Metrics(BaseModel):
    """metrics.json: data set, pipeline, sampling, and the records."""

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
        write_json(path, self.model_dump(by_alias=True))

    @classmethod
    def read(cls, path: Path) -> Self:
        """A metrics.json.

        Raises:
            UserError: if it is not there, or says what does not fit.
        """
        try:
            return cls.model_validate(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, ValidationError, RecursionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{path} is no valid metrics file ({reason}). Evaluate again.") from None
