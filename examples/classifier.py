"""A classifier trained on real images, and on real and generated ones, in equally many steps.

    python examples/classifier.py

One pair of trainings says next to nothing: the difference is smaller than what another seed makes. `medmnist-diffusion study
augmentation` repeats it over draws, with controls, and trains the generator on exactly the classifier's images.
"""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

import medmnist_diffusion as md

STEPS, BATCH = 150, 64


def network(classes: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(),
        nn.Linear(288, classes),
    )  # fmt: skip


def tensors(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).movedim(-1, 1).float() / 255


def accuracy(images: np.ndarray, labels: np.ndarray, seed: int) -> float:
    """On the test images, of a classifier trained on these."""
    torch.manual_seed(seed)
    model, x, y = network(dataset.num_classes), tensors(images), torch.from_numpy(labels)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    for _ in range(STEPS):
        rows = torch.randint(len(x), (BATCH,))
        loss = F.cross_entropy(model(x[rows]), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    test = dataset.splits["test"]
    with torch.no_grad():
        found = model(tensors(test.images[:])).argmax(1).numpy()
    return float((found == test.labels).mean())


dataset = md.load_dataset("phantom")
few = dataset.train.subset(
    np.arange(200)
)  # as if there were no more. The generator has seen all: a leak, fit for a demonstration
made = md.generate("phantom-28", np.arange(200) % dataset.num_classes, seed=0)

real = accuracy(few.images[:], few.labels, seed=0)
both = accuracy(np.concatenate([few.images[:], made.images]), np.concatenate([few.labels, made.labels]), seed=0)
print(f"200 real images: {real:.3f}; with 200 generated ones: {both:.3f} of the test images right")
