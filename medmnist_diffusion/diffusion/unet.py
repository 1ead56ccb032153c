"""The network: a stock UNet2DModel, sized for small images, and the stock noise scheduler it is trained with."""

from collections.abc import Sequence

from diffusers import DDPMScheduler, UNet2DModel

from medmnist_diffusion.data.conditioning import Conditioning
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.pipelines import PixelUnshuffle, label_width

CLASSES = "class_embedding.weight"


def build_unet(
    conditioning: Conditioning,
    encoder: PixelUnshuffle,
    block_out_channels: Sequence[int] = (32, 64),
    layers_per_block: int = 1,
    attention: bool = False,
    dropout: float = 0.0,
    varied: bool = False,
) -> UNet2DModel:
    """A UNet2DModel for what the encoder makes of images, and for these conditions.

    `attention` puts one self-attention layer at the lowest resolution; `varied` has the classes of varied images, too.

    Raises:
        UserError: if the images are too small to be unshuffled and halved as often as the blocks need, the blocks too narrow
            for so many labels, or images with several labels are to be varied.
    """
    blocks = len(block_out_channels)
    encoded_channels, height, width = encoder.encoded_shape
    if min(encoder.image_shape[-2:]) < (smallest := encoder.factor * 2 ** (blocks - 1)):
        raise UserError(
            f"images of {' × '.join(map(str, encoder.image_shape[-2:]))} pixels are smaller than {smallest} (pixel_unshuffle "
            f"{encoder.factor}, {blocks} blocks). Use fewer blocks or a smaller factor."
        )
    if conditioning.multi_label and conditioning.num_classes >= (numbers := label_width(block_out_channels)):
        raise UserError(
            f"{conditioning.num_classes} labels do not fit a first block of {block_out_channels[0]} channels, which takes "
            f"{numbers - 1}. Use a wider one: --block_out_channels."
        )
    if varied and conditioning.multi_label:
        raise UserError("--varied_share needs one class an image, and these have several labels: leave it out.")
    return UNet2DModel(
        sample_size=height if height == width else (height, width),
        in_channels=encoded_channels,
        out_channels=encoded_channels,
        layers_per_block=layers_per_block,
        block_out_channels=tuple(block_out_channels),
        down_block_types=("DownBlock2D",) * blocks,
        up_block_types=("UpBlock2D",) * blocks,
        norm_num_groups=8,
        add_attention=attention,
        dropout=dropout,
        **conditioning.unet_options(varied),
    )


def without_varied(network: UNet2DModel, conditioning: Conditioning) -> UNet2DModel:
    """The network without the classes of varied images: a copy, or itself where it has none."""
    wanted = conditioning.unet_options()
    if conditioning.multi_label or network.config.num_class_embeds == wanted["num_class_embeds"]:
        return network
    plain = UNet2DModel.from_config({**network.config, **wanted}).to(network.device)
    weights = dict(network.state_dict())
    weights[CLASSES] = weights[CLASSES][: wanted["num_class_embeds"]]
    plain.load_state_dict(weights)
    return plain.train(network.training)


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
