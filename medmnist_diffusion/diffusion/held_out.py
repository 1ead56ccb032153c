"""The held-out loss: the same images, noise and timesteps every time, so that two values of a run compare."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from diffusers import DDPMScheduler, UNet2DModel

from medmnist_diffusion.data.dataset import Split, to_model_range
from medmnist_diffusion.diffusion.loss_log import BUCKETS
from medmnist_diffusion.diffusion.objectives import loss_per_image, prediction_target

IMAGES = 512
BATCH = 128


@dataclass(frozen=True)
class HeldOut:
    """A fixed problem: images float −1 … 1 N×C×H×W, labels N, noise like images, timesteps N."""

    images: torch.Tensor
    labels: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor

    @classmethod
    def draw(cls, split: Split, num_train_timesteps: int, seed: int, count: int = IMAGES) -> "HeldOut":
        """`count` images of the split (each as often as needed), timesteps evenly over the whole range."""
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(split), generator=generator)
        rows = order.repeat(-(-count // len(split)))[:count].numpy()
        images = to_model_range(split.images[rows])
        timesteps = ((torch.arange(count) + 0.5) / count * num_train_timesteps).long()
        noise = torch.randn(images.shape, generator=generator)
        return cls(images, torch.from_numpy(split.labels[rows]), noise, timesteps)


def held_out_row(
    unet: UNet2DModel,
    scheduler: DDPMScheduler,
    problems: dict[str, HeldOut],
    pixel_unshuffle: int,
    loss_type: str,
    huber_delta: float,
) -> dict[str, float]:
    """The mean losses on the problems `train` and `val`, and the squared errors, on val also by noise level, for loss.csv."""
    arguments = (pixel_unshuffle, loss_type, huber_delta)
    on_train, train_squares = held_out_losses(unet, scheduler, problems["train"], *arguments)
    on_val, squares = held_out_losses(unet, scheduler, problems["val"], *arguments)
    by_bucket = {f"val_l2_bucket_{i}": float(part.mean()) for i, part in enumerate(squares.chunk(BUCKETS))}
    return {
        "train_loss_fixed": float(on_train.mean()),
        "val_loss": float(on_val.mean()),
        "train_l2": float(train_squares.mean()),
        "val_l2": float(squares.mean()),
        **by_bucket,
    }


@torch.no_grad()
def held_out_losses(
    unet: UNet2DModel,
    scheduler: DDPMScheduler,
    problem: HeldOut,
    pixel_unshuffle: int,
    loss_type: str = "l2",
    huber_delta: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The unweighted losses of `unet` on the fixed problem, N: as it is trained, and the squared error, which compares with
    that of a run with another loss."""
    device = next(unet.parameters()).device
    losses, squares = [], []
    was_training = unet.training
    unet.eval()
    for start in range(0, len(problem.labels), BATCH):
        part = slice(start, start + BATCH)
        clean = F.pixel_unshuffle(problem.images[part].to(device), pixel_unshuffle)
        noise = F.pixel_unshuffle(problem.noise[part].to(device), pixel_unshuffle)
        timesteps, labels = problem.timesteps[part].to(device), problem.labels[part].to(device)
        noisy = scheduler.add_noise(clean, noise, timesteps)
        prediction = unet(noisy, timesteps, class_labels=labels).sample
        target = prediction_target(scheduler, clean, noise, timesteps)
        losses.append(loss_per_image(prediction, target, loss_type, huber_delta))
        squares.append(loss_per_image(prediction, target, "l2"))
    unet.train(was_training)
    return torch.cat(losses), torch.cat(squares)
