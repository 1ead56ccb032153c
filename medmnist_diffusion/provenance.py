"""What a pipeline has seen beside its own data set, and what must be said of its figures then."""

from collections.abc import Sequence

from medmnist_diffusion.artifacts import BaseRecord, DatasetDescription, TrainingSummary, UnlabeledRecord


def all_beside(bases: Sequence[BaseRecord], unlabeled: UnlabeledRecord | None) -> list[BaseRecord | UnlabeledRecord]:
    """All data beside the data set: the bases', images without labels, and those that bases saw."""
    return [*bases, *(one for one in (unlabeled, *(base.unlabeled for base in bases)) if one)]


def saw_no_patients(summary: TrainingSummary) -> bool:
    """Whether all that it was trained on, its bases' data included, is the generated phantom."""
    beside = all_beside(summary.bases, summary.unlabeled)
    return summary.dataset.synthetic and all(isinstance(one, BaseRecord) and one.synthetic for one in beside)


def seen_elsewhere(bases: Sequence[BaseRecord], dataset: DatasetDescription) -> list[str]:
    """The names of what bases saw beside the images of a data set."""
    others = [base.trained_on for base in bases if base.content_hash != dataset.content_hash]
    return list(dict.fromkeys([*others, *(base.unlabeled.name for base in bases if base.unlabeled)]))


def too_good(names: Sequence[str], dataset: str) -> str:
    """What must be known of figures on a data set where a base saw others."""
    return (
        f"Its base saw images of {', '.join(names)}. If val or test images of {dataset}, or pictures of the same patients, are "
        "among them, figures are too good. Whether its images are copies of those is not looked for."
    )
