"""The held-out loss: the same images, noise and timesteps every time, so that two values of a run compare."""

from collections.abc import Sequence
from dataclasses import fields

import numpy as np
import torch
from diffusers import UNet2DModel

from medmnist_diffusion.data.dataset import Split, to_model_range
from medmnist_diffusion.diffusion.batches import Batch
from medmnist_diffusion.diffusion.loss import Objective, diffusion_loss
from medmnist_diffusion.diffusion.loss_log import BUCKETS

IMAGES = 512
BATCH = 128
SEED = 0  # whatever the run's own seed, so that runs compare


def fixed_batch(
    split: Split, num_train_timesteps: int, noise_shape: Sequence[int], seed: int = SEED, count: int = IMAGES
) -> Batch:
    """`count` images of the split (each as often as needed) with fixed noise, timesteps evenly over the whole range.

    Args:
        noise_shape: of the noise of one image: the encoder's padded shape.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(split), generator=generator)
    rows = order.repeat(-(-count // len(split)))[:count].numpy()
    images = to_model_range(split.images[rows])
    timesteps = ((torch.arange(count) + 0.5) / count * num_train_timesteps).long()
    noise = torch.randn((count, *noise_shape), generator=generator)
    return Batch(images, torch.from_numpy(split.labels[rows]), noise, timesteps)


def held_out_row(
    network: UNet2DModel, objective: Objective, fixed: dict[str, Batch]
) -> tuple[dict[str, float], np.ndarray]:
    """The mean losses on the batches `train` and `val`, and the squared errors, on val also by noise level, for loss.csv; and the
    single losses on `val`, float64 N."""
    on_train, train_squares = held_out_losses(network, objective, fixed["train"])
    on_val, squares = held_out_losses(network, objective, fixed["val"])
    by_bucket = {f"val_l2_bucket_{i}": float(part.mean()) for i, part in enumerate(squares.chunk(BUCKETS))}
    losses = on_val.double().cpu().numpy()
    row = {
        "train_loss_fixed": float(on_train.mean()),
        "val_loss": float(losses.mean()),
        "train_l2": float(train_squares.mean()),
        "val_l2": float(squares.mean()),
        **by_bucket,
    }
    return row, losses


@torch.no_grad()
def held_out_losses(network: UNet2DModel, objective: Objective, whole: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """The unweighted losses of the network on a fixed batch, N: as it is trained, and the squared error, which compares with
    that of a run with another loss."""
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    found = []
    for start in range(0, len(whole.labels), BATCH):
        values = [getattr(whole, field.name)[start : start + BATCH].to(device) for field in fields(Batch)]
        losses = diffusion_loss(network, Batch(*values), objective)
        found.append((losses.per_image, losses.squared))
    network.train(was_training)
    per_image, squared = zip(*found, strict=True)
    return torch.cat(per_image), torch.cat(squared)
