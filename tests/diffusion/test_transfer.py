"""A network that starts from another one answers as that one does, to what both can see."""

from typing import Any

import pytest
import torch

from medmnist_diffusion.data.conditioning import Conditioning
from medmnist_diffusion.diffusion.encoder import network_labels
from medmnist_diffusion.diffusion.transfer import Ends, channel_map, take_over
from medmnist_diffusion.diffusion.unet import build_unet
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.pipelines import PixelUnshuffle


def ends(
    shape: tuple[int, ...] = (1, 16, 16),
    factor: int = 2,
    names: tuple[str, ...] = ("a", "b"),
    seed: int = 0,
    **options: Any,
) -> Ends:
    torch.manual_seed(seed)
    task = options.pop("task", "multi-class")
    conditioning = Conditioning(dict(enumerate(names)), task)
    encoder = PixelUnshuffle(factor, shape, 2 * factor)
    return Ends(
        build_unet(conditioning, encoder, **{"block_out_channels": (16, 32), **options}), encoder, conditioning
    )


@torch.no_grad()
def answer(one: Ends, images: torch.Tensor, label: int) -> torch.Tensor:
    """What the network makes of images N×C×H×W at one noise level, as images."""
    labels = network_labels(one.conditioning, torch.full((len(images),), label), 4 * 16)
    encoded = one.encoder.encode(images)
    return one.encoder.decode(one.network.eval()(encoded, 500, labels).sample)


@pytest.fixture
def base() -> Ends:
    return ends()


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(1))


def test_the_same_network_is_the_base(base: Ends, images: torch.Tensor) -> None:
    new = ends(seed=5)
    assert take_over(new, base) == []
    for label in (0, 1, 2):
        assert torch.equal(answer(new, images, label), answer(base, images, label))


def test_grey_to_colour_and_back(base: Ends, images: torch.Tensor) -> None:
    colour = ends((3, 16, 16), seed=5)
    assert "other colours" in take_over(colour, base)[0]
    wanted = answer(base, images, 1)
    torch.testing.assert_close(answer(colour, images.expand(-1, 3, -1, -1), 1), wanted.expand(-1, 3, -1, -1))
    grey = ends(seed=6)
    take_over(grey, colour)
    torch.testing.assert_close(answer(grey, images, 1), wanted)


def test_another_size_keeps_the_grid(base: Ends, images: torch.Tensor) -> None:
    large = ends((1, 32, 32), factor=4, seed=5)
    take_over(large, base)
    doubled = images.repeat_interleave(2, 2).repeat_interleave(2, 3)
    wanted = answer(base, images, 0).repeat_interleave(2, 2).repeat_interleave(2, 3)
    torch.testing.assert_close(answer(large, doubled, 0), wanted)
    small = ends(seed=6)
    take_over(small, large)
    torch.testing.assert_close(answer(small, images, 0), answer(base, images, 0))


def test_slices_of_volumes_are_averaged_or_repeated() -> None:
    volumes = torch.randn(2, 1, 8, 16, 16, generator=torch.Generator().manual_seed(1))
    base, new = ends((1, 8, 16, 16)), ends((1, 16, 16, 16), seed=5)
    take_over(new, base)
    torch.testing.assert_close(
        answer(new, volumes.repeat_interleave(2, 2), 1), answer(base, volumes, 1).repeat_interleave(2, 2)
    )


@pytest.mark.parametrize(("source", "target"), [(2, 2), (2, 4), (4, 2), (2, 3), (3, 2)])
def test_a_flat_image_stays_flat(source: int, target: int) -> None:
    maps = channel_map(PixelUnshuffle(source, (3, 12, 12)), PixelUnshuffle(target, (1, 12, 12)))
    assert maps.shape == (target**2, 3 * source**2)
    torch.testing.assert_close(maps.sum(1), torch.ones(target**2))


def test_classes_are_taken_over_by_name(base: Ends, images: torch.Tensor) -> None:
    new = ends(names=("c", "B", "d"), seed=5)
    assert take_over(new, base) == ["Classes that the base does not know start at random: c, d."]
    assert torch.equal(answer(new, images, 1), answer(base, images, 1))
    unknown = new.conditioning.null_label
    assert torch.equal(answer(new, images, unknown), answer(base, images, base.conditioning.null_label))


def test_new_classes_are_as_far_apart_as_known_ones(base: Ends) -> None:
    """Were they alike at first, few images would not do to tell them apart."""
    with torch.no_grad():
        base.network.class_embedding.weight.mul_(3)
    new = ends(names=("c", "B", "d"), seed=5)
    take_over(new, base)
    spread = torch.pdist(new.network.class_embedding.weight)
    usual = torch.pdist(base.network.class_embedding.weight)
    assert 0.7 * usual.mean() < spread.min()
    assert spread.max() < 1.4 * usual.mean()


def test_from_several_labels_to_one_class_and_the_other_way(images: torch.Tensor) -> None:
    several = ends(names=("x", "y", "z"), task="multi-label")
    one = ends(names=("y", "w"), seed=5)
    take_over(one, several)
    torch.testing.assert_close(answer(one, images, 0), answer(several, images, 0b010))
    unknown = answer(several, images, several.conditioning.null_label)
    torch.testing.assert_close(answer(one, images, one.conditioning.null_label), unknown)
    assert not torch.allclose(answer(one, images, 1), unknown)
    again = ends(names=("x", "y", "z"), task="multi-label", seed=6)
    assert "labels are new" in take_over(again, one)[0]
    torch.testing.assert_close(again.network.conv_in.weight, several.network.conv_in.weight)


def test_labels_are_taken_over_by_name(images: torch.Tensor) -> None:
    """Each alone, several together, none, and "unknown"; wherever they stand among the others."""
    base = ends(names=("x", "y", "z"), task="multi-label")
    new = ends(names=("z", "w", "x", "v"), task="multi-label", seed=5)
    assert take_over(new, base) == ["Labels that the base does not know start at random: w, v."]
    for mine, theirs in ((0b0001, 0b100), (0b0100, 0b001), (0b0101, 0b101), (0, 0), (0b10000, 0b1000)):
        torch.testing.assert_close(answer(new, images, mine), answer(base, images, theirs))
    known = [answer(base, images, label) for label in range(16)]
    assert not any(torch.allclose(answer(new, images, 0b0010), one) for one in known)
    same = ends(names=("x", "y", "z"), task="multi-label", seed=6)
    assert take_over(same, base) == []
    assert torch.equal(answer(same, images, 0b010), answer(base, images, 0b010))


def test_an_unfit_base_is_refused(base: Ends) -> None:
    with pytest.raises(UserError, match="block_out_channels"):
        take_over(ends(block_out_channels=(16, 48)), base)
    with pytest.raises(UserError, match="makes images, and this data set holds volumes"):
        take_over(ends((1, 4, 16, 16)), base)
