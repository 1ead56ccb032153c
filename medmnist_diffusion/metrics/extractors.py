"""Feature spaces. One contract: a batch of uint8 images n×H×W×C in, {dimension: float32 n×dimension} out.

Distances in one space say nothing about another, nor do they compare across dimensions. A semantic space (classifier,
Inception) and a texture space belong together: a classifier sees what separates the classes, not what makes an image real.
"""

import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tqdm import tqdm

from medmnist_diffusion.data.dataset import ImageDataset, Split, to_model_range
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import atomic_file, cache_dir, file_hash
from medmnist_diffusion.metrics.classifier import FEATURES, RECIPE, real_data_classifier

INCEPTION_DIMENSIONS = (64, 192, 768, 2048)
INCEPTION_HASH_PREFIX = "6726825d"  # SHA-256, as in the official file's name
CALIBRATION_IMAGES = 64
EXTRACTORS = ("inception", "random", "classifier", "texture")

Embed = Callable[[np.ndarray], dict[int, np.ndarray]]


@dataclass(frozen=True)
class Extractor:
    """A named feature space; `identity` names its weights and settings and is part of the cache's key."""

    name: str
    identity: str
    batch_size: int
    embed: Embed


def make_extractor(name: str, dataset: ImageDataset, inception_weights: Path | None = None) -> Extractor:
    """An extractor by its name on the command line; `classifier` and `random` look at the data set's training images."""
    if name == "inception":
        return inception(inception_weights)
    if name == "random":
        return random_inception(dataset.train)
    if name == "classifier":
        return classifier(dataset)
    if name == "texture":
        return Extractor("texture", "haar-3x3x3-v1", 512, texture_features)
    raise UserError(f"--features {name!r} is unknown. Choose from {', '.join(EXTRACTORS)}.")


def extract(extractor: Extractor, split: Split, cache: bool = False) -> dict[int, np.ndarray]:
    """{dimension: float32 N×dimension} of a whole split; with `cache`, kept on disk by content and identity."""
    path = cache_dir() / "features" / f"{split.content_hash[:32]}-{extractor.identity}.npz"
    if cache and path.is_file():
        with np.load(path, allow_pickle=False) as arrays:
            return {int(key): arrays[key] for key in arrays.files}
    parts: dict[int, list[np.ndarray]] = {}
    bar = tqdm(total=len(split), desc=f"{extractor.name} features", unit="image", dynamic_ncols=True)
    for chunk in split.chunks(extractor.batch_size):
        for dimension, features in extractor.embed(chunk).items():
            parts.setdefault(dimension, []).append(features)
        bar.update(len(chunk))
    bar.close()
    whole = {dimension: np.concatenate(blocks) for dimension, blocks in parts.items()}
    if cache:
        with atomic_file(path) as temporary:
            np.savez(temporary, allow_pickle=False, **{str(key): value for key, value in whole.items()})
    return whole


def classifier(dataset: ImageDataset) -> Extractor:
    """The 64 features before the last layer of a small CNN trained on the real training split."""
    model = real_data_classifier(dataset)

    @torch.no_grad()
    def embed(images: np.ndarray) -> dict[int, np.ndarray]:
        return {FEATURES: model.features(to_model_range(images)).numpy()}

    return Extractor("classifier", f"classifier-{dataset.train.content_hash[:16]}-{RECIPE}", 256, embed)


def texture_features(images: np.ndarray) -> dict[int, np.ndarray]:
    """Log energies of Haar details: three levels × three orientations × 3×3 regions × C. No weights, no training."""
    approximation = to_model_range(images)
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


# Inception


def inception(weights: Path | None = None) -> Extractor:
    """torchmetrics' Inception with the official FID weights, from `weights`, torch's cache, or a download.

    Raises:
        UserError: if the weights are not there and cannot be downloaded, or are other ones.
    """
    path = weights or _official_weights()
    if not path.is_file():
        raise UserError(f"{path}: no such file. {_inception_remedy()}")
    if not (digest := file_hash(path)).startswith(INCEPTION_HASH_PREFIX):
        raise UserError(f"{path} is not the official Inception file (SHA-256 {digest[:16]}…). {_inception_remedy()}")
    network = _bare_inception()
    network.load_state_dict(torch.load(path, weights_only=True))
    return Extractor("inception", f"inception-{digest[:16]}", 32, _inception_embed(network))


def random_inception(calibration: Split, seed: int = 0) -> Extractor:
    """The same network with seeded random weights, so that all four dimensions run offline. Never to be called FID.

    Untrained batch norm has no statistics: channels die or explode. So it is calibrated once on 64 training images, and
    what stays constant there is set to zero, which adds nothing to a distance.
    """
    rows = np.sort(np.random.default_rng(seed).permutation(len(calibration))[:CALIBRATION_IMAGES])
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = _bare_inception()
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = 1.0
        norm.training = True
    embed = _inception_embed(network)
    embed(calibration.images[rows])
    network.eval()
    alive = {
        dimension: features.std(0) > 1e-6 * (np.abs(features).mean() + 1e-12)
        for dimension, features in embed(calibration.images[rows]).items()
    }

    def embed_alive(images: np.ndarray) -> dict[int, np.ndarray]:
        return {dimension: features * alive[dimension] for dimension, features in embed(images).items()}

    key = hashlib.sha256(calibration.content_hash.encode() + bytes([seed])).hexdigest()[:16]
    return Extractor("random-inception", f"random-inception-{key}-v1", 32, embed_alive)


def _bare_inception() -> Any:
    """torchmetrics' FID network as initialised. Its class insists on loading a weights file by unpickling it without limits;
    it is given an empty one of our own, and the real weights are loaded afterwards with weights_only."""
    from torchmetrics.image.fid import NoTrainInceptionV3

    class Bare(NoTrainInceptionV3):
        def load_state_dict(self, state_dict: dict, *args: object, **kwargs: object) -> object:
            return super().load_state_dict(state_dict, *args, **kwargs) if state_dict else None

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    return Bare("inception-v3-compat", [str(d) for d in INCEPTION_DIMENSIONS], empty)


def _inception_embed(network: Any) -> Embed:
    @torch.no_grad()
    def embed(images: np.ndarray) -> dict[int, np.ndarray]:
        pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        outputs = network._torch_fidelity_forward(pixels.expand(-1, 3, -1, -1))
        return {
            dimension: output.flatten(1).float().numpy()
            for dimension, output in zip(INCEPTION_DIMENSIONS, outputs, strict=True)
        }

    return embed


def _official_weights() -> Path:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = Path(torch.hub.get_dir()) / "checkpoints" / URL_INCEPTION_V3.rsplit("/", 1)[1]
    if not path.is_file():
        print(f"Downloading the Inception weights from {URL_INCEPTION_V3}")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix=INCEPTION_HASH_PREFIX)
        except (OSError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:120]
            raise UserError(
                f"the official Inception weights are not in {path.parent} and cannot be downloaded ({reason}). "
                f"{_inception_remedy()}"
            ) from None
    return path


def _inception_remedy() -> str:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    return (
        f"Fetch {URL_INCEPTION_V3} on a machine with a network and give it by --inception_weights PATH, or evaluate without "
        "it: --features classifier texture, or --features random (these are not FID)."
    )
