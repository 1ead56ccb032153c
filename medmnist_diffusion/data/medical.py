"""Pixels that are no grey levels yet: DICOM, NIfTI, and pictures of 16 bits or of real numbers. Which files these are, and how
their values are read. No tag of a DICOM file leaves this module but those that say how to show its pixels.
"""

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from medmnist_diffusion.data.conditioning import without_visit
from medmnist_diffusion.data.nifti import is_nifti, nifti_slices, read_nifti
from medmnist_diffusion.errors import UserError, one_line

DICOM_SUFFIXES = (".dcm", ".dicom", ".ima")
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")  # Pillow's, of more than eight bits
SAMPLED = 4096  # values of an image that percentiles are made of, at most
ORIENTATION = 0x0112  # EXIF's number for which side is up
PHOTOMETRIC, MIN_IS_WHITE = 262, 0  # TIFF's tag for what the least value is
SQUARE = 0.01  # by which sides may differ
_MAGIC_AT, _MAGIC = 128, b"DICM"
NO_PYDICOM = "{} is a DICOM file, which needs pydicom: pip install 'medmnist-diffusion[medical]'."
_SLICE = re.compile(r"(?P<file>.+)#(?P<number>\d+)of(?P<count>\d+)")


@dataclass(frozen=True)
class Values:
    """The values of one image or volume.

    Attributes:
        values: H×W or D×H×W, float32; or uint8 where they are grey levels already.
        window: what the file itself says should be black and white.
        table: instead, the least value and the grey levels, 0 … 255, of it and those that follow (DICOM's VOI LUT).
        spacing: of a volume, how far its voxels are apart along each axis.
        inverted: the least value is white (DICOM's MONOCHROME1).
        contradicts: the file says elsewhere that it is the other way round (DICOM's PresentationLUTShape).
        oblong: its pixels are not square in the body, and are shown as if they were.
        localizer: a scout, on which a scan is planned (DICOM's ImageType).
        modality: CT, MR, … (DICOM).
        scaled: whether the file says what its values mean (DICOM's slope and intercept); None of files that cannot.
        frames: how many the file holds; the first one was read.
        turned: it was turned upright, by its EXIF orientation.
    """

    values: np.ndarray
    window: tuple[float, float] | None = None
    table: tuple[int, np.ndarray] | None = None
    spacing: tuple[float, ...] | None = None
    inverted: bool = False
    contradicts: bool = False
    oblong: bool = False
    localizer: bool = False
    modality: str = ""
    scaled: bool | None = None
    frames: int = 1
    turned: bool = False

    @property
    def is_deep(self) -> bool:
        """Whether it is still open which values become black and white."""
        return self.values.dtype != np.uint8 or self.says_window

    @property
    def says_window(self) -> bool:
        """Whether the file itself says it."""
        return self.window is not None or self.table is not None

    @property
    def sample(self) -> np.ndarray:
        """Some of the values, at places drawn with seed 0."""
        flat = self.values.reshape(-1)
        places = np.random.default_rng(0).integers(len(flat), size=SAMPLED) if len(flat) > SAMPLED else slice(None)
        return np.asarray(flat[places], np.float32)

    def grey(self, window: tuple[float, float] | None) -> np.ndarray:
        """As uint8: the window's ends become black and white, what lies beyond too; without one as the file says."""
        levels, window = self.values, window if window is not None or not self.is_deep else self.window
        if window is None and self.table is not None:
            first, greys = self.table
            levels = greys[(self.values.astype(np.int64) - first).clip(0, len(greys) - 1)]
        elif window is not None:
            low, high = window
            levels = (
                ((self.values.astype(np.float32) - low) / (high - low) * 255).round().clip(0, 255).astype(np.uint8)
            )
        return 255 - levels if self.inverted else levels


def is_medical(path: Path) -> bool:
    """Whether a file is DICOM or NIfTI: by its suffix, or of files without one by DICOM's mark."""
    if path.name.upper() == "DICOMDIR":  # a list of a CD's files
        return False
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


def as_slices(path: Path, count: int, where: str) -> list[str]:
    """Names under which `medical_values` knows evenly spaced slices of a volume or frames of a DICOM file: `count` of them, or all
    where there are no more."""
    there = _number_of_slices(path, where)
    count = min(count, there)
    return [f"{path}#{number}of{count}" for number in range(count)] if there > 1 or is_nifti(path) else [str(path)]


def _number_of_slices(path: Path, where: str) -> int:
    if is_nifti(path):
        return nifti_slices(path, where)
    return int(_tag(path, "NumberOfFrames") or 1) if is_dicom(path) else 1


def _tag(path: Path, name: str) -> Any:
    """One tag of a DICOM file, without its pixels; None of a file that has none, or is damaged: whoever reads it names it."""
    try:
        from pydicom import dcmread
    except ImportError:
        raise UserError(NO_PYDICOM.format(path.name)) from None
    try:
        return dcmread(path, stop_before_pixels=True, specific_tags=[name], force=True).get(name)
    except Exception:  # whatever pydicom raises on a file that somebody made up
        return None


def is_dicom(path: Path) -> bool:
    """Whether a file is DICOM; or that of which a name of `as_slices` means a frame."""
    if match := _SLICE.fullmatch(str(path)):
        path = Path(match["file"])
    return is_medical(path) and not is_nifti(path)


def patients(files: Sequence[Path]) -> np.ndarray:
    """int N: which patient each of N DICOM files is of, by numbers from 0: the id itself stays in the file. Files that say nobody
    are −1."""
    # However they are spelled, `PAT 001` is pat001; and P01_V2 is a visit of P01.
    names = [without_visit(str(_tag(file, "PatientID") or "").strip()) for file in files]
    ids = np.array([re.sub(r"[\s_-]+", "", name).casefold() for name in names])
    return np.where(ids == "", -1, np.unique(ids, return_inverse=True)[1])


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
    if (match := _SLICE.fullmatch(path)) and not Path(path).is_file():
        return _slice(match["file"], int(match["number"]), int(match["count"]), where)
    if is_nifti(path):
        return _read_volume(path, where)
    return _dicom(path, path, where) if is_medical(Path(path)) else None


def _read_volume(path: str, where: str) -> Values:
    """A NIfTI file as it is now."""
    stat = Path(path).stat() if Path(path).is_file() else None  # one that is gone is named by whoever reads it
    return _volume(path, where, () if stat is None else (stat.st_mtime_ns, stat.st_size, stat.st_ino))


@lru_cache(maxsize=1)  # one volume's slices are read one after another
def _volume(path: str, where: str, version: tuple[int, ...]) -> Values:
    values, window, spacing = read_nifti(path, where)
    return Values(values, window, spacing=spacing)


def _slice(path: str, number: int, count: int, where: str) -> Values | Image.Image:
    """A slice of a volume or a frame, from the middle of one of `count` equal parts."""
    if not is_nifti(path):
        return _dicom(path, path, where, (number + 0.5) / count)
    whole = _read_volume(path, where)
    volume = whole.values if whole.values.ndim == 3 else whole.values[None]
    oblong = _are_oblong(whole.spacing[-2:] if whole.spacing else None)
    return Values(volume[int((number + 0.5) / count * len(volume))], whole.window, oblong=oblong)


def is_turned(image: Image.Image) -> bool:
    """Whether a picture's EXIF orientation says that it does not lie upright."""
    return image.getexif().get(ORIENTATION) in range(2, 9)


def deep_values(image: Image.Image, name: str, where: str) -> Values:
    """The pixels of a picture of 16 bits or real numbers, upright; of several pages the first."""
    inverted = image.format == "TIFF" and image.tag_v2.get(PHOTOMETRIC) == MIN_IS_WHITE  # type: ignore[attr-defined]
    frames, turned = getattr(image, "n_frames", 1), is_turned(image)
    values = np.asarray(ImageOps.exif_transpose(image))
    if not np.isfinite(values).all():
        raise UserError(f"{name} in {where} holds values that are not finite (NaN or infinite). Replace or remove it.")
    return Values(values.astype(np.float32), inverted=inverted, frames=frames, turned=turned)


def _dicom(source: Any, name: str, where: str, at: float | None = None) -> Values | Image.Image:
    """A DICOM file's picture.

    Args:
        at: of several frames which one, 0 … 1; None: the first, and it counts as one of several.
    """
    try:
        import pydicom
        from pydicom.pixels.processing import apply_color_lut, apply_rescale
        from pydicom.pixels.utils import pixel_array
    except ImportError:
        raise UserError(NO_PYDICOM.format(Path(name).name)) from None
    try:
        dataset = pydicom.dcmread(source, force=str(name).lower().endswith(DICOM_SUFFIXES))
        if "PixelData" not in dataset:
            raise UserError(f"{name} in {where} is a DICOM file without a picture. Move it away.")
        if "file_meta" not in dataset.__dict__ or "TransferSyntaxUID" not in dataset.file_meta:
            dataset.ensure_file_meta()
            dataset.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        frames = int(dataset.get("NumberOfFrames") or 1)
        index = 0 if at is None else int(at * frames)
        pixels = pixel_array(dataset, index=index)
        _take_from_functional_groups(dataset, index)
        if dataset.PhotometricInterpretation == "PALETTE COLOR":
            pixels = apply_color_lut(pixels, dataset)
        if pixels.ndim == 3:
            palette = dataset.get("RedPaletteColorLookupTableDescriptor")
            picture = _colour(pixels, int(palette[2]) if palette else int(dataset.BitsStored))
            picture.info["frames"] = frames if at is None else 1
            return picture
        return _grey(dataset, apply_rescale(pixels, dataset), 1 if at is not None else frames, name, where)
    except UserError:
        raise
    except Exception as error:  # whatever pydicom and its decoders raise on a file that somebody made up
        raise UserError(
            f"{name} in {where} is no DICOM picture that can be read ({one_line(error, 160)}). Replace or remove it."
        ) from None


# What an enhanced file says of a frame in a sequence of its own (PS3.3 C.7.6.16): the sequence, and what of it counts here.
_FUNCTIONAL_GROUPS = {
    "PixelValueTransformationSequence": ("RescaleSlope", "RescaleIntercept"),
    "FrameVOILUTSequence": ("WindowCenter", "WindowWidth", "VOILUTFunction"),
    "PixelMeasuresSequence": ("PixelSpacing",),
    "CTImageFrameTypeSequence": ("FrameType",),
    "MRImageFrameTypeSequence": ("FrameType",),
}


def _take_from_functional_groups(dataset: Any, index: int) -> None:
    """Write what an enhanced file says of one frame, or of all, where a plain file has it."""
    groups = [*(dataset.get("SharedFunctionalGroupsSequence") or [])[:1]]
    groups += (dataset.get("PerFrameFunctionalGroupsSequence") or [])[index : index + 1]  # which counts more
    for group in groups:
        for sequence, tags in _FUNCTIONAL_GROUPS.items():
            for item in (group.get(sequence) or [])[:1]:
                for tag in tags:
                    if tag in item:
                        setattr(dataset, "ImageType" if tag == "FrameType" else tag, item.get(tag))


def _colour(pixels: np.ndarray, bits: int) -> Image.Image:
    """RGB of 8 bits; pydicom has converted other colours."""
    levels = pixels if bits <= 8 else (pixels.astype(np.float64) / (2**bits - 1) * 255).round()
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8), "RGB")


def _grey(dataset: Any, values: np.ndarray, frames: int, name: str, where: str) -> Values:
    """Rescaled values with the file's own window; padding outside of the picture counts as its least value."""
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    window, table = _own_window(dataset), _own_table(dataset)
    padding = dataset.get("PixelPaddingValue")
    if padding is not None:
        slope, intercept = float(dataset.get("RescaleSlope", 1)), float(dataset.get("RescaleIntercept", 0))
        outside = values == int(padding) * slope + intercept
        if outside.any() and not outside.all():
            values = np.where(outside, values[~outside].max() if inverted else values[~outside].min(), values)
    if not np.isfinite(values).all():
        raise UserError(f"{name} in {where} holds values that are not finite. Replace or remove it.")
    plain = window is None and table is None and dataset.BitsStored <= 8 and values.min() >= 0 and values.max() <= 255
    kind = np.uint8 if plain and (values == values.round()).all() else np.float32
    # INVERSE goes with MONOCHROME1, IDENTITY with MONOCHROME2 (PS3.3 C.8.11.3).
    shape = dataset.get("PresentationLUTShape")
    contradicts = bool(shape) and (shape == "INVERSE") != inverted
    spacing = dataset.get("PixelSpacing") or dataset.get("ImagerPixelSpacing") or dataset.get("PixelAspectRatio")
    return Values(
        values.astype(kind),
        window,
        table,
        inverted=inverted,
        contradicts=contradicts,
        oblong=_are_oblong(spacing),
        localizer=bool({"LOCALIZER", "SCOUT"} & {str(one).upper() for one in _several(dataset.get("ImageType"))}),
        modality=str(dataset.get("Modality") or ""),
        scaled=None if plain else "RescaleSlope" in dataset,
        frames=frames,
    )


def _several(value: Any) -> list[Any]:
    """The values of a tag, which may have none, one or several."""
    return [] if value is None else [value] if isinstance(value, str) else list(value)


def _are_oblong(spacing: Sequence[float] | None) -> bool:
    """Whether the sides of pixels, of which there are two, differ by more than a hundredth."""
    if spacing is None or len(spacing) != 2 or min(map(float, spacing)) <= 0:
        return False
    rows, columns = map(float, spacing)
    return abs(rows / columns - 1) > SQUARE


def _own_window(dataset: Any) -> tuple[float, float] | None:
    """The first window of a file (PS3.3 C.11.2.1.2); None of a file without one, or with a sigmoid one, which is no window."""
    centres, widths = dataset.get("WindowCenter"), dataset.get("WindowWidth")
    function = str(dataset.get("VOILUTFunction") or "LINEAR").upper()
    if centres is None or widths is None or function == "SIGMOID":
        return None
    centre, width = (
        float(one[0] if hasattr(one, "__len__") and not isinstance(one, str) else one) for one in (centres, widths)
    )
    if function == "LINEAR":
        centre, width = centre - 0.5, max(width - 1, 1e-6)
    return centre - width / 2, centre + width / 2


def _own_table(dataset: Any) -> tuple[int, np.ndarray] | None:
    """The first VOI table of a file that has no window: its least value, and grey levels 0 … 255 (PS3.3 C.11.2.1.1)."""
    if not dataset.get("VOILUTSequence") or dataset.get("WindowCenter") is not None:
        return None
    item = dataset.VOILUTSequence[0]
    count, first, bits = (int(one) for one in item.LUTDescriptor)
    if isinstance(data := item.LUTData, bytes):
        data = np.frombuffer(data, np.uint8 if len(data) <= (count or 65536) else "<u2")
    greys = np.asarray(data, np.float64)[: count or 65536] / (2**bits - 1) * 255
    return first, greys.round().clip(0, 255).astype(np.uint8)
