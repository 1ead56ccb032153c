"""Whether the training data's licence permits that a model of them, or its images, are published."""

from medmnist_diffusion.choices import OPEN_LICENSES
from medmnist_diffusion.errors import UserError

UNKNOWN_LICENSE = "unknown"  # of a data set whose source gives none


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
