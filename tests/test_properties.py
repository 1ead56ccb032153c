"""Properties that must hold for whatever input hypothesis thinks of: reading, labels, configurations, metrics, round trips."""

import dataclasses
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from medmnist_diffusion.data import load_dataset, to_model_range, to_uint8
from medmnist_diffusion.data.npz import read_npz, write_npz
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.metrics.frechet import FeatureStatistics, frechet_distance
from medmnist_diffusion.metrics.intervals import holm
from medmnist_diffusion.metrics.kernel import kernel_distance
from medmnist_diffusion.metrics.neighbours import precision_recall_density_coverage
from medmnist_diffusion.sample import class_folder
from medmnist_diffusion.training.config import TrainingConfig, parse_config, write_config

settings.register_profile(
    "ci", max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("ci")

# Reading


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


# Round trips


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


@given(st.integers(0, 999), st.text(max_size=40))
def test_a_class_folder_is_one_plain_name_that_keeps_its_id(label: int, name: str) -> None:
    folder = class_folder(label, name, 1000)
    assert Path(folder).name == folder
    assert folder.isascii()
    assert int(folder.split("_")[0]) == label


# Configurations

NUMBERS: dict[str, st.SearchStrategy[Any]] = {
    "learning_rate": st.floats(1e-6, 1.0), "train_batch_size": st.integers(1, 999), "seed": st.integers(0, 2**31),
    "label_dropout": st.floats(0, 1), "loss_type": st.sampled_from(["l1", "l2", "huber"]), "use_ema": st.booleans(),
    "block_out_channels": st.lists(st.integers(1, 9).map(lambda n: 8 * n), min_size=1, max_size=3),
    "snr_gamma": st.one_of(st.none(), st.floats(0.1, 10)), "max_train_steps": st.integers(1, 10**6),
}  # fmt: skip


def some_settings() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=NUMBERS)


def command_line(values: dict[str, Any]) -> list[str]:
    words: list[str] = []
    for name, value in values.items():
        if value is not None:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words


@given(some_settings(), some_settings())
def test_the_command_line_wins_over_the_file_and_both_over_the_defaults(
    in_file: dict[str, Any], on_line: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.yaml"
        path.write_text(yaml.safe_dump(in_file))
        config = parse_config(["--config", str(path), "--dataset", "d", "--output_dir", "o", *command_line(on_line)])
    given_values = {name: value for name, value in on_line.items() if value is not None}
    expected = {**dataclasses.asdict(TrainingConfig()), **in_file, **given_values}
    for name in NUMBERS:
        assert getattr(config, name) == expected[name], name


@given(some_settings())
def test_a_written_configuration_is_read_as_the_same(values: dict[str, Any]) -> None:
    config = parse_config(["--dataset", "d", "--output_dir", "o", *command_line(values)])
    with tempfile.TemporaryDirectory() as folder:
        write_config(config, Path(folder) / "c.yaml")
        assert parse_config(["--config", f"{folder}/c.yaml", "--output_dir", "o"]) == config


@given(
    st.dictionaries(
        st.text(max_size=20), st.one_of(st.none(), st.integers(), st.text(max_size=9), st.lists(st.integers()))
    )
)
def test_no_yaml_whatever_breaks_the_parser(values: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        try:
            parse_config(["--config", str(path), "--dataset", "d", "--output_dir", "o"])
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017


# Metrics


@st.composite
def features(draw: st.DrawFn) -> np.ndarray:
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n, dim = draw(st.integers(40, 80)), 6
    mixing = rng.normal(size=(dim, dim))
    return rng.normal(size=(n, dim)) @ mixing * draw(st.floats(0.01, 100)) + draw(st.floats(-5, 5))


def frechet(real: np.ndarray, generated: np.ndarray) -> float:
    return frechet_distance(FeatureStatistics.of(real), generated)


def kernel(real: np.ndarray, generated: np.ndarray) -> float:
    return kernel_distance(real, generated).value


DISTANCES = pytest.mark.parametrize("distance", [frechet, kernel])
Distance = Callable[[np.ndarray, np.ndarray], float]


@DISTANCES
@given(st.data())
def test_distances_are_symmetric(distance: Distance, data: st.DataObject) -> None:
    first, second = data.draw(features()), data.draw(features())
    scale = abs(distance(first, second)) + frechet(first, np.zeros_like(first) + first.mean(0)) + 1e-12
    assert distance(first, second) == pytest.approx(distance(second, first), abs=1e-6 * scale, rel=1e-6)


@DISTANCES
@given(st.data())
def test_distances_do_not_depend_on_order(distance: Distance, data: st.DataObject) -> None:
    first, second = data.draw(features()), data.draw(features())
    rng = np.random.default_rng(0)
    shuffled = distance(rng.permutation(first), rng.permutation(second))
    assert shuffled == pytest.approx(distance(first, second), rel=1e-6, abs=1e-6 * np.var(first))


@given(features())
def test_a_set_has_no_frechet_distance_to_itself(first: np.ndarray) -> None:
    assert frechet(first, first) == pytest.approx(0, abs=1e-6 * np.var(first) * first.shape[1])


@DISTANCES
@given(st.data())
def test_more_noise_is_farther_away(distance: Distance, data: st.DataObject) -> None:
    first = data.draw(features())
    first = (first - first.mean(0)) / first.std(0)
    noise = np.random.default_rng(1).normal(size=first.shape)
    found = [distance(first, first + amount * noise) for amount in (0.5, 1.0, 2.0, 4.0)]
    assert found == sorted(found)


@given(features())
def test_a_set_beside_itself_has_all_neighbours(first: np.ndarray) -> None:
    figures = precision_recall_density_coverage(first, first)
    assert figures["precision"].value == figures["recall"].value == figures["coverage"].value == 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_raises_no_p_value_above_one_lowers_none_and_keeps_their_order(p_values: list[float]) -> None:
    corrected = holm(p_values)
    assert all(before <= after <= 1 for before, after in zip(p_values, corrected, strict=True))
    order = np.argsort(p_values, kind="stable")
    assert list(np.array(corrected)[order]) == sorted(corrected)
