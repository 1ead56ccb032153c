"""Can it be told which images a model was trained on? An attack by loss, on a classifier or on a generator, and how well it does.

A model knows the images that it was trained on better than others of the same origin. The attack takes those for training images
that it knows best (Yeom et al. 2018, arXiv 1709.01604; of diffusion models Matsumoto et al. 2023, arXiv 2302.03262). It has the
model itself, which is more than its images. An AUC of 0.5 is a guess.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from scipy.stats import rankdata
from torch import nn

from medmnist_diffusion.data.conditioning import Conditioning
from medmnist_diffusion.data.dataset import Split, to_model_range
from medmnist_diffusion.diffusion.batches import Batch
from medmnist_diffusion.diffusion.loss import Objective, diffusion_loss
from medmnist_diffusion.diffusion.sampling import conditioning_of
from medmnist_diffusion.metrics.classifier import targets
from medmnist_diffusion.metrics.classifier_training import predicted_logits
from medmnist_diffusion.pipelines import label_width

LEVELS = 16  # of noise, at each of which an image is denoised once
RESAMPLINGS = 1000
AT_ONCE = 128
MOST_ATTACKED = 500  # members, and others


@dataclass(frozen=True)
class Attack:
    """How well members are told from others: the AUC of the attack with its 95 % interval, and of how many images."""

    auc: float
    interval: tuple[float, float]
    members: int
    others: int

    @classmethod
    def of(cls, members: np.ndarray, others: np.ndarray, seed: int = 0) -> "Attack":
        """Of the familiarity of each member and of each other image; the interval is a bootstrap over images of both kinds."""
        rng = np.random.default_rng(seed)
        again = [_auc(*(rng.choice(one, len(one)) for one in (members, others))) for _ in range(RESAMPLINGS)]
        low, high = np.quantile(again, [0.025, 0.975])
        return cls(_auc(members, others), (float(low), float(high)), len(members), len(others))


def _auc(members: np.ndarray, others: np.ndarray) -> float:
    """The chance that a member is more familiar than another image, ties counting half (Mann & Whitney)."""
    ranks = rankdata(np.concatenate([members, others]))[: len(members)]
    return float((ranks.sum() - len(members) * (len(members) + 1) / 2) / (len(members) * len(others)))


def classifier_familiarity(model: nn.Module, split: Split, conditioning: Conditioning) -> np.ndarray:
    """Minus a classifier's loss on each image, float64 N."""
    logits, wanted = predicted_logits(model, split).double(), targets(split.labels, conditioning)
    if conditioning.multi_label:
        loss = nn.functional.binary_cross_entropy_with_logits(logits, wanted.double(), reduction="none").mean(1)
    else:
        loss = nn.functional.cross_entropy(logits, wanted, reduction="none")
    return -loss.numpy()


@torch.no_grad()
def denoising_familiarity(pipe: Any, split: Split, seed: int = 0) -> np.ndarray:
    """Minus a pipeline's mean denoising loss on each image under its own label, float64 N, at the same noise levels for all."""
    objective = Objective(
        DDPMScheduler.from_config(pipe.scheduler.config),
        pipe.image_encoder,
        conditioning_of(pipe),
        label_width=label_width(pipe.unet.config.block_out_channels),
    )
    timesteps = ((torch.arange(LEVELS) + 0.5) / LEVELS * len(objective.scheduler.alphas_cumprod)).long()
    generator = torch.Generator().manual_seed(seed)
    total = np.zeros(len(split))
    for timestep in timesteps:
        noise = torch.randn((1, *pipe.image_encoder.padded_shape), generator=generator)
        for start in range(0, len(split), AT_ONCE):
            part = split.subset(np.arange(start, min(start + AT_ONCE, len(split))))
            batch = Batch(
                to_model_range(part.images[:]),
                torch.from_numpy(part.labels),
                noise.expand(len(part), *noise.shape[1:]),
                timestep.expand(len(part)),
            )
            total[start : start + AT_ONCE] += diffusion_loss(pipe.unet, batch, objective).squared.double().numpy()
    return -total / LEVELS
