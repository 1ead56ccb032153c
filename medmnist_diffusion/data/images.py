"""Image files: which are read, whether they are grey, and how they become squares of one size."""

import io
from collections.abc import Iterator
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from medmnist_diffusion.data.dataset import CHUNK
from medmnist_diffusion.errors import UserError

# What Pillow raises on a file that is no image, or a damaged one.
DAMAGED = (UnidentifiedImageError, Image.DecompressionBombError, OSError, ValueError, SyntaxError)
# Of Pillow's formats those that it reads by itself: it hands EPS to Ghostscript, a program that runs what is in the file.
SUFFIXES = {
    "BMP": (".bmp",), "DIB": (".dib",), "GIF": (".gif",), "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".jpc", ".jpf", ".j2c"), "PNG": (".png", ".apng"),
    "PPM": (".pgm", ".ppm", ".pbm", ".pnm"), "TIFF": (".tif", ".tiff"), "WEBP": (".webp",),
}  # fmt: skip
IMAGE_SUFFIXES = {suffix for suffixes in SUFFIXES.values() for suffix in suffixes}
GREY_MODES, COLOUR_MODES = ("1", "L", "LA"), ("RGB", "RGBA", "P", "CMYK", "YCbCr")


def open_image(row: dict[str, Any], where: str) -> Image.Image:
    file = row["path"] or "an image"
    try:
        image = Image.open(
            io.BytesIO(row["bytes"]) if row["bytes"] is not None else row["path"], formats=list(SUFFIXES)
        )
        if image.mode not in GREY_MODES + COLOUR_MODES:
            raise UserError(f"{file}: {image.mode} images (16 bit or float) are not read. Convert to 8-bit PNG first.")
        return image
    except DAMAGED as error:
        raise UserError(f"{file} in {where} is not a readable image ({error}). Replace or remove it.") from None


def is_grey(row: dict[str, Any], where: str) -> bool:
    with open_image(row, where) as image:
        return image.mode in GREY_MODES


def decoded_squares(table: Any, size: int, channels: int, where: str) -> Iterator[np.ndarray]:
    for start in range(0, len(table), CHUNK):
        chunk = []
        for row in table[start : start + CHUNK]["image"]:
            with open_image(row, where) as image:
                try:
                    square = ImageOps.fit(image.convert("L" if channels == 1 else "RGB"), (size, size))
                except DAMAGED as error:
                    raise UserError(
                        f"{row['path']} in {where} is a damaged image ({error}). Replace or remove it."
                    ) from None
            chunk.append(np.asarray(square, np.uint8).reshape(size, size, channels))
        yield np.stack(chunk)
