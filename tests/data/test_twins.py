"""Twins are found whatever happened to the second file, other images are left in peace, and what follows from it for splits."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medmnist_diffusion.data import load_dataset, phantom
from medmnist_diffusion.data.audit import audit, findings
from medmnist_diffusion.data.conditioning import stratified_parts
from medmnist_diffusion.data.dataset import ImageDataset, Split
from medmnist_diffusion.data.duplicates import drop_leaks
from medmnist_diffusion.data.npz import write_npz
from medmnist_diffusion.data.twins import LOWEST, clusters, find_twins, nearest_pictures, twin_limit
from tests.conftest import CliError, grey_splits


def described(image: np.ndarray, dy: int, dx: int) -> np.ndarray:
    """Of a 28×28 grey image: 3×3 means of the 24×24 window, mean 0 and length 1, by plain numpy."""
    window = image[2 + dy : 26 + dy, 2 + dx : 26 + dx, 0].astype(float)
    cells = window.reshape(8, 3, 8, 3).mean((1, 3)).ravel()
    cells -= cells.mean()
    return cells / np.linalg.norm(cells)


def test_nearest_pictures_against_brute_force() -> None:
    images = phantom.make_phantom(seed=3, counts={"train": 20})["train_images"][..., None]
    queries, references = Split("a", images[:6], np.zeros(6, np.int64)), Split("b", images[6:], np.zeros(14, np.int64))
    distances = np.array([
        [
            min(
                np.linalg.norm(described(moved, dy, dx) - described(reference, 0, 0))
                for moved in (query, query[:, ::-1])
                for dy in range(-2, 3)
                for dx in range(-2, 3)
            )
            for reference in references.images[:]
        ]
        for query in queries.images[:]
    ])  # fmt: skip
    found = nearest_pictures(queries, references)
    np.testing.assert_allclose(found.distances, np.sort(distances, 1), atol=1e-3)
    assert found.rows[:, 0].tolist() == distances.argmin(1).tolist()
    np.testing.assert_allclose(
        found.relative, np.sort(distances, 1)[:, 0] / np.sort(distances, 1)[:, 1:].mean(1), atol=1e-3
    )
    itself = nearest_pictures(references, references, np.arange(14))
    assert (itself.rows[:, 0] != np.arange(14)).all()


def test_the_limit_lies_between_two_heaps_and_below_a_single_one() -> None:
    rng = np.random.default_rng(0)
    others = 0.8 * np.exp(-rng.gamma(2, 0.06, 500))
    again = 0.1 * np.exp(rng.normal(0, 0.4, 60))
    assert twin_limit(others) == LOWEST
    limit = twin_limit(np.concatenate([others, again]))
    assert (others >= limit).mean() > 0.995
    assert (again < limit).mean() > 0.95
    assert twin_limit(np.ones(5)) == LOWEST


def saved_again(image: np.ndarray) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(image[..., 0]).save(file, "JPEG", quality=80)
    return np.asarray(Image.open(file))[..., None]


@pytest.fixture(scope="module")
def with_twins(tmp_path_factory: pytest.TempPathFactory) -> ImageDataset:
    """Of 80 val images the first 30 are twins of training images: saved again, shifted, mirrored, brighter, noised."""
    arrays, rng = phantom.make_phantom(counts={"train": 300, "val": 80, "test": 80}), np.random.default_rng(0)
    again = arrays["train_images"][:30, ..., None].copy()
    again[:10] = [saved_again(image) for image in again[:10]]
    again[10:15] = np.roll(again[10:15], (2, -1), (1, 2))
    again[15:20] = again[15:20, :, ::-1]
    again[20:25] = (0.9 * again[20:25] + 12).astype(np.uint8)
    again[25:] = (again[25:] + rng.normal(0, 3, again[25:].shape)).clip(0, 255).astype(np.uint8)
    arrays["val_images"][:30] = again[..., 0]
    path = tmp_path_factory.mktemp("twins") / "twins.npz"
    write_npz(path, arrays)
    return load_dataset(str(path))


def test_twins_are_found_and_no_others(with_twins: ImageDataset) -> None:
    found = find_twins(with_twins)
    assert found.rows("val").tolist() == list(range(30))
    assert sorted(map(tuple, found.pairs["val"].tolist())) == [(row, row) for row in range(30)]
    assert len(found.rows("test")) == 0
    assert len(found.rows("train")) == 0


def test_the_audit_says_what_twins_mean(with_twins: ImageDataset) -> None:
    report = audit(with_twins)
    assert report.twins is not None
    assert report.twins.splits["val"].images_with_twin_in_train == 30
    assert (report.twins.clusters, report.twins.largest_cluster) == (30, 2)
    said = " ".join(findings(report))
    assert "30 of 80 val images (38%) have a twin in train" in said
    assert "inflated" in said


def test_training_images_with_a_twin_are_dropped_on_request(with_twins: ImageDataset) -> None:
    kept, dropped = drop_leaks(with_twins, twins=True)
    assert (dropped, len(kept.train)) == (30, 270)
    assert "have a twin there" in kept.notes[-1]
    assert drop_leaks(with_twins)[1] == 0


def test_fresh_images_have_no_twins() -> None:
    arrays = phantom.make_phantom(seed=7, counts={"train": 400, "val": 200, "test": 200})
    splits = grey_splits(arrays)
    found = find_twins(ImageDataset("fresh", splits, dict(phantom.CLASSES)))
    assert all(len(found.rows(name)) == 0 for name in splits)


def test_clusters_are_the_connected_components() -> None:
    groups = clusters(np.array([[0, 1], [1, 2], [4, 5]]), 6)
    assert groups[0] == groups[1] == groups[2]
    assert groups[4] == groups[5]
    assert len(set(groups.tolist())) == 3


def test_a_group_stays_in_one_part() -> None:
    labels, groups = np.repeat([0, 1], 50), np.arange(100) // 2
    parts = stratified_parts(labels, 0.1, 2, np.random.default_rng(0), groups)
    assert sorted(np.concatenate(parts).tolist()) == list(range(100))
    where = np.empty(100, int)
    for part, rows in enumerate(parts):
        where[rows] = part
    assert (where[::2] == where[1::2]).all()
    plain = stratified_parts(labels, 0.1, 2, np.random.default_rng(0))
    alone = stratified_parts(labels, 0.1, 2, np.random.default_rng(0), np.arange(100))
    assert all((one == other).all() for one, other in zip(plain, alone, strict=True))


def test_drawn_splits_keep_twins_together(tmp_path: Path) -> None:
    images = phantom.make_phantom(counts={"train": 60})["train_images"]
    for at, image in enumerate(images):
        folder = tmp_path / "mine" / f"class{at % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{at}.png")
        Image.fromarray(np.roll(image, 1, 0)).save(folder / f"{at}_again.png")
    dataset = load_dataset(str(tmp_path / "mine"))
    assert any("60 images stay in one split with another one of the same picture" in note for note in dataset.notes)
    found = find_twins(dataset)
    assert [len(found.rows(name)) for name in ("val", "test")] == [0, 0]
    assert len(found.rows("train")) == len(dataset.train)


def test_images_that_are_much_alike_are_no_twins(tmp_path: Path) -> None:
    """Forty smooth ellipses and six images of noise: the ellipses are near each other, and forty pictures all the same."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:28, :28] - 13.5
    for number in range(46):
        width, height = rng.uniform(6, 11, 2)
        pixels = (
            200 * np.exp(-((x / width) ** 2) - (y / height) ** 2) if number < 40 else rng.uniform(0, 255, (28, 28))
        )
        folder = tmp_path / "mine" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{number}.png")
    dataset = load_dataset(str(tmp_path / "mine"))
    sizes = {name: len(split) for name, split in dataset.splits.items()}
    assert sum(sizes.values()) == 46
    assert 4 <= sizes["val"] <= 6
    assert 4 <= sizes["test"] <= 6
    assert any("40 images are so much alike that twins cannot be told among them" in note for note in dataset.notes)
    found = find_twins(dataset)
    assert (found.limit, found.alike) == (LOWEST, 40)
    assert any("so much alike" in line for line in findings(audit(dataset)))


def test_a_set_of_hardly_any_pictures_cannot_be_split(tmp_path: Path, cli_error: CliError) -> None:
    images = phantom.make_phantom(counts={"train": 3})["train_images"]
    for number in range(30):
        folder = tmp_path / "mine" / f"class{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images[number % 3]).save(folder / f"{number}.png")
    assert "no val and no test split could be drawn" in cli_error("audit", str(tmp_path / "mine"))
