"""From a name to a data set: sources, audit, duplicates, the phantom."""

from medmnist_diffusion.data.conditioning import Conditioning
from medmnist_diffusion.data.dataset import ImageDataset, Split, to_model_range, to_uint8
from medmnist_diffusion.data.sources import load_dataset

__all__ = ["Conditioning", "ImageDataset", "Split", "load_dataset", "to_model_range", "to_uint8"]
