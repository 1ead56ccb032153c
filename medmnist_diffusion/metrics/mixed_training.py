"""Classifiers that are trained on real and generated images side by side, alike in everything but the images.

Every training takes the same number of steps (where another set's images come before, as many again) and sees the same random
numbers: the real images of a step, their augmentation and the first weights are those of every other arm with the same seed. The
weights with the lowest validation loss are kept.
"""

import math
import time
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState
from huggingface_hub import PyTorchModelHubMixin
from torch import nn
from torchvision.models import resnet18
from torchvision.transforms import v2

from medmnist_diffusion.data.conditioning import Conditioning
from medmnist_diffusion.data.dataset import ImageDataset, Split
from medmnist_diffusion.diffusion.batches import derived_seed
from medmnist_diffusion.metrics.classifier import SmallCNN, targets
from medmnist_diffusion.metrics.classifier_training import Batches, Loss, classification_loss, train_classifier

Balance = Literal["none", "weights", "adjusted"]

AUGMENTED_AT_ONCE = 16  # images that share one draw of the augmentation's parameters
STRONGLY_AT_ONCE = 4  # the same of images that consistency is asked of
SHIFT_SHARE = 0.08  # of the image's width
SURE = 0.95  # of a class that an image without one is given
SUREST = 0.5  # of several labels an image: of those that are to be there, and of those that are not

# `save_pretrained(folder, model_card_kwargs={"facts": …})`
CARD = """---
{{ card_data }}
---

# An image classifier of a medmnist-diffusion study

Research only, not for diagnosis. {{ facts }}

```python
from medmnist_diffusion.metrics.mixed_training import ImageClassifier

model = ImageClassifier.from_pretrained("path/to/this/folder").eval()
logits = model(images)  # float in -1 … 1, N×C×H×W
```

It was chosen by the loss on the validation images of its regime. What the classifiers of the study reach on test images, with
intervals, stands in the study's report, not here: a single network of a single draw says little.
"""


@dataclass(frozen=True)
class Recipe:
    """How every classifier of a study is trained; of the learning rates validation chooses."""

    network: str = "small-cnn"
    steps: int = 300
    batch_size: int = 128
    learning_rates: tuple[float, ...] = (1e-3, 3e-3)
    weight_decay: float = 0.01
    precision: str = "no"


@dataclass(frozen=True)
class Mixture:
    """What a classifier is trained on.

    Attributes:
        real: the real images.
        extra: images that fill `share` of every batch; None for none.
        balanced: of `extra` each class equally often (of several labels an image: images of each label, and those without one);
            else each image.
        until: they do so in this first part of the training, real images alone after it.
        classical: whether all images are augmented.
        chances: what is to be learned of the extra images in their labels' place, of each class, float32 N×K.
        balance: what the loss does about rare classes: nothing, a weight for each class that makes all count alike, or logits
            adjusted by the classes' shares (Menon et al. 2021, arXiv 2007.07314); of several labels an image weights alone.
        unlabeled: images of which every step also holds as many as a batch has, twice, as they are augmented and much more
            strongly: what a classifier is sure of in the first is to be found in the second (`consistency_loss`).
        outside: another set, as large and with as many channels, on whose real images as many steps come before, with a last layer
            of their own.
    """

    real: Split
    extra: Split | None = None
    share: float = 0.0
    balanced: bool = True
    until: float = 1.0
    classical: bool = True
    chances: torch.Tensor | None = None
    balance: Balance = "none"
    unlabeled: Split | None = None
    outside: ImageDataset | None = None


@dataclass(frozen=True)
class Fitted:
    """A trained classifier and how validation chose it."""

    model: "ImageClassifier"
    learning_rate: float
    step: int
    val_loss: float


class ImageClassifier(
    nn.Module,
    PyTorchModelHubMixin,
    library_name="medmnist-diffusion",
    tags=["medical", "image-classification"],
    model_card_template=CARD,
):
    """Images float −1 … 1 N×C×H×W → logits N×K; `save_pretrained` and `from_pretrained` as on the Hub.

    `small-cnn` has 0.1 M parameters; `resnet18` is MedMNIST's baseline for 28 pixels: torchvision's with a 3×3 stem and no pooling
    after it (Yang et al. 2023).
    """

    def __init__(self, network: str, channels: int, num_classes: int) -> None:
        super().__init__()
        self.network: nn.Module = NETWORKS[network](channels, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.network(images)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """What the last layer sees, N×D."""
        if isinstance(self.network, SmallCNN):
            return self.network.features(images)
        return nn.Sequential(*list(self.network.children())[:-1])(images).flatten(1)


def _resnet18(channels: int, num_classes: int) -> nn.Module:
    network = resnet18(num_classes=num_classes)
    network.conv1 = nn.Conv2d(channels, 64, 3, padding=1, bias=False)
    network.maxpool = nn.Identity()
    return network


NETWORKS: dict[str, Any] = {"small-cnn": SmallCNN, "resnet18": _resnet18}


def fit(
    recipe: Recipe, mixture: Mixture, val: Split, conditioning: Conditioning, seed: int, balanced_val: bool = False
) -> Fitted:
    """The best of the recipe's learning rates by validation loss. Of several labels an image there is a sigmoid for each.

    Args:
        balanced_val: every class counts as much in the validation loss.
    """
    tried = [_fit(recipe, rate, mixture, val, conditioning, seed, balanced_val) for rate in recipe.learning_rates]
    return min(tried, key=lambda fitted: fitted.val_loss)


def _fit(
    recipe: Recipe,
    learning_rate: float,
    mixture: Mixture,
    val: Split,
    conditioning: Conditioning,
    seed: int,
    balanced_val: bool = False,
) -> Fitted:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ImageClassifier(recipe.network, mixture.real.images.shape[3], conditioning.num_classes)
        model.to(PartialState().device)
        if mixture.outside is not None:
            _start_from(model, _fit_outside(recipe, learning_rate, mixture.outside, seed))
        batches = _augmented_batches(recipe, mixture, conditioning, seed)
        bfloat16 = recipe.precision == "bf16"
        held_out = val, targets(val.labels, conditioning)
        step, loss = train_classifier(
            model, batches, recipe.steps, learning_rate, recipe.weight_decay, held_out, bfloat16,
            loss_of(mixture, conditioning), _balanced("weights" if balanced_val else "none", val, conditioning, "cpu"),
        )  # fmt: skip
    model.cpu().to(memory_format=torch.contiguous_format)  # as it is saved
    return Fitted(model.eval(), learning_rate, step, loss)


def _fit_outside(recipe: Recipe, learning_rate: float, outside: ImageDataset, seed: int) -> ImageClassifier:
    """A classifier of another set's images, each class equally often."""
    mixture = Mixture(outside.train, outside.train, share=1.0)
    return _fit(recipe, learning_rate, mixture, outside.splits["val"], outside.conditioning, seed).model


def _start_from(model: ImageClassifier, other: ImageClassifier) -> None:
    """All weights of another classifier but those of its last layer, the only one whose shape depends on the classes."""
    known = list(other.network.named_parameters())
    last = {name for name, _ in known[-2:]}  # its weight and its bias
    taken = {name: value for name, value in other.network.state_dict().items() if name not in last}
    model.network.load_state_dict(taken, strict=False)


def _augmented_batches(recipe: Recipe, mixture: Mixture, conditioning: Conditioning, seed: int) -> Batches:
    """What a training sees, step by step."""
    height, width = mixture.real.images.shape[1:3]
    augment = classical_augmentation(height, width)
    batches = MixedBatches(mixture, recipe.batch_size, conditioning, seed)
    for step in range(recipe.steps):
        images, labels = batches.draw(extra=step < mixture.until * recipe.steps)
        if mixture.classical:
            torch.manual_seed(derived_seed(seed, step))  # the same parameters in every arm
            images = torch.cat([augment(part) for part in images.split(AUGMENTED_AT_ONCE)])
        if mixture.unlabeled is not None:
            images = torch.cat([images, *batches.twice(len(images), augment)])
        yield images.to(PartialState().device).float() / 127.5 - 1, labels


def loss_of(mixture: Mixture, conditioning: Conditioning) -> Loss:
    """What a classifier of the mixture learns by: of logits N×K and what is known of the first images of a batch, N or fewer."""
    several = conditioning.multi_label
    labelled = _balanced(mixture.balance, mixture.real, conditioning, PartialState().device)
    if mixture.chances is not None and not several:
        labelled = F.cross_entropy  # which takes chances of classes, too
    if mixture.unlabeled is None:
        return labelled
    shares = torch.from_numpy(conditioning.matrix(mixture.real.labels)).float().mean(0) if several else None

    def with_consistency(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        known, weak, strong = logits.split([len(labels), *2 * [(len(logits) - len(labels)) // 2]])
        return labelled(known, labels) + consistency_loss(weak.detach(), strong, shares)

    return with_consistency


def consistency_loss(weak: torch.Tensor, strong: torch.Tensor, shares: torch.Tensor | None = None) -> torch.Tensor:
    """What a classifier says of images is to be what it says of the same ones much more strongly changed (FixMatch, Sohn et al.
    2020, arXiv 2001.07685), where it is sure: by a chance of SURE.

    Args:
        weak, strong: logits N×K, of the images as all are augmented, and more strongly.
        shares: of several labels an image, how often each is there, K. A label is then said to be there in the SUREST part of that
            share of the images, by rank, and not to be there in the SUREST part of the others: no chance of a rare one is high.
    """
    if shares is None:
        chances, found = weak.softmax(1).max(1)
        return (F.cross_entropy(strong, found, reduction="none") * (chances >= SURE)).mean()
    ranks = weak.argsort(dim=0, descending=True, stable=True).argsort(dim=0).float()
    there = SUREST * shares.to(weak.device) * len(weak)
    absent = len(weak) - SUREST * (1 - shares.to(weak.device)) * len(weak)
    known = (ranks < there.round()) | (ranks >= absent.round())
    loss = F.binary_cross_entropy_with_logits(strong, (ranks < there.round()).float(), reduction="none")
    return (loss * known).mean()


def _balanced(balance: Balance, split: Split, conditioning: Conditioning, device: torch.device | str) -> Loss:
    """The loss that does this about the rare classes of a split."""
    if balance == "none":
        return classification_loss
    counts = torch.from_numpy(conditioning.counts(split.labels)).float().clamp(min=1)
    if conditioning.multi_label:
        weights = ((len(split) - counts).clamp(min=1) / counts).to(device)
        return lambda logits, labels: F.binary_cross_entropy_with_logits(logits, labels, pos_weight=weights)
    if balance == "weights":
        weights = (counts.sum() / (len(counts) * counts)).to(device)
        return lambda logits, labels: F.cross_entropy(logits, labels, weight=weights)
    shares = (counts / counts.sum()).log().to(device)
    return lambda logits, labels: F.cross_entropy(logits + shares, labels)


class MixedBatches:
    """Batches of real images, and of extra ones in their last places. The real ones do not depend on the extra ones."""

    def __init__(self, mixture: Mixture, batch_size: int, conditioning: Conditioning, seed: int) -> None:
        self.mixture, self.batch_size, self.conditioning = mixture, batch_size, conditioning
        self.real_rng, self.extra_rng = (np.random.default_rng([seed, stream]) for stream in (21, 22))
        extra = mixture.extra
        members = [] if extra is None else [np.arange(len(extra))]
        if extra is not None and mixture.balanced:
            members = conditioning.shown_members(extra.labels)
        self.members = [rows for rows in members if len(rows)]
        self.strongly = strong_augmentation(*mixture.real.images.shape[1:3])

    def draw(self, extra: bool = True) -> tuple[torch.Tensor, torch.Tensor]:
        """uint8 images N×C×H×W, and what is to be learned of them (`classifier.targets`)."""
        mixture = self.mixture
        rows = self.real_rng.integers(len(mixture.real), size=self.batch_size)
        count = round(mixture.share * self.batch_size) if extra and mixture.extra is not None else 0
        images, labels = mixture.real.images[rows], mixture.real.labels[rows]
        if count and mixture.extra is not None:
            classes = self.extra_rng.integers(len(self.members), size=count)
            taken = np.array([self.extra_rng.choice(self.members[label]) for label in classes])
            images = np.concatenate([images[:-count], mixture.extra.images[taken]])
            labels = np.concatenate([labels[:-count], mixture.extra.labels[taken]])
        wanted = targets(labels, self.conditioning)
        if mixture.chances is not None:
            wanted = torch.from_numpy(self.conditioning.matrix(labels)).float()
            if count:
                wanted[-count:] = mixture.chances[taken]
        return torch.from_numpy(images).permute(0, 3, 1, 2), wanted

    def twice(self, count: int, augment: v2.Compose) -> tuple[torch.Tensor, torch.Tensor]:
        """Images without labels, uint8 N×C×H×W: as all are augmented, and the same ones more strongly."""
        unlabeled = self.mixture.unlabeled
        assert unlabeled is not None
        rows = self.extra_rng.integers(len(unlabeled), size=count)
        images = torch.from_numpy(unlabeled.images[rows]).permute(0, 3, 1, 2)
        weak = [augment(part) for part in images.split(AUGMENTED_AT_ONCE)]
        strong = [self.strongly(part) for part in images.split(STRONGLY_AT_ONCE)]
        return torch.cat(weak), torch.cat(strong)


def classical_augmentation(height: int, width: int) -> v2.Compose:
    """Shifts by up to 8 % of the width, rotations by up to 10°, brightness and contrast by up to 20 %; no flips, as sides matter.

    uint8 N×C×H×W → the same; all images of a call get the same parameters. What moves in at the edges repeats them.
    """
    return v2.Compose(_moved_and_shaded(height, width, degrees=10, shift=SHIFT_SHARE, shade=0.2, beyond=1 / 4))


def strong_augmentation(height: int, width: int) -> v2.Compose:
    """The same two and a half times as far, and a patch of up to a quarter of the image is grey: what consistency is asked of."""
    patch = v2.RandomErasing(p=1.0, scale=(0.05, 0.25), value=128)
    moved = _moved_and_shaded(height, width, degrees=25, shift=2.5 * SHIFT_SHARE, shade=0.5, beyond=1 / 2)
    return v2.Compose([*moved, patch])


def _moved_and_shaded(
    height: int, width: int, degrees: float, shift: float, shade: float, beyond: float
) -> list[v2.Transform]:
    """`beyond`: the part of an image that repeats its edge on every side; no rotated corner reaches farther."""
    pad = math.ceil(beyond * max(height, width))
    # RandomAffine counts in widths and heights of what it gets.
    shift_x, shift_y = (shift * width / (side + 2 * pad) for side in (width, height))
    return [
        v2.Pad(pad, padding_mode="edge"),
        v2.RandomAffine(degrees, translate=(shift_x, shift_y), interpolation=v2.InterpolationMode.BILINEAR),
        v2.CenterCrop((height, width)),
        v2.ColorJitter(brightness=shade, contrast=shade),
    ]


def timed_step(recipe: Recipe, mixture: Mixture, conditioning: Conditioning) -> float:
    """Seconds of a training step here, by a trial."""
    trial, seconds = replace(recipe, steps=3), []
    for _ in range(2):
        began = time.monotonic()
        _fit(trial, recipe.learning_rates[0], mixture, mixture.real.subset(np.arange(1)), conditioning, 0)
        seconds.append((time.monotonic() - began) / trial.steps)
    return min(seconds)
