"""Can it be told which images a model was trained on? An attack by loss, on a classifier or on a generator, and how well it does.

A model knows the images that it was trained on better than others of the same origin. The attack takes those for training images
that it knows best (Yeom et al. 2018, arXiv 1709.01604; of diffusion models Matsumoto et al. 2023, arXiv 2302.03262). It has the
model itself, which is more than its images. An AUC of 0.5 is a guess.
"""

from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from sklearn.metrics import roc_auc_score
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
AT_ONCE = 128
MOST_ATTACKED = 500  # members, and others


def attack_auc(members: np.ndarray, others: np.ndarray) -> float:
    """The chance that a member is more familiar than another image, ties counting half."""
    is_member = np.arange(len(members) + len(others)) < len(members)
    return float(roc_auc_score(is_member, np.concatenate([members, others])))


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
