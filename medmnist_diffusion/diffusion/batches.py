"""Which images, noise, timesteps and dropped labels make up batch number i: a function of (seed, i) and nothing else.

So a resumed run sees exactly the batches that it would have seen, with no random state to save, and the global batch
does not depend on how many processes share it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from medmnist_diffusion.data.conditioning import Conditioning
from medmnist_diffusion.data.dataset import Split, to_model_range
from medmnist_diffusion.errors import UserError

LOG_SNR_MEAN, LOG_SNR_STD = 1.0, 3.0  # about as wide as uniform t on the cosine schedule (π), shifted to less noise

# One stream of random numbers for each use, so that adding a use does not disturb the others.
_ORDER, _DRAWS, _AUGMENT, _UNLABELED = range(4)
_VARIED = 5  # 4 is that of benchmarks/changes.py
# Of varied images, at most: degrees either way, parts of a side, and of the size.
TURNED, MOVED, SCALED = 15.0, 0.04, 0.1


def derived_seed(*key: int) -> int:
    """A well-mixed 63-bit seed from a few integers."""
    return int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))


class Walk:
    """Rows 0 … count − 1 in portions: every row once an epoch, in an order drawn anew for each epoch."""

    def __init__(self, count: int, portion: int, *key: int) -> None:
        self.count, self.portion, self.key = count, portion, key
        self._epoch, self._permutation = -1, np.empty(0, np.int64)

    def rows(self, number: int) -> np.ndarray:
        """Portion `number`; it may reach over the end of an epoch."""
        start, rows = number * self.portion, list[int]()
        while len(rows) < self.portion:
            epoch, position = divmod(start + len(rows), self.count)
            rows.extend(self._order(epoch)[position : position + self.portion - len(rows)])
        return np.array(rows, np.int64)

    def _order(self, epoch: int) -> np.ndarray:
        if epoch != self._epoch:
            self._epoch, self._permutation = epoch, np.random.default_rng([*self.key, epoch]).permutation(self.count)
        return self._permutation


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
        unlabeled: images that every batch has some of, under the null label that they come with.
        unlabeled_share: so large a part of it, at least one image and not all.
        varied_share: so large a part of the labelled images is varied (`varied_images`), and under classes of its own: those of
            the data, counted on from K + 1. A network that is never asked for these draws nothing turned ("non-leaky"
            augmentation, Karras et al. 2022, arXiv 2206.00364, section 5, by a class in the place of their augmentation label).

    Attributes:
        labelled: images of the global batch that are of the split.
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
        unlabeled: Split | None = None,
        unlabeled_share: float = 0.5,
        varied_share: float = 0.0,
    ) -> None:
        self.noise_shape, self.unlabeled = noise_shape, unlabeled
        if unlabeled is not None and batch_size < 2:
            raise UserError(
                "a batch of one image has no room for unlabeled ones beside it. Give a larger --train_batch_size."
            )
        apart = 0 if unlabeled is None else min(max(1, round(unlabeled_share * batch_size)), batch_size - 1)
        self.labelled = batch_size - apart
        self.varied = round(varied_share * self.labelled)
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
        self._walk = Walk(len(split), self.labelled, seed, _ORDER)
        self._unlabeled_walk = None if unlabeled is None else Walk(len(unlabeled), apart, seed, _UNLABELED)

    def __getitem__(self, number: int) -> Batch:
        pixels, conditions = self._rows(number)
        images = to_model_range(self._augmented(pixels, number), self.device)
        labels = torch.from_numpy(conditions).to(self.device, non_blocking=True)

        # Drawn for the whole global batch, then cut: every process holds the same stream.
        generator = torch.Generator(self.device).manual_seed(derived_seed(self.seed, _DRAWS, number))
        shape = (self.batch_size, *(self.noise_shape or images.shape[1:]))
        noise = torch.randn(shape, generator=generator, device=self.device)[self.share]
        timesteps = self._timesteps(generator)[self.share]
        dropped = torch.rand(self.batch_size, generator=generator, device=self.device)[self.share]
        asked = self.conditioning.dropped(labels, dropped < self.label_dropout)
        if count := max(0, min(self.varied, self.share.stop) - self.share.start):
            images = torch.cat([self._varied(images[:count], number), images[count:]])
            asked = torch.cat(
                [self.conditioning.varied(labels[:count]), asked[count:]]
            )  # never as "unknown", which is sampled
        return Batch(images, asked, noise, timesteps)

    def _varied(self, images: torch.Tensor, number: int) -> torch.Tensor:
        """The first images of this process's share, which are the first of the global batch's from there."""
        generator = torch.Generator(self.device).manual_seed(derived_seed(self.seed, _VARIED, number))
        drawn = torch.rand((self.batch_size, 5), generator=generator, device=self.device)
        return varied_images(images, drawn[self.share.start : self.share.start + len(images)])

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
        return self.timesteps_at((slices + offset) / self.batch_size)

    def timesteps_at(self, shares: torch.Tensor) -> torch.Tensor:
        """The noise levels n below which such shares (n, 0 … 1) of their distribution lie."""
        if self.log_snr is None:
            return (shares * self.num_train_timesteps).long().clamp(max=self.num_train_timesteps - 1)
        wanted = LOG_SNR_MEAN + LOG_SNR_STD * torch.special.ndtri(shares.clamp(1e-6, 1 - 1e-6))
        return torch.searchsorted(-self.log_snr, -wanted).clamp(max=self.num_train_timesteps - 1)

    def indices(self, number: int) -> np.ndarray:
        """The rows of the split in the global batch: every image once an epoch, in an order drawn anew for each epoch."""
        if self.members is not None:
            rng = np.random.default_rng([self.seed, _ORDER, number])
            classes = rng.integers(len(self.members), size=self.labelled)
            return np.array([rng.choice(self.members[label]) for label in classes])
        return self._walk.rows(number)

    def _rows(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """This process's share of the global batch: uint8 images and their conditions; the unlabeled ones stand at its end."""
        first, last = self.share.start, self.share.stop
        rows = self.indices(number)[first:last]
        images, labels = self.split.images[rows], self.split.labels[rows]
        if self._unlabeled_walk is not None and self.unlabeled is not None and last > self.labelled:
            others = self._unlabeled_walk.rows(number)[max(0, first - self.labelled) : last - self.labelled]
            images = np.concatenate([images, self.unlabeled.images[others]])
            labels = np.concatenate([labels, self.unlabeled.labels[others]])
        return images, labels

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


def varied_images(images: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Images n×C×H×W (volumes n×C×D×H×W, each of their slices alike) turned, moved, scaled, and half of them mirrored; what comes
    in at the edges is mirrored there.

    Args:
        drawn: n×5 numbers of 0 … 1: angle, move across, move down, size, mirror.
    """
    flat = images.flatten(1, -3)
    height, width = flat.shape[-2:]
    angle, across, down = TURNED * torch.pi / 180 * (2 * drawn[:, 0] - 1), *(2 * MOVED * (2 * drawn[:, 1:3] - 1)).T
    size, mirror = 1 + SCALED * (2 * drawn[:, 3] - 1), torch.where(drawn[:, 4] < 0.5, -1.0, 1.0)
    cos, sin = angle.cos() / size, angle.sin() / size
    rows = [
        torch.stack([mirror * cos, -sin * height / width, across]),
        torch.stack([mirror * sin * width / height, cos, down]),
    ]
    where = F.affine_grid(torch.stack(rows).permute(2, 0, 1), list(flat.shape), align_corners=False)
    return F.grid_sample(flat, where, padding_mode="reflection", align_corners=False).reshape(images.shape)
