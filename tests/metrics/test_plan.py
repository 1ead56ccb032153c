"""Which images are compared: the same sizes and class shares on both sides."""

from typing import Any

import numpy as np
import pytest

from medmnist_diffusion.errors import UserError
from medmnist_diffusion.metrics.plan import plan_comparison

from .helpers import fresh


def test_both_sides_have_the_same_size_and_class_shares(small: Any) -> None:
    generated = fresh(400)
    plan = plan_comparison(small, small.splits["val"], generated, None, seed=0)
    train_shares = np.bincount(small.train.labels, minlength=4) / len(small.train)
    for rows, labels in ((plan.generated, generated.labels), (plan.floor, plan.floor_split.labels)):
        np.testing.assert_allclose(np.bincount(labels[rows], minlength=4) / len(rows), train_shares, atol=0.03)
    assert len(plan.generated) == len(plan.floor)
    np.testing.assert_array_equal(
        np.bincount(generated.labels[plan.generated]), np.bincount(plan.floor_split.labels[plan.floor])
    )
    assert plan.floor_split is small.train  # 80 val images are too few for so many generated ones
    assert not set(plan.floor) & set(plan.reference)


def test_floor_comes_from_val_where_it_is_large_enough(small: Any) -> None:
    val = small.splits["val"]
    plan = plan_comparison(small, val, fresh(90), None, seed=0)
    assert plan.floor_split is val
    assert len(plan.reference) == len(small.train)
    assert len(plan_comparison(small, val, fresh(90), 100, seed=0).reference) == 100


def test_too_few_images_are_refused(small: Any) -> None:
    with pytest.raises(UserError, match=r"at least 50 are\s+needed"):
        plan_comparison(small, small.splits["val"], fresh(30), None, seed=0)
