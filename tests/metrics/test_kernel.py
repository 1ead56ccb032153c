"""The kernel distance against torchmetrics, torch-fidelity and its definition."""

from typing import Any

import numpy as np
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric
from torchmetrics.image.kid import poly_mmd

from medmnist_diffusion.metrics.kernel import kernel_distance

from .helpers import normal


@pytest.mark.parametrize(("m", "n", "dim"), [(200, 200, 8), (1500, 1100, 16)])
def test_kernel_distance_against_torchmetrics_and_torch_fidelity(m: Any, n: Any, dim: Any) -> None:
    real, generated = normal(m, dim), normal(n, dim, 1, 0.5)
    ours = kernel_distance(real, generated).value
    if m == n:  # theirs take equal sizes
        tensors = torch.from_numpy(real), torch.from_numpy(generated)
        fidelity = kid_features_to_metric(*tensors, kid_subsets=1, kid_subset_size=n, verbose=False)
        assert ours == pytest.approx(fidelity["kernel_inception_distance_mean"], rel=1e-3)
        assert ours == pytest.approx(float(poly_mmd(*tensors)), rel=1e-3)
    k = lambda a, b: (a @ b.T / dim + 1) ** 3  # noqa: E731
    off = lambda gram: (gram.sum() - np.trace(gram)) / (len(gram) * (len(gram) - 1))  # noqa: E731
    direct = off(k(real, real)) + off(k(generated, generated)) - 2 * k(real, generated).mean()
    assert ours == pytest.approx(direct, rel=1e-9)


def test_kernel_distance_is_unbiased() -> None:
    values = [kernel_distance(normal(60, seed=i), normal(40, seed=i + 1000)).value for i in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))
