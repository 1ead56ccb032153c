"""The encoder: which factor is chosen, and that nothing is lost on the way."""

import numpy as np
import pytest
import torch

from medmnist_diffusion.data.conditioning import Conditioning
from medmnist_diffusion.diffusion.encoder import network_labels, unshuffle_factor
from medmnist_diffusion.pipelines import PixelUnshuffle
from tests.conftest import ROOT

LAUNCHES = ROOT / "training" / "configs" / "accelerate"


@pytest.mark.parametrize("most", [16, 32, 64, 256])
@pytest.mark.parametrize("first", [(1,), (3,), (1, 28)])
def test_unshuffling_leaves_14_pixels_and_no_more_channels_than_are_allowed(most: int, first: tuple[int, ...]) -> None:
    for height, width in [(size, size) for size in range(14, 257)] + [(64, 48), (30, 90)]:
        factor = unshuffle_factor((*first, height, width), most)
        allowed = [f for f in (1, 2, 4, 8, 16) if min(height, width) // f >= 14 and np.prod(first) * f**2 <= most]
        assert factor == max(allowed, default=1)
    assert [unshuffle_factor((1, size, size), 32) for size in (28, 64, 128, 224)] == [2, 4, 4, 4]


@pytest.mark.parametrize(
    ("shape", "factor", "multiple"),
    [((1, 28, 28), 2, 4), ((3, 30, 45), 2, 4), ((1, 12, 28, 27), 2, 4), ((1, 9, 8), 4, 8), ((1, 28, 28, 28), 1, 2)],
)
def test_whatever_is_encoded_comes_back_and_fits_the_network(
    shape: tuple[int, ...], factor: int, multiple: int
) -> None:
    encoder = PixelUnshuffle(factor, shape, multiple)
    images = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    encoded = encoder.encode(images)
    assert tuple(encoded.shape[1:]) == encoder.encoded_shape
    assert all(side % (multiple // factor) == 0 for side in encoder.encoded_shape[1:])
    torch.testing.assert_close(encoder.decode(encoded), images)
    noise = torch.randn(
        2, *encoder.padded_shape
    )  # of the padded shape: its edges are noise, too, and nothing is repeated
    assert sorted(encoder.encode(noise).flatten().tolist()) == sorted(noise.flatten().tolist())


def test_several_labels_become_a_vector_each_with_unknown_in_its_own_place() -> None:
    conditioning = Conditioning({0: "a", 1: "b", 2: "c"}, "multi-label")
    asked = conditioning.dropped(torch.tensor([0, 5, 2, 7]), torch.tensor([False, False, False, True]))
    vectors = network_labels(conditioning, asked, 8) / 4
    assert vectors.tolist() == [
        [0.0] * 8, [1.0, 0, 1, 0, 0, 0, 0, 0], [0.0, 1, 0, 0, 0, 0, 0, 0], [0.0, 0, 0, 1, 0, 0, 0, 0],
    ]  # fmt: skip
