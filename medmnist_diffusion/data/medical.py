"""Pixels that are no grey levels yet: DICOM, NIfTI, and pictures of 16 bits or of real numbers. Which files these are, and how
their values are read. No tag of a DICOM file leaves this module but those that say how to show its pixels.
"""

import io
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from medmnist_diffusion.data.nifti import is_nifti, read_nifti
from medmnist_diffusion.errors import UserError, one_line

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # Pillow's, of more than eight bits
SAMPLED = 4096  # values of an image that percentiles are made of, at most
_MAGIC_AT, _MAGIC = 128, b"DICM"
_SLICE = re.compile(r"(?P<file>.+)#(?P<number>\d+)of(?P<count>\d+)")


@dataclass(frozen=True)
class Values:
    """The values of one image or volume.

    Attributes:
        values: H×W or D×H×W, float32; or uint8 where they are grey levels already.
        window: what the file itself says should be black and white.
        inverted: the least value is white (DICOM's MONOCHROME1).
        frames: how many the file holds; the first one was read.
    """

    values: np.ndarray
    window: tuple[float, float] | None = None
    inverted: bool = False
    frames: int = 1

    @property
    def is_deep(self) -> bool:
        """Whether it is still open which values become black and white."""
        return self.values.dtype != np.uint8 or self.window is not None

    @property
    def sample(self) -> np.ndarray:
        """Some of the values, evenly spaced."""
        flat = self.values.reshape(-1)
        return np.asarray(flat[:: max(1, len(flat) // SAMPLED)], np.float32)

    def grey(self, window: tuple[float, float] | None) -> np.ndarray:
        """As uint8: the window's ends become black and white, what lies beyond too."""
        levels = self.values
        if window is not None:
            low, high = window
            levels = (
                ((self.values.astype(np.float32) - low) / (high - low) * 255).round().clip(0, 255).astype(np.uint8)
            )
        return 255 - levels if self.inverted else levels


def is_medical(path: Path) -> bool:
    """Whether a file is DICOM or NIfTI: by its suffix, or of files without one by DICOM's mark."""
    suffix = path.suffix.lower()
    if suffix in DICOM_SUFFIXES or is_nifti(path):
        return True
    if suffix and not suffix[1:].isdigit():  # DICOM files are often named by numbers: 1.2.840.113619.2
        return False
    try:
        if not path.is_file():  # a pipe would be waited for
            return False
        with path.open("rb") as file:
            file.seek(_MAGIC_AT)
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def stem_of(path: Path) -> str:
    """A file's name without its suffix, of `scan.nii.gz` both."""
    return path.name[: -len(".nii.gz")] if path.name.lower().endswith(".nii.gz") else path.stem


def as_slices(path: Path, count: int) -> list[str]:
    """Names under which `medical_values` knows evenly spaced slices of a volume."""
    return [f"{path}#{number}of{count}" for number in range(count)] if is_nifti(path) else [str(path)]


def medical_values(row: dict[str, Any], where: str) -> Values | Image.Image | None:
    """What a DICOM or NIfTI file holds, DICOM in colour as a picture; None of any other file.

    Raises:
        UserError: naming the file, if it cannot be read.
    """
    path, data = row["path"], row["bytes"]
    if data is not None:
        return (
            _dicom(io.BytesIO(data), path or "an image", where) if data[_MAGIC_AT : _MAGIC_AT + 4] == _MAGIC else None
        )
    if (match := _SLICE.fullmatch(path)) and is_nifti(match["file"]):
        return _slice(match["file"], int(match["number"]), int(match["count"]), where)
    if is_nifti(path):
        return Values(*_volume(path, where))
    return _dicom(path, path, where) if is_medical(Path(path)) else None


@lru_cache(maxsize=1)  # one volume's slices are read one after another
def _volume(path: str, where: str) -> tuple[np.ndarray, tuple[float, float] | None]:
    return read_nifti(path, where)


def _slice(path: str, number: int, count: int, where: str) -> Values:
    """A slice of a volume, from the middle of one of `count` equal parts."""
    values, window = _volume(path, where)
    volume = values if values.ndim == 3 else values[None]
    return Values(volume[int((number + 0.5) / count * len(volume))], window)


def deep_values(image: Image.Image, name: str, where: str) -> Values:
    """The pixels of a picture of 16 bits or real numbers."""
    values = np.asarray(image)
    if not np.isfinite(values).all():
        raise UserError(f"{name} in {where} holds values that are not finite (NaN or infinite). Replace or remove it.")
    return Values(values.astype(np.float32))


def _dicom(source: Any, name: str, where: str) -> Values | Image.Image:
    try:
        import pydicom
        from pydicom.pixels.processing import apply_color_lut, apply_rescale
        from pydicom.pixels.utils import pixel_array
    except ImportError:
        raise UserError(
            f"{Path(name).name} is a DICOM file, which needs pydicom: pip install 'medmnist-diffusion[medical]'."
        ) from None
    try:
        dataset = pydicom.dcmread(source, force=str(name).lower().endswith(DICOM_SUFFIXES))
        if "PixelData" not in dataset:
            raise UserError(f"{name} in {where} is a DICOM file without a picture. Move it away.")
        if "file_meta" not in dataset.__dict__ or "TransferSyntaxUID" not in dataset.file_meta:
            dataset.ensure_file_meta()
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        frames = int(dataset.get("NumberOfFrames") or 1)
        pixels = pixel_array(dataset, index=0)
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            pixels = apply_color_lut(pixels, dataset)
        if pixels.ndim == 3:
            return _colour(pixels, name, where)
        return _grey(dataset, apply_rescale(pixels, dataset), frames, name, where)
    except UserError:
        raise
    except Exception as error:  # whatever pydicom and its decoders raise on a file that somebody made up
        raise UserError(
            f"{name} in {where} is no DICOM picture that can be read ({one_line(error, 160)}). Replace or remove it."
        ) from None


def _colour(pixels: np.ndarray, name: str, where: str) -> Image.Image:
    """RGB of 8 bits; pydicom has converted other colours."""
    if pixels.dtype == np.uint16 and int(pixels.max()) > 255:
        pixels = (pixels // 257).astype(np.uint8)  # palettes are of 16 bits
    if pixels.dtype != np.uint8 and int(pixels.max()) > 255:
        raise UserError(f"{name} in {where}: colours of more than 16 bits are not read. Convert it.")
    return Image.fromarray(pixels.astype(np.uint8), "RGB")


def _grey(dataset: Any, values: np.ndarray, frames: int, name: str, where: str) -> Values:
    """Rescaled values with the file's own window; padding outside of the picture counts as its least value."""
    from pydicom.pixels.processing import apply_voi

    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    if str(dataset.get("VOILUTFunction") or "LINEAR").upper() == "SIGMOID":
        raise UserError(f"{name} in {where} has a sigmoid window, which is not read. Export it with a linear one.")
    centres, widths = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    window = None
    if centres is not None and widths is not None:
        first = [
            float(one[0] if hasattr(one, "__len__") and not isinstance(one, str) else one) for one in (centres, widths)
        ]
        centre, width = first[0] - 0.5, max(first[1] - 1, 1e-6)  # PS3.3 C.11.2.1.2
        window = centre - width / 2, centre + width / 2
    elif dataset.get("VOILUTSequence"):
        bits = int(dataset.VOILUTSequence[0].LUTDescriptor[2])
        values, window = apply_voi(values.astype(np.int64), dataset, 0), (0.0, float(2**bits - 1))
    padding = dataset.get("PixelPaddingValue")
    if padding is not None:
        slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
        outside = values == int(padding) * slope + intercept
        if outside.any() and not outside.all():
            values = np.where(outside, values[~outside].max() if inverted else values[~outside].min(), values)
    if not np.isfinite(values).all():
        raise UserError(f"{name} in {where} holds values that are not finite. Replace or remove it.")
    plain = window is None and dataset.BitsStored <= 8 and values.min() >= 0 and values.max() <= 255
    return Values(
        values.astype(np.uint8 if plain and (values == values.round()).all() else np.float32), window, inverted, frames
    )
