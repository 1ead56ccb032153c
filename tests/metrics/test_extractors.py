"""Feature spaces: what they see, other packages, and names."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from medmnist_diffusion.data.dataset import Split
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.metrics.extractors import make_extractor, texture_features
from medmnist_diffusion.metrics.features import extract

from .helpers import degraded, distance, fresh


def test_texture_and_classifier_rank_what_is_not_real(small: Any) -> None:
    for name in ("texture", "classifier"):
        extractor = make_extractor(name, small)
        (reference,) = extract(extractor, small.train).values()
        real = distance(reference, next(iter(extract(extractor, fresh(160)).values())))
        worse = {}
        for case, images in degraded(fresh(160).images[:]).items():
            (features,) = extract(extractor, Split(case, images, fresh(160).labels)).values()
            worse[case] = distance(reference, features)
        assert real < worse["a little noise"] < worse["much noise"], (name, real, worse)
        assert real < worse["blobs"], (name, real, worse)


@pytest.mark.parametrize("channels", [1, 3])
def test_texture_features_against_pywavelet_style_energies(channels: Any) -> None:
    """The first level's horizontal, vertical and diagonal Haar details of a known image."""
    images = np.zeros((1, 12, 12, channels), np.uint8)
    images[:, :, ::2] = 255  # columns alternate: ±2 between neighbours in the model's range
    ((dimension, features),) = texture_features(images).items()
    assert dimension == 81 * channels == features.shape[1]
    levels = features.reshape(3, 3, channels, 9)
    np.testing.assert_allclose(levels[0, 0], np.log(4 + 1e-5), rtol=1e-5)  # (2 · 2 / 2)² = 4
    np.testing.assert_allclose(levels[0, 1:], np.log(1e-5), rtol=1e-5)
    np.testing.assert_allclose(levels[1:], np.log(1e-5), rtol=1e-5)


def test_pca_against_scikit_learn(small: Any) -> None:
    from sklearn.decomposition import PCA

    ((dimension, ours),) = extract(make_extractor("pca", small), small.train).items()
    flat = small.train.images.reshape(len(small.train), -1) / 127.5 - 1
    theirs = PCA(64, svd_solver="full").fit_transform(flat)
    assert dimension == 64
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-3)


@pytest.fixture(scope="module")
def tiny_backbone(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A vision transformer of transformers with random weights, saved as its users save theirs."""
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    folder = tmp_path_factory.mktemp("models") / "tiny-vit"
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, image_size=32, patch_size=8
    )
    ViTModel(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_any_vision_backbone_of_transformers(tiny_backbone: Any, small: Any) -> None:
    from transformers import ViTImageProcessor, ViTModel

    extractor = make_extractor(str(tiny_backbone), small)
    split = small.train.subset(np.arange(6))
    ((dimension, features),) = extract(extractor, split).items()
    assert (extractor.name.split("@")[0], dimension) == ("tiny-vit", 32)
    images = [np.repeat(image, 3, axis=-1) for image in split.images]
    inputs = ViTImageProcessor.from_pretrained(tiny_backbone)(images, return_tensors="pt")
    with torch.no_grad():
        expected = ViTModel.from_pretrained(tiny_backbone).eval()(**inputs).pooler_output
    np.testing.assert_allclose(features, expected.numpy(), atol=0.02)


def test_a_backbone_is_known_by_weights_and_processing_never_by_its_folder(
    tiny_backbone: Any, small: Any, tmp_path: Path
) -> None:
    """A folder named `inception` must not make an FID, nor other normalization share a cache entry."""
    folder = tmp_path / "inception"
    shutil.copytree(tiny_backbone, folder)
    named = make_extractor(str(folder), small)
    assert named.name != "inception"
    assert named.identity == make_extractor(str(tiny_backbone), small).identity
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**settings, "image_mean": [0.1, 0.2, 0.3]}))
    assert make_extractor(str(folder), small).identity != named.identity


def test_the_image_half_of_clip(small: Any, tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    tiny = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**tiny, "vocab_size": 20, "eos_token_id": 1, "bos_token_id": 0, "pad_token_id": 2},
        vision_config={**tiny, "image_size": 32, "patch_size": 8},
    )
    CLIPModel(config).save_pretrained(tmp_path / "clip")
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(tmp_path / "clip")
    ((dimension, features),) = extract(
        make_extractor(str(tmp_path / "clip"), small), small.train.subset(np.arange(4))
    ).items()
    assert dimension == 16
    assert np.isfinite(features).all()


def test_unknown_feature_spaces(small: Any, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'texture'"):
        make_extractor("textur", small)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no vision backbone that can be loaded"):
        make_extractor(str(tmp_path / "empty"), small)
