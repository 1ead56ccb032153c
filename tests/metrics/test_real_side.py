"""What knows no draw of generated images is computed once, for all of them."""

from typing import Any

import numpy as np
import pytest

from medmnist_diffusion.data import ImageDataset, duplicates, twins
from medmnist_diffusion.data.dataset import Split
from medmnist_diffusion.data.twins import Nearest
from medmnist_diffusion.metrics import classifier, label_comparisons, memorization, real_side
from medmnist_diffusion.metrics.evaluation import evaluate_images
from medmnist_diffusion.metrics.extractors import make_extractor
from medmnist_diffusion.metrics.features import Extractor
from medmnist_diffusion.metrics.real_side import RealSide

from .helpers import fresh


def test_pairs_to_compare_with_are_as_near_as_their_place_says(small: ImageDataset) -> None:
    side = RealSide(small)
    every = np.sort(np.concatenate([side.relative_of_held_out, side.relative_of_alone]))
    images, nearest = side.nearest_pairs(10, len(every))
    assert nearest.relative == pytest.approx(every[:10], rel=1e-4)
    assert len(images) == 10
    assert side.nearest_pairs(10, len(every) // 3)[1].relative == pytest.approx(every[:30:3], rel=1e-4)
    assert side.nearest_pairs(10, 10 * len(every))[1].relative == pytest.approx(every[:1], rel=1e-4)


def not_again(*args: object, **options: object) -> None:
    raise AssertionError("this was computed before")


def test_several_draws_share_the_real_side(small: ImageDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second draw looks at its own images only: no real image is embedded, searched for, judged or trained on again."""
    texture = make_extractor("texture", small)
    seen: list[bytes] = []  # images that are looked at

    def embed(images: np.ndarray) -> dict[int, np.ndarray]:
        seen.extend(image.tobytes() for image in images)
        return texture.embed(images)

    searches: list[int] = []
    search = memorization.feature_neighbours

    def counted(queries: np.ndarray, *others: Any, **options: Any) -> Nearest:
        searches.append(len(queries))
        return search(queries, *others, **options)

    monkeypatch.setattr(memorization, "feature_neighbours", counted)
    extractor = Extractor("counted", "counted-v1", 64, embed)
    # As a pipeline's draws: the same labels, other images.
    first = fresh(200)
    rng = np.random.default_rng(0)
    noised = (first.images[:] + rng.normal(0, 9, first.images.shape)).clip(0, 255).astype(np.uint8)
    second = Split("second", noised, first.labels)
    shared = RealSide(small)
    evaluate_images(small, first, [extractor], real_side=shared)
    real = {image.tobytes() for split in small.splits.values() for image in split.images[:]}
    assert real & set(seen)
    floors = dict(shared.floors)
    assert floors
    seen.clear()
    searches.clear()

    trained: list[str] = []
    fit = classifier.fitted_classifier

    def counted_fit(split: Split, *args: Any, **options: Any) -> classifier.SmallCNN:
        trained.append(split.name)
        return fit(split, *args, **options)

    monkeypatch.setattr(label_comparisons, "fitted_classifier", counted_fit)
    for module, name in (
        (twins, "_found"),
        (memorization, "nearest_copies"),  # evaluation.py has its own name for it, for the generated images
        (real_side, "real_data_classifier"),
    ):
        monkeypatch.setattr(module, name, not_again)
    again = evaluate_images(small, second, [extractor], real_side=shared)
    assert not real & set(seen)
    assert trained == ["generated images"]
    assert shared.floors == floors
    assert sum(count == len(second) for count in searches) == 2  # to train, in features and in pixels
    assert len(shared.held_out) not in searches
    assert len(small.train) not in searches

    monkeypatch.undo()
    assert again.records == evaluate_images(small, second, [extractor]).records  # sharing changes nothing


def test_the_cleaning_of_held_out_images_is_kept_by_content(
    small: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = duplicates.clean_held_out(small)
    monkeypatch.setattr(twins, "_found", None)
    assert duplicates.clean_held_out(small).content_hash == kept.content_hash


def test_the_real_side_of_something_else_is_refused(small: ImageDataset) -> None:
    shared = RealSide(small)
    with pytest.raises(ValueError, match="another data set"):
        evaluate_images(small, fresh(200), [], seed=1, real_side=shared)
    with pytest.raises(ValueError, match="unknown parts"):
        evaluate_images(small, fresh(200), [], parts=["beauty"])  # type: ignore[list-item]
