"""The typed record of every file that one step writes and another reads. No logic: only what a file holds.

Records are checked when they are read. Files of older versions keep loading: what came later has a default; what a newer version
holds beyond a record is ignored.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict

TRAINING_SUMMARY = "training_summary.json"  # in a pipeline folder


class Record(BaseModel):
    """A record that does not change once it is made; JSON knows no NaN and no infinity."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class DatasetDescription(Record):
    """A data set's identity, as every result file carries it."""

    name: str
    content_hash: str  # SHA-256 of pixels and labels, whatever file they came from
    image_size: int  # pixels a side
    channels: int  # 1 (grey) or 3 (RGB)
    id2label: dict[str, str]  # class id, as JSON has keys, → name
    license: str
    citation: str
    description: str
    synthetic: bool
    source: str  # "medmnist", "file", "hub" or "generated"
    notes: list[str]


class SplitAudit(Record):
    """What an audit found in one split."""

    images: int
    per_class: dict[str, int]  # class name → images
    pixel_mean: list[float]  # grey levels 0 … 255, a channel
    pixel_std: list[float]
    pixel_range: list[int]  # lowest and highest grey level
    constant_images: int
    repeated_images: int  # images that repeat an earlier one of the split
    near_duplicate_pairs: int
    looked_up_for_near_duplicates: int | None = None  # audits of older runs do not say


class Audit(Record):
    """What is in a data set, and what is wrong with it: `medmnist-diffusion audit --json`, and a part of training_summary.json."""

    dataset: DatasetDescription
    imbalance: float  # the largest training class over the smallest
    splits: dict[str, SplitAudit]
    # "train-val" → `val_images_in_train`, `train_images_in_val`, `near_duplicate_pairs`, `looked_up_for_near_duplicates`
    leaks: dict[str, dict[str, int]]


class TrainingSummary(Record):
    """training_summary.json of a pipeline folder: how its weights came about."""

    dataset: DatasetDescription
    audit: Audit
    parameters: int
    training_gflop_per_image: float
    training_images: int
    dropped_leaks: int
    processes: int
    changes: list[str] = []  # settings or data that were changed on the way: `step 60: learning_rate: 0.004 → 0.001`
    extensions: list[str] = []  # the same of the budget
    weights: str  # `latest` or `best held-out loss`
    step: int
    seconds: float
    images_seen: int
    val_loss: float | None


class CheckpointState(Record):
    """state.json of a checkpoint: all of a run's state that is no tensor, and what the run was made with."""

    step: int
    seconds: float
    images_a_step: int | None = None
    best_val_loss: float | None = None
    ema_step: int
    config: dict[str, Any] = {}
    data: dict[str, str] = {}  # which images and classes: content hashes
    changes: list[str] = []
    extensions: list[str] = []
    comparable_from: int = -1  # losses up to this step are of other settings or data


class SamplesRecord(Record):
    """The JSON beside a file of generated images: which pipeline made them, and how."""

    id2label: dict[int, str]
    pipeline_weights_sha256: str
    trained_on: str
    synthetic: bool
    sampler: str
    num_inference_steps: int
    guidance_scale: float
    seed: int
    images_sha256: str  # of images and labels together
