"""Metrics: distances against closed forms, torchmetrics and torch-fidelity; floors, copies, extractors; the records."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter
from scipy.stats import sem
from scipy.stats import t as scipy_t
from torch_fidelity import feature_extractor_inceptionv3
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torchmetrics.image.fid import FrechetInceptionDistance, _compute_fid

from medmnist_diffusion import cli
from medmnist_diffusion.data import load_dataset, phantom
from medmnist_diffusion.data.dataset import Split
from medmnist_diffusion.data.npz import write_npz
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import file_hash
from medmnist_diffusion.metrics import classifier, inception
from medmnist_diffusion.metrics.classifier import predict, real_data_classifier
from medmnist_diffusion.metrics.evaluation import Evaluation
from medmnist_diffusion.metrics.extractors import extract, make_extractor, texture_features
from medmnist_diffusion.metrics.frechet import FeatureStatistics, frechet_distance, frechet_estimate
from medmnist_diffusion.metrics.plan import plan_comparison
from medmnist_diffusion.metrics.records import MetricRecord, Metrics, over_seeds

from .conftest import run_python


def distance(real: np.ndarray, generated: np.ndarray) -> float:
    return frechet_distance(FeatureStatistics.of(real), generated)


def correlated(n: int, dim: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, dim)) @ rng.normal(size=(dim, dim)) + rng.normal(size=dim)


@pytest.fixture(scope="module")
def small(small_npz):
    return load_dataset(str(small_npz))


def fresh(count: int, seed: int = 99) -> Split:
    """Phantom images of another seed: real ones that no split holds."""
    arrays = phantom.make_phantom(seed=seed, counts={"train": count})
    return Split("fresh", arrays["train_images"][..., None], arrays["train_labels"][:, 0].astype(np.int64))


# The Fréchet distance


@pytest.mark.parametrize(("n", "dim"), [(500, 8), (300, 64), (40, 64)])
def test_frechet_distance_against_torchmetrics_and_torch_fidelity(n, dim):
    real, generated = correlated(n + 7, dim, 0), correlated(n, dim, 1)
    statistics = [torch.from_numpy(x) for pair in ((f.mean(0), np.cov(f.T)) for f in (real, generated)) for x in pair]
    reference = fid_statistics_to_metric(
        fid_features_to_statistics(torch.from_numpy(real)),
        fid_features_to_statistics(torch.from_numpy(generated)),
        False,
    )["frechet_inception_distance"]
    ours = distance(real, generated)
    assert ours == pytest.approx(float(_compute_fid(*statistics)), rel=1e-4)
    assert ours == pytest.approx(reference, rel=1e-3)


def test_frechet_distance_of_gaussians_with_exact_moments():
    """Whitened samples have exactly the moments that they are given: |Δμ|² + Σ (σ_1 − σ_2)² for axis-aligned ones."""
    rng = np.random.default_rng(0)
    samples = []
    for mean, sigma in ((np.zeros(3), np.array([1.0, 2.0, 3.0])), (np.array([1.0, 0, 2]), np.array([2.0, 2.0, 0.5]))):
        raw = rng.normal(size=(200, 3))
        raw -= raw.mean(0)
        white = raw @ np.linalg.inv(np.linalg.cholesky(np.cov(raw.T)).T)
        samples.append(white * sigma + mean)
    assert distance(*samples) == pytest.approx(5 + 1 + 0 + 6.25, rel=1e-9)


def test_frechet_distance_properties():
    real, generated = correlated(200, 16, 0), correlated(150, 16, 1)
    assert distance(real, real) == pytest.approx(0, abs=1e-6)
    assert distance(real, generated) == pytest.approx(distance(generated, real), rel=1e-9)
    assert distance(real, generated[::-1]) == pytest.approx(distance(real, generated), rel=1e-9)
    constant = np.ones((50, 16))
    assert np.isfinite(distance(constant, constant + 1))
    assert distance(constant, constant + 1) == pytest.approx(16)
    noisier = [distance(real, real + np.random.default_rng(2).normal(0, s, real.shape)) for s in (0.0, 0.5, 1.0, 2.0)]
    assert noisier == sorted(noisier)


@pytest.mark.parametrize("n", [2, 5, 16, 17])
def test_fewer_images_than_features_stay_finite(n):
    value = distance(correlated(300, 16, 0), correlated(n, 16, 1))
    assert np.isfinite(value)
    assert value > 0


def test_what_has_no_distance_is_refused():
    with pytest.raises(ValueError, match="at least 2 images"):
        distance(correlated(20, 4, 0), correlated(20, 4, 1)[:1])
    with pytest.raises(ValueError, match="NaN"):
        distance(correlated(20, 4, 0), np.full((20, 4), np.nan))


def test_interval_covers_the_expected_distance():
    """Of 60 repetitions at n = 200, most intervals hold the mean of the estimator at that n."""
    rng = np.random.default_rng(0)
    real = FeatureStatistics.of(rng.normal(size=(5000, 6)))
    draws = [rng.normal(0.3, 1.2, size=(200, 6)) for _ in range(60)]
    expected = np.mean([frechet_distance(real, draw) for draw in draws])
    intervals = [frechet_estimate(real, draw, seed=i).interval for i, draw in enumerate(draws)]
    covered = np.mean([low <= expected <= high for low, high in intervals])
    assert 0.85 <= covered <= 1
    assert np.mean([high - low for low, high in intervals]) < expected  # and they are not simply wide


# Which images are compared


def test_both_sides_have_the_same_size_and_class_shares(small):
    generated = fresh(400)
    plan = plan_comparison(small, small.splits["val"], generated, None, seed=0)
    train_shares = np.bincount(small.train.labels, minlength=4) / len(small.train)
    for rows, labels in ((plan.generated, generated.labels), (plan.floor, plan.floor_split.labels)):
        np.testing.assert_allclose(np.bincount(labels[rows], minlength=4) / len(rows), train_shares, atol=0.03)
    assert len(plan.generated) == len(plan.floor)
    np.testing.assert_array_equal(
        np.bincount(generated.labels[plan.generated]), np.bincount(plan.floor_split.labels[plan.floor])
    )
    assert plan.floor_split is small.train  # 80 val images are too few for so many generated ones
    assert not set(plan.floor) & set(plan.reference)


def test_floor_comes_from_val_where_it_is_large_enough(small):
    val = small.splits["val"]
    plan = plan_comparison(small, val, fresh(90), None, seed=0)
    assert plan.floor_split is val
    assert len(plan.reference) == len(small.train)
    assert len(plan_comparison(small, val, fresh(90), 100, seed=0).reference) == 100


def test_floor_in_a_fitted_space_comes_from_images_that_it_never_saw(small):
    """The classifier has memorized its 240 training images: fresh real images would look bad beside a floor made of those."""
    plan = plan_comparison(small, small.splits["val"], fresh(400), None, seed=0, only_held_out=True)
    assert plan.floor_split is small.splits["val"]
    assert 50 <= len(plan.generated) <= 80
    evaluation = Evaluation(small, fresh(400))
    evaluation.compare_features(make_extractor("classifier", small))
    precision = next(record for record in evaluation.ordered_records() if record.name == "precision")
    assert precision.value == pytest.approx(precision.floor, abs=0.15)


def test_a_missing_class_is_a_loss_not_an_error(small):
    generated = fresh(400)
    without = generated.subset(np.flatnonzero(generated.labels != 2))
    plan = plan_comparison(small, small.splits["val"], without, None, seed=0)
    assert len(plan.generated) == len(plan.floor)
    assert 2 not in without.labels[plan.generated]
    assert 2 in plan.floor_split.labels[plan.floor]
    evaluation = Evaluation(small, without)
    evaluation.compare_features(make_extractor("texture", small))
    assert any("no generated image of this class (class: 2)" in line for line in evaluation.refusals())
    assert {None, 0, 1} <= {record.class_ for record in evaluation.records} <= {None, 0, 1, 3}


def test_a_class_that_val_hardly_has_does_not_silence_the_others(small):
    """Overall figures of labels and copies are then those of the other classes, and say so."""
    val = small.splits["val"]
    rows = np.concatenate([np.flatnonzero(val.labels != 3), np.flatnonzero(val.labels == 3)[:1]])
    few = replace(small, splits={**small.splits, "val": val.subset(rows)})
    evaluation = Evaluation(few, fresh(200))
    evaluation.judge_labels()
    evaluation.look_for_copies()
    overall = {record.name: record for record in evaluation.records if record.class_ is None}
    assert {"label_accuracy", "memorized_share"} <= set(overall)
    assert overall["memorized_share"].n_generated < len(evaluation.plan.generated)
    assert any("too few val images (class: 3)" in line for line in evaluation.refusals())


def test_a_fitted_space_without_enough_fresh_images_is_refused(small):
    """55 val images make fewer than 50 in the right shares: then no figure, rather than a floor made of training images."""
    few = replace(small, splits={**small.splits, "val": small.splits["val"].subset(np.arange(40))})
    evaluation = Evaluation(few, fresh(200))
    evaluation.compare_features(make_extractor("classifier", few))
    evaluation.compare_features(make_extractor("texture", few))
    assert {record.extractor for record in evaluation.records} == {"texture"}
    assert any("fitted to train" in line for line in evaluation.refusals())


def test_too_few_images_are_refused(small):
    with pytest.raises(UserError, match=r"at least 50 are\s+needed"):
        plan_comparison(small, small.splits["val"], fresh(30), None, seed=0)


# Labels


def test_label_accuracy_counts_swapped_labels(small):
    def accuracies(split: Split) -> list[MetricRecord]:
        evaluation = Evaluation(small, split)
        evaluation.judge_labels()
        return evaluation.ordered_records()

    right = accuracies(small.train)
    swapped = Split("swapped", small.train.images, (small.train.labels + 1) % 4)
    assert right[0].value > 0.9
    assert accuracies(swapped)[0].value < 0.1
    assert [record.class_ for record in right] == [None, 0, 1, 2, 3]
    accuracy = (predict(real_data_classifier(small), small.train) == small.train.labels).mean()
    assert right[0].value == pytest.approx(accuracy)
    assert right[0].interval[0] < right[0].value <= right[0].interval[1]


# Extractors


def degraded(images: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 25, images.shape)
    return {
        "a little noise": (images + noise / 4).clip(0, 255).astype(np.uint8),
        "much noise": (images + noise).clip(0, 255).astype(np.uint8),
        "blobs": gaussian_filter(images, (0, 4, 4, 0)),
    }


def test_texture_and_classifier_rank_what_is_not_real(small):
    for name in ("texture", "classifier"):
        extractor = make_extractor(name, small)
        (reference,) = extract(extractor, small.train).values()
        real = distance(reference, next(iter(extract(extractor, fresh(160)).values())))
        worse = {}
        for case, images in degraded(fresh(160).images).items():
            (features,) = extract(extractor, Split(case, images, fresh(160).labels)).values()
            worse[case] = distance(reference, features)
        assert real < worse["a little noise"] < worse["much noise"], (name, real, worse)
        assert real < worse["blobs"], (name, real, worse)


@pytest.mark.parametrize("channels", [1, 3])
def test_texture_features_against_pywavelet_style_energies(channels):
    """The first level's horizontal, vertical and diagonal Haar details of a known image."""
    images = np.zeros((1, 12, 12, channels), np.uint8)
    images[:, :, ::2] = 255  # columns alternate: ±2 between neighbours in the model's range
    ((dimension, features),) = texture_features(images).items()
    assert dimension == 81 * channels == features.shape[1]
    levels = features.reshape(3, 3, channels, 9)
    np.testing.assert_allclose(levels[0, 0], np.log(4 + 1e-5), rtol=1e-5)  # (2 · 2 / 2)² = 4
    np.testing.assert_allclose(levels[0, 1:], np.log(1e-5), rtol=1e-5)
    np.testing.assert_allclose(levels[1:], np.log(1e-5), rtol=1e-5)


def test_random_inception_runs_offline_at_all_dimensions_and_ranks(small):
    """Finite at 768 and 2048 too, the same every time, and it sees noise and blur."""
    extractor = make_extractor("random", small)
    assert extractor.name == "random-inception"
    reference = extract(extractor, small.train.subset(np.arange(100)))
    assert list(reference) == [64, 192, 768, 2048]
    images = fresh(60)
    real = extract(extractor, images)
    cases = degraded(images.images)
    worse = {name: extract(extractor, Split(name, cases[name], images.labels)) for name in ("much noise", "blobs")}
    for dimension, features in reference.items():
        assert np.isfinite(features).all()
        near = distance(features, real[dimension])
        for name, other in worse.items():
            assert near < distance(features, other[dimension]), (dimension, name)
    again = make_extractor("random", small)
    assert again.identity == extractor.identity
    for dimension, features in extract(again, images.subset(np.arange(8))).items():
        np.testing.assert_allclose(features, real[dimension][:8], rtol=1e-4, atol=1e-4)


@pytest.fixture
def stand_in_weights(tmp_path, monkeypatch):
    """A file of the official one's layout with random weights, and its hash as the one to expect."""
    torch.manual_seed(0)
    network = inception._bare_inception()
    torch.save(network.state_dict(), tmp_path / "weights.pth")
    digest = file_hash(tmp_path / "weights.pth")
    monkeypatch.setattr(inception, "INCEPTION_HASH_PREFIX", digest[:8])
    return tmp_path / "weights.pth"


def test_fid_equals_torchmetrics_from_images_to_figure(stand_in_weights, small):
    real, generated = small.train.subset(np.arange(70)), fresh(66)
    extractor = make_extractor("inception", small, stand_in_weights)
    theirs = FrechetInceptionDistance(64, feature_extractor_weights_path=str(stand_in_weights)).set_dtype(
        torch.float64
    )
    for split, is_real in ((real, True), (generated, False)):
        images = torch.from_numpy(split.images).permute(0, 3, 1, 2).expand(-1, 3, -1, -1)
        theirs.update(images, real=is_real)
    ours = distance(extract(extractor, real)[64], extract(extractor, generated)[64])
    assert ours == pytest.approx(float(theirs.compute()), rel=1e-3)


def test_another_weights_file_is_refused(small_npz, tmp_path, cli_error):
    (tmp_path / "weights.pth").write_bytes(b"something else")
    message = cli_error("evaluate", str(small_npz), "--dataset", str(small_npz), "--inception_weights",
                        str(tmp_path / "weights.pth"))  # fmt: skip
    assert "is not the official Inception file" in message
    assert "--features classifier texture" in message
    assert "no such file" in cli_error("evaluate", str(small_npz), "--dataset", str(small_npz), "--inception_weights",
                                       str(tmp_path / "none.pth"))  # fmt: skip


def test_absent_weights_and_no_network(small_npz, tmp_path, cli_error, monkeypatch):
    """The real download is tried, at an address where nothing listens."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(feature_extractor_inceptionv3, "URL_INCEPTION_V3", "http://127.0.0.1:9/weights-6726825d.pth")
    message = cli_error("evaluate", str(small_npz), "--dataset", str(small_npz), "--features", "inception")
    assert "cannot be downloaded" in message
    assert "http://127.0.0.1:9/weights-6726825d.pth" in message
    assert "--inception_weights PATH" in message
    assert "--features random" in message
    assert not list(tmp_path.rglob("*.pth"))


# The command


@pytest.fixture(scope="module")
def evaluated(small_npz, tmp_path_factory):
    """metrics.json of an npz of fresh images."""
    folder = tmp_path_factory.mktemp("evaluated")
    arrays = phantom.make_phantom(seed=7, counts={"train": 200, "val": 8, "test": 8})
    write_npz(folder / "fresh.npz", arrays)
    arguments = [
        "--dataset",
        str(small_npz),
        "--features",
        "classifier",
        "texture",
        "--output",
        str(folder / "m.json"),
    ]
    assert cli.main(["evaluate", str(folder / "fresh.npz"), *arguments]) == 0
    return folder


def test_every_figure_has_its_floor_and_numbers(evaluated, capsys):
    values = json.loads((evaluated / "m.json").read_text())
    assert set(values) == {"dataset", "pipeline", "sampling", "metrics", "refused"}
    names = [(r["name"], r["extractor"], r["class"]) for r in values["metrics"]]
    assert ("kernel_distance", "classifier", None) in names
    assert ("frechet_distance", "texture", None) in names
    assert ("memorized_share", "pixels", None) in names
    assert ("label_accuracy", "classifier", 3) in names
    for record in values["metrics"]:
        assert record["floor"] is not None
        assert record["floor_source"]
        assert record["n_generated"] > 0
        assert record["interval"][0] <= record["value"] <= record["interval"][1]
        if record["name"] == "frechet_distance":
            assert record["ratio"] == pytest.approx(record["value"] / record["floor"])


def test_another_model_reuses_what_was_computed_of_the_real_set(evaluated, small_npz, private_cache, capsys):
    with np.load(evaluated / "fresh.npz") as arrays:
        other = dict(arrays)
    other["train_images"] = 255 - other["train_images"]
    write_npz(evaluated / "other.npz", other)
    before = {path: path.stat().st_mtime_ns for path in private_cache.rglob("*") if path.is_file()}
    capsys.readouterr()
    assert cli.main(["evaluate", str(evaluated / "other.npz"), "--dataset", str(small_npz), "--features", "classifier",
                     "texture", "--output", str(evaluated / "other.json")]) == 0  # fmt: skip
    printed = capsys.readouterr()
    assert "classifier on generated images" in printed.err
    assert "real images" not in printed.err  # no classifier of those is trained again
    assert {path: path.stat().st_mtime_ns for path in before} == before  # nor anything else of them computed
    new = [path.name for path in private_cache.rglob("*") if path.is_file() and path not in before]
    assert len(new) == 1, new  # the classifier of the generated images
    assert "Fréchet distance, texture (81)" in printed.out
    assert "FID" not in printed.out
    assert "not measured: texture (81): at least 20 images on either side are needed (class: " in printed.out


def test_the_same_images_give_the_same_file(evaluated, small_npz):
    assert cli.main(["evaluate", str(evaluated / "fresh.npz"), "--dataset", str(small_npz), "--features", "classifier",
                     "texture", "--output", str(evaluated / "again.json")]) == 0  # fmt: skip
    assert (evaluated / "again.json").read_text() == (evaluated / "m.json").read_text()


def test_two_processes_measure_the_same(evaluated, small_npz, tmp_path):
    result = run_python(
        "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "-m", "medmnist_diffusion.cli",
        "evaluate", str(evaluated / "fresh.npz"), "--dataset", str(small_npz), "--features", "classifier", "texture",
        "--output", str(tmp_path / "two.json"), cwd=tmp_path,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    one, two = Metrics.read(evaluated / "m.json").metrics, Metrics.read(tmp_path / "two.json").metrics
    assert [record.label for record in two] == [record.label for record in one]
    for record, other in zip(one, two, strict=True):
        assert other.value == pytest.approx(record.value, rel=1e-4, abs=1e-4), record.label


def test_pipelines_and_image_folders_are_evaluated_too(trained_run, small_npz, tmp_path):
    pipeline = tmp_path / "pipeline"
    shutil.copytree(trained_run / "pipeline", pipeline)
    arguments = ["--dataset", str(small_npz), "--features", "texture"]
    assert cli.main(["evaluate", str(pipeline), *arguments, "--num_images", "80", "--num_inference_steps", "5"]) == 0
    metrics = Metrics.read(pipeline / "metrics.json")
    assert metrics.sampling == {"sampler": "dpmsolver++", "num_inference_steps": 5, "guidance_scale": 1.0, "seed": 0}
    assert metrics.pipeline["weights_sha256"]
    assert cli.main(["sample", str(pipeline), "--num_per_class", "40", "--num_inference_steps", "5", "--output",
                     str(tmp_path / "images")]) == 0  # fmt: skip
    assert cli.main(["evaluate", str(tmp_path / "images"), *arguments, "--output", str(tmp_path / "f.json")]) == 0
    one, two = (
        next(record.value for record in found.metrics if record.name == "kernel_distance")
        for found in (metrics, Metrics.read(tmp_path / "f.json"))
    )
    assert Metrics.read(tmp_path / "f.json").sampling == metrics.sampling  # read from the folder's metadata.csv
    assert two == pytest.approx(one, rel=0.5)  # the same generator, other numbers of images


def test_what_does_not_fit_is_refused(trained_run, small_npz, tmp_path, cli_error):
    arguments = ["--features", "texture", "--output", str(tmp_path / "m.json")]
    other = tmp_path / "other.npz"
    write_npz(other, phantom.make_phantom(size=32, counts={"train": 60, "val": 20, "test": 20}))
    assert "shape (32, 32, 1)" in cli_error("evaluate", str(other), "--dataset", str(small_npz), *arguments)
    two = phantom.make_phantom(counts={"train": 60, "val": 20, "test": 20})
    for name in ("train", "val", "test"):
        two[f"{name}_labels"] %= 2
    write_npz(tmp_path / "two.npz", two)
    pipeline = str(trained_run / "pipeline")
    assert "two has {0: '0', 1: '1'}" in cli_error(
        "evaluate", pipeline, "--dataset", str(tmp_path / "two.npz"), *arguments
    )
    assert "outside the 2 classes" in cli_error(
        "evaluate", str(small_npz), "--dataset", str(tmp_path / "two.npz"), *arguments
    )
    assert "is no pipeline folder" in cli_error(
        "evaluate", str(tmp_path / "none"), "--dataset", str(small_npz), *arguments
    )
    assert "at least 2" in cli_error(
        "evaluate", pipeline, "--dataset", str(small_npz), *arguments, "--num_images", "1"
    )
    assert not (tmp_path / "m.json").exists()


def test_bad_image_folders_are_named(small_npz, tmp_path, cli_error):
    arguments = ["--dataset", str(small_npz), "--features", "texture", "--output", str(tmp_path / "m.json")]
    (tmp_path / "empty").mkdir()
    assert "no images found" in cli_error("evaluate", str(tmp_path / "empty"), *arguments)
    good = Image.fromarray(np.full((28, 28), 90, np.uint8))
    for name in ("0", "1"):
        (tmp_path / "broken" / name).mkdir(parents=True)
        good.save(tmp_path / "broken" / name / "good.png")
        (tmp_path / "colour" / name).mkdir(parents=True)
        good.convert("RGB").point(lambda value: value).save(tmp_path / "colour" / name / "good.png")
    (tmp_path / "broken" / "1" / "torn.png").write_bytes((tmp_path / "broken" / "1" / "good.png").read_bytes()[:50])
    for name in ("0", "1"):
        (tmp_path / "large" / name).mkdir(parents=True)
        good.resize((40, 40)).save(tmp_path / "large" / name / "good.png")
    assert "has 40×40 pixels, small 28×28" in cli_error("evaluate", str(tmp_path / "large"), *arguments)
    assert "torn.png" in cli_error("evaluate", str(tmp_path / "broken"), *arguments)
    assert "holds colour images" in cli_error("evaluate", str(tmp_path / "colour"), *arguments)


# metrics.json


def test_draws_with_several_seeds_become_means_with_students_interval(evaluated):
    draws = []
    for shift in (0.0, 0.3, 0.9):
        records = Metrics.read(evaluated / "m.json").metrics
        draws.append([record.model_copy(update={"value": record.value + shift}) for record in records])
    merged = next(r for r in over_seeds(draws) if r.name == "frechet_distance" and r.class_ is None)
    values = [next(r.value for r in draw if r.name == "frechet_distance" and r.class_ is None) for draw in draws]
    expected = scipy_t.interval(0.95, 2, loc=np.mean(values), scale=sem(values))
    assert merged.value == pytest.approx(np.mean(values))
    assert merged.interval == pytest.approx((max(expected[0], 0), expected[1]))
    assert merged.ratio == pytest.approx(merged.value / merged.floor)
    assert merged.sampling_seeds == 3
    nothing = [
        [record.model_copy(update={"value": 0.0, "interval": (0.0, 0.02)})] * 1 for record in [draws[0][-1]] * 5
    ]
    (share,) = over_seeds(nothing)
    assert share.interval[1] > 0.005  # five times nothing is not certainty
    shares = [r for r in over_seeds(draws) if r.name == "memorized_share"]
    assert all(0 <= r.interval[0] <= r.interval[1] <= 1 and 0 <= r.p_value <= 1 for r in shares)


def test_a_pipeline_is_drawn_anew_for_every_sampling_seed(trained_run, small_npz, tmp_path, monkeypatch):
    monkeypatch.setattr(classifier, "STEPS", 40)  # real ones, shorter, with a name of their own in the cache
    monkeypatch.setattr(classifier, "RECIPE", "short")
    folder = tmp_path / "pipeline"
    shutil.copytree(trained_run / "pipeline", folder)
    arguments = [
        "--dataset",
        str(small_npz),
        "--features",
        "texture",
        "--num_images",
        "80",
        "--num_inference_steps",
        "3",
    ]
    values = {}
    for name, extra in (
        ("0", []), ("1", ["--seed", "1"]), ("both", ["--sampling_seeds", "2"])
    ):  # fmt: skip
        assert cli.main(["evaluate", str(folder), *arguments, *extra, "--output", str(tmp_path / f"{name}.json")]) == 0
        metrics = Metrics.read(tmp_path / f"{name}.json")
        values[name] = next(r.value for r in metrics.metrics if r.name == "label_accuracy" and r.class_ is None)
    assert metrics.sampling["sampling_seeds"] == 2
    assert values["both"] == pytest.approx((values["0"] + values["1"]) / 2, abs=0.05)


def test_records_round_trip(evaluated, tmp_path):
    metrics = Metrics.read(evaluated / "m.json")
    metrics.write(tmp_path / "copy.json")
    assert (tmp_path / "copy.json").read_bytes() == (evaluated / "m.json").read_bytes()


@pytest.mark.parametrize(
    "damage",
    [
        lambda record: record.pop("floor"),
        lambda record: record.update(value="good"),
        lambda record: record.update(name="beauty"),
        lambda record: record.update(extra=1),
    ],
)
def test_a_file_that_does_not_fit_the_schema_is_refused(evaluated, tmp_path, damage):
    values = json.loads((evaluated / "m.json").read_text())
    damage(values["metrics"][0])
    (tmp_path / "m.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="no valid metrics file"):
        Metrics.read(tmp_path / "m.json")


def test_only_official_weights_make_an_fid(evaluated):
    record = Metrics.read(evaluated / "m.json").metrics[0]
    assert record.model_copy(update={"extractor": "inception", "dimension": 2048}).label == "FID (2048)"
    assert "FID" not in record.model_copy(update={"extractor": "random-inception", "dimension": 2048}).label
