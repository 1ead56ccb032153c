"""NIfTI files: volumes with a scanner's axes. They come in turned so that the first axis runs from feet to head, the second
from front to back, the third from the patient's left to right; and go out so that other programs show them the same way up."""

from pathlib import Path
from typing import Any

import numpy as np

from medmnist_diffusion.errors import UserError, one_line
from medmnist_diffusion.resources import check_memory

_UNREADABLE = "{} in {} is no readable NIfTI file ({}). Replace or remove it."
NIFTI_SUFFIXES = (".nii", ".nii.gz")


def is_nifti(path: str | Path) -> bool:
    return str(path).lower().endswith(NIFTI_SUFFIXES)


def read_nifti(
    path: str | Path, where: str
) -> tuple[np.ndarray, tuple[float, float] | None, tuple[float, ...] | None]:
    """float32 D×H×W, values as the file scales them, or H×W of a file with one slice; uint8 of a file of bytes. And which
    values the file says should be black and white, if it does.

    Raises:
        UserError: if the file is damaged, has more than three dimensions, or nibabel is not installed.
    """
    nibabel = _nibabel(path)
    try:
        # Its axes run from left to right, from back to front, from feet to head.
        stored: Any = nibabel.load(path)
        check_memory(3 * 4 * float(np.prod(stored.shape)), f"reading {path}", "Use a smaller volume.")
        low, high = (float(stored.header[name]) if name in stored.header else 0.0 for name in ("cal_min", "cal_max"))
        scaled = getattr(stored.dataobj, "slope", 1.0), getattr(stored.dataobj, "inter", 0.0)
        plain = stored.get_data_dtype() == np.uint8 and scaled == (1.0, 0.0)
        image: Any = nibabel.as_closest_canonical(stored)
        values = np.asarray(image.get_fdata(dtype=np.float32))
    except UserError:
        raise
    except Exception as error:  # whatever nibabel raises on a file that somebody made up
        raise UserError(_UNREADABLE.format(path, where, one_line(error, 120))) from None
    while values.ndim > 3 and values.shape[-1] == 1:
        values = values[..., 0]
    if values.ndim == 2:
        values = values[..., None]
    if values.ndim != 3:
        raise UserError(
            f"{path} in {where} has {values.ndim} dimensions {values.shape}; a volume has three. Split it."
        )
    if not np.isfinite(values).all():
        raise UserError(f"{path} in {where} holds values that are not finite (NaN or infinite). Replace or remove it.")
    volume = values.transpose(2, 1, 0)[:, ::-1]  # D×H×W, the front of the body up
    volume = np.ascontiguousarray(volume[0] if len(volume) == 1 else volume)
    spacing = tuple(float(one) or 1.0 for one in reversed(image.header.get_zooms()[:3])) if volume.ndim == 3 else None
    if plain:
        return volume.astype(np.uint8), None, spacing
    return volume, (low, high) if low < high else None, spacing


def nifti_slices(path: str | Path, where: str) -> int:
    """How many slices a volume has from feet to head; 1 of a picture."""
    nibabel = _nibabel(path)
    try:
        stored: Any = nibabel.load(path)
        axes = nibabel.io_orientation(stored.affine)[:, 0].tolist()
        return int((*stored.shape, 1, 1)[axes.index(2)])
    except Exception as error:
        raise UserError(_UNREADABLE.format(path, where, one_line(error, 120))) from None


def write_nifti(path: Path, volume: np.ndarray) -> None:
    """uint8 D×H×W×1 as a NIfTI file that `read_nifti` reads the same; voxels are cubes of 1 mm, since nobody knows better."""
    check_nifti(volume.shape[-1])
    nibabel = _nibabel(path)
    data = np.ascontiguousarray(volume[..., 0][:, ::-1].transpose(2, 1, 0))
    nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), path)


def check_nifti(channels: int) -> None:
    """Raises:
    UserError: where volumes of so many channels cannot be written here.
    """
    if channels != 1:
        raise UserError("NIfTI files hold grey volumes; these have colours. Use --format npz.")
    _nibabel("a NIfTI file")


def _nibabel(path: str | Path) -> Any:
    try:
        import nibabel
    except ImportError:
        raise UserError(
            f"{Path(path).name}: reading and writing NIfTI needs nibabel: pip install 'medmnist-diffusion[medical]'. Volumes can "
            "also be npz files."
        ) from None
    return nibabel
