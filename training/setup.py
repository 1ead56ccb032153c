"""What a configuration and a data set make of each other: the network, and what it is to learn."""

from typing import Any

from diffusers import UNet2DModel

from medmnist_diffusion.data import ImageDataset
from medmnist_diffusion.diffusion.encoder import choose_encoder
from medmnist_diffusion.diffusion.loss import Objective
from medmnist_diffusion.diffusion.machine import probe_precision
from medmnist_diffusion.diffusion.unet import build_noise_scheduler, build_unet
from medmnist_diffusion.training.config import TrainingConfig


def network_options(config: TrainingConfig, dataset: ImageDataset) -> dict[str, Any]:
    """What `build_unet` needs to know."""
    return {
        "image_size": dataset.image_size,
        "channels": dataset.channels,
        "conditioning": dataset.conditioning,
        "encoder": choose_encoder(
            dataset.image_size, dataset.channels, config.block_out_channels, config.pixel_unshuffle
        ),
        "block_out_channels": config.block_out_channels,
        "layers_per_block": config.layers_per_block,
        "attention": config.attention,
        "dropout": config.dropout,
    }


def build_network(config: TrainingConfig, dataset: ImageDataset) -> UNet2DModel:
    """The network with new weights, from torch's random state."""
    return build_unet(**network_options(config, dataset))


def build_objective(config: TrainingConfig, dataset: ImageDataset) -> Objective:
    """What the network is to learn."""
    scheduler = build_noise_scheduler(config.beta_schedule, config.prediction_type, config.num_train_timesteps)
    encoder = network_options(config, dataset)["encoder"]
    return Objective(scheduler, encoder, config.loss_type, config.huber_delta, config.snr_gamma)


def try_precision(
    config: TrainingConfig, dataset: ImageDataset, wanted: str | None = None
) -> tuple[str, dict[str, float]]:
    """The faster precision for a configuration on this machine, or the wanted one, and the images a second that were reached."""
    network = build_network(config, dataset)
    return probe_precision(network, build_objective(config, dataset), config.train_batch_size, wanted)
