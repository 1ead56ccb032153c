"""Where a feature space is named: one entry a name. To add one, write a function that returns an `Extractor`, and enter it."""

import difflib
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from accelerate import PartialState

from medmnist_diffusion.data.dataset import ImageDataset, to_model_range
from medmnist_diffusion.data.twins import pooled
from medmnist_diffusion.errors import UserError, one_line
from medmnist_diffusion.metrics.classifier import FEATURES, RECIPE, real_data_classifier
from medmnist_diffusion.metrics.features import Extractor
from medmnist_diffusion.metrics.inception import inception, random_inception

OFFLINE_PAIR = ("classifier", "texture")  # a semantic and a texture space that need no download
THREE_DIMENSIONAL = ("classifier", "texture", "pca")
PCA_COMPONENTS, PCA_SIZE = 64, 28


def make_extractor(name: str, dataset: ImageDataset, inception_weights: Path | None = None) -> Extractor:
    """An extractor by its name on the command line: one of EXTRACTORS, or a vision backbone of `transformers`, by its Hub id
    or local folder. `classifier`, `random` and `pca` look at the data set's training images.

    Raises:
        UserError: for an unknown name, or weights that are not there.
    """
    if dataset.is_volume and name not in THREE_DIMENSIONAL:
        raise UserError(
            f"--features {name!r} sees two-dimensional images; {dataset.name} holds volumes. Choose from "
            f"{', '.join(THREE_DIMENSIONAL)}."
        )
    if name in EXTRACTORS:
        return EXTRACTORS[name](dataset, inception_weights)
    if "/" in name or Path(name).is_dir():
        return backbone(name)
    nearest = difflib.get_close_matches(name, EXTRACTORS, 1)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise UserError(
        f"--features {name!r} is unknown.{hint} Choose from {', '.join(EXTRACTORS)}, or a vision backbone's Hub id or folder."
    )


def classifier(dataset: ImageDataset) -> Extractor:
    """The 64 features before the last layer of a small CNN trained on the real training split."""
    device = PartialState().device
    model = real_data_classifier(dataset).to(device)

    @torch.no_grad()
    def embed(images: np.ndarray) -> dict[int, np.ndarray]:
        return {FEATURES: model.features(to_model_range(images).to(device)).cpu().numpy()}

    return Extractor("classifier", f"classifier-{dataset.train.content_hash[:16]}-{RECIPE}", 256, embed, fitted=True)


def texture_features(images: np.ndarray) -> dict[int, np.ndarray]:
    """Log energies of Haar details: three levels × three orientations × 3×3 regions × C; of volumes three levels × seven
    orientations × 2×2×2 regions × C. No weights, no training."""
    approximation = to_model_range(images)
    if approximation.ndim == 5:
        return _texture_of_volumes(approximation)
    features = []
    for _ in range(3):
        height, width = approximation.shape[-2:]
        approximation = F.pad(approximation, (0, width % 2, 0, height % 2), mode="replicate")
        a, b = approximation[..., ::2, ::2], approximation[..., ::2, 1::2]
        c, d = approximation[..., 1::2, ::2], approximation[..., 1::2, 1::2]
        for detail in (a - b + c - d, a + b - c - d, a - b - c + d):
            energy = F.adaptive_avg_pool2d((detail / 2) ** 2, 3)
            features.append(torch.log(energy + 1e-5).flatten(1))
        approximation = (a + b + c + d) / 2
    stacked = torch.cat(features, 1).numpy()
    return {stacked.shape[1]: stacked}


def _texture_of_volumes(approximation: torch.Tensor) -> dict[int, np.ndarray]:
    """The same along all three axes of float N×C×D×H×W: sums or differences of neighbours along each are the eight parts."""
    features = []
    for _ in range(3):
        approximation = F.pad(
            approximation,
            [pad for side in reversed(approximation.shape[2:]) for pad in (0, side % 2)],
            mode="replicate",
        )
        parts = [approximation]
        for axis in (2, 3, 4):
            halves = [(part.unflatten(axis, (-1, 2)).unbind(axis + 1)) for part in parts]
            parts = [part for even, odd in halves for part in ((even + odd) / 2**0.5, (even - odd) / 2**0.5)]
        approximation, *details = parts
        features += [torch.log(F.adaptive_avg_pool3d(detail**2, 2) + 1e-5).flatten(1) for detail in details]
    stacked = torch.cat(features, 1).numpy()
    return {stacked.shape[1]: stacked}


def pca(dataset: ImageDataset) -> Extractor:
    """The first 64 principal components of the training images' pixels: the plain reference that everything else should beat.

    Larger images are averaged down to 28 pixels first, volumes to 14 voxels.
    """
    rows = np.sort(np.random.default_rng(0).permutation(len(dataset.train))[:5000])

    def pixels(images: np.ndarray) -> torch.Tensor:
        values = to_model_range(images)
        most = PCA_SIZE if values.ndim == 4 else PCA_SIZE // 2
        return pooled(values, [min(side, most) for side in values.shape[2:]]).flatten(1).double()

    flat = pixels(dataset.train.images[rows])
    mean = flat.mean(0)
    components = torch.linalg.svd(flat - mean, full_matrices=False).Vh[:PCA_COMPONENTS]

    def embed(images: np.ndarray) -> dict[int, np.ndarray]:
        features = (pixels(images) - mean) @ components.T
        return {features.shape[1]: features.float().numpy()}

    return Extractor("pca", f"pca-{dataset.train.content_hash[:16]}-v2", 512, embed)


def backbone(name: str) -> Extractor:
    """A vision model of `transformers` (DINOv2 and the like) by Hub id or local folder; safetensors only.

    Its features are the pooled output where it has one, else the mean of the last hidden state. Grey images are repeated to three
    channels; size and normalization are those of the model's own image processor.

    Raises:
        UserError: if it is not there, cannot be downloaded, or has no image processor.
    """
    from transformers import AutoImageProcessor, AutoModel

    try:
        processor = AutoImageProcessor.from_pretrained(name, use_fast=True, trust_remote_code=False)
        model = AutoModel.from_pretrained(name, use_safetensors=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        reason = one_line(error, 160)
        raise UserError(
            f"--features {name}: no vision backbone that can be loaded ({reason}). Check the name and the network, or give the "
            "path of its folder (config.json, preprocessor_config.json, model.safetensors)."
        ) from None
    device = PartialState().device
    settings = model.config.to_json_string() + processor.to_json_string()
    model = getattr(model, "vision_model", model).eval().to(device)  # of CLIP and its like: the image half

    @torch.no_grad()
    def embed(images: np.ndarray) -> dict[int, np.ndarray]:
        rgb = np.broadcast_to(images, (*images.shape[:3], 3)).copy()
        outputs: Any = model(
            **processor(images=list(rgb), input_data_format="channels_last", return_tensors="pt").to(device)
        )
        pooled = getattr(outputs, "pooler_output", None)
        features = (outputs.last_hidden_state.mean(1) if pooled is None else pooled).flatten(1).float().cpu().numpy()
        return {features.shape[1]: features}

    digest = hashlib.sha256(settings.encode())
    for tensor in model.state_dict().values():
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    short = f"{Path(name).name}@{digest.hexdigest()[:8]}"  # so that no folder's name passes for another extractor
    return Extractor(short, f"backbone-{digest.hexdigest()[:32]}", 32, embed)


# name on the command line → how it is made for a data set, with the Inception weights that were given, if any
EXTRACTORS: dict[str, Callable[[ImageDataset, Path | None], Extractor]] = {
    "inception": lambda dataset, weights: inception(weights),
    "random": lambda dataset, weights: random_inception(dataset.train),
    "classifier": lambda dataset, weights: classifier(dataset),
    "texture": lambda dataset, weights: Extractor("texture", "haar-3x3x3-v1", 512, texture_features),
    "pca": lambda dataset, weights: pca(dataset),
}
