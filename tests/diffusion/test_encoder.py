"""The encoder: which factor is chosen."""

from typing import Any

import pytest

from medmnist_diffusion.diffusion.encoder import unshuffle_factor
from tests.conftest import ROOT

LAUNCHES = ROOT / "training" / "configs" / "accelerate"


@pytest.mark.parametrize("widths", [(64,), (32, 64), (16, 32, 64)])
@pytest.mark.parametrize("channels", [1, 3])
def test_unshuffling_leaves_14_pixels_that_can_be_halved_and_no_more_channels_than_the_last_layer_tells_apart(
    widths: Any, channels: Any
) -> None:
    for size in range(14, 257):
        factor = unshuffle_factor(size, channels, widths)
        allowed = [
            f
            for f in (1, 2, 4, 8, 16)
            if size % (f * 2 ** (len(widths) - 1)) == 0 and size / f >= 14 and channels * f**2 <= widths[0]
        ]
        assert factor == max(allowed, default=1)
    assert [unshuffle_factor(size, 1, (32, 64)) for size in (28, 64, 128, 224)] == [2, 4, 4, 4]
