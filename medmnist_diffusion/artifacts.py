"""The typed record of every file that one step writes and another reads. No logic: only what a file holds.

Records are checked when they are read. Files of older versions keep loading: what came later has a default; what a newer version
holds beyond a record is ignored.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from medmnist_diffusion.errors import UserError, one_line
from medmnist_diffusion.files import write_json

TRAINING_SUMMARY = "training_summary.json"  # in a pipeline folder
SEEN_ELSEWHERE = "seen_elsewhere"  # in a metrics.json: the names of what a pipeline's bases were trained on
UNLABELED = "unlabeled"  # a record's reference split: images that were trained on without labels


class Record(BaseModel):
    """A record that does not change once it is made; JSON knows no NaN and no infinity."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class DatasetDescription(Record):
    """A data set's identity, as every result file carries it."""

    name: str
    content_hash: str  # SHA-256 of pixels and labels, whatever file they came from
    unordered_hash: str | None = None  # the same whatever order they stand in; older files have none
    image_size: int  # pixels of the last side; of files without `shape`, of both
    channels: int  # 1 (grey) or 3 (RGB)
    id2label: dict[str, str]  # class id, as JSON has keys, → name
    shape: list[int] | None = None  # of one image, H×W×C, or volume, D×H×W×C; None: H = W = image_size
    task: Literal["multi-class", "ordinal", "multi-label"] = "multi-class"
    license: str
    citation: str
    description: str
    synthetic: bool
    source: str  # "medmnist", "file", "hub" or "generated"
    notes: list[str]

    @property
    def full_shape(self) -> tuple[int, ...]:
        return tuple(self.shape or (self.image_size, self.image_size, self.channels))


def same_images(one: DatasetDescription | Mapping[str, Any], other: DatasetDescription | Mapping[str, Any]) -> bool:
    """Whether two descriptions are of the same images and labels in the same splits, in whatever order (where both know that)."""
    first, second = (dict(description) for description in (one, other))
    return any(first.get(key) and first[key] == second.get(key) for key in ("content_hash", "unordered_hash"))


class ClassBrightness(Record):
    """How bright the images of a class are, and how well that alone tells it from the others."""

    mean: float  # grey levels
    auc: float  # area under the ROC curve of the images' mean grey level: 0.5 … 1, whichever side is the brighter


class SplitAudit(Record):
    """What an audit found in one split."""

    images: int
    per_class: dict[str, int]  # class name → images; of several labels an image, an image counts with each
    combinations: dict[str, int] | None = None  # of several labels: combination in words → images, most first
    pixel_mean: list[float]  # grey levels 0 … 255, a channel
    pixel_std: list[float]
    pixel_range: list[int]  # lowest and highest grey level
    brightness: dict[str, ClassBrightness] | None = None  # class name →; audits of older runs do not say
    constant_images: int
    dark_images: int | None = None  # not constant, and nearly black; audits of older runs do not say
    repeated_images: int  # images that repeat an earlier one of the split
    near_duplicate_pairs: int
    looked_up_for_near_duplicates: int | None = None  # audits of older runs do not say


class SplitTwins(Record):
    """Which images of a split have a twin among the (other) training images: another file of the same picture."""

    images_with_twin_in_train: int
    looked_up: int  # images of the split; of large sets not all
    pairs: int  # an image of the split and a training image


class TwinsAudit(Record):
    """Twins within a data set. They are recognised by their distance ÷ the mean distance to the next 50 images."""

    limit: float  # of that relative distance: below it are twins
    splits: dict[str, SplitTwins]
    clusters: int  # of two or more images over all splits that are twins of each other
    largest_cluster: int
    alike: int = 0  # images too much alike to tell twins among them: then only exact copies count


class LabelConflict(Record):
    """One picture that stands in a data set with two labels."""

    files: tuple[str, str]  # as they are called, or split and row: `train row 17`
    classes: tuple[str, str]
    exact: bool  # the same pixels; else twins


class Audit(Record):
    """What is in a data set, and what is wrong with it: `medmnist-diffusion audit --json`, and a part of training_summary.json."""

    dataset: DatasetDescription
    imbalance: float  # the largest training class over the smallest
    splits: dict[str, SplitAudit]
    # "train-val" → `val_images_in_train`, `train_images_in_val`, `near_duplicate_pairs`, `looked_up_for_near_duplicates`
    leaks: dict[str, dict[str, int]]
    twins: TwinsAudit | None = None  # audits of version 0.1 did not look for them
    shared_groups: dict[str, int] | None = (
        None  # "train-val" → people (or lesions) with images in both; None: nobody knows
    )
    label_conflicts: int | None = None  # pictures with two labels; audits of version 0.1 did not look for them
    conflicts: list[LabelConflict] | None = None  # the first of them


class UnlabeledRecord(Record):
    """Images that a training saw without labels."""

    name: str  # a flag, a Hub id, or the last part of a path
    images: int
    content_hash: str  # SHA-256 of their pixels
    license: str
    citation: str = ""
    left_out: int  # images that stand in val or test, or have a twin there
    share: float = 0.5  # of every batch


class BaseRecord(Record):
    """A pipeline that a training started from."""

    name: str  # a Hub id, or what its folder or run is called
    weights_sha256: str
    trained_on: str  # the name of its data set
    content_hash: str  # of that
    license: str  # of that
    citation: str = ""  # of that
    synthetic: bool = False  # whether that is the phantom: computed shapes, no patients
    unlabeled: UnlabeledRecord | None = None  # what it saw without labels
    changes: list[str] = []  # of its settings or data on the way
    adapted: list[str]  # what of its network was made anew, in sentences


class DistillationRecord(Record):
    """How a pipeline learned to make another one's images in a few steps."""

    teacher: str  # what its folder or run is called
    teacher_weights_sha256: str
    teacher_steps: int
    teacher_guidance_scale: float
    num_inference_steps: int
    pairs: int  # noises with the teacher's images
    seed: int
    mixed_precision: str
    steps: int  # of the optimizer
    seconds: float
    difference: float  # root mean square, grey levels: from the teacher's images of the same noise
    difference_of_others: float  # of the teacher's from each other


class PrivacyRecord(Record):
    """What a training promises of each training image (differential privacy), and how."""

    epsilon: float
    delta: float
    noise_multiplier: float  # standard deviation of the noise ÷ the norm
    max_grad_norm: float  # to which the gradient of each image is clipped
    sample_rate: float  # the chance by which an image comes into a batch
    steps: int  # of the optimizer, that are paid for


class TrainingSummary(Record):
    """training_summary.json of a pipeline folder: how its weights came about."""

    dataset: DatasetDescription
    audit: Audit
    parameters: int
    training_gflop_per_image: float
    training_images: int
    dropped_leaks: int
    processes: int
    unlabeled: UnlabeledRecord | None = None
    bases: list[BaseRecord] = []  # what it started from; then what that one started from, and so on
    changes: list[str] = []  # settings or data that were changed on the way: `step 60: learning_rate: 0.004 → 0.001`
    extensions: list[str] = []  # the same of the budget
    weights: str  # `latest` or `best held-out loss`
    step: int
    seconds: float
    images_seen: int
    val_loss: float | None
    held_out_images: int | None = None  # that the held-out loss is the mean over
    held_out_seen: bool = (
        False  # these stand in train, or have a twin there: the loss cannot tell whether the model memorizes
    )
    # Where training went on after these weights: until which step, to which held-out loss, and whether it stopped for that.
    last_step: int | None = None
    last_val_loss: float | None = None
    stopped_early: bool = False
    privacy: PrivacyRecord | None = None
    distilled: DistillationRecord | None = None  # the weights are a student's; all else is of its teacher

    @classmethod
    def of(cls, folder: Path) -> Self:
        """The summary of a pipeline folder.

        Raises:
            UserError: if it has none.
        """
        path = folder / TRAINING_SUMMARY
        try:
            return cls.model_validate_json(path.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            raise UserError(
                f"{path} is missing, or no training summary. Give a pipeline folder that training wrote."
            ) from None


class CheckpointState(Record):
    """state.json of a checkpoint: all of a run's state that is no tensor, and what the run was made with."""

    step: int
    seconds: float
    images_a_step: int | None = None
    best_val_loss: float | None = None
    best_losses: list[float] = []  # those that it is the mean of, on the fixed held-out batch
    best_step: int = 0
    best_seconds: float = 0.0
    overfitted: bool = False  # the held-out loss had risen: training ended
    ema_step: int
    config: dict[str, Any] = {}
    data: dict[str, str] = {}  # which images and classes: content hashes
    changes: list[str] = []
    extensions: list[str] = []
    bases: list[BaseRecord] = []  # what it started from: whoever resumes need not have it
    comparable_from: int = -1  # losses up to this step are of other settings or data


class SamplesRecord(Record):
    """The JSON beside a file of generated images: which pipeline made them, and how."""

    id2label: dict[int, str]
    task: Literal["multi-class", "ordinal", "multi-label"] = "multi-class"
    pipeline_weights_sha256: str
    trained_on: str
    synthetic: bool
    sampler: str
    num_inference_steps: int
    guidance_scale: float
    seed: int
    strength: float | None = None  # of variants of a given image: how much of it became noise; None: from noise alone
    images_sha256: str  # of images and labels together


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
    detectable: float | None = None  # the smallest share of copies that the test would call more than chance
    near_fresh: float | None = None  # share of the real images as near to train as a person's next picture is
    seen_copies: float | None = None  # share of copies of training images, made on purpose, that count as copies
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
            reason = one_line(error)
            raise UserError(f"{path} is no valid metrics file ({reason}). Evaluate again.") from None
