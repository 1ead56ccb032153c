"""Real or generated? What is counted, kept and said."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import binomtest

from medmnist_diffusion.app.rating import IMAGES, Rating, start_rating
from medmnist_diffusion.data import ImageDataset
from medmnist_diffusion.errors import UserError


def test_answers_are_counted_kept_and_gone_on_with(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    real, generated = (rng.integers(0, 256, (6, 28, 28, 1), np.uint8) for _ in range(2))
    path = tmp_path / "rating.json"
    rating = Rating(real, generated, path)
    assert "12 images" in rating.in_words()
    for index in range(12):
        assert rating.current == index
        image, is_real = rating.images[index], rating.is_real[index]
        assert any((image == one).all() for one in (real if is_real else generated))
        said_real = is_real if index else not is_real  # one wrong answer
        rating.answer(index, said_real)
        rating.answer(index, not said_real)  # a key held down
        assert index == 11 or "0." not in rating.in_words()  # who rates is not told how well it goes
    expected = binomtest(11, 12).proportion_ci(0.95, method="wilson")
    saved = json.loads(path.read_text())
    assert saved["accuracy"] == pytest.approx(11 / 12)
    assert saved["interval"] == pytest.approx([expected.low, expected.high])
    assert "0.92" in rating.in_words()
    again = Rating(real, generated, path)  # a rating goes on, in its order
    assert (again.result()["rated"], again.is_real, again.current) == (12, rating.is_real, None)
    with pytest.raises(UserError, match="no rating of these images"):
        Rating(real[:2], generated[:2], path)


def test_both_kinds_have_the_same_classes(small: ImageDataset, tmp_path: Path) -> None:
    asked: list[np.ndarray] = []

    def generate(labels: np.ndarray) -> np.ndarray:
        asked.append(labels)
        return np.zeros((len(labels), *small.shape), np.uint8)

    rating = start_rating(small, generate, tmp_path / "rating.json")
    assert len(rating.images) == IMAGES
    assert sum(rating.is_real) == IMAGES // 2
    real = rating.images[rating.is_real]
    held_out = small.splits["val"]
    labels = [int(held_out.labels[(held_out.images[:] == one).all((1, 2, 3))][0]) for one in real]
    assert sorted(labels) == sorted(asked[0].tolist())
