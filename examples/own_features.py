"""A feature space of your own: any object that turns images into vectors.

    python examples/own_features.py

A vision backbone of the Hub needs no code: `--features facebook/dinov2-small`.
"""

import numpy as np

import medmnist_diffusion as md


class Brightness:
    """Mean and standard deviation of the grey levels."""

    name = "brightness"
    identity = "brightness-v1"  # names weights and settings: features are kept on disk under it
    batch_size = 512
    fitted = False  # to the training images

    def embed(self, images: np.ndarray) -> dict[int, np.ndarray]:
        """uint8 n×H×W×C → {dimension: float32 n×dimension}."""
        flat = images.reshape(len(images), -1)
        return {2: np.stack([flat.mean(1), flat.std(1)], axis=1).astype(np.float32)}


dataset = md.load_dataset("phantom")
made = md.generate("phantom-28", np.arange(200) % dataset.num_classes, seed=0)
found = md.evaluate_images(dataset, made.split, [Brightness()], per_class=False, parts=["features"])
for record in found.records:
    if record.name == "frechet_distance":
        print(f"Fréchet distance by brightness: {record.value:.2f}; of as many fresh real images: {record.floor:.2f}")
