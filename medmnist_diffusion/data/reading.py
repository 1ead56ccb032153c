"""How images are to be read: their size, how they are fitted to it, and which values become black and white. What a user says, and
what follows from it for a set of images."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from medmnist_diffusion.errors import UserError

Fit = Literal["crop", "pad", "squash"]
FITS: tuple[Fit, ...] = ("crop", "pad", "squash")
WindowRule = Literal["auto", "percentile", "file"]
WINDOWS: tuple[WindowRule, ...] = ("auto", "percentile", "file")
Window = WindowRule | tuple[float, float]
DEFAULT_SIZE = 28
SMALLEST, LARGEST, LARGEST_VOLUME = 8, 1024, 128  # pixels a side
MOST_SLICES = 1000


@dataclass(frozen=True)
class Reading:
    """How images of a folder, a table or the Hub are read.

    Attributes:
        size: height and width in pixels; None: 28 × 28. Volumes become cubes.
        fit: crop to the middle of the wanted shape, pad to it, or squash to it.
        window: of images with more than eight bits, which values become black and white. auto: the files' own where all say
            the same one, else the percentiles; file: each file's own; percentile: those of 0.5 and 99.5 % of all images together;
            two numbers: these.
        slices: read each volume as so many slices across its first axis, evenly spaced; None: as a volume.
    """

    size: tuple[int, int] | None = None
    fit: Fit = "crop"
    window: Window = "auto"
    slices: int | None = None

    @property
    def sides(self) -> tuple[int, int]:
        return self.size or (DEFAULT_SIZE, DEFAULT_SIZE)

    @property
    def is_default(self) -> bool:
        """Whether nothing but the size was asked for."""
        return self == Reading(self.size)


def checked_reading(size: Any = None, fit: Any = None, window: Any = None, slices: Any = None) -> Reading:
    """A reading from what a command line or a call says.

    Args:
        size: one number, or two: height and width.
        window: a word, or two numbers as a list or as text.

    Raises:
        UserError: naming the option that is wrong.
    """
    return Reading(_size(size), _fit(fit), _window(window), _slices(slices))


def _size(size: Any) -> tuple[int, int] | None:
    if size is None or (isinstance(size, Sequence) and not len(size)):
        return None
    numbers = list(size) if isinstance(size, Sequence) and not isinstance(size, str) else [size]
    try:
        sides = [int(number) for number in numbers]
    except (TypeError, ValueError):
        raise UserError(f"--size is {size!r}; one or two whole numbers are needed: 64, or 64 48.") from None
    if len(sides) > 2:
        raise UserError(f"--size has {len(sides)} numbers; one is needed, or height and width.")
    if not SMALLEST <= min(sides) <= max(sides) <= LARGEST:
        raise UserError(
            f"--size is {' '.join(map(str, sides))}; from {SMALLEST} to {LARGEST} pixels a side are possible."
        )
    return sides[0], sides[-1]


def _fit(fit: Any) -> Fit:
    if fit is None:
        return "crop"
    known: Fit | None = next((one for one in FITS if one == fit), None)
    if known is None:
        raise UserError(f"--fit is {fit!r}; {', '.join(FITS)} are possible.")
    return known


def _window(window: Any) -> Window:
    if window is None or (isinstance(window, Sequence) and not len(window)):
        return "auto"
    parts: list[Any] = window.split() if isinstance(window, str) else list(window)
    if (word := next((one for one in WINDOWS if [one] == parts), None)) is not None:
        return word
    try:
        low, high = (float(part) for part in parts)
    except (TypeError, ValueError):
        raise UserError(
            f"--window is {window!r}; auto, percentile, file or two numbers are possible: -160 240."
        ) from None
    if not low < high < float("inf") or low == float("-inf"):
        raise UserError(f"--window is {low:g} {high:g}; the first number must be below the second.")
    return low, high


def _slices(slices: Any) -> int | None:
    if slices is None:
        return None
    if not 1 <= int(slices) <= MOST_SLICES:
        raise UserError(f"--slices is {slices}; from 1 to {MOST_SLICES} slices of a volume are possible.")
    return int(slices)
