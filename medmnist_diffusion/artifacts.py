"""The typed record of every file that one step writes and another reads. No logic.

Records are checked when they are read; what a file of a newer version holds beyond them is ignored.
"""

from pydantic import BaseModel


class DatasetDescription(BaseModel):
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


class SplitAudit(BaseModel):
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


class Audit(BaseModel):
    """What is in a data set, and what is wrong with it: `medmnist-diffusion audit --json`, and a part of training_summary.json."""

    dataset: DatasetDescription
    imbalance: float  # the largest training class over the smallest
    splits: dict[str, SplitAudit]
    # "train-val" → `val_images_in_train`, `train_images_in_val`, `near_duplicate_pairs`, `looked_up_for_near_duplicates`
    leaks: dict[str, dict[str, int]]
