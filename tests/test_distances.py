"""Kernel distance, neighbour figures, spread and intervals against other packages, closed forms and known distributions."""

import json
import shutil

import numpy as np
import pytest
import torch
from prdc import compute_prdc
from torch_fidelity.metric_kid import kid_features_to_metric
from torchmetrics.image.kid import poly_mmd

from medmnist_diffusion.data import load_dataset, phantom
from medmnist_diffusion.data.dataset import ImageDataset, Split
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.metrics.evaluation import Evaluation, intra_class_spread
from medmnist_diffusion.metrics.extractors import extract, make_extractor
from medmnist_diffusion.metrics.frechet import FeatureStatistics, extrapolated_estimate, frechet_distance
from medmnist_diffusion.metrics.intervals import Estimate, difference_interval, halves, holm, ratio_interval, spread
from medmnist_diffusion.metrics.kernel import kernel_distance
from medmnist_diffusion.metrics.neighbours import precision_recall_density_coverage


def normal(n: int, dim: int = 8, seed: int = 0, shift: float = 0.0, scale: float = 1.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(shift, scale, (n, dim))


# Other packages


@pytest.mark.parametrize(("m", "n", "dim"), [(200, 200, 8), (1500, 1100, 16)])
def test_kernel_distance_against_torchmetrics_and_torch_fidelity(m, n, dim):
    real, generated = normal(m, dim), normal(n, dim, 1, 0.5)
    ours = kernel_distance(real, generated).value
    if m == n:  # theirs take equal sizes
        tensors = torch.from_numpy(real), torch.from_numpy(generated)
        fidelity = kid_features_to_metric(*tensors, kid_subsets=1, kid_subset_size=n, verbose=False)
        assert ours == pytest.approx(fidelity["kernel_inception_distance_mean"], rel=1e-3)
        assert ours == pytest.approx(float(poly_mmd(*tensors)), rel=1e-3)
    k = lambda a, b: (a @ b.T / dim + 1) ** 3  # noqa: E731
    off = lambda gram: (gram.sum() - np.trace(gram)) / (len(gram) * (len(gram) - 1))  # noqa: E731
    direct = off(k(real, real)) + off(k(generated, generated)) - 2 * k(real, generated).mean()
    assert ours == pytest.approx(direct, rel=1e-9)


def test_kernel_distance_is_unbiased():
    values = [kernel_distance(normal(60, seed=i), normal(40, seed=i + 1000)).value for i in range(200)]
    assert abs(np.mean(values)) < 3 * np.std(values) / np.sqrt(len(values))


@pytest.mark.parametrize(("m", "n"), [(300, 250), (1200, 400)])
def test_neighbour_figures_against_prdc(m, n):
    real, generated = normal(m), normal(n, seed=1, shift=0.3, scale=0.8)
    ours = precision_recall_density_coverage(real, generated)
    for name, value in compute_prdc(real, generated, nearest_k=5).items():
        assert ours[name].value == pytest.approx(value, rel=1e-3), name


def test_precision_and_recall_are_not_swapped():
    """Narrow generated images: all are real-like, yet they reach little of the real ones; and the other way round."""
    narrow = precision_recall_density_coverage(normal(500), normal(500, seed=1, scale=0.3))
    wide = precision_recall_density_coverage(normal(500, scale=0.3), normal(500, seed=1))
    assert narrow["precision"].value > 0.9 > 0.4 > narrow["recall"].value
    assert wide["recall"].value > 0.9 > 0.4 > wide["precision"].value


def test_collapsed_and_tied_images():
    """One image a hundred times: no diversity, and no figure that is not a number."""
    real, collapsed = normal(200), np.repeat(normal(1, seed=5) * 0.1, 100, axis=0)
    figures = precision_recall_density_coverage(real, collapsed)
    assert figures["recall"].value == 0
    assert figures["coverage"].value < 0.5
    assert all(np.isfinite(figure.value) for figure in figures.values())
    assert np.isfinite(kernel_distance(real, collapsed).value)
    assert intra_class_spread(collapsed, np.zeros(100, int)).value == pytest.approx(0, abs=1e-6)


def test_too_few_images_for_neighbours():
    with pytest.raises(ValueError, match="5 neighbours need at least"):
        precision_recall_density_coverage(normal(100), normal(10))


# Closed forms and known distributions


def test_spread_against_its_definition():
    features, labels = normal(60, 4), np.arange(60) % 3
    squared = [
        ((features[labels == c][:, None] - features[labels == c][None]) ** 2).sum(-1).sum() / (20 * 19)
        for c in range(3)
    ]
    assert intra_class_spread(features, labels).value == pytest.approx(np.sqrt(np.mean(squared)))


def test_extrapolation_removes_the_bias_for_few_images():
    """Same distribution on both sides: at n = 200 the distance is far from its limit 0, the extrapolated one is near it."""
    real = FeatureStatistics.of(normal(50000, 16))
    plain = np.mean([frechet_distance(real, normal(200, 16, i + 1)) for i in range(20)])
    extrapolated = np.mean([extrapolated_estimate(real, normal(200, 16, i + 1), seed=i).value for i in range(20)])
    assert plain > 0.3
    assert abs(extrapolated) < 0.25 * plain


@pytest.mark.parametrize("statistic", ["mean", "frechet"])
def test_halves_estimate_the_standard_error(statistic):
    """Against the spread over 60 fresh draws."""
    real = FeatureStatistics.of(normal(20000, 6))
    figure = (lambda x: float(x.mean())) if statistic == "mean" else (lambda x: frechet_distance(real, x))
    draws = [normal(300, 6, seed=i + 1, shift=0.3) for i in range(60)]
    truth = np.std([figure(draw) for draw in draws], ddof=1)
    estimated = np.mean([spread([figure(draw[rows]) for rows in halves(300, seed=i)]) for i, draw in enumerate(draws)])
    assert 0.7 < estimated / truth < 1.4


def test_holm_against_its_definition():
    """Sorted p-values times what is left, never decreasing (Holm 1979; the values of R's p.adjust)."""
    np.testing.assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]


def test_difference_interval():
    low, high = difference_interval(Estimate(3.0, 0.3), Estimate(1.0, 0.4))
    assert (low, high) == pytest.approx((2 - 1.96 * 0.5, 2 + 1.96 * 0.5))
    assert difference_interval(Estimate(3.0, None), Estimate(1.0, 0.4)) is None


def test_ratio_interval():
    assert ratio_interval(Estimate(2.0, 0.0), Estimate(1.0, 0.1)) is None
    low, high = ratio_interval(Estimate(2.0, 0.2), Estimate(1.0, 0.1))
    assert low < 2 < high
    assert low * high == pytest.approx(4)
    assert np.log(high / 2) == pytest.approx(1.96 * np.hypot(0.1, 0.1))


# Feature spaces


@pytest.fixture(scope="module")
def small(small_npz):
    return load_dataset(str(small_npz))


def test_pca_against_scikit_learn(small):
    from sklearn.decomposition import PCA

    ((dimension, ours),) = extract(make_extractor("pca", small), small.train).items()
    flat = small.train.images.reshape(len(small.train), -1) / 127.5 - 1
    theirs = PCA(64, svd_solver="full").fit_transform(flat)
    assert dimension == 64
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-3)


@pytest.fixture(scope="module")
def tiny_backbone(tmp_path_factory):
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


def test_any_vision_backbone_of_transformers(tiny_backbone, small):
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


def test_a_backbone_is_known_by_weights_and_processing_never_by_its_folder(tiny_backbone, small, tmp_path):
    """A folder named `inception` must not make an FID, nor other normalization share a cache entry."""
    folder = tmp_path / "inception"
    shutil.copytree(tiny_backbone, folder)
    named = make_extractor(str(folder), small)
    assert named.name != "inception"
    assert named.identity == make_extractor(str(tiny_backbone), small).identity
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps({**settings, "image_mean": [0.1, 0.2, 0.3]}))
    assert make_extractor(str(folder), small).identity != named.identity


def test_the_image_half_of_clip(small, tmp_path):
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


def test_unknown_feature_spaces(small, tmp_path):
    with pytest.raises(UserError, match="Did you mean 'texture'"):
        make_extractor("textur", small)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no vision backbone that can be loaded"):
        make_extractor(str(tmp_path / "empty"), small)


# Real against real


def test_fresh_real_images_score_as_their_floor():
    """Two draws of the phantom: ratios cover 1, the unbiased distances' differences cover 0, the neighbour figures agree."""
    arrays = phantom.make_phantom(seed=1, counts={"train": 800, "val": 200, "test": 50})
    splits = {
        name: Split(name, arrays[f"{name}_images"][..., None], arrays[f"{name}_labels"][:, 0].astype(np.int64))
        for name in ("train", "val", "test")
    }
    fresh = phantom.make_phantom(seed=2, counts={"train": 420})
    generated = Split("fresh", fresh["train_images"][..., None], fresh["train_labels"][:, 0].astype(np.int64))
    evaluation = Evaluation(ImageDataset("p", splits, dict(enumerate("abcd"))), generated)
    evaluation.compare_features(make_extractor("texture", evaluation.dataset))
    records = [record for record in evaluation.ordered_records() if record.class_ is None]
    assert {"frechet_distance", "kernel_distance", "precision", "memorized_share"} <= {r.name for r in records}
    for record in records:
        if record.ratio_interval:
            assert record.ratio_interval[0] <= 1 <= record.ratio_interval[1], record.label
        if record.name == "kernel_distance":
            width = np.hypot(np.ptp(record.interval), np.ptp(record.floor_interval)) / 2
            assert abs(record.value - record.floor) < 1.5 * width
        if record.name in ("precision", "recall", "coverage"):
            assert record.value == pytest.approx(record.floor, abs=0.08)
        if record.p_value is not None:
            assert record.p_value > 0.01, record.label


def test_a_distance_with_too_few_images_is_refused_aloud(small):
    few = phantom.make_phantom(seed=3, counts={"train": 90})
    split = Split("few", few["train_images"][..., None], few["train_labels"][:, 0].astype(np.int64))
    evaluation = Evaluation(small, split)
    evaluation.compare_features(make_extractor("texture", small))
    assert "frechet_distance" not in {record.name for record in evaluation.records}
    assert any("more than 81 images on either side are needed (class: all" in line for line in evaluation.refusals())
