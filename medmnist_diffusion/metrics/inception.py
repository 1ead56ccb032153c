"""The network behind FID, with the official weights or with seeded random ones."""

import hashlib
import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from medmnist_diffusion.data.dataset import Split
from medmnist_diffusion.errors import UserError, one_line
from medmnist_diffusion.files import file_hash
from medmnist_diffusion.metrics.features import Embed, Extractor

logger = logging.getLogger(__name__)

INCEPTION_DIMENSIONS = (64, 192, 768, 2048)
INCEPTION_HASH_PREFIX = "6726825d"  # SHA-256, as in the official file's name
CALIBRATION_IMAGES = 64
RANDOM_SIZE = 112  # pixels a side: 299, to which the official weights are tied, would cost seven times as much


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
    network.INPUT_IMAGE_SIZE = RANDOM_SIZE
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
    return Extractor("random-inception", f"random-inception-{key}-v2", 32, embed_alive)


def _bare_inception() -> Any:
    """torchmetrics' FID network as initialised. Its class insists on loading a weights file by unpickling it without limits;
    it is given an empty one of our own, and the real weights are loaded afterwards with weights_only."""
    from torchmetrics.image.fid import NoTrainInceptionV3

    class Bare(NoTrainInceptionV3):
        def load_state_dict(self, state_dict: dict[str, Any], *args: object, **kwargs: object) -> object:
            return super().load_state_dict(state_dict, *args, **kwargs) if state_dict else None

    empty = io.BytesIO()
    torch.save({}, empty)
    empty.seek(0)
    return Bare("inception-v3-compat", [str(d) for d in INCEPTION_DIMENSIONS], empty)


def _inception_embed(network: Any) -> Embed:
    device = PartialState().device
    network = network.to(device)

    @torch.no_grad()
    def embed(images: np.ndarray) -> dict[int, np.ndarray]:
        pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
        outputs = network._torch_fidelity_forward(pixels.expand(-1, 3, -1, -1).to(device))
        return {
            dimension: output.flatten(1).float().cpu().numpy()
            for dimension, output in zip(INCEPTION_DIMENSIONS, outputs, strict=True)
        }

    return embed


def cached_weights() -> Path:
    """Where torch's cache has the official weights, or would have them."""
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    return Path(torch.hub.get_dir()) / "checkpoints" / str(URL_INCEPTION_V3).rsplit("/", 1)[1]


def weights_at_hand(given: Path | None) -> bool:
    """Whether the official weights need no download: a file was given, or torch's cache has them."""
    return given is not None or cached_weights().is_file()


def _official_weights() -> Path:
    from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3

    path = cached_weights()
    if not path.is_file():
        logger.info("Downloading the Inception weights from %s", URL_INCEPTION_V3)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix=INCEPTION_HASH_PREFIX)
        except (OSError, RuntimeError) as error:
            reason = one_line(error, 120)
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
