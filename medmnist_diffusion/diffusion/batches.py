"""Which images, noise, timesteps and dropped labels make up batch number i: a function of (seed, i) and nothing else.

So a resumed run sees exactly the batches that it would have seen, with no random state to save, and the global batch
does not depend on how many processes share it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from medmnist_diffusion.data.conditioning import Conditioning
from medmnist_diffusion.data.dataset import Split, to_model_range

LOG_SNR_MEAN, LOG_SNR_STD = 1.0, 3.0  # about as wide as uniform t on the cosine schedule (π), shifted to less noise

# One stream of random numbers for each use, so that adding a use does not disturb the others.
_ORDER, _DRAWS, _AUGMENT = range(3)


def derived_seed(*key: int) -> int:
    """A well-mixed 63-bit seed from a few integers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


@dataclass
class Batch:
    """Images float −1 … 1 n×C×H×W (volumes n×C×D×H×W), conditions int64 n (the null label where dropped), noise of the encoder's
    padded shape, timesteps int64 n."""

    images: torch.Tensor
    labels: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor


class TrainingBatches:
    """The training batches by number; each process takes its share of every global batch.

    Args:
        split: the training images.
        batch_size: images of the global batch, over all processes.
        seed: with the batch's number it determines everything drawn.
        num_train_timesteps: timesteps are in 0 … this − 1.
        log_snr: log signal-to-noise ratio of each timestep, falling: timesteps are then drawn so that it is normal, with mean
            `LOG_SNR_MEAN` and standard deviation `LOG_SNR_STD`, in equal slices of probability over the batch. Without it they
            are uniform.
        conditioning: the classes, and the null label that takes a label's place with probability `label_dropout`.
        class_balanced: draw the class uniformly, then one of its images, instead of walking through all images.
        random_shift: shift images by up to this many pixels each way, repeating the edge.
        random_flip: mirror half of the images. Wrong for anything with a left and a right.
        rank, world_size: this process, and how many there are.
        noise_shape: of the noise of one image, where that is not the image's: an encoder's padded shape.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        seed: int,
        num_train_timesteps: int,
        conditioning: Conditioning,
        label_dropout: float = 0.1,
        class_balanced: bool = False,
        random_shift: int = 0,
        random_flip: bool = False,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | str = "cpu",
        log_snr: torch.Tensor | None = None,
        noise_shape: Sequence[int] | None = None,
    ) -> None:
        self.noise_shape = noise_shape
        self.split, self.batch_size, self.seed = split, batch_size, seed
        self.num_train_timesteps, self.conditioning, self.label_dropout = (
            num_train_timesteps,
            conditioning,
            label_dropout,
        )
        self.random_shift, self.random_flip, self.device = random_shift, random_flip, torch.device(device)
        self.log_snr = None if log_snr is None else log_snr.to(self.device)
        self.share = slice(batch_size * rank // world_size, batch_size * (rank + 1) // world_size)
        self.members = (
            [rows for rows in conditioning.shown_members(split.labels) if len(rows)] if class_balanced else None
        )
        self._epoch, self._permutation = -1, np.empty(0, np.int64)

    def __getitem__(self, number: int) -> Batch:
        indices = self.indices(number)[self.share]
        images = to_model_range(self._augmented(self.split.images[indices], number)).to(self.device)
        labels = torch.from_numpy(self.split.labels[indices]).to(self.device)

        # Drawn for the whole global batch, then cut: every process holds the same stream.
        generator = torch.Generator(self.device).manual_seed(derived_seed(self.seed, _DRAWS, number))
        shape = (self.batch_size, *(self.noise_shape or images.shape[1:]))
        noise = torch.randn(shape, generator=generator, device=self.device)[self.share]
        timesteps = self._timesteps(generator)[self.share]
        dropped = torch.rand(self.batch_size, generator=generator, device=self.device)[self.share]
        return Batch(images, self.conditioning.dropped(labels, dropped < self.label_dropout), noise, timesteps)

    def _timesteps(self, generator: torch.Generator) -> torch.Tensor:
        """Noise levels of the global batch, n.

        A normal log SNR puts the work where images take shape, not into nearly clean and nearly lost ones (EDM, Karras et al.
        2022, arXiv 2206.00364); one draw from each slice of its distribution makes the loss of a batch vary less (VDM, Kingma
        et al. 2021, arXiv 2107.00630).
        """
        if self.log_snr is None:
            return torch.randint(self.num_train_timesteps, (self.batch_size,), generator=generator, device=self.device)
        slices = torch.randperm(self.batch_size, generator=generator, device=self.device)
        offset = torch.rand((), generator=generator, device=self.device)
        share = ((slices + offset) / self.batch_size).clamp(1e-6, 1 - 1e-6)
        wanted = LOG_SNR_MEAN + LOG_SNR_STD * torch.special.ndtri(share)
        return torch.searchsorted(-self.log_snr, -wanted).clamp(max=self.num_train_timesteps - 1)

    def indices(self, number: int) -> np.ndarray:
        """The rows of the global batch: every image once an epoch, in an order drawn anew for each epoch."""
        if self.members is not None:
            rng = np.random.default_rng([self.seed, _ORDER, number])
            classes = rng.integers(len(self.members), size=self.batch_size)
            return np.array([rng.choice(self.members[label]) for label in classes])
        start = number * self.batch_size
        rows: list[int] = []
        while len(rows) < self.batch_size:  # a batch may reach over the end of an epoch
            epoch, position = divmod(start + len(rows), len(self.split))
            rows.extend(self._order(epoch)[position : position + self.batch_size - len(rows)])
        return np.array(rows)

    def _order(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            rng = np.random.default_rng([self.seed, _ORDER, epoch])
            self._epoch, self._permutation = epoch, rng.permutation(len(self.split))
        return self._permutation

    def _augmented(self, images: np.ndarray, number: int) -> np.ndarray:
        if not (self.random_shift or self.random_flip):
            return images
        rng = np.random.default_rng([self.seed, _AUGMENT, number])
        reach, sides = self.random_shift, images.shape[1:-1]
        offsets = rng.integers(0, 2 * reach + 1, (self.batch_size, len(sides)))[self.share]
        flips = rng.random(self.batch_size)[self.share] < 0.5 * self.random_flip
        padded = np.pad(images, ((0, 0), *((reach, reach),) * len(sides), (0, 0)), mode="edge")
        windows = [
            tuple(slice(start, start + side) for start, side in zip(one, sides, strict=True)) for one in offsets
        ]
        shifted = [image[window] for image, window in zip(padded, windows, strict=True)]
        return np.stack([image[..., ::-1, :] if flip else image for image, flip in zip(shifted, flips, strict=True)])
