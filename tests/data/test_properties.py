"""Properties of reading and of round trips that must hold for whatever input hypothesis thinks of."""

import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from medmnist_diffusion.data import load_dataset, to_model_range, to_uint8
from medmnist_diffusion.data.npz import read_npz, write_npz
from medmnist_diffusion.errors import UserError


@st.composite
def image_arrays(draw: st.DrawFn) -> dict[str, np.ndarray]:
    """Six arrays in MedMNIST's layout: any size, grey or RGB, two to five classes, labels N or N×1 of any integer type."""
    size, channels, classes = draw(st.integers(8, 20)), draw(st.sampled_from([None, 3])), draw(st.integers(2, 5))
    kind, column = draw(st.sampled_from([np.uint8, np.int32, np.int64])), draw(st.booleans())
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    arrays: dict[str, np.ndarray] = {}
    for split in ("train", "val", "test"):
        labels = np.concatenate([np.arange(classes), rng.integers(0, classes, draw(st.integers(0, 6)))]).astype(kind)
        shape = (len(labels), size, size) if channels is None else (len(labels), size, size, channels)
        arrays[f"{split}_images"] = rng.integers(0, 256, shape, np.uint8)
        arrays[f"{split}_labels"] = labels[:, None] if column else labels
    return arrays


@given(image_arrays(), st.booleans())
def test_what_is_written_is_what_is_read(arrays: dict[str, np.ndarray], on_disk: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write_npz(Path(folder) / "x.npz", arrays)
        splits = read_npz(Path(folder) / "x.npz", in_memory_bytes=0 if on_disk else 2**30)
        for name, split in splits.items():
            images = arrays[f"{name}_images"]
            np.testing.assert_array_equal(split.images[:], images.reshape(*images.shape[:3], -1))
            np.testing.assert_array_equal(split.labels, arrays[f"{name}_labels"].reshape(-1))
            assert split.labels.dtype == np.int64


@given(image_arrays(), st.data())
def test_a_label_outside_the_training_classes_is_named_wherever_it_stands(
    arrays: dict[str, np.ndarray], data: st.DataObject
) -> None:
    split = data.draw(st.sampled_from(["val", "test"]))
    labels = arrays[f"{split}_labels"].astype(np.int64)
    labels[data.draw(st.integers(0, len(labels) - 1))] = data.draw(
        st.one_of(st.integers(5, 2**40), st.integers(-(2**40), -1))
    )
    with tempfile.TemporaryDirectory() as folder:
        write_npz(Path(folder) / "x.npz", arrays | {f"{split}_labels": labels})
        with pytest.raises(UserError, match=f"{split} has label"):
            load_dataset(str(Path(folder) / "x.npz"))


@given(hnp.arrays(hnp.array_dtypes(), hnp.array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=9)))
def test_no_array_whatever_breaks_the_reader(array: np.ndarray) -> None:
    """In the place of the images or of the labels: it is read, or refused in one line."""
    rng = np.random.default_rng(0)
    good = {f"{s}_images": rng.integers(0, 256, (9, 9, 9), np.uint8) for s in ("train", "val", "test")}
    good |= {f"{s}_labels": np.arange(9) % 2 for s in ("train", "val", "test")}
    for name in ("train_images", "val_labels"):
        with tempfile.TemporaryDirectory() as folder:
            np.savez(Path(folder) / "x.npz", allow_pickle=True, **(good | {name: array}))
            try:
                load_dataset(str(Path(folder) / "x.npz"))
            except UserError as error:
                assert "\n" not in str(error)  # noqa: PT017


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 3), st.just(9), st.just(9), st.sampled_from([1, 3]))))
def test_images_survive_tensors_and_files(images: np.ndarray) -> None:
    tensor = to_model_range(images)
    assert float(tensor.min()) >= -1
    assert float(tensor.max()) <= 1
    np.testing.assert_array_equal(to_uint8(tensor), images)
    with tempfile.TemporaryDirectory() as folder:
        for i, image in enumerate(images):
            Image.fromarray(image.squeeze(-1) if image.shape[-1] == 1 else image).save(f"{folder}/{i}.png")
            back = np.asarray(Image.open(f"{folder}/{i}.png")).reshape(image.shape)
            np.testing.assert_array_equal(back, image)
