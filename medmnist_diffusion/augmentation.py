"""A training set with generated images beside the real ones, marked as what they are."""

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
from medmnist_diffusion.data.sources import DataSource, as_dataset
from medmnist_diffusion.diffusion.samplers import Sampling
from medmnist_diffusion.diffusion.sampling import generate_images, load_pipeline, with_own
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import atomic_folder, has_suffix, write_json
from medmnist_diffusion.generated import check_new, write_parquet
from medmnist_diffusion.metrics.mixed_training import Mixture, Recipe, fit
from medmnist_diffusion.metrics.selection import KEPT_SHARE, SELECTIONS
from medmnist_diffusion.processes import start_alone, start_processes
from medmnist_diffusion.samples import check_images_memory, pipeline_record
from medmnist_diffusion.shipped import pipeline_folder

logger = logging.getLogger(__name__)
SHARE = 0.25  # what the augmentation study calls synthetic-25
RECORD = "augmentation.json"  # in a folder; beside an npz it has the npz's name
HUB_SPLITS = {"train": "train", "val": "validation", "test": "test"}


def augment(
    pipeline: str | Path,
    dataset: str | DataSource | ImageDataset,
    output: str | Path,
    *,
    root: str | Path | None = None,
    size: int | None = None,
    share: float = SHARE,
    strength: float | None = None,
    selection: str | None = None,
    rare: bool = False,
    sampling: Sampling | None = None,
) -> None:
    """Write a data set whose training images are the real ones and generated ones, each class equally often.

    Args:
        pipeline: a folder, or a name of `medmnist-diffusion models`, trained on this very data set.
        dataset: a name as `load_dataset` takes it (with `root` and `size`), or a data set.
        output: a new .npz file, or a new folder for `datasets`.
        share: of the training images that is generated.
        strength: variants of real images instead, by so much of the noise, in 0 … 1.
        selection: generate twice as many and keep these, at most half of each class: a name of `SELECTIONS`.
        rare: generate images of the rarest class alone.
        sampling: how images are drawn.

    Raises:
        UserError: for a share or strength that cannot be, an output that exists, or a pipeline that saw other images.

    Example:
        >>> md.augment(pipeline, dataset, "runs/x/more.npz", share=0.1, sampling=few)
        >>> len(md.load_dataset("runs/x/more.npz").train) - len(dataset.train)
        268
    """
    pipeline, output, sampling = pipeline_folder(pipeline), Path(output).expanduser(), sampling or Sampling()
    if not 0 < share < 1:
        raise UserError(f"--share is {share:g}; a share between 0 and 1 is needed.")
    sampling = with_own(sampling, pipeline)
    steps = sampling.num_inference_steps
    if strength is not None and not (0 < strength <= 1 and round(strength * steps)):
        raise UserError(f"--strength is {strength:g}; with {steps} steps {1 / steps:g} … 1 is possible.")
    check_new(output)
    start_alone("augment")
    real = as_dataset(dataset, root, size)
    check_origin(pipeline, real)
    if selection and real.is_volume:
        raise UserError(f"--selection is made for images; {real.name} holds volumes. Leave it out.")
    if selection and not real.conditioning.counts(real.splits["val"].labels).all():
        raise UserError(f"--selection needs validation images of every class; {real.name} has none of some.")
    if real.is_volume and not has_suffix(output, ".npz"):
        raise UserError(
            f"--output {output}: a folder for `datasets` holds pictures, and these are volumes: give a .npz file."
        )
    generated = _generated_beside(pipeline, real, share, strength, selection, rare, sampling)
    train, synthetic = augmented_split(real.train, generated)
    made = {
        "dataset": real.name,
        "id2label": {str(label): name for label, name in real.id2label.items()},
        "real_images": len(real.train),
        "generated_images": len(generated),
        "strength": strength,
        "selection": selection,
        "rare": rare,
        **pipeline_record(pipeline),
        **sampling.model_dump(),
    }
    as_npz = has_suffix(output, ".npz")
    (_write_npz_set if as_npz else _write_datasets_folder)(output, real, train, synthetic, made)
    logger.info(
        "%d real and %d generated training images written to %s; the column that marks the generated ones is %s. Whether they "
        "help: medmnist-diffusion study augmentation.",
        len(real.train), len(generated), output, SYNTHETIC if as_npz else "synthetic",
    )  # fmt: skip


def augmented_split(train: Split, generated: Split) -> tuple[Split, np.ndarray]:
    """The real images, then the generated ones, and a mask of the latter."""
    whole = joined("train", [train, generated])
    return whole, np.arange(len(whole)) >= len(train)


def _generated_beside(
    folder: Path,
    dataset: ImageDataset,
    share: float,
    strength: float | None,
    selection: str | None,
    rare: bool,
    sampling: Sampling,
) -> Split:
    """As many generated images as give the share that was asked for, each class equally often (of several labels an image:
    combinations as in train), or the `rare` class alone; with `strength` variants of real ones."""
    pipe = load_pipeline(folder, sampling.sampler)
    pipe.to(start_processes().device)
    pipe.set_progress_bar_config(desc="sampling", **bar_options())
    wanted = max(1, round(len(dataset.train) * share / (1 - share)))
    wanted *= 1 if selection is None else round(1 / KEPT_SHARE)
    check_images_memory(pipe.image_shape, wanted + len(dataset.train), "Give a smaller --share.")
    labels = _rare_labels(dataset, wanted, sampling.seed) if rare else dataset.labels_to_add(wanted)
    variants: dict[str, Any] = {}
    if strength is not None:
        variants = {"image": dataset.train.images_of(labels, sampling.seed), "strength": strength}
    options = (sampling.num_inference_steps, sampling.guidance_scale, sampling.seed, sampling.batch_size)
    generated = Split("generated", generate_images(pipe, labels, *options, **variants), labels)
    return generated if selection is None else _selected(generated, dataset, selection, sampling.seed)


def _rare_labels(dataset: ImageDataset, count: int, seed: int) -> np.ndarray:
    """Conditions of training images that show the rarest class, as often as they have them."""
    labels = dataset.train.labels
    of_rarest = labels[dataset.conditioning.shows(labels, rarest_class(dataset))]
    return np.sort(np.random.default_rng([seed, 13]).choice(of_rarest, count))


def _selected(generated: Split, dataset: ImageDataset, selection: str, seed: int) -> Split:
    """What a selection of the augmentation study keeps, through the eyes of a classifier of the real training images."""
    logger.info("Training a classifier of the real images, to select by %s.", selection)
    model = fit(Recipe(), Mixture(dataset.train), dataset.splits["val"], dataset.conditioning, seed).model
    kept = generated.subset(SELECTIONS[selection](generated, dataset, model))
    logger.info("%d of %d generated images were selected.", len(kept), len(generated))
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
    """MedMNIST's six arrays, and `train_synthetic` N×1: 1 for a generated image; beside it how they were made, as JSON."""
    arrays = npz_arrays({**dataset.splits, "train": train}, dataset.conditioning)
    write_npz(output, {**arrays, SYNTHETIC: synthetic.astype(np.uint8)[:, None]}, made)


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
