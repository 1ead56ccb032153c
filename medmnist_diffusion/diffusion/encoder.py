"""What stands between images and the network: a pixel-unshuffle, whose class lies in the pipeline's own file.

The pipeline's configuration names it. Nobody else reshapes images for the network.
"""

from collections.abc import Sequence

from medmnist_diffusion.pipelines import PixelUnshuffle

SMALLEST_GRID = 14  # pixels a side that the network sees, at least


def choose_encoder(
    image_size: int, channels: int, block_out_channels: Sequence[int], factor: int | None = None
) -> PixelUnshuffle:
    """The encoder for images of this size: with the given factor, else with the one that `unshuffle_factor` finds."""
    return PixelUnshuffle(factor or unshuffle_factor(image_size, channels, block_out_channels))


def unshuffle_factor(image_size: int, channels: int, block_out_channels: Sequence[int]) -> int:
    """The largest power of two that leaves the network at least 14 pixels a side, which its blocks can still halve, and no more
    channels than its last layer can tell apart.

    A UNet2DModel ends in a convolution from its first block's channels: more output channels than these would lie in a subspace,
    and the rest of the noise would never be removed. With 32 channels grey images of 28 px are unshuffled by 2, of 64 px and more
    by 4.
    """
    factor = 1
    while (
        image_size // (2 * factor) >= SMALLEST_GRID
        and image_size % (factor * 2 ** len(block_out_channels)) == 0
        and channels * (2 * factor) ** 2 <= block_out_channels[0]
    ):
        factor *= 2
    return factor
