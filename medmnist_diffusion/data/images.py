"""Image files: which are read, and how they become upright squares of one size, grey or in colour, without transparency."""

import contextlib
import io
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import PIL
from PIL import Image, ImageOps, UnidentifiedImageError
from pydantic import BaseModel

from medmnist_diffusion.data.dataset import CHUNK
from medmnist_diffusion.errors import UserError

DECODER = f"2-{PIL.__version__}"  # what is kept of decoded pixels names it: another decoder may make others
# What Pillow raises on a file that is no image, or a damaged one.
DAMAGED = (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError)
# Of Pillow's formats those that it reads by itself: it hands EPS to Ghostscript, a program that runs what is in the file.
SUFFIXES = {
    "BMP": (".bmp",), "DIB": (".dib",), "GIF": (".gif",), "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".jpc", ".jpf", ".j2c"), "PNG": (".png", ".apng"),
    "PPM": (".pgm", ".ppm", ".pbm", ".pnm"), "TIFF": (".tif", ".tiff"), "WEBP": (".webp",),
}  # fmt: skip
IMAGE_SUFFIXES = {suffix for suffixes in SUFFIXES.values() for suffix in suffixes}
GREY_MODES = ("1", "L", "LA", "La")
COLOUR_MODES = ("RGB", "RGBA", "RGBa", "RGBX", "P", "PA", "CMYK", "YCbCr", "LAB", "HSV")
ORIENTATION = 0x0112  # EXIF's number for which side is up
UPRIGHT = 1
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
        first: of each of these, the name of the first one.
        sizes: upright `width×height` → the first file that has it; at most MOST_SIZES.
        visible: mean grey level of all that is not transparent in images that have transparent parts, 0 … 255.
    """

    images: int = 0
    coloured: int = 0
    stored_in_colour: int = 0
    transparent: int = 0
    turned: int = 0
    several: int = 0
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

    def notes(self, size: int) -> list[str]:
        """What was done to the images that a user may not expect, a sentence each."""
        of, lines = f"of {self.images} images", []
        if set(self.sizes) != {f"{size}×{size}"}:
            first, last = (min(self.sizes, key=_pixels), max(self.sizes, key=_pixels)) if self.sizes else ("", "")
            from_ = first if first == last else f"{first} to {last}"
            lines.append(f"Images of {from_} pixels were cropped to their middle square and resized to {size}×{size}.")
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
            )
        return lines


def _pixels(size: str) -> int:
    width, height = size.split("×")
    return int(width) * int(height)


def survey(rows: Iterable[dict[str, Any]], where: str) -> Seen:
    """Look at all images of a set, whole: damaged ones are named here.

    Args:
        rows: of a `datasets` column of images that are not decoded: `bytes` or `path` of each.
    """
    counts = dict.fromkeys(("images", "coloured", "stored_in_colour", "transparent", "turned", "several"), 0)
    first: dict[str, str] = {}
    sizes: dict[str, str] = {}
    visible = weight = 0.0
    for row in rows:
        file = row["path"] or f"image {counts['images']}"
        with open_image(row, where) as stored, _named(row, where):
            found = {
                "images": True,
                "stored_in_colour": stored.mode not in GREY_MODES,
                "turned": stored.getexif().get(ORIENTATION, UPRIGHT) in range(2, 9),
                "several": stored.format != "MPO"
                and getattr(stored, "n_frames", 1) > 1,  # a phone's MPO: one picture twice
            }
            image = upright(stored, row, where)
        found["transparent"] = image.mode == "RGBA"
        if found["stored_in_colour"]:
            pixels = np.asarray(on_background(image, WHITE))  # colours that nobody sees do not count
            found["coloured"] = bool((pixels != pixels[..., :1]).any())
        if found["transparent"]:
            opaque = np.asarray(image.getchannel("A"), np.float64) / 255
            visible += float((np.asarray(image.convert("RGB").convert("L")) * opaque).sum())
            weight += float(opaque.sum())
        if len(sizes) < MOST_SIZES:
            sizes.setdefault(f"{image.width}×{image.height}", file)
        for what, is_so in found.items():
            counts[what] += is_so
            if is_so:
                first.setdefault(what, file)
    return Seen(**counts, first=first, sizes=sizes, visible=visible / weight if weight else 0.0)


def open_image(row: dict[str, Any], where: str) -> Image.Image:
    """Its header alone; the pixels come later."""
    file = row["path"] or "an image"
    try:
        image = Image.open(
            io.BytesIO(row["bytes"]) if row["bytes"] is not None else row["path"], formats=list(SUFFIXES)
        )
        if image.mode not in GREY_MODES + COLOUR_MODES or _has_16_bits(image):
            raise UserError(
                f"{file}: {image.mode} images of 16 bit or float are not read. Convert to 8-bit PNG first."
            )
        return image
    except DAMAGED as error:
        raise UserError(f"{file} in {where} is not a readable image ({error}). Replace or remove it.") from None


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


def decoded_squares(table: Any, size: int, seen: Seen, where: str) -> Iterator[np.ndarray]:
    """The images of a table, CHUNK at a time, as uint8 n×size×size×C: upright, laid on the background, cropped and resized."""
    mode = "L" if seen.channels == 1 else "RGB"
    for start in range(0, len(table), CHUNK):
        chunk = []
        for row in table[start : start + CHUNK]["image"]:
            with open_image(row, where) as image:
                flat = on_background(upright(image, row, where), seen.background)
            square = ImageOps.fit(flat.convert(mode), (size, size))
            chunk.append(np.asarray(square, np.uint8).reshape(size, size, seen.channels))
        yield np.stack(chunk)
