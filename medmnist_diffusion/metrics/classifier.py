"""A small CNN: trained on the real training split it gives in-domain features (64) and judges labels; trained on generated
images it shows what they teach."""

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState
from safetensors.torch import load_file, save_file
from torch import nn
from tqdm import tqdm

from medmnist_diffusion.cache import cache_dir
from medmnist_diffusion.console import bar_options
from medmnist_diffusion.data.dataset import ImageDataset, Split, to_model_range
from medmnist_diffusion.files import atomic_file
from medmnist_diffusion.metrics.classifier_training import Batches, train_classifier

FEATURES = 64
STEPS, BATCH, LEARNING_RATE, SHIFT = 600, 128, 3e-3, 2
RECIPE = f"cnn4-{STEPS}x{BATCH}-{LEARNING_RATE}-shift{SHIFT}"  # part of the cache's key: change it with the recipe


class SmallCNN(nn.Module):
    """About 0.1 M parameters. Images float −1 … 1 N×C×H×W → features N×64 and logits N×K.

    The first layer halves the image: as good as pooling after it, at half the cost.
    """

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
            )

        self.body = nn.Sequential(
            block(channels, 32, stride=2), block(32, 64), nn.MaxPool2d(2), block(64, 64), block(64, FEATURES)
        )
        self.head = nn.Linear(FEATURES, num_classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        return self.body(images).mean((2, 3))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images))


def real_data_classifier(dataset: ImageDataset, seed: int = 0) -> SmallCNN:
    """The classifier of a data set's training split, from the cache or trained now."""
    return fitted_classifier(dataset.train, dataset.num_classes, seed)


def fitted_classifier(split: Split, num_classes: int, seed: int = 0, shorter: bool = False) -> SmallCNN:
    """A classifier trained on a split, from the cache or now (under a minute on two cores; `shorter`: half of the steps).

    The same images, labels and seed on the same machine give the same weights. It is cached by the split's content.
    """
    steps = STEPS // 2 if shorter else STEPS
    path = cache_dir() / "classifiers" / f"{split.content_hash[:32]}-{RECIPE}-{steps}-seed{seed}.safetensors"
    with PartialState().main_process_first(), torch.random.fork_rng():
        torch.manual_seed(seed)
        model = SmallCNN(split.images.shape[3], num_classes)
        if path.is_file():
            model.load_state_dict(load_file(path))
        else:
            train_classifier(model, _shifted_batches(split, seed, steps), steps, LEARNING_RATE)
            with atomic_file(path) as temporary:
                save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, temporary)
    return model.eval()


def _shifted_batches(split: Split, seed: int, steps: int) -> Batches:
    """Random images of the split, those of a batch shifted alike by up to two pixels; deterministic."""
    rng = np.random.default_rng(seed)
    for _ in tqdm(range(steps), desc=f"classifier on {split.name}", unit="step", **bar_options()):
        rows = rng.integers(len(split), size=BATCH)
        dy, dx = rng.integers(0, 2 * SHIFT + 1, 2)
        images = F.pad(to_model_range(split.images[rows]), (SHIFT,) * 4, mode="replicate")
        size = images.shape[-1] - 2 * SHIFT
        yield images[..., dy : dy + size, dx : dx + size], torch.from_numpy(split.labels[rows])


@torch.no_grad()
def predict(model: SmallCNN, split: Split) -> np.ndarray:
    """Predicted class ids, int64 N."""
    return np.concatenate([model(to_model_range(chunk)).argmax(1).numpy() for chunk in split.chunks(256)])
