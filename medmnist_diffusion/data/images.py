"""Image files: which are read, and how they become upright pictures of one size and 8 bits, grey or in colour, without
transparency; or volumes of one size."""

import contextlib
import io
import math
import os
import re
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import BaseModel

from medmnist_diffusion.data.dataset import CHUNK
from medmnist_diffusion.data.medical import (
    DEEP_MODES,
    Values,
    deep_values,
    is_dicom,
    is_medical,
    is_turned,
    medical_values,
)
from medmnist_diffusion.data.reading import LARGEST_VOLUME, Fit, Reading
from medmnist_diffusion.errors import UserError

DECODER = f"4-{PIL.__version__}"  # what is kept of decoded pixels names it: another decoder may make others
SURVEY = f"4-{DECODER}"  # of how images are looked at: what was found by another is found again
# What Pillow raises on a file that is no image, or a damaged one.
DAMAGED = (
    UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError, TypeError, LookupError, EOFError,
    ArithmeticError, struct.error,
)  # fmt: skip
# Of Pillow's formats those that it reads by itself: it hands EPS to Ghostscript, a program that runs what is in the file.
SUFFIXES = {
    "BMP": (".bmp",), "DIB": (".dib",), "GIF": (".gif",), "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".jpc", ".jpf", ".j2c"), "PNG": (".png", ".apng"),
    "PPM": (".pgm", ".ppm", ".pbm", ".pnm"), "TIFF": (".tif", ".tiff"), "WEBP": (".webp",),
}  # fmt: skip
IMAGE_SUFFIXES = {suffix for suffixes in SUFFIXES.values() for suffix in suffixes}


def is_image(path: Path) -> bool:
    """Whether a file is one that is read, by its name (of a DICOM file without a suffix by its mark)."""
    return path.suffix.lower() in IMAGE_SUFFIXES or is_medical(path)


_COUNTED = (
    "images", "coloured", "stored_in_colour", "transparent", "turned", "several", "deep", "own_window", "tables", "inverted",
    "contradict", "oblong", "localizers", "scaled", "unscaled", "volumes", "dicom",
)  # fmt: skip
SAMPLE_FORMAT, SIGNED = 339, 2  # TIFF's tag, and its value for numbers that can be below 0
GREY_MODES = ("1", "L", "LA", "La")
COLOUR_MODES = ("RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV")
WHITE, BLACK = 255, 0
MOST_SIZES = 50  # of different sizes so many are kept with the name of their first file


class Seen(BaseModel):
    """What the image files of a set are like: the reader's choices follow from it.

    Attributes:
        images: how many there are.
        coloured: how many hold a pixel whose red, green and blue differ.
        stored_in_colour: how many are stored in colour, whatever they hold.
        transparent: how many have a pixel that is not opaque.
        turned: how many are to be turned upright, by their EXIF orientation.
        several: how many hold several pages or frames.
        deep: how many hold values that a window must make grey levels of: of more than 8 bits, or DICOM.
        own_window: how many of these say their window themselves.
        tables: how many say it by a table of grey levels.
        windows: the different ones that they say, at most two.
        least_kept: of volumes, the least share of one that its middle cube holds.
        inverted: how many are stored with white as the least value.
        modalities: of DICOM files how many are of each.
        scaled, unscaled: how many DICOM files say a slope and an intercept, and how many do not.
        localizers: how many are scouts, on which a scan is planned (DICOM's ImageType).
        contradict: how many DICOM files say in another place that it is the other way round.
        oblong: how many have pixels that are not square in the body.
        volumes: how many have three dimensions.
        dicom: how many are DICOM files.
        percentiles: of 0.5 and 99.5 % of all these values.
        mark: of these, a value that seems to stand for none, in words; empty if there is none.
        first: of each of these, the name of the first one.
        sizes: upright `width×height`, of volumes `width×height×depth` → the first file that has it; at most MOST_SIZES.
        visible: mean grey level of all that is not transparent in images that have transparent parts, 0 … 255.
    """

    images: int = 0
    coloured: int = 0
    stored_in_colour: int = 0
    transparent: int = 0
    turned: int = 0
    several: int = 0
    deep: int = 0
    own_window: int = 0
    tables: int = 0
    inverted: int = 0
    contradict: int = 0
    localizers: int = 0
    scaled: int = 0
    unscaled: int = 0
    oblong: int = 0
    volumes: int = 0
    dicom: int = 0
    modalities: dict[str, int] = {}
    percentiles: tuple[float, float] = (0.0, 255.0)
    mark: str = ""
    windows: list[tuple[float, float]] = []
    least_kept: float = 1.0
    first: dict[str, str] = {}
    sizes: dict[str, str] = {}
    visible: float = 0.0

    @property
    def channels(self) -> int:
        """1 where every pixel of every image is grey, however it is stored; else 3."""
        return 3 if self.coloured else 1

    @property
    def background(self) -> int:
        """What transparent parts are laid on: white, or black where what is to be seen is light itself."""
        return BLACK if self.visible > 127.5 else WHITE

    def window(self, reading: Reading) -> tuple[float, float] | None:
        """Which values become black and white in every image; None: each file's own, or there is nothing to decide."""
        if not self.deep or reading.window == "file":
            return None
        if isinstance(reading.window, tuple):
            return reading.window
        same = self.own_window == self.deep and len(self.windows) == 1 and not self.tables
        same = same and reading.window == "auto"
        return self.windows[0] if same else self.percentiles

    def check(self, reading: Reading, where: str) -> None:
        """Raises:
        UserError: if the images cannot be read in one way, or not as they are asked to be.
        """
        if 0 < self.volumes < self.images:
            raise UserError(f"{where}: {self.first['volumes']} is a volume, others are images. Keep one kind of them.")
        if self.volumes and max(reading.sides) > LARGEST_VOLUME:
            raise UserError(
                f"{where} holds volumes, of at most {LARGEST_VOLUME} voxels a side: give a smaller --size."
            )
        if self.volumes and len(set(reading.sides)) > 1:
            raise UserError(f"{where} holds volumes, which become cubes: give one number as --size.")
        own = reading.window == "file" and self.own_window == self.deep
        if 0 < self.deep < self.images and not own:
            raise UserError(
                f"{where}: {self.deep} of {self.images} images have more than 8 bits (first: {self.first['deep']}), the others "
                f"8: no window fits both. Convert one of the two kinds."
            )
        if reading.window == "file" and self.own_window < self.deep:
            missing = self.deep - self.own_window
            raise UserError(
                f"{where}: {missing} images say no window of their own. Use --window percentile, or two numbers."
            )
        if reading.window != "auto" and not self.deep:
            raise UserError(
                f"{where}: its images have 8 bits, for which there is no window to choose. Leave --window out."
            )
        if self.deep and self.mark and self.window(reading) == self.percentiles:
            raise UserError(
                f"{where}: {self.mark}. That looks like a mark for missing values, which would be taken for the darkest or "
                "brightest grey. Give the window of the others: --window LOW HIGH."
            )
        if self.deep and (window := self.window(reading)) is not None and not window[0] < window[1]:
            raise UserError(
                f"{where}: nearly all values are the same ({window[0]:g}). Give a window: --window LOW HIGH."
            )

    def notes(self, reading: Reading) -> list[str]:
        """What was done to the images that a user may not expect, a sentence each."""
        of, lines = f"of {self.images} images", []
        height, width = reading.sides
        wanted = f"{height}×{height}×{height}" if self.volumes else f"{height}×{width}"
        sizes = {"×".join(reversed(size.split("×"))) for size in self.sizes}  # as --size has them: height first
        if sizes != {wanted}:
            first, last = (min(sizes, key=_pixels), max(sizes, key=_pixels)) if sizes else ("", "")
            from_ = first if first == last else f"{first} to {last}"
            order = "" if self.volumes or all(len(set(one.split("×"))) == 1 for one in sizes) else " (height × width)"
            middle = "cube" if self.volumes else "square" if height == width else f"{wanted} shape"
            how = {
                "crop": f"cropped to their middle {middle} and resized",
                "pad": "padded with black at their edges and resized",
                "squash": "squashed",
            }[reading.fit]
            kind, dots = ("Volumes", "voxels") if self.volumes else ("Images", "pixels")
            lines.append(f"{kind} of {from_} {dots}{order} were {how} to {wanted}.")
            if self.volumes and reading.fit == "crop" and self.least_kept < 0.9:
                lines.append(
                    f"Of some volumes their middle cube is only {self.least_kept:.0%}: --fit pad keeps all of them."
                )
        lines += self._value_notes(reading)
        if self.coloured and self.coloured < self.images:
            lines.append(
                f"{self.coloured} {of} hold colour (first: {self.first['coloured']}), so that all became RGB."
            )
        if not self.coloured and self.stored_in_colour:
            lines.append(
                f"{self.stored_in_colour} {of} are stored in colour but are grey everywhere: all became grey."
            )
        if self.transparent:
            on = "white" if self.background == WHITE else "black, since what is to be seen is light"
            lines.append(
                f"{self.transparent} {of} have transparent parts (first: {self.first['transparent']}): they were laid on {on}."
            )
        if self.turned:
            lines.append(
                f"{self.turned} {of} were turned upright as their EXIF orientation says (first: {self.first['turned']})."
            )
        if self.several:
            lines.append(
                f"{self.several} {of} hold several pages or frames (first: {self.first['several']}): the first one was read."
                + (" --slices 8 reads eight frames of each DICOM file." if self.dicom else "")
            )
        return lines

    def _value_notes(self, reading: Reading) -> list[str]:
        """What became of values that were no grey levels."""
        of, lines = f"of {self.images} images", []
        if self.deep:
            window = self.window(reading)
            if window is None:
                lines.append(
                    f"{self.deep} {of} were windowed as each file says itself (DICOM's window, NIfTI's display range)."
                )
            else:
                chosen = "0.5 and 99.5 % of the values of all images"
                if window in (reading.window, *self.windows[:1]) and window != self.percentiles:
                    chosen = "as asked" if window == reading.window else "the window that every file says"
                lines.append(
                    f"Values from {window[0]:g} to {window[1]:g} ({chosen}) became the grey levels 0 to 255, the same in all "
                    "images; what lies beyond was cut."
                )
        if self.inverted:
            lines.append(
                f"{self.inverted} {of} are stored with white as the least value (MONOCHROME1 or WhiteIsZero): they were turned "
                "round."
            )
        if self.contradict:
            lines.append(
                f"{self.contradict} {of} contradict themselves on whether their least value is black (first: "
                f"{self.first['contradict']}): PhotometricInterpretation was followed, PresentationLUTShape was not. Look at them "
                "with `audit --preview`."
            )
        if len(self.modalities) > 1:
            listed = ", ".join(f"{name} {count}" for name, count in self.modalities.items())
            lines.append(f"DICOM files are of several modalities ({listed}): all are trained as images of one kind.")
        if self.scaled and self.unscaled:
            lines.append(
                f"{self.unscaled} {of} say no slope and intercept (first: {self.first['unscaled']}), others do: the same value "
                "may mean two things."
            )
        if self.localizers:
            lines.append(
                f"{self.localizers} {of} are localizers, on which a scan is planned (first: {self.first['localizers']}). Move "
                "them away if they are not meant."
            )
        if self.oblong:
            lines.append(
                f"{self.oblong} {of} have pixels that are not square in the body (first: {self.first['oblong']}): they were taken "
                "for squares, so that proportions are not those of the body. Resample them if that matters."
            )
        if self.dicom:
            lines.append(
                "DICOM: text that is burnt into the pixels, names among it, is not looked for: look at the images yourself."
            )
        return lines


def _pixels(size: str) -> int:
    return math.prod(map(int, size.split("×")))


def survey(rows: Iterable[dict[str, Any]], where: str) -> Seen:
    """Look at all images of a set, whole: damaged ones are named here.

    Args:
        rows: of a `datasets` column of images that are not decoded: `bytes` or `path` of each.
    """
    counts = dict.fromkeys(_COUNTED, 0)
    first: dict[str, str] = {}
    sizes: dict[str, str] = {}
    visible = weight = 0.0
    samples: list[np.ndarray] = []
    windows: list[tuple[float, float]] = []
    modalities = Counter[str]()
    least_kept = 1.0
    for row in rows:
        file = row["path"] or f"image {counts['images']}"
        stored = open_image(row, where)
        if isinstance(stored, Values):
            found = {
                "images": True,
                "deep": stored.is_deep,
                "own_window": stored.says_window,
                "tables": stored.table is not None,
                "turned": stored.turned,
                "inverted": stored.inverted,
                "contradict": stored.contradicts,
                "oblong": stored.oblong,
                "localizers": stored.localizer,
                "scaled": stored.scaled is True,
                "unscaled": stored.scaled is False,
                "volumes": stored.values.ndim == 3,
                "several": stored.frames > 1,
            }
            if stored.modality:
                modalities[stored.modality] += 1
            if stored.is_deep:
                samples.append(stored.sample)
            if stored.window is not None and stored.window not in windows and len(windows) < 2:
                windows.append(stored.window)
            if stored.values.ndim == 3:
                extents = np.array(stored.values.shape) * (stored.spacing or (1, 1, 1))
                least_kept = min(least_kept, float(extents.min() ** 3 / np.prod(extents)))
            sides = "×".join(map(str, reversed(stored.values.shape)))
        else:
            with stored, _named(row, where):
                found = {
                    "images": True,
                    "stored_in_colour": stored.mode not in GREY_MODES,
                    "turned": is_turned(stored),
                    # A phone's MPO is one picture twice.
                    "several": stored.format != "MPO"
                    and max(getattr(stored, "n_frames", 1), stored.info.get("frames", 1)) > 1,
                }
                image = upright(stored, row, where)
            sides = f"{image.width}×{image.height}"
            found["transparent"] = image.mode == "RGBA"
        found["dicom"] = row["path"] is not None and is_dicom(Path(row["path"]))
        if found.get("stored_in_colour"):
            pixels = np.asarray(on_background(image, WHITE))  # colours that nobody sees do not count
            found["coloured"] = bool((pixels != pixels[..., :1]).any())
        if found.get("transparent"):
            opaque = np.asarray(image.getchannel("A"), np.float64) / 255
            visible += float((np.asarray(image.convert("RGB").convert("L")) * opaque).sum())
            weight += float(opaque.sum())
        if len(sizes) < MOST_SIZES:
            sizes.setdefault(sides, file)
        for what, is_so in found.items():
            counts[what] += is_so
            if is_so:
                first.setdefault(what, os.path.relpath(file, where) if str(file).startswith(where) else file)
    values = np.concatenate(samples) if samples else np.zeros(0)
    low, high = np.percentile(values, (0.5, 99.5)).tolist() if samples else (0.0, 255.0)
    mean = visible / weight if weight else 0.0
    return Seen(
        **counts,
        first=first,
        sizes=sizes,
        visible=mean,
        percentiles=(low, high),
        mark=_mark_of_missing_values(values),
        windows=windows,
        modalities=modalities,
        least_kept=least_kept,
    )


def _mark_of_missing_values(values: np.ndarray) -> str:
    """In words, a value as −9999 or −3.4e38 that many pixels have and that lies far from all others; else nothing.

    A lone negative value farther from the others than twice their range, or one beyond a billion. Fewer than 0.5 % of such values
    do no harm: the window leaves them out.
    """
    for mark in (values.min(initial=np.inf), values.max(initial=-np.inf)):
        others = values[values != mark]
        if len(values) - len(others) < 0.005 * len(values) or not len(others):
            continue
        low, high = others.min(), others.max()
        negative = mark < 0 <= low and -mark > 2 * (high - low)
        if (negative or abs(mark) >= 1e9 > max(abs(low), abs(high))) and low < high:
            share = 1 - len(others) / len(values)
            return f"{share:.1%} of all values are {mark:g}, far from the others ({low:g} to {high:g})"
    return ""


def open_image(row: dict[str, Any], where: str) -> Image.Image | Values:
    """A picture, of which the header alone was read; or the values of what is no picture yet."""
    file = row["path"] or "an image"
    if (medical := medical_values(row, where)) is not None:
        return medical
    try:
        # Never by its path: Pillow then maps uncompressed TIFFs into memory, and scrambles those that are to be turned.
        content = row["bytes"] if row["bytes"] is not None else Path(row["path"]).read_bytes()
        image = Image.open(io.BytesIO(content), formats=list(SUFFIXES))
        if image.mode in DEEP_MODES:
            if "transparency" in image.info:
                raise UserError(
                    f"{file}: a picture of 16 bits with a transparent value is not read. Fill it, or convert it to 8."
                )
            return deep_values(image, file, where)
        if image.format == "TIFF" and SIGNED in np.atleast_1d(image.tag_v2.get(SAMPLE_FORMAT, 1)):  # type: ignore[attr-defined]
            raise UserError(
                f"{file}: signed values of 8 bits are not read: below 0 they would turn bright. Convert it."
            )
        if image.mode not in GREY_MODES + COLOUR_MODES or _has_16_bits(image):
            raise UserError(
                f"{file}: colours of 16 bits ({image.mode}) are not read, grey is. Convert it to 8 bits, or to grey."
            )
        return image
    except DAMAGED as error:
        why = re.sub(r" <_io.*?>", "", str(error))
        raise UserError(f"{file} in {where} is not a readable image ({why}). Replace or remove it.") from None


def _has_16_bits(image: Image.Image) -> bool:
    """Whether colours of 16 bits would be cut to 8: Pillow says so only in how it is going to decode them."""
    tiles = getattr(image, "tile", [])
    if image.format == "PPM":
        return any(isinstance(tile[3], tuple) and tile[3][-1] > 255 for tile in tiles)  # mode and highest value
    return any(";16" in str(tile[3]) for tile in tiles)


def upright(image: Image.Image, row: dict[str, Any], where: str) -> Image.Image:
    """The pixels as a viewer shows them: mode L or RGB; RGBA where some are not opaque."""
    with _named(row, where):
        image = ImageOps.exif_transpose(image)
        if image.has_transparency_data:
            whole = image.convert("RGBA")
            if np.asarray(whole.getchannel("A")).min() < 255:
                return whole
        return image.convert("L" if image.mode in GREY_MODES else "RGB")


@contextlib.contextmanager
def _named(row: dict[str, Any], where: str) -> Iterator[None]:
    """An error that names the file, of whatever Pillow raises on a damaged one."""
    try:
        yield
    except DAMAGED as error:
        raise UserError(f"{row['path']} in {where} is a damaged image ({error}). Replace or remove it.") from None


def on_background(image: Image.Image, grey_level: int) -> Image.Image:
    """An upright image without transparency."""
    if image.mode != "RGBA":
        return image
    ground = Image.new("RGBA", image.size, (grey_level, grey_level, grey_level, 255))
    return Image.alpha_composite(ground, image).convert("RGB")


def decoded(table: Any, reading: Reading, seen: Seen, where: str) -> Iterator[np.ndarray]:
    """The images of a table, some at a time, as uint8 n×H×W×C: windowed, upright, laid on the background, fitted to their size; or
    volumes n×D×H×W×1."""
    at_once = CHUNK if not seen.volumes else 16
    for start in range(0, len(table), at_once):
        yield np.stack([_decoded(row, reading, seen, where) for row in table[start : start + at_once]["image"]])


def read_image(path: Path, shape: Sequence[int]) -> tuple[np.ndarray, list[str]]:
    """One file as an image uint8 H×W×C (a NIfTI volume: D×H×W×C) of a given shape, cropped to its middle, and what was done to it.
    Where colours are needed, a grey one gets three equal channels.

    Raises:
        UserError: if it cannot be read, is coloured where grey is needed, or is a volume where an image is needed.
    """
    row, where = {"path": str(path), "bytes": None}, str(path.parent)
    seen, (*sides, channels) = survey([row], where), shape
    reading = Reading((sides[-2], sides[-1]))
    if bool(seen.volumes) != (len(sides) > 2):
        needed = "a volume (NIfTI)" if len(sides) > 2 else "an image"
        raise UserError(f"{path.name} is {'a volume' if seen.volumes else 'an image'}; {needed} is needed here.")
    if seen.channels > channels:
        raise UserError(f"{path.name} has colours, and grey is needed here. Convert it to grey.")
    seen.check(reading, where)
    return np.repeat(_decoded(row, reading, seen, where), channels // seen.channels, axis=-1), seen.notes(reading)


def image_shape(reading: Reading, seen: Seen) -> tuple[int, ...]:
    """Of what `decoded` makes."""
    return (reading.sides[0],) * 3 + (1,) if seen.volumes else (*reading.sides, seen.channels)


def _decoded(row: dict[str, Any], reading: Reading, seen: Seen, where: str) -> np.ndarray:
    mode = "L" if seen.channels == 1 else "RGB"
    image = open_image(row, where)
    if isinstance(image, Values):
        window = seen.window(reading)
        grey = image.grey(window if image.is_deep else None)
        if grey.ndim == 3:
            return fitted_volume(grey, reading.sides[0], reading.fit, image.spacing)[..., None]
        flat = Image.fromarray(grey)
    else:
        with image:
            flat = on_background(upright(image, row, where), seen.background)
    height, width = reading.sides
    return np.asarray(_fitted(flat.convert(mode), (width, height), reading.fit), np.uint8).reshape(
        height, width, seen.channels
    )


def _fitted(image: Image.Image, size: tuple[int, int], fit: Fit) -> Image.Image:
    if image.size == size:
        return image
    if fit == "crop":
        return ImageOps.fit(image, size)
    if fit == "squash":
        return image.resize(size, Image.Resampling.BICUBIC)
    return ImageOps.pad(image, size, color=BLACK if image.mode == "L" else (BLACK,) * 3)


def fitted_volume(volume: np.ndarray, side: int, fit: Fit, spacing: Sequence[float] | None = None) -> np.ndarray:
    """uint8 D×H×W as a cube of one size: means of the voxels that a new one covers, or between neighbours where it grows.

    Args:
        spacing: how far voxels are apart along each axis: what is cropped or padded to is a cube in the body, not of voxels.
    """
    shape, spacing = volume.shape, spacing or (1.0, 1.0, 1.0)
    extents = [one * apart for one, apart in zip(shape, spacing, strict=True)]
    edge = min(extents) if fit == "crop" else max(extents)
    cube = [max(1, round(edge / apart)) for apart in spacing]
    if fit == "crop":
        windows = zip(shape, cube, strict=True)
        volume = volume[tuple(slice((one - kept) // 2, (one - kept) // 2 + kept) for one, kept in windows)]
    elif fit == "pad":
        more = [max(0, wanted - one) for one, wanted in zip(shape, cube, strict=True)]
        volume = np.pad(volume, [(count // 2, count - count // 2) for count in more])
    values = torch.from_numpy(np.ascontiguousarray(volume))[None, None].float()
    smaller: Any = [min(side, one) for one in values.shape[2:]]
    values = F.interpolate(F.adaptive_avg_pool3d(values, smaller), size=(side,) * 3, mode="trilinear")
    return np.asarray(values[0, 0].round().clamp(0, 255).byte())
