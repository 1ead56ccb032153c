"""Whether the training data's licence permits that a model of them, or its images, are published."""

from collections.abc import Sequence
from typing import TypeVar

from medmnist_diffusion.artifacts import BaseRecord, DatasetDescription, TrainingSummary, UnlabeledRecord
from medmnist_diffusion.choices import OPEN_LICENSES
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.provenance import all_beside

Licensed = TypeVar("Licensed", DatasetDescription, BaseRecord, UnlabeledRecord)
UNKNOWN_LICENSE = "unknown"  # of a data set whose source gives none
STRICTEST_FIRST = ("CC BY-NC 4.0", "CC BY 4.0", "CC0 1.0")  # of those that permit publication


def license_of(summary: TrainingSummary) -> str:
    """The licence of what a pipeline was trained on, its bases' data included: the strictest holds for all, and one that permits
    nothing, or is unknown, before these."""
    known = [record.license for record in (summary.dataset, *all_beside(summary.bases, summary.unlabeled))]
    closed = [one for one in known if one not in OPEN_LICENSES]
    return closed[0] if closed else min(known, key=STRICTEST_FIRST.index)


def citations_of(summary: TrainingSummary) -> list[str]:
    """How all data are to be cited that a pipeline was trained on."""
    records = (summary.dataset, *all_beside(summary.bases, summary.unlabeled))
    return list(dict.fromkeys(record.citation for record in records if record.citation))


def with_license(summary: TrainingSummary, given: str) -> TrainingSummary:
    """The summary with a licence wherever none is recorded."""
    return summary.model_copy(
        update={
            "dataset": _filled(summary.dataset, given),
            "unlabeled": summary.unlabeled and _filled(summary.unlabeled, given),
            "bases": [
                _filled(base, given).model_copy(
                    update={"unlabeled": base.unlabeled and _filled(base.unlabeled, given)}
                )
                for base in summary.bases
            ],
        }
    )


def _filled(record: Licensed, given: str) -> Licensed:
    return record.model_copy(update={"license": given}) if record.license == UNKNOWN_LICENSE else record


def check_data(
    recorded: str, given: str | None, bases: Sequence[BaseRecord] = (), unlabeled: UnlabeledRecord | None = None
) -> None:
    """All data that a pipeline was trained on: its data set's licence and the one `given` for it, its bases, unlabeled images.
    What is given counts wherever nothing is recorded.

    Raises:
        UserError: for the first that does not permit publication.
    """
    others = all_beside(bases, unlabeled)
    for_others = recorded in OPEN_LICENSES and any(record.license == UNKNOWN_LICENSE for record in others)
    check_license(recorded, None if for_others else given)
    for record in others:
        license_name = given if record.license == UNKNOWN_LICENSE else record.license
        if license_name not in OPEN_LICENSES:
            raise UserError(
                f"the licence of {_described(record)} is {record.license!r}. Publishing needs one that permits it "
                f"({', '.join(OPEN_LICENSES)}): for images of your own say by --data_license which you give them."
            )


def _described(record: BaseRecord | UnlabeledRecord) -> str:
    if isinstance(record, BaseRecord):
        return f"{record.trained_on}, which the base {record.name} was trained on,"
    return f"the unlabeled images ({record.name})"


def check_license(recorded: str, given: str | None) -> None:
    """Whether data of a recorded licence permit publication; `given` counts only where none is recorded.

    Raises:
        UserError: if not, or if the two contradict each other.
    """
    if given not in (None, recorded) and recorded != UNKNOWN_LICENSE:
        raise UserError(f"the training data's licence is {recorded!r}: --data_license {given!r} cannot replace it.")
    if (given or recorded) not in OPEN_LICENSES:
        raise UserError(
            f"the licence of the training data is {given or recorded!r}. Publishing needs one that permits it "
            f"({', '.join(OPEN_LICENSES)}): for data of your own say by --data_license which you give them."
        )
