"""What a configuration and a data set make of each other: the network, and what it is to learn."""

from dataclasses import replace
from typing import Any

from diffusers import UNet2DModel

from medmnist_diffusion.data import ImageDataset
from medmnist_diffusion.data.sources import DataSource
from medmnist_diffusion.diffusion.encoder import choose_encoder
from medmnist_diffusion.diffusion.loss import Objective
from medmnist_diffusion.diffusion.machine import probe_precision
from medmnist_diffusion.diffusion.unet import build_noise_scheduler, build_unet
from medmnist_diffusion.pipelines import label_width
from medmnist_diffusion.training.config import TrainingConfig

# The first block's channels bear as many of an image; the network can then remove noise from all of them.
NARROW = [32, 64]
FEW_IMAGES, VARIED_SHARE = 100, 0.5  # of so few images half of a batch is varied (docs/finetuning.md has the figures)
WIDER = {64: [64, 96], 256: [128, 128]}  # for images that have at most so many


def source_of(config: TrainingConfig) -> DataSource:
    """The data set that a configuration names, and how it is to be read."""
    return DataSource(config.dataset, config.root, config.size, config.fit, config.window, config.slices)


def with_choices(config: TrainingConfig, dataset: ImageDataset) -> TrainingConfig:
    """The configuration with what the data decide where it is left open: encoder, width and target.

    The network sees a grid of 14 pixels a side or more. Where an image has at most 32 channels there, a narrow network learns the
    velocity; where it has more (64 px in colour, volumes), a wider one learns the image itself: from more channels than its first
    block has, the noise that a velocity holds could not be told apart (the argument of Li & He 2025, arXiv 2511.13720).
    Of few images a share is varied.
    """
    few = len(dataset.train) <= FEW_IMAGES and not dataset.conditioning.multi_label and config.target_epsilon is None
    given = config.block_out_channels
    bounded = config.prediction_type not in (None, "sample") or (given and config.prediction_type is None)
    most = (given or NARROW)[0] if bounded else None
    encoder = choose_encoder(dataset.model_shape, config.pixel_unshuffle, len(given or NARROW), most)
    channels = encoder.encoded_shape[0]
    width = (
        NARROW
        if channels <= NARROW[0]
        else next((wide for most, wide in WIDER.items() if channels <= most), [128, 128])
    )
    return replace(
        config,
        pixel_unshuffle=encoder.factor,
        block_out_channels=given or width,
        varied_share=config.varied_share if config.varied_share is not None else VARIED_SHARE * few,
        prediction_type=config.prediction_type or ("sample" if channels > (given or NARROW)[0] else "v_prediction"),
    )


def network_options(config: TrainingConfig, dataset: ImageDataset) -> dict[str, Any]:
    """What `build_unet` needs to know."""
    config = with_choices(config, dataset)
    assert config.block_out_channels is not None
    return {
        "conditioning": dataset.conditioning,
        "encoder": choose_encoder(dataset.model_shape, config.pixel_unshuffle, len(config.block_out_channels)),
        "block_out_channels": config.block_out_channels,
        "layers_per_block": config.layers_per_block,
        "attention": config.attention,
        "dropout": config.dropout,
        "varied": bool(config.varied_share),
    }


def build_network(config: TrainingConfig, dataset: ImageDataset) -> UNet2DModel:
    """The network with new weights, from torch's random state."""
    return build_unet(**network_options(config, dataset))


def build_objective(config: TrainingConfig, dataset: ImageDataset) -> Objective:
    """What the network is to learn."""
    config, options = with_choices(config, dataset), network_options(config, dataset)
    assert config.prediction_type is not None
    return Objective(
        build_noise_scheduler(config.beta_schedule, config.prediction_type, config.num_train_timesteps),
        options["encoder"],
        dataset.conditioning,
        config.loss_type,
        config.huber_delta,
        config.snr_gamma,
        label_width=label_width(options["block_out_channels"]),
    )


def try_precision(
    config: TrainingConfig, dataset: ImageDataset, wanted: str | None = None
) -> tuple[str, dict[str, float]]:
    """The faster precision for a configuration on this machine, or the wanted one, and the images a second that were reached."""
    network = build_network(config, dataset)
    return probe_precision(network, build_objective(config, dataset), config.train_batch_size, wanted)
