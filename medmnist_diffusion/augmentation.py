"""A training set with generated images beside the real ones, marked as what they are; or with what an arm of the augmentation
study has in their place."""

import logging
from pathlib import Path
from typing import Any

import numpy as np

from medmnist_diffusion.artifacts import TrainingSummary, same_images
from medmnist_diffusion.console import bar_options
from medmnist_diffusion.data import ImageDataset, Split
from medmnist_diffusion.data.audit import describe
from medmnist_diffusion.data.dataset import joined
from medmnist_diffusion.data.npz import SYNTHETIC, npz_arrays, write_npz
from medmnist_diffusion.data.regimes import rarest_class
from medmnist_diffusion.data.sources import DataSource, as_dataset, as_source
from medmnist_diffusion.data.unlabeled import Unlabeled, load_unlabeled
from medmnist_diffusion.diffusion.samplers import Sampling
from medmnist_diffusion.diffusion.sampling import generate_images, load_pipeline, with_own
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import atomic_folder, has_suffix, write_json
from medmnist_diffusion.generated import check_new, write_parquet
from medmnist_diffusion.metrics.mixed_training import ImageClassifier, Mixture, Recipe, fit
from medmnist_diffusion.metrics.pseudo_labels import pseudo_labelled
from medmnist_diffusion.metrics.selection import KEPT_SHARE, SELECTIONS
from medmnist_diffusion.processes import start_alone, start_processes
from medmnist_diffusion.samples import check_images_memory, pipeline_record
from medmnist_diffusion.shipped import pipeline_folder
from medmnist_diffusion.studies.augmentation.arms import FILLERS, ClassifierArm, arm_of_any_situation
from medmnist_diffusion.studies.augmentation.generators import GUIDANCE, STRENGTH
from medmnist_diffusion.studies.augmentation.verdicts import ADVICE

logger = logging.getLogger(__name__)
SHARE = 0.25  # what the augmentation study calls synthetic-25
RECORD = "augmentation.json"  # in a folder; beside an npz it has the npz's name
HUB_SPLITS = {"train": "train", "val": "validation", "test": "test"}


def augment(
    pipeline: str | Path | None,
    dataset: str | DataSource | ImageDataset,
    output: str | Path,
    *,
    root: str | Path | None = None,
    size: int | None = None,
    arm: str | None = None,
    share: float | None = None,
    strength: float | None = None,
    selection: str | None = None,
    rare: bool = False,
    unlabeled: str | None = None,
    sampling: Sampling | None = None,
) -> None:
    """Write a data set whose training images are the real ones and others beside them, each class equally often: generated ones,
    or what an arm of the augmentation study has in their place.

    Args:
        pipeline: a folder, or a name of `medmnist-diffusion models`, trained on this very data set; None for an arm without
            generated images.
        dataset: a name as `load_dataset` takes it (with `root` and `size`), or a data set.
        output: a new .npz file, or a new folder for `datasets`.
        arm: an arm of the augmentation study by its name, such as `oversampled-25` or `pseudo-labels`, instead of the next four.
        share: of the training images that is generated (default 0.25).
        strength: variants of real images instead, by so much of the noise, in 0 … 1.
        selection: generate twice as many and keep these, at most half of each class: a name of `SELECTIONS`.
        rare: generate images of the rarest class alone.
        unlabeled: of the arms with pseudo-labels the images without labels, as `train --unlabeled` takes them.
        sampling: how images are drawn.

    Raises:
        UserError: for a share or strength that cannot be, an arm that is no training set, an output that exists, or a pipeline
            that saw other images.

    Example:
        >>> md.augment(pipeline, dataset, "runs/x/more.npz", share=0.1, sampling=few)
        >>> len(md.load_dataset("runs/x/more.npz").train) - len(dataset.train)
        268
    """
    output, sampling = Path(output).expanduser(), sampling or Sampling()
    asked = _asked(arm, share, strength, selection, rare)
    _check_inputs(asked, pipeline, unlabeled)
    folder = None if pipeline is None else pipeline_folder(pipeline)
    if folder is not None:
        sampling, strength = _checked_sampling(folder, asked, sampling, strength)
    check_new(output)
    start_alone("augment")
    real = as_dataset(dataset, root, size)
    _check_dataset(real, asked, output)
    beside: dict[str, Any] = {}
    labelled = real.train
    if folder is not None:
        check_origin(folder, real)
        extra = _generated_beside(folder, real, asked, strength, sampling)
        beside = {**pipeline_record(folder), **sampling.model_dump()}
    elif unlabeled is None:
        labels = _labels_beside(real, _count_beside(real, asked.share), asked.rare, sampling.seed)
        extra = Split("again", real.train.images_of(labels, sampling.seed), labels)
    else:
        source = DataSource(real.name) if isinstance(dataset, ImageDataset) else as_source(dataset, root, size)
        extra, beside = _pseudo_labelled(real, asked, load_unlabeled(unlabeled, real, source), sampling.seed)
        labelled, extra = _in_shares(labelled, extra, asked.share)
    train, synthetic = augmented_split(labelled, extra)
    synthetic &= asked.generated
    made = {
        "dataset": real.name,
        "id2label": {str(label): name for label, name in real.id2label.items()},
        "arm": arm,
        "beside": _beside(asked),
        "real_images": len(real.train),
        "images_beside": len(extra),
        "generated_images": int(synthetic.sum()),
        "strength": strength,
        "selection": asked.selection,
        "rare": asked.rare,
        **beside,
    }
    as_npz = has_suffix(output, ".npz")
    (_write_npz_set if as_npz else _write_datasets_folder)(output, real, train, synthetic, made)
    logger.info("%s", _in_words(asked, real.train, extra, len(train), output, as_npz))


def _asked(
    name: str | None, share: float | None, strength: float | None, selection: str | None, rare: bool
) -> ClassifierArm:
    """What is to be made: an arm by its name, or by what it consists of."""
    if name is None:
        share = SHARE if share is None else share
        if not 0 < share < 1:
            raise UserError(f"--share is {share:g}; a share between 0 and 1 is needed.")
        pool = "plain" if strength is None else "variants"
        return ClassifierArm("asked for", share=share, pool=pool, selection=selection, rare=rare)
    if rare or any(one is not None for one in (share, strength, selection)):
        raise UserError("--arm says what is made: leave --share, --strength, --selection and --rare out.")
    arm = arm_of_any_situation(name)
    if not arm.is_a_set:
        how = ADVICE.get(name, f"{arm.description}.")
        raise UserError(f"--arm {name} is no training set that can be written, but a way to train: {how}")
    return arm


def _check_inputs(arm: ClassifierArm, pipeline: str | Path | None, unlabeled: str | None) -> None:
    if arm.generated and pipeline is None:
        raise UserError("Generated images are asked for: give the PIPELINE that makes them, trained on this data set.")
    if not arm.generated and pipeline is not None:
        raise UserError(f"--arm {arm.name} has no generated images: leave the PIPELINE out.")
    if arm.pool == "pseudo" and unlabeled is None:
        raise UserError(f"--arm {arm.name} labels images that have no labels: give them, --unlabeled FOLDER.")
    if arm.pool != "pseudo" and unlabeled is not None:
        raise UserError("--unlabeled belongs to --arm pseudo-labels and its like: leave it out.")


def _checked_sampling(
    folder: Path, arm: ClassifierArm, sampling: Sampling, strength: float | None
) -> tuple[Sampling, float | None]:
    """How a pipeline's images are drawn: guided, or as variants by so much of the noise, where the arm is."""
    if arm.pool == "guided" and sampling.guidance_scale is None:
        sampling = sampling.model_copy(update={"guidance_scale": GUIDANCE})
    sampling = with_own(sampling, folder)
    strength = STRENGTH if arm.pool == "variants" and strength is None else strength
    steps = sampling.num_inference_steps
    if strength is not None and not (0 < strength <= 1 and round(strength * steps)):
        raise UserError(f"--strength is {strength:g}; with {steps} steps {1 / steps:g} … 1 is possible.")
    return sampling, strength


def _check_dataset(real: ImageDataset, arm: ClassifierArm, output: Path) -> None:
    looks = arm.selection or arm.pool == "pseudo"  # through the eyes of a classifier
    if looks and real.is_volume:
        raise UserError(f"Selections and pseudo-labels are made for images; {real.name} holds volumes.")
    if looks and not real.conditioning.counts(real.splits["val"].labels).all():
        raise UserError(
            f"Selections and pseudo-labels need validation images of every class; {real.name} has none of some."
        )
    if real.is_volume and not has_suffix(output, ".npz"):
        raise UserError(
            f"--output {output}: a folder for `datasets` holds pictures, and these are volumes: give a .npz file."
        )


def _in_words(arm: ClassifierArm, train: Split, extra: Split, images: int, output: Path, as_npz: bool) -> str:
    """What was written."""
    if arm.generated:
        column = SYNTHETIC if as_npz else "synthetic"
        return (
            f"{len(train)} real and {len(extra)} generated training images written to {output}; the column that marks the "
            f"generated ones is {column}. Whether they help: medmnist-diffusion study augmentation."
        )
    again = images - len(extra) > len(train)
    return (
        f"{images} training images written to {output}: the {len(train)} real ones{' several times' if again else ''}, and beside "
        f"them, as {arm.share:.0%} of all, {_beside(arm)}. None is generated."
    )


def _beside(arm: ClassifierArm) -> str:
    """What stands beside the real images."""
    if arm.pool == "real":
        return f"some of these again, {'all of the rarest class' if arm.rare else 'each class equally often'}"
    if arm.pool == "pseudo":
        return "images without labels, each with the one that a classifier of the real ones gives it"
    return FILLERS[arm.pool]


def augmented_split(train: Split, generated: Split) -> tuple[Split, np.ndarray]:
    """The real images, then the generated ones, and a mask of the latter."""
    whole = joined("train", [train, generated])
    return whole, np.arange(len(whole)) >= len(train)


def _in_shares(train: Split, extra: Split, share: float) -> tuple[Split, Split]:
    """Both so often that the extra images are that share of all: those that are too few again and again."""
    train = _repeated(train, round(len(extra) * (1 - share) / share))
    return train, _repeated(extra, round(len(train) * share / (1 - share)))


def _repeated(split: Split, count: int) -> Split:
    """So many images, those of the split again and again; all of them where it has as many."""
    return split if count <= len(split) else split.subset(np.resize(np.arange(len(split)), count))


def _generated_beside(
    folder: Path, dataset: ImageDataset, arm: ClassifierArm, strength: float | None, sampling: Sampling
) -> Split:
    """As many generated images as give the arm's share; with `strength` variants of real ones."""
    pipe = load_pipeline(folder, sampling.sampler)
    pipe.to(start_processes().device)
    pipe.set_progress_bar_config(desc="sampling", **bar_options())
    wanted = _count_beside(dataset, arm.share)
    wanted *= 1 if arm.selection is None else round(1 / KEPT_SHARE)
    check_images_memory(pipe.image_shape, wanted + len(dataset.train), "Give a smaller --share.")
    labels = _labels_beside(dataset, wanted, arm.rare, sampling.seed)
    variants: dict[str, Any] = {}
    if strength is not None:
        variants = {"image": dataset.train.images_of(labels, sampling.seed), "strength": strength}
    options = (sampling.num_inference_steps, sampling.guidance_scale, sampling.seed, sampling.batch_size)
    generated = Split("generated", generate_images(pipe, labels, *options, **variants), labels)
    if arm.selection is None:
        return generated
    logger.info("Training a classifier of the real images, to select by %s.", arm.selection)
    return _selected(generated, dataset, arm.selection, _classifier(dataset, sampling.seed))


def _pseudo_labelled(
    dataset: ImageDataset, arm: ClassifierArm, found: Unlabeled, seed: int
) -> tuple[Split, dict[str, Any]]:
    """Images without labels, as a classifier of the labelled training images sees them, and what they are."""
    for note in found.notes:
        logger.info("%s", note)
    check_images_memory(dataset.shape, round(len(found.split) / arm.share), "Give fewer images without labels.")
    logger.info("Training a classifier of the labelled images, to label %d others.", len(found.split))
    model = _classifier(dataset, seed)
    labelled = pseudo_labelled(model, found.split, dataset.train, dataset.conditioning)
    if arm.selection:
        labelled = _selected(labelled, dataset, arm.selection, model)
    counts = dataset.conditioning.counts(labelled.labels).tolist()
    words = ", ".join(f"{count} × {name}" for count, name in zip(counts, dataset.conditioning.names, strict=True))
    logger.info("Pseudo-labels: %s.", words)
    return labelled, {"unlabeled": found.record.model_dump()}


def _count_beside(dataset: ImageDataset, share: float) -> int:
    """How many images beside the real ones are that share of all."""
    return max(1, round(len(dataset.train) * share / (1 - share)))


def _labels_beside(dataset: ImageDataset, count: int, rare: bool, seed: int) -> np.ndarray:
    """Each class equally often (of several labels an image: combinations as in train), or the rarest class alone."""
    return _rare_labels(dataset, count, seed) if rare else dataset.labels_to_add(count)


def _rare_labels(dataset: ImageDataset, count: int, seed: int) -> np.ndarray:
    """Conditions of training images that show the rarest class, as often as they have them."""
    labels = dataset.train.labels
    of_rarest = labels[dataset.conditioning.shows(labels, rarest_class(dataset))]
    return np.sort(np.random.default_rng([seed, 13]).choice(of_rarest, count))


def _classifier(dataset: ImageDataset, seed: int) -> ImageClassifier:
    """Of the real training images."""
    return fit(Recipe(), Mixture(dataset.train), dataset.splits["val"], dataset.conditioning, seed).model


def _selected(split: Split, dataset: ImageDataset, selection: str, model: ImageClassifier) -> Split:
    """What a selection of the augmentation study keeps, through the eyes of a classifier of the real training images."""
    kept = split.subset(SELECTIONS[selection](split, dataset, model))
    logger.info("%d of %d images were selected.", len(kept), len(split))
    return kept


def check_origin(folder: Path, dataset: ImageDataset) -> None:
    """Raises:
    UserError: unless the pipeline was trained on this very data set. A generator that saw other images, perhaps those that
        the classifier is to be tested on, makes every gain worthless.
    """
    summary = TrainingSummary.of(folder)
    trained_on = summary.dataset
    if not same_images(trained_on, describe(dataset)):
        raise UserError(
            f"{folder} was trained on {trained_on.name}, with other images than {dataset.name} holds. Give the data set "
            "that it was trained on: a generator that saw more than the classifier may see is a leak."
        )
    if summary.unlabeled:
        logger.warning(
            "%s also saw %d images of %s without labels. If patients of %s's test images are among them, every gain is a leak.",
            folder, summary.unlabeled.images, summary.unlabeled.name, dataset.name,
        )  # fmt: skip
    for base in summary.bases:
        logger.warning(
            "%s started from %s, which saw the images of %s. If these show test images or patients of %s, every gain is a leak.",
            folder, base.name, base.trained_on, dataset.name,
        )  # fmt: skip


def _write_npz_set(
    output: Path, dataset: ImageDataset, train: Split, synthetic: np.ndarray, made: dict[str, Any]
) -> None:
    """MedMNIST's six arrays, and `train_synthetic` N×1: 1 for a generated image, where there are any; beside it how they were
    made, as JSON."""
    arrays = npz_arrays({**dataset.splits, "train": train}, dataset.conditioning)
    marks = {SYNTHETIC: synthetic.astype(np.uint8)[:, None]} if synthetic.any() else {}
    write_npz(output, {**arrays, **marks}, made)


def _write_datasets_folder(
    output: Path, dataset: ImageDataset, train: Split, synthetic: np.ndarray, made: dict[str, Any]
) -> None:
    """A folder that `datasets.load_dataset` reads: image, label, and the column `synthetic`, in every split; and how they were
    made, as JSON."""
    with atomic_folder(output) as temporary:
        for name, split in {**dataset.splits, "train": train}.items():
            mask = synthetic if name == "train" else np.zeros(len(split), bool)
            write_parquet(temporary, HUB_SPLITS[name], split, dataset.conditioning, synthetic=mask.tolist())
        write_json(temporary / RECORD, made)
