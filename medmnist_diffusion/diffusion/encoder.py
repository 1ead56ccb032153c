"""What stands between a data set and the network: a pixel-unshuffle for its images, whose class lies in the pipeline's own file,
and for several labels an image the vectors that the network takes.

The pipeline's configuration names the encoder. Nobody else reshapes images or labels for the network.
"""

from collections.abc import Sequence

import torch

from medmnist_diffusion.data.conditioning import Conditioning
from medmnist_diffusion.pipelines import PixelUnshuffle, label_vectors

SMALLEST_GRID = 14  # pixels a side that the network sees, at least
MOST_CHANNELS, MOST_CHANNELS_OF_VOLUMES = 64, 256  # that it sees, at most, where nothing else bounds them


def choose_encoder(
    image_shape: Sequence[int], factor: int | None = None, blocks: int = 2, most_channels: int | None = None
) -> PixelUnshuffle:
    """The encoder for images C×H×W or volumes C×D×H×W: with the given factor, else with the one that `unshuffle_factor` finds; its
    grid can be halved between `blocks` blocks."""
    factor = factor or unshuffle_factor(image_shape, most_channels)
    return PixelUnshuffle(factor, image_shape, factor * 2 ** (blocks - 1))


def unshuffle_factor(image_shape: Sequence[int], most_channels: int | None = None) -> int:
    """The largest power of two that leaves the network at least 14 pixels a side and at most so many channels.

    With 32 channels grey images of 28 px are unshuffled by 2, of 64 px and more by 4.

    Args:
        most_channels: default 64, or 256 for volumes.
    """
    *first, height, width = image_shape
    channels = first[0] if len(first) == 1 else first[0] * first[1]
    if most_channels is None:
        most_channels = MOST_CHANNELS if len(first) == 1 else MOST_CHANNELS_OF_VOLUMES
    factor = 1
    while min(height, width) // (2 * factor) >= SMALLEST_GRID and channels * (2 * factor) ** 2 <= most_channels:
        factor *= 2
    return factor


def network_labels(conditioning: Conditioning, labels: torch.Tensor, width: int) -> torch.Tensor:
    """What the network takes as `class_labels` for conditions, int64 n: the ids themselves or, of several labels an image, float
    vectors n×width, with "unknown" in the place after the last label."""
    if not conditioning.multi_label:
        return labels
    places = torch.arange(conditioning.num_classes + 1, device=labels.device)
    return label_vectors(labels[:, None] >> places & 1, width)
