"""A small CNN: trained on the real training split it gives in-domain features (64) and judges labels; trained on generated
images it shows what they teach."""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from medmnist_diffusion.cache import cache_dir
from medmnist_diffusion.console import bar_options
from medmnist_diffusion.data.conditioning import Conditioning
from medmnist_diffusion.data.dataset import ImageDataset, Split, to_model_range
from medmnist_diffusion.data.twins import pooled
from medmnist_diffusion.files import atomic_file
from medmnist_diffusion.metrics.classifier_training import Batches, predicted_logits, train_classifier

FEATURES = 64
STEPS, BATCH, BATCH_OF_VOLUMES, LEARNING_RATE, SHIFT = 600, 128, 32, 3e-3, 2
LARGEST_VOLUME = 40  # voxels a side that are looked at one by one
LAYERS: dict[int, tuple[Any, Any, Any]] = {
    2: (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d),
    3: (nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d),
}
RECIPE = f"cnn4-{STEPS}x{BATCH}-{LEARNING_RATE}-shift{SHIFT}"  # part of the cache's key: change it with the recipe


class SmallCNN(nn.Module):
    """About 0.1 M parameters (volumes 0.2 M). Images float −1 … 1 N×C×H×W, volumes N×C×D×H×W → features N×64 and logits N×K.

    The first layer halves the image: as good as pooling after it, at half the cost. Of volumes the second does so, too, and is
    narrower; those of more than 40 voxels a side are averaged down first.
    """

    def __init__(self, channels: int, num_classes: int, dimensions: int = 2) -> None:
        super().__init__()
        convolution, norm, pool = LAYERS[dimensions]

        def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(
                convolution(inputs, outputs, 3, stride, padding=1, bias=False), norm(outputs), nn.ReLU()
            )

        first = (
            [block(channels, 32, stride=2), block(32, 64), pool(2), block(64, 64)]
            if dimensions == 2
            else [block(channels, 16, stride=2), block(16, 32, stride=2), block(32, 64), pool(2)]
        )
        self.body = nn.Sequential(*first, block(64, FEATURES))
        self.head = nn.Linear(FEATURES, num_classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        if images.ndim == 5 and max(images.shape[2:]) > LARGEST_VOLUME:
            images = pooled(images, [-(-side // 2) for side in images.shape[2:]])
        return self.body(images).flatten(2).mean(2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images))


def real_data_classifier(dataset: ImageDataset, seed: int = 0) -> SmallCNN:
    """The classifier of a data set's training split, from the cache or trained now."""
    return fitted_classifier(dataset.train, dataset.conditioning, seed)


def fitted_classifier(split: Split, conditioning: Conditioning, seed: int = 0, shorter: bool = False) -> SmallCNN:
    """A classifier trained on a split, from the cache or now (under a minute on two cores; `shorter`: half of the steps).

    Of several labels an image it has a sigmoid for each. The same images, labels and seed on the same machine give the same
    weights. It is cached by the split's content.
    """
    steps = STEPS // 2 if shorter else STEPS
    kind = f"{RECIPE}-multilabel" if conditioning.multi_label else RECIPE
    path = cache_dir() / "classifiers" / f"{split.content_hash[:32]}-{kind}-{steps}-seed{seed}.safetensors"
    with PartialState().main_process_first(), torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SmallCNN(split.images.shape[-1], conditioning.num_classes, split.images.ndim - 2)
        if path.is_file():
            model.load_state_dict(load_file(path))
        else:
            train_classifier(model, _shifted_batches(split, conditioning, seed, steps), steps, LEARNING_RATE)
            with atomic_file(path) as temporary:
                save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, temporary)
    return model.eval()


def _shifted_batches(split: Split, conditioning: Conditioning, seed: int, steps: int) -> Batches:
    """Random images of the split, those of a batch shifted alike by up to two pixels; deterministic."""
    rng, sides = np.random.default_rng(seed), split.images.shape[1:-1]
    for _ in tqdm(range(steps), desc=f"classifier on {split.name}", unit="step", **bar_options()):
        rows = rng.integers(len(split), size=BATCH if len(sides) == 2 else BATCH_OF_VOLUMES)
        moves = rng.integers(0, 2 * SHIFT + 1, len(sides))
        images = F.pad(to_model_range(split.images[rows]), (SHIFT,) * 2 * len(sides), mode="replicate")
        for axis, (move, side) in enumerate(zip(moves, sides, strict=True), start=2):
            images = images.narrow(axis, int(move), side)
        yield images, targets(split.labels[rows], conditioning)


def targets(labels: np.ndarray, conditioning: Conditioning) -> torch.Tensor:
    """What a classifier learns of conditions: int64 N, or of several labels an image float N×K."""
    truth = torch.from_numpy(conditioning.truth(labels))
    return truth.float() if conditioning.multi_label else truth


def predict(model: SmallCNN, split: Split) -> np.ndarray:
    """Predicted class ids, int64 N."""
    return predicted_logits(model, split).argmax(1).numpy()


def chances(model: SmallCNN, split: Split, several: bool) -> np.ndarray:
    """The chance of each class, float64 N×K; of `several` labels an image that of each label."""
    logits = predicted_logits(model, split).double()
    return (logits.sigmoid() if several else logits.softmax(1)).numpy()
