"""The network: a stock UNet2DModel, sized for small images, and the stock noise scheduler it is trained with."""

from collections.abc import Sequence

from diffusers import DDPMScheduler, UNet2DModel

from medmnist_diffusion.errors import UserError

SMALLEST_GRID = 14  # pixels a side that the network sees, at least


def build_unet(
    image_size: int,
    channels: int,
    num_classes: int,
    block_out_channels: Sequence[int] = (32, 64),
    layers_per_block: int = 1,
    pixel_unshuffle: int = 2,
    attention: bool = False,
    dropout: float = 0.0,
) -> UNet2DModel:
    """A UNet2DModel for images of `image_size`, conditioned on `num_classes` labels and one null label (the last id).

    Its inputs are N × channels·pixel_unshuffle² × S × S with S = image_size / pixel_unshuffle. `attention` puts one
    self-attention layer at the lowest resolution.

    Raises:
        UserError: if the image size cannot be unshuffled and halved as often as the blocks need.
    """
    factor = pixel_unshuffle * 2 ** (len(block_out_channels) - 1)
    if image_size % factor:
        sizes = f", or images of {image_size // factor * factor} px" if image_size > factor else ""
        raise UserError(
            f"{image_size} px images cannot be divided by {factor} (pixel_unshuffle {pixel_unshuffle}, "
            f"{len(block_out_channels)} blocks). Use fewer blocks or a smaller factor{sizes}."
        )
    blocks = len(block_out_channels)
    return UNet2DModel(
        sample_size=image_size // pixel_unshuffle,
        in_channels=channels * pixel_unshuffle**2,
        out_channels=channels * pixel_unshuffle**2,
        layers_per_block=layers_per_block,
        block_out_channels=tuple(block_out_channels),
        down_block_types=("DownBlock2D",) * blocks,
        up_block_types=("UpBlock2D",) * blocks,
        norm_num_groups=8,
        add_attention=attention,
        dropout=dropout,
        num_class_embeds=num_classes + 1,
    )


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


def build_noise_scheduler(
    beta_schedule: str = "squaredcos_cap_v2",
    prediction_type: str = "v_prediction",
    num_train_timesteps: int = 1000,
) -> DDPMScheduler:
    """The training scheduler. Trailing spacing: few-step samplers then start at the noisiest step (arXiv 2305.08891)."""
    return DDPMScheduler(
        num_train_timesteps=num_train_timesteps,
        beta_schedule=beta_schedule,
        prediction_type=prediction_type,
        timestep_spacing="trailing",
    )
