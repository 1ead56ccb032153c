"""DICOM, NIfTI and pictures of more than 8 bits, against pydicom, nibabel and NumPy themselves, on their own test files."""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medmnist_diffusion.data import load_dataset
from medmnist_diffusion.data.images import fitted_volume, open_image
from medmnist_diffusion.data.medical import Values, medical_values
from medmnist_diffusion.data.nifti import read_nifti, write_nifti
from medmnist_diffusion.errors import UserError
from tests.conftest import CliError

pydicom = pytest.importorskip("pydicom", reason="pip install 'medmnist-diffusion[medical]'")
nibabel = pytest.importorskip("nibabel", reason="pip install 'medmnist-diffusion[medical]'")

from pydicom.data import get_testdata_file  # noqa: E402
from pydicom.pixels.processing import apply_rescale, apply_windowing  # noqa: E402

COMPRESSED = [
    "JPEG2000.dcm",
    "MR_small_RLE.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_bigendian.dcm",
    "CT_small.dcm",
]


def row(path: Any) -> dict[str, Any]:
    return {"path": str(path), "bytes": None}


@pytest.mark.parametrize("name", COMPRESSED)
def test_dicom_values_are_pydicoms_rescaled_ones(name: str) -> None:
    path = get_testdata_file(name)
    dataset = pydicom.dcmread(path)
    values = medical_values(row(path), "here")
    assert isinstance(values, Values)
    wanted = apply_rescale(dataset.pixel_array, dataset)
    inside = wanted != dataset.get("PixelPaddingValue", np.inf)
    np.testing.assert_allclose(values.values[inside], wanted[inside])


@pytest.mark.parametrize("name", ["MR_small.dcm", "693_J2KI.dcm"])
def test_a_files_own_window_is_what_pydicom_shows(name: str) -> None:
    path = get_testdata_file(name)
    dataset = pydicom.dcmread(path)
    values = medical_values(row(path), "here")
    assert isinstance(values, Values)
    shown = apply_windowing(apply_rescale(dataset.pixel_array, dataset), dataset)
    centre, width = float(dataset.WindowCenter), float(dataset.WindowWidth)
    stored = apply_rescale(dataset.pixel_array, dataset).astype(float)
    wanted = (((stored - (centre - 0.5)) / (width - 1) + 0.5) * 255).clip(0, 255)  # PS3.3 C.11.2.1.2.1
    assert np.corrcoef(wanted.ravel(), shown.ravel())[0, 1] == pytest.approx(1, abs=1e-6)  # pydicom has other units
    grey = values.grey(values.window).astype(float)
    np.testing.assert_allclose(255 - grey if values.inverted else grey, wanted, atol=1.5)


def test_inverted_pictures_are_turned_round(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    plain = medical_values(row(get_testdata_file("CT_small.dcm")), "here")
    dataset.PhotometricInterpretation = "MONOCHROME1"
    dataset.save_as(tmp_path / "x.dcm")
    inverted = medical_values(row(tmp_path / "x.dcm"), "here")
    assert isinstance(plain, Values)
    assert isinstance(inverted, Values)
    window = (-200.0, 1800.0)
    np.testing.assert_array_equal(inverted.grey(window), 255 - plain.grey(window))


def test_files_that_contradict_themselves_on_black_and_white_are_said(tmp_path: Path) -> None:
    """PresentationLUTShape is IDENTITY where the least value is black, INVERSE where it is white (PS3.3 C.8.11.3)."""
    folder = folder_of_dicom(tmp_path / "scans")
    for number, (kind, shape) in enumerate(
        [
            ("MONOCHROME2", "INVERSE"),
            ("MONOCHROME1", "INVERSE"),
            ("MONOCHROME2", "IDENTITY"),
            ("MONOCHROME1", "IDENTITY"),
        ]
    ):
        path = folder / "ct" / f"{2 * number}.dcm"
        dataset = pydicom.dcmread(path)
        dataset.PhotometricInterpretation, dataset.PresentationLUTShape = kind, shape
        dataset.save_as(path)
    notes = load_dataset(str(folder), size=32).notes
    assert any("2 of 24 images contradict themselves" in note and "first: ct/0.dcm" in note for note in notes)
    assert any("2 of 24 images are stored with white as the least value" in note for note in notes)


def test_pixels_that_are_not_square_are_said(tmp_path: Path) -> None:
    folder = folder_of_dicom(tmp_path / "scans")
    path = folder / "ct" / "0.dcm"
    dataset = pydicom.dcmread(path)
    dataset.PixelSpacing = [3.0, 1.0]
    dataset.save_as(path)
    notes = load_dataset(str(folder), size=32).notes
    assert any(
        "1 of 24 images have pixels that are not square" in note and "first: ct/0.dcm" in note for note in notes
    )


def test_slices_of_oblong_voxels_are_said(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    for label in ("a", "b"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for number in range(12):
            values = np.random.default_rng(number).integers(0, 900, (16, 16, 6)).astype(np.int16)
            image = nibabel.Nifti1Image(values, np.diag([1.0, 2.0, 5.0, 1.0]))
            nibabel.save(image, tmp_path / "set" / label / f"{label}{number}.nii.gz")
    notes = load_dataset(str(tmp_path / "set"), slices=2).notes
    assert any("48 of 48 images have pixels that are not square" in note for note in notes)
    whole = load_dataset(str(tmp_path / "set"), size=16).notes  # cubes of the body: nothing to say
    assert not any("not square" in note for note in whole)


def test_colour_and_palette_dicom_are_pictures() -> None:
    for name in ("SC_rgb_rle.dcm", "SC_rgb_jpeg_dcmtk.dcm", "examples_palette.dcm"):
        path = get_testdata_file(name)
        if path is None:
            continue
        image = medical_values(row(path), "here")
        assert isinstance(image, Image.Image), name
        assert image.mode == "RGB"


def test_a_dicom_file_without_a_picture_is_named(tmp_path: Path, cli_error: CliError) -> None:
    for label in "ab":
        (tmp_path / label).mkdir()
        (tmp_path / label / "x.dcm").write_bytes(Path(get_testdata_file("rtplan.dcm")).read_bytes())
    line = cli_error("audit", str(tmp_path))
    assert "without a picture" in line
    assert "x.dcm" in line


def folder_of_dicom(path: Path, count: int = 12) -> Path:
    """Two of pydicom's own grey files, moved about a little, as two classes, some without a suffix; two files a patient."""
    rng = np.random.default_rng(0)
    for label, name in (("ct", "CT_small.dcm"), ("mr", "MR_small.dcm")):
        dataset = pydicom.dcmread(get_testdata_file(name))
        (path / label).mkdir(parents=True)
        for number in range(count):
            pixels = np.roll(dataset.pixel_array, rng.integers(0, 30, 2), (0, 1)) + rng.integers(0, 9)
            dataset.PatientID = f"Jane Doe {number // 2}"
            dataset.PixelData = pixels.astype(dataset.pixel_array.dtype).tobytes()
            dataset.save_as(path / label / (f"1.2.840.{number}" if number % 2 else f"{number}.dcm"))
    return path


def test_a_folder_of_dicom_says_what_was_done(tmp_path: Path) -> None:
    dataset = load_dataset(str(folder_of_dicom(tmp_path / "scans")), size=32)
    assert dataset.shape == (32, 32, 1)
    assert sum(map(len, dataset.splits.values())) == 24
    assert any("The DICOM files name 6 patients, not enough" in note for note in dataset.notes)
    assert any("became the grey levels 0 to 255" in note for note in dataset.notes)
    assert any("burnt into the pixels" in note for note in dataset.notes)
    ours = " ".join(dataset.notes)
    for secret in ("CompressedSamples", "19970424", "1CT1", "4MR1"):  # names and ids in these files' tags
        assert secret not in ours
    fixed = load_dataset(str(tmp_path / "scans"), size=32, window=[0, 2000])
    assert any("from 0 to 2000 (as asked)" in note for note in fixed.notes)
    assert fixed.content_hash != dataset.content_hash


@pytest.mark.parametrize(("mode", "dtype"), [("I;16", np.uint16), ("F", np.float32)])
def test_deep_pictures_get_one_window_for_all(tmp_path: Path, mode: str, dtype: Any) -> None:
    rng = np.random.default_rng(0)
    every: dict[str, np.ndarray] = {}
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(15):
            pixels = (rng.gamma(2, 900, (28, 28)) + (label == "b") * 3000).astype(dtype)
            name = f"{label}/{number}.{'png' if dtype == np.uint16 else 'tif'}"
            every[name] = pixels
            Image.fromarray(pixels).save(tmp_path / name)
    dataset = load_dataset(str(tmp_path))
    low, high = np.percentile(np.stack(list(every.values())), (0.5, 99.5))
    for split in dataset.splits.values():
        for name, image in zip(split.files or [], split.images[:][..., 0], strict=True):
            np.testing.assert_allclose(image, ((every[name] - low) / (high - low) * 255).clip(0, 255), atol=1.01)
    with pytest.raises(Exception, match="--window is 5 3"):
        load_dataset(str(tmp_path), window="5 3")
    with pytest.raises(Exception, match="say no window of their own"):
        load_dataset(str(tmp_path), window="file")


@pytest.mark.parametrize(("mark", "others"), [(-9999.0, (0, 2000)), (-3.4e38, (-500, 300)), (1e20, (0.0, 1.0))])
def test_a_mark_for_missing_values_is_named(
    mark: float, others: tuple[float, float], tmp_path: Path, cli_error: CliError
) -> None:
    rng = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(15):
            pixels = rng.uniform(*others, (28, 28)).astype(np.float32)
            pixels[:4] = mark
            Image.fromarray(pixels).save(tmp_path / label / f"{number}.tif")
    said = cli_error("audit", str(tmp_path))
    assert "14.3% of all values are" in said
    assert "--window LOW HIGH" in said
    low, high = others
    images = load_dataset(str(tmp_path), window=f"{low} {high}").train.images[:]
    assert images[:, 4:].mean() == pytest.approx(127.5, abs=2)
    assert len(np.unique(images[:, :4])) == 1


def test_values_that_are_no_marks_are_read(tmp_path: Path) -> None:
    """Air around a head in Hounsfield units, and a black background far below bright tissue."""
    rng = np.random.default_rng(0)
    for name, background, low, high in (("ct", -1024, -900, 1500), ("bright", 0, 3000, 4000)):
        for label in "ab":
            (tmp_path / name / label).mkdir(parents=True)
            for number in range(15):
                pixels = rng.uniform(low, high, (28, 28)).astype(np.float32)
                pixels[:8] = background
                Image.fromarray(pixels).save(tmp_path / name / label / f"{number}.tif")
        assert np.ptp(load_dataset(str(tmp_path / name)).train.images[:]) == 255


def test_deep_and_other_pictures_do_not_mix(tmp_path: Path, cli_error: CliError) -> None:
    for label, dtype in (("a", np.uint16), ("b", np.uint8)):
        (tmp_path / label).mkdir()
        for number in range(4):
            Image.fromarray(np.full((28, 28), number, dtype)).save(tmp_path / label / f"{number}.png")
    assert "no window fits both" in cli_error("audit", str(tmp_path))


def test_nifti_axes_are_the_scanners(tmp_path: Path) -> None:
    """A mark at the patient's left, front and head lands there, however the file stores its axes."""
    body = np.zeros((8, 10, 12), np.float32)  # left to right, back to front, feet to head
    body[7, 9, 11] = 5
    plain = nibabel.Nifti1Image(body, np.eye(4))
    for code in ("RAS", "LPS", "AIL", "SPR"):
        turned = plain.as_reoriented(
            nibabel.orientations.ornt_transform(
                nibabel.orientations.io_orientation(plain.affine), nibabel.orientations.axcodes2ornt(code)
            )
        )
        nibabel.save(turned, tmp_path / f"{code}.nii.gz")
        values, window, spacing = read_nifti(tmp_path / f"{code}.nii.gz", "here")
        assert values.shape == (12, 10, 8)  # feet to head, front to back, left to right
        assert spacing == (1, 1, 1)
        assert values[11, 0, 7] == 5
        assert window is None


def test_written_volumes_are_read_as_they_were(tmp_path: Path) -> None:
    volume = np.random.default_rng(0).integers(0, 256, (9, 8, 11, 1), np.uint8)
    write_nifti(tmp_path / "x.nii.gz", volume)
    values, *_ = read_nifti(tmp_path / "x.nii.gz", "here")
    assert values.dtype == np.uint8
    np.testing.assert_array_equal(values, volume[..., 0])


def test_a_small_file_of_a_huge_volume_is_refused_before_it_is_read(tmp_path: Path) -> None:
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.uint8)
    header.set_data_shape((30_000, 30_000, 30_000))
    with gzip.open(tmp_path / "huge.nii.gz", "wb") as file:
        file.write(header.binaryblock + bytes(2**20))
    with pytest.raises(UserError, match=r"huge\.nii\.gz needs about 3\.02e\+05 GiB of memory"):
        read_nifti(tmp_path / "huge.nii.gz", "here")


def folder_of_nifti(path: Path, count: int = 12) -> Path:
    rng = np.random.default_rng(0)
    for label in ("high", "low"):
        (path / label).mkdir(parents=True)
        for number in range(count):
            blobs = np.kron(rng.normal(size=(5, 6, 4)), np.ones((4, 4, 4)))
            volume = blobs + (label == "high") * np.linspace(0, 3, 16)
            nibabel.save(nibabel.Nifti1Image(volume.astype(np.float32), np.eye(4)), path / label / f"{number}.nii.gz")
    return path


def test_nifti_as_volumes_or_as_slices(tmp_path: Path) -> None:
    path = folder_of_nifti(tmp_path / "scans")
    volumes = load_dataset(str(path), size=16)
    assert volumes.shape == (16, 16, 16, 1)
    assert volumes.is_volume
    assert any("Volumes of 16×24×20 voxels were cropped to their middle cube" in note for note in volumes.notes)
    slices = load_dataset(str(path), size=16, slices=5)
    assert slices.shape == (16, 16, 1)
    assert sum(map(len, slices.splits.values())) == 5 * sum(map(len, volumes.splits.values()))
    people = {name: set(split.groups or []) for name, split in slices.splits.items()}
    assert not people["train"] & people["val"]
    assert not people["train"] & people["test"]


@pytest.mark.parametrize("fit", ["crop", "pad", "squash"])
def test_volumes_become_cubes(fit: Any) -> None:
    volume = np.zeros((10, 20, 12), np.uint8)
    volume[:, 5:15] = 255
    cube = fitted_volume(volume, 10, fit)
    share = {"crop": 1.0, "pad": 10 * 12 * 10 / 20**3, "squash": 0.5}[fit]
    assert cube.shape == (10, 10, 10)
    assert cube.mean() / 255 == pytest.approx(share, abs=0.03)


def test_a_cube_is_one_of_the_body(tmp_path: Path) -> None:
    """Slices 5 mm apart, pixels of 1 mm: the middle cube has 20 slices of 100 × 100 pixels."""
    volume = np.zeros((20, 160, 160), np.uint8)
    volume[:, 30:130, 30:130] = 255
    assert fitted_volume(volume, 10, "crop", (5.0, 1.0, 1.0)).min() == 255
    padded = fitted_volume(volume, 16, "pad", (5.0, 1.0, 1.0))
    assert padded.mean() / 255 == pytest.approx(100**3 / 160**3, abs=0.03)


def grey_dicom(values: np.ndarray, **tags: Any) -> Any:
    """CT_small.dcm with other pixels and tags."""
    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    for name in ("WindowCenter", "WindowWidth", "PixelPaddingValue"):
        if name in dataset:
            delattr(dataset, name)
    dataset.PixelData, (dataset.Rows, dataset.Columns) = values.astype("<i2").tobytes(), values.shape
    for name, value in {"RescaleIntercept": 0, "RescaleSlope": 1, **tags}.items():
        setattr(dataset, name, value)
    return dataset


def read(dataset: Any, path: Path) -> Values:
    dataset.save_as(path)
    values = medical_values(row(path), "here")
    assert isinstance(values, Values)
    return values


def test_windows_of_every_kind(tmp_path: Path) -> None:
    ramp = np.arange(-8, 8).reshape(4, 4)
    linear = read(grey_dicom(ramp, WindowCenter=0, WindowWidth=9), tmp_path / "a.dcm")
    exact = read(grey_dicom(ramp, WindowCenter=0, WindowWidth=8, VOILUTFunction="LINEAR_EXACT"), tmp_path / "b.dcm")
    sigmoid = read(grey_dicom(ramp, WindowCenter=0, WindowWidth=8, VOILUTFunction="SIGMOID"), tmp_path / "c.dcm")
    assert linear.window == (-4.5, 3.5)
    assert exact.window == (-4, 4)
    assert not sigmoid.says_window
    assert exact.grey(exact.window)[ramp == 0] == 128
    table = pydicom.Dataset()
    table.LUTDescriptor, table.LUTData = [4, -2, 8], [0, 100, 200, 255]
    dataset = grey_dicom(ramp, VOILUTSequence=pydicom.Sequence([table]))
    dataset.VOILUTSequence[0]["LUTDescriptor"].VR = "SS"
    dataset.VOILUTSequence[0]["LUTData"].VR = "US"
    shown = read(dataset, tmp_path / "d.dcm").grey(None)
    wanted = np.array([0, 100, 200, 255])[(ramp + 2).clip(0, 3)]
    np.testing.assert_array_equal(shown, wanted)


def test_the_percentiles_see_all_columns() -> None:
    values = np.full((1024, 1024), 100, np.float32)
    values[:, 400:440] = 3000
    assert np.percentile(Values(values).sample, 99.5) == 3000


def test_one_window_for_all_unless_asked_otherwise(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for label, centre in (("a", 0), ("b", 500)):
        (tmp_path / label).mkdir()
        for number in range(6):
            values = rng.integers(-1000, 1000, (28, 28))
            grey_dicom(values, WindowCenter=centre, WindowWidth=401).save_as(tmp_path / label / f"{number}.dcm")
    default = load_dataset(str(tmp_path))
    own = load_dataset(str(tmp_path), window="file")
    assert any("0.5 and 99.5 %" in note for note in default.notes)
    assert any("as each file says itself" in note for note in own.notes)
    for number in range(6):
        grey_dicom(rng.integers(-1000, 1000, (28, 28)), WindowCenter=0, WindowWidth=401).save_as(
            tmp_path / "b" / f"{number}.dcm"
        )
    assert any("the window that every file says" in note for note in load_dataset(str(tmp_path)).notes)


def test_deep_pictures_lie_as_viewers_show_them(tmp_path: Path) -> None:
    pixels = np.arange(28 * 28, dtype=np.uint16).reshape(28, 28) * 60
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(4):
            exif = Image.Exif()
            exif[0x0112] = 6
            Image.fromarray(np.roll(pixels, number, 1)).save(tmp_path / label / f"{number}.png", exif=exif)
    dataset = load_dataset(str(tmp_path), window=[0, 47040])
    assert any("turned upright" in note for note in dataset.notes)
    image = dataset.train.images[:][0, ..., 0].astype(int)
    assert (np.diff(image[:, 0]) <= 20).all()
    assert image[0].std() > image[:, 0].std()  # rows have become columns


def test_tiff_whose_least_value_is_white(tmp_path: Path) -> None:
    pixels = np.arange(28 * 28, dtype=np.uint16).reshape(28, 28)
    for name, kind in (("a", 1), ("b", 0)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.tif", tiffinfo={262: kind})
    stored: Any = Image.open(tmp_path / "b.tif")
    assert stored.tag_v2[262] == 0
    stored.close()
    black, white = (open_image(row(tmp_path / f"{name}.tif"), "here") for name in "ab")
    assert isinstance(black, Values)
    assert isinstance(white, Values)
    np.testing.assert_array_equal(white.grey((0, 783)), 255 - black.grey((0, 783)))


def test_a_volume_that_was_written_anew_is_read_anew(tmp_path: Path) -> None:
    for level in (10, 20):
        write_nifti(tmp_path / "x.nii.gz", np.full((8, 8, 8, 1), level, np.uint8))
        values = medical_values(row(tmp_path / "x.nii.gz"), "here")
        assert isinstance(values, Values)
        assert set(values.values.ravel().tolist()) == {level}


def test_patients_named_in_dicom_stay_in_one_split_and_unnamed_outside(tmp_path: Path) -> None:
    dataset = load_dataset(str(folder_of_dicom(tmp_path / "scans", count=60)))
    assert any("The DICOM files name 30 patients: images of one belong together" in note for note in dataset.notes)
    assert "Jane" not in str(dataset.notes)
    groups = {name: set(split.groups or []) for name, split in dataset.splits.items()}
    assert all(groups.values())
    assert "Jane" not in str(groups)
    assert not (groups["train"] & groups["val"] | groups["train"] & groups["test"] | groups["val"] & groups["test"])
    assert sum(map(len, groups.values())) == 30


def test_frames_of_dicom_files_are_read_as_asked(tmp_path: Path, cli_error: CliError) -> None:
    rng = np.random.default_rng(0)
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(6):
            frames = rng.integers(0, 1000, (5 if number else 2, 28, 28))
            dataset = grey_dicom(frames[0])
            dataset.NumberOfFrames, dataset.PixelData = len(frames), frames.astype(np.int16).tobytes()
            dataset.save_as(tmp_path / label / f"{number}.dcm")
    path = tmp_path / "a" / "1.dcm"
    stored = pydicom.dcmread(path).pixel_array
    third = medical_values(row(f"{path}#1of3"), "here")
    assert isinstance(third, Values)
    np.testing.assert_array_equal(third.values, stored[2])  # the middle of five
    first = load_dataset(str(tmp_path))
    assert any("several pages or frames" in note and "--slices 8" in note for note in first.notes)
    dataset = load_dataset(str(tmp_path), slices=3)
    assert sum(map(len, dataset.splits.values())) == 2 * (2 + 5 * 3)
    assert any("2 volumes have fewer" in note for note in dataset.notes)
    assert not any("several pages" in note for note in dataset.notes)


def test_volumes_with_fewer_slices_than_asked_give_each_once(tmp_path: Path) -> None:
    for label in "ab":
        (tmp_path / label).mkdir()
        for number in range(4):
            volume = np.random.default_rng([number, ord(label)]).integers(0, 255, (4, 28, 28, 1), np.uint8)
            write_nifti(tmp_path / label / f"{number}.nii.gz", volume)
    dataset = load_dataset(str(tmp_path), slices=10)
    assert sum(map(len, dataset.splits.values())) == 2 * 4 * 4
    assert any("8 volumes have fewer: all of theirs were read" in note for note in dataset.notes)
