"""Whether the training data's licence permits that a model of them, or its images, are published."""

from collections.abc import Sequence

from medmnist_diffusion.artifacts import BaseRecord, TrainingSummary, UnlabeledRecord
from medmnist_diffusion.choices import OPEN_LICENSES
from medmnist_diffusion.errors import UserError

UNKNOWN_LICENSE = "unknown"  # of a data set whose source gives none
NON_COMMERCIAL = "CC BY-NC 4.0"


def license_of(summary: TrainingSummary) -> str:
    """The licence of what a pipeline was trained on, its bases' data included: one that forbids commercial use holds for all."""
    known = [summary.dataset.license, *(base.license for base in summary.bases)]
    if summary.unlabeled:
        known.append(summary.unlabeled.license)
    return NON_COMMERCIAL if NON_COMMERCIAL in known else known[0]


def check_data(
    recorded: str, given: str | None, bases: Sequence[BaseRecord] = (), unlabeled: UnlabeledRecord | None = None
) -> None:
    """All data that a pipeline was trained on: its data set's licence and the one `given` for it, its bases, unlabeled images.

    Raises:
        UserError: for the first that does not permit publication.
    """
    check_license(recorded, given)
    check_bases(bases)
    check_unlabeled(unlabeled, given)


def check_bases(bases: Sequence[BaseRecord]) -> None:
    """Raises:
    UserError: for a base whose data's licence does not permit publication.
    """
    for base in bases:
        if base.license not in OPEN_LICENSES:
            raise UserError(
                f"the base {base.name} was trained on {base.trained_on}, whose licence is {base.license!r}. Publishing needs one "
                f"that permits it ({', '.join(OPEN_LICENSES)})."
            )


def check_unlabeled(record: UnlabeledRecord | None, given: str | None) -> None:
    """Raises:
    UserError: if images that were trained on without labels have a licence that does not permit publication; `given` counts where
        none is recorded.
    """
    if record is None:
        return
    license_name = given if record.license == UNKNOWN_LICENSE else record.license
    if license_name not in OPEN_LICENSES:
        raise UserError(
            f"the licence of the unlabeled images ({record.name}) is {record.license!r}. Publishing needs one that permits it "
            f"({', '.join(OPEN_LICENSES)}): for images of your own say by --data_license which you give them."
        )


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
