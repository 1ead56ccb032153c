"""Which generated images to use: four ways of choosing, each from nothing but the regime's own real images.

Each takes the pool and returns the rows that it keeps, at most half of each class, as the arms without a selection do;
where a threshold would keep fewer than a tenth of a class, the best tenth by its own measure stays. Of several labels an image
the classes are the data set's strata (data/conditioning.py).
"""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from medmnist_diffusion.data import ImageDataset, Split
from medmnist_diffusion.data.conditioning import rows_of
from medmnist_diffusion.data.dataset import to_model_range
from medmnist_diffusion.data.duplicates import clean_held_out
from medmnist_diffusion.data.twins import find_twins, nearest_pictures
from medmnist_diffusion.metrics.classifier_training import predicted_logits
from medmnist_diffusion.metrics.memorization import QUANTILE, Threshold, nearest_features
from medmnist_diffusion.metrics.mixed_training import ImageClassifier

KEPT_SHARE = 0.5  # of the pool
LEAST_SHARE = 0.1
IN_DISTRIBUTION = 0.95  # quantile of fresh real images' distances
SETTINGS = [KEPT_SHARE, LEAST_SHARE, IN_DISTRIBUTION, QUANTILE]  # what results depend on

Selection = Callable[[Split, ImageDataset, ImageClassifier], np.ndarray]


def confident(pool: Split, regime: ImageDataset, model: ImageClassifier) -> np.ndarray:
    """The half of each class in which a classifier of the real images is surest of the label that was asked for."""
    logits = predicted_logits(model, pool)
    if regime.conditioning.multi_label:  # the chance of all labels together
        wanted = torch.from_numpy(regime.conditioning.matrix(pool.labels)).float()
        cost = F.binary_cross_entropy_with_logits(logits, wanted, reduction="none").sum(1).numpy()
    else:
        cost = -torch.softmax(logits, 1).numpy()[np.arange(len(pool)), pool.labels]
    return _best(regime.conditioning.strata(pool.labels), cost, KEPT_SHARE)


def in_distribution(pool: Split, regime: ImageDataset, model: ImageClassifier) -> np.ndarray:
    """Images no farther from their class's nearest training image, in the real-data classifier's features, than 95 % of the
    regime's validation images are; those that have a twin in train are no fresh ones."""
    val, independent, strata_of = regime.splits["val"], clean_held_out(regime), regime.conditioning.strata
    if np.isin(strata_of(val.labels), strata_of(independent.labels)).all():
        val = independent
    ours, real, fresh = (_features(model, split) for split in (pool, regime.train, val))
    strata, of_real, of_fresh = (strata_of(split.labels) for split in (pool, regime.train, val))
    excess = np.zeros(len(pool))
    for stratum in np.unique(strata):
        rows, members, others = (rows_of(of, stratum) for of in (strata, of_real, of_fresh))
        if not len(others):  # of a rare combination of labels: all val images say what is far
            others = np.arange(len(fresh))
        limit = np.quantile(nearest_features(fresh[others], real[members]).distances, IN_DISTRIBUTION)
        excess[rows] = nearest_features(ours[rows], real[members]).distances - limit
    return _below(strata, excess)


def not_memorized(pool: Split, regime: ImageDataset, model: ImageClassifier) -> np.ndarray:
    """Images no nearer to a training image, for how near others lie (data/twins.py), than all but 1 % of the regime's independent
    real images are (of fewer than a hundred of these: than the nearest one is)."""
    fresh, strata = find_twins(regime).independent, regime.conditioning.strata(pool.labels)
    if not len(fresh):
        return unselected(strata)
    return _below(strata, Threshold.of(fresh, QUANTILE).value - nearest_pictures(pool, regime.train).relative)


def diverse(pool: Split, regime: ImageDataset, model: ImageClassifier) -> np.ndarray:
    """Half of each class, each next one the farthest from the real images and from those already chosen, in the classifier's
    features (the greedy coreset of Sener & Savarese 2018, arXiv 1708.00489)."""
    ours, real = _features(model, pool), _features(model, regime.train)
    strata, of_real = (regime.conditioning.strata(split.labels) for split in (pool, regime.train))
    chosen = []
    for stratum in np.unique(strata):
        rows = rows_of(strata, stratum)
        features = ours[rows]
        distance = nearest_features(features, real[rows_of(of_real, stratum)]).distances
        for _ in range(max(1, round(KEPT_SHARE * len(rows)))):
            farthest = int(distance.argmax())
            chosen.append(rows[farthest])
            distance = np.minimum(distance, np.linalg.norm(features - features[farthest], axis=1))
            distance[farthest] = -1
    return np.sort(np.array(chosen))


def unselected(labels: np.ndarray) -> np.ndarray:
    """The first half of each class: as many as a selection keeps."""
    return _best(labels, np.zeros(len(labels)), KEPT_SHARE)


SELECTIONS: dict[str, Selection] = {
    "confident": confident,
    "in-distribution": in_distribution,
    "not-memorized": not_memorized,
    "diverse": diverse,
}


def _features(model: ImageClassifier, split: Split) -> np.ndarray:
    with torch.no_grad():
        return np.concatenate([model.features(to_model_range(chunk)).numpy() for chunk in split.chunks(256)])


def _best(labels: np.ndarray, cost: np.ndarray, share: float) -> np.ndarray:
    """The rows of least cost, a share of every class."""
    kept = []
    for label in np.unique(labels):
        rows = rows_of(labels, label)
        kept.append(rows[np.argsort(cost[rows], kind="stable")[: max(1, round(share * len(rows)))]])
    return np.sort(np.concatenate(kept))


def _below(labels: np.ndarray, excess: np.ndarray) -> np.ndarray:
    """The first rows with an excess of at most 0, half of each class at most, and at least the best tenth."""
    kept = []
    for label in np.unique(labels):
        rows = rows_of(labels, label)
        passing, least = rows[excess[rows] <= 0], max(1, round(LEAST_SHARE * len(rows)))
        if len(passing) < least:
            passing = rows[np.argsort(excess[rows], kind="stable")[:least]]
        kept.append(passing[: max(1, round(KEPT_SHARE * len(rows)))])
    return np.sort(np.concatenate(kept))
