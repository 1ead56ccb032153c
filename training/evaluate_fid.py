"""How good generated images are, whether they are copies, and what they teach: each figure beside its real-vs-real floor.

    python training/evaluate_fid.py runs/x/pipeline --dataset pneumoniamnist
    python training/evaluate_fid.py runs/x/pipeline --dataset pneumoniamnist --features inception --inception_weights weights.pth

Without --features: the offline pair, classifier and texture (docs/metrics.md says why these two), and Inception where its
official weights are at hand. Only these weights give what is called FID. Distances at 64, 192, 768 and 2048 features live on
different scales and do not compare with each other; a distance compares with its own floor.

A pipeline's images are drawn once and kept beside it (`samples_seed0.npz`): another feature space is measured on the same ones.
"""

import medmnist_diffusion.waiting  # noqa: F401, before torch: how its threads wait

# isort: split
import logging
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from medmnist_diffusion.artifacts import SEEN_ELSEWHERE, TRAINING_SUMMARY, UNLABELED, Metrics, TrainingSummary
from medmnist_diffusion.choices import OPEN_LICENSES
from medmnist_diffusion.data import ImageDataset, Split
from medmnist_diffusion.data.audit import describe
from medmnist_diffusion.data.sources import DataSource, as_dataset, as_source
from medmnist_diffusion.data.twins import Nearest
from medmnist_diffusion.data.unlabeled import load_unlabeled
from medmnist_diffusion.diffusion.folder_check import MODEL_INDEX, WEIGHTS, check_folder
from medmnist_diffusion.diffusion.samplers import Sampling
from medmnist_diffusion.diffusion.sampling import with_own
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import file_hash, has_suffix
from medmnist_diffusion.metrics.evaluation import Evaluated, evaluate_images, unlabeled_copies
from medmnist_diffusion.metrics.evaluator_file import write_evaluator_file
from medmnist_diffusion.metrics.extractors import OFFLINE_PAIR, make_extractor
from medmnist_diffusion.metrics.features import FeatureExtractor
from medmnist_diffusion.metrics.inception import weights_at_hand
from medmnist_diffusion.metrics.real_side import RealSide
from medmnist_diffusion.metrics.records import over_seeds
from medmnist_diffusion.processes import start_processes
from medmnist_diffusion.provenance import seen_elsewhere, too_good
from medmnist_diffusion.publish.card import write_card
from medmnist_diffusion.publish.figures import metrics_table
from medmnist_diffusion.publish.plots import Pairs, plot_closest, plot_ratios
from medmnist_diffusion.samples import (
    check_images_memory,
    kept_samples,
    read_images,
    read_sampling_record,
    samples_path,
)
from medmnist_diffusion.shipped import copied_here, is_shipped, or_a_name, pipeline_folder
from medmnist_diffusion.training import guidance

logger = logging.getLogger(__name__)
NUM_IMAGES, PAIRS = 1000, 10
ENOUGH_OF_A_CLASS = 100  # more than texture has dimensions; a distance in it needs that


def evaluate(
    generated: str | Path,
    dataset: str | DataSource | ImageDataset,
    *,
    root: str | Path | None = None,
    size: int | None = None,
    features: Sequence[str | FeatureExtractor] | None = None,
    dimensions: Sequence[int] | None = None,
    inception_weights: str | Path | None = None,
    num_images: int = NUM_IMAGES,
    num_real: int | None = None,
    sampling: Sampling | None = None,
    sampling_seeds: int = 1,
    output: str | Path | None = None,
    unlabeled: str | None = None,
    tune_guidance: bool = False,
) -> Metrics:
    """Measure images against a data set; write metrics.json, its pictures, and the card of a pipeline anew.

    Args:
        generated: a pipeline folder, an image folder, or an npz (its train split). A pipeline that comes with the package, by its
            name, is copied into a folder of that name first.
        dataset: what the images are compared with: a name as `load_dataset` takes it (with `root` and `size`), a `DataSource`, or
            a data set.
        features: names of feature spaces, or extractors of your own; default: the offline pair, and Inception where its weights
            are at hand.
        dimensions: of Inception's four, these only.
        inception_weights: the official file.
        num_images: to sample from a pipeline, in the class shares of train.
        num_real: at most so many training images as reference; default all.
        sampling: how a pipeline's images are drawn.
        sampling_seeds: draw them anew with so many seeds, the sampling's and those after it; figures are means.
        output: where the figures go; default metrics.json in the pipeline folder, else here.
        unlabeled: the images that a pipeline was trained on without labels: copies of them are looked for, too.
        tune_guidance: first choose the pipeline's own guidance (training/guidance.py), and write it into its folder.

    Returns:
        What was written.

    Raises:
        UserError: if something is missing, or images and data set do not fit each other.

    Example:
        >>> few = md.Sampling(num_inference_steps=2)
        >>> metrics = md.evaluate(pipeline, dataset, features=["texture"], num_images=120, sampling=few)
        >>> first = metrics.metrics[0]
        >>> first.name, first.value > first.floor
        ('frechet_distance', True)
    """
    generated, sampling = pipeline_folder(generated), sampling or Sampling()
    state = start_processes()
    if is_shipped(generated):
        generated = _copied(generated)
    is_pipeline = (generated / MODEL_INDEX).is_file()
    if sampling_seeds > 1 and generated.exists() and not is_pipeline:
        raise UserError(f"--sampling_seeds needs a pipeline; {generated} holds images that are drawn already.")
    if tune_guidance and (not is_pipeline or sampling.guidance_scale is not None):
        raise UserError("--tune_guidance needs a pipeline, and no --guidance_scale.")
    target = _writable(Path(output) if output else (generated if is_pipeline else Path()) / "metrics.json")
    real = as_dataset(dataset, root, size)
    weights = None if inception_weights is None else Path(inception_weights)
    names = features or [*OFFLINE_PAIR, *(["inception"] if weights_at_hand(weights) and not real.is_volume else [])]
    # Before any sampling: a missing weights file should be known at once.
    extractors = [make_extractor(one, real, weights) if isinstance(one, str) else one for one in names]

    source = DataSource(real.name) if isinstance(dataset, ImageDataset) else as_source(dataset, root, size)
    beside = _seen_beside(generated, is_pipeline)
    if SEEN_ELSEWHERE in beside:
        logger.warning("%s: %s", generated, too_good(beside[SEEN_ELSEWHERE], real.name))
    seen = _seen_without_labels(generated, beside.get(UNLABELED), unlabeled, real, source)
    side = RealSide(real, num_real, sampling.seed)  # what knows no sampling seed is computed once
    if tune_guidance:
        guidance.tune_guidance(generated, side, sampling)
    if is_pipeline:
        sampling = with_own(sampling, generated)
    draws: list[tuple[Split, Evaluated]] = []
    for images in _images(generated, real, num_images, sampling, sampling_seeds):
        draws.append((images, _measured(images, extractors, dimensions, side, seen)))
    images, found = draws[0]  # the pictures are of the first
    how: dict[str, Any] = sampling.model_dump() if is_pipeline else read_sampling_record(generated)
    if sampling_seeds > 1:
        how["sampling_seeds"] = sampling_seeds
    metrics = Metrics(
        dataset=describe(real).model_dump(),
        pipeline=_origin(generated, is_pipeline, sampling, sampling_seeds) | beside,
        sampling=how,
        metrics=over_seeds([one.records for _, one in draws]),
        refused=found.refused,
    )
    if state.is_main_process:
        assert found.nearest is not None
        _write(metrics, target, side, images, found.nearest)
        if real.source == "medmnist":
            folder = target.parent.parent if (target.parent / MODEL_INDEX).is_file() else target.parent
            _write_evaluator_files(folder / "evaluator", real, sampling.seed, [one for _, one in draws])
        if is_pipeline and target == Path(os.path.realpath(generated)) / "metrics.json":
            write_card(generated)
    state.wait_for_everyone()
    return metrics


def _measured(
    images: Split,
    extractors: Sequence[FeatureExtractor],
    dimensions: Sequence[int] | None,
    side: RealSide,
    seen: Split | None,
) -> Evaluated:
    """All figures of one draw; with `seen` also how many are copies of these images, which were trained on without labels."""
    found = evaluate_images(
        side.dataset, images, extractors, num_real=side.num_real, dimensions=dimensions, seed=side.seed, real_side=side
    )
    if seen is not None:
        try:
            found.records.extend(unlabeled_copies(side.dataset, seen, images, extractors, side))
        except UserError as error:  # too few images to compare
            found.refused.append(f"Copies of unlabeled images: {str(error).rstrip('.')}")
    return found


def _seen_beside(folder: Path, is_pipeline: bool) -> dict[str, Any]:
    """What a pipeline has seen beside its data set, if anything: images without labels, and what its bases saw."""
    if not is_pipeline or not (folder / TRAINING_SUMMARY).is_file():
        return {}
    summary = TrainingSummary.of(folder)
    unlabeled = {UNLABELED: summary.unlabeled.model_dump()} if summary.unlabeled else {}
    others = seen_elsewhere(summary.bases, summary.dataset)
    return {**unlabeled, SEEN_ELSEWHERE: others} if others else unlabeled


def _seen_without_labels(
    folder: Path, record: dict[str, Any] | None, unlabeled: str | None, dataset: ImageDataset, source: DataSource
) -> Split | None:
    """The images that a pipeline was trained on without labels (what its `record` says of them), where they were given.

    Raises:
        UserError: if they are others than those.
    """
    if unlabeled is None:
        if record:
            logger.warning(
                "%s was also trained on %d unlabeled images (%s). Copies of them are only found with --unlabeled.",
                folder, record["images"], record["name"],
            )  # fmt: skip
        return None
    if record is None:
        raise UserError(f"{folder} was trained on no unlabeled images: leave --unlabeled out.")
    found = load_unlabeled(unlabeled, dataset, source)
    if found.record.content_hash != record["content_hash"]:
        raise UserError(
            f"--unlabeled {unlabeled} holds other images than those that {folder} was trained on ({record['name']})."
        )
    return found.split


def _copied(shipped: Path) -> Path:
    """A copy, where the user works, of a pipeline that came with the package: its images and figures can lie there."""
    state = PartialState()
    if state.is_main_process:
        copied_here(shipped)
        logger.info(
            "%s came with the package. A copy of it is evaluated: the folder %s, here.", shipped.name, shipped.name
        )
    state.wait_for_everyone()
    return Path(shipped.name)


def _writable(output: Path) -> Path:
    """The output, where a file can be written: known before minutes of work."""
    output = Path(os.path.realpath(output.expanduser()))  # a link keeps leading to its file
    if output.exists() and not output.is_file():
        raise UserError(f"--output {output} is no regular file.")
    if not has_suffix(output, ".json"):
        raise UserError(f"--output {output} does not end with .json.")
    output.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=output.parent):
        pass
    return output


def _images(
    path: Path, dataset: ImageDataset, num_images: int, sampling: Sampling, sampling_seeds: int
) -> Iterable[Split]:
    """The generated images with their labels, draw by draw: a pipeline's, or those of a file or a folder."""
    if (path / MODEL_INDEX).is_file():
        classes = check_folder(path).id2label
        if classes != dataset.id2label:
            raise UserError(
                f"{path} makes the classes {classes}, {dataset.name} has {dataset.id2label}. Evaluate against the data set "
                "that it was trained on."
            )
        check_images_memory(dataset.train.images.shape[1:], num_images, "Give a smaller --num_images.")
        seeds = range(sampling.seed, sampling.seed + sampling_seeds)
        # Figures of all classes together keep the shares of train; a rare class gets enough images for figures of its own.
        labels = dataset.conditioning.with_enough_of_each(dataset.labels_in_shares(num_images), ENOUGH_OF_A_CLASS)
        for split in kept_samples(path, labels, sampling, seeds):
            yield _checked(path, split, dataset)
        return
    images = read_images(path, dataset.name, dataset.conditioning, dataset.shape)
    if images is None:
        raise UserError(f"{path} is no pipeline folder, image folder or npz. Give the path of one.{or_a_name()}")
    yield _checked(path, images, dataset)


def _checked(path: Path, images: Split, dataset: ImageDataset) -> Split:
    """The images, if they have the data set's shape and classes."""
    shape, wanted = images.images.shape[1:], dataset.train.images.shape[1:]
    if shape != wanted:
        raise UserError(
            f"{path} has images of shape {shape} (H×W×C), {dataset.name} of {wanted}. Evaluate against the data set it was made "
            "for, or give --size."
        )
    unknown = dataset.conditioning.outside(images.labels)
    if len(unknown):
        raise UserError(f"{path} has label {unknown[0]}, outside the {dataset.num_classes} classes of {dataset.name}.")
    return images


def _origin(path: Path, is_pipeline: bool, sampling: Sampling, sampling_seeds: int) -> dict[str, Any]:
    """What made the images, and which file holds them."""
    if not is_pipeline:
        return {"images": path.name}
    seeds = range(sampling.seed, sampling.seed + sampling_seeds)
    files = {samples_path(path, seed).name: file_hash(samples_path(path, seed)) for seed in seeds}
    return {"weights_sha256": file_hash(path / WEIGHTS), "samples_sha256": files}


def _write_evaluator_files(folder: Path, dataset: ImageDataset, seed: int, draws: Sequence[Evaluated]) -> None:
    """What classifiers of generated and of as many real images say of the test images, for MedMNIST's own evaluator."""
    written, known = list[str](), list[np.ndarray]()
    for number, one in enumerate(draws, start=seed):
        for trained_on, chances in one.test_chances.items():
            if not any(chances is other for other in known):  # that of real images serves all draws
                run = f"{trained_on.replace(' ', '-')}-seed{number}"
                written.append(write_evaluator_file(folder, dataset, chances, run).name)
            known.append(chances)
    if written:
        logger.info(
            "For medmnist.Evaluator, in %s: %s.", folder, ", ".join(written[:2]) + (", …" if written[2:] else "")
        )


def _is_private(folder: Path) -> bool:
    """Whether a pipeline's weights promise to hide every training image."""
    return (folder / TRAINING_SUMMARY).is_file() and TrainingSummary.of(folder).privacy is not None


def _write(metrics: Metrics, output: Path, side: RealSide, generated: Split, nearest: Nearest) -> None:
    """The figures and their pictures; what was there before stays until all of it is drawn."""
    dataset = side.dataset
    # A pipeline folder gets published: training images go into it only where everybody has them anyway.
    publishable = dataset.license in OPEN_LICENSES and not _is_private(output.parent)
    to_publish = (output.parent / MODEL_INDEX).is_file()
    pairs = (output.parent if publishable or not to_publish else output.parent.parent) / "closest_pairs.png"
    closest = np.argsort(nearest.relative)[:PAIRS]
    title = (
        "Generated images nearest to a training image, whatever their position and brightness\n"
        "(distance ÷ that to the next 50: fresh images about 0.8)"
    )
    ours = Pairs("generated", generated.images[closest], None, nearest.subset(closest))
    real, of_real = side.nearest_pairs(PAIRS, len(generated))
    beside = [Pairs("real, fresh", real, None, of_real)] if len(real) else []
    with tempfile.TemporaryDirectory(dir=output.parent, prefix=".evaluation-") as folder:
        made = Path(folder)
        plot_ratios(metrics, made / "ratios.png")
        plot_closest([ours], made / "closest_generated.png", title)
        metrics.write(made / "metrics.json")
        blocks = [one._replace(real=dataset.train.images[one.nearest.rows[:, 0]]) for one in [ours, *beside]]
        more = ",\nand the nearest of as many fresh real images, for comparison" if beside else ""
        plot_closest(blocks, pairs, title + more)  # may lie on another disk
        output.unlink(missing_ok=True)  # where it lies, the pictures are its own
        for name in ("ratios.png", "closest_generated.png"):
            (made / name).replace(output.with_name(name))
        (made / "metrics.json").replace(output)
    logger.info("%s", metrics_table(metrics))
    warning = "" if publishable else ": do not publish it"
    logger.info(
        "Written to %s, with ratios.png and closest_generated.png. %s shows training images (licence %s)%s.",
        output, pairs, dataset.license, warning,
    )  # fmt: skip


if __name__ == "__main__":
    from medmnist_diffusion import (
        cli,  # the command line reads the arguments: `medmnist-diffusion evaluate` is the same
    )

    sys.exit(cli.main(["evaluate", *sys.argv[1:]]))
