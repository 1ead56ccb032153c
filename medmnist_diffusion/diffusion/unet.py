"""The network: a stock UNet2DModel, sized for small images, and the stock noise scheduler it is trained with."""

from collections.abc import Sequence

from diffusers import DDPMScheduler, UNet2DModel

from medmnist_diffusion.data.conditioning import Conditioning
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.pipelines import PixelUnshuffle


def build_unet(
    image_size: int,
    channels: int,
    conditioning: Conditioning,
    encoder: PixelUnshuffle,
    block_out_channels: Sequence[int] = (32, 64),
    layers_per_block: int = 1,
    attention: bool = False,
    dropout: float = 0.0,
) -> UNet2DModel:
    """A UNet2DModel for what the encoder makes of images with `image_size` pixels a side, and for these conditions.

    `attention` puts one self-attention layer at the lowest resolution.

    Raises:
        UserError: if the image size cannot be unshuffled and halved as often as the blocks need.
    """
    factor = encoder.factor * 2 ** (len(block_out_channels) - 1)
    if image_size % factor:
        sizes = f", or images of {image_size // factor * factor} px" if image_size > factor else ""
        raise UserError(
            f"{image_size} px images cannot be divided by {factor} (pixel_unshuffle {encoder.factor}, "
            f"{len(block_out_channels)} blocks). Use fewer blocks or a smaller factor{sizes}."
        )
    blocks = len(block_out_channels)
    encoded_channels, size, _ = encoder.encoded_shape(channels, image_size, image_size)
    return UNet2DModel(
        sample_size=size,
        in_channels=encoded_channels,
        out_channels=encoded_channels,
        layers_per_block=layers_per_block,
        block_out_channels=tuple(block_out_channels),
        down_block_types=("DownBlock2D",) * blocks,
        up_block_types=("UpBlock2D",) * blocks,
        norm_num_groups=8,
        add_attention=attention,
        dropout=dropout,
        **conditioning.unet_options(),
    )


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
