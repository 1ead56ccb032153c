"""Samples are a file: generated images, their classes, and the record of what made them and how.

`sample` writes them as PNG folders, one npz, or parquet; `evaluate` keeps those that it measures as `samples_seed0.npz` (and so
on) in the pipeline's folder, so that whatever is measured or published later is of the same images.
"""

import csv
import json
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from pydantic import ValidationError

from medmnist_diffusion.artifacts import TRAINING_SUMMARY, SamplesRecord, TrainingSummary
from medmnist_diffusion.choices import Format
from medmnist_diffusion.console import bar_options
from medmnist_diffusion.data.conditioning import NO_LABEL, Conditioning, condition_of, occurrences
from medmnist_diffusion.data.dataset import Split
from medmnist_diffusion.data.labelled_folder import load_labelled_folder
from medmnist_diffusion.data.npz import read_npz
from medmnist_diffusion.diffusion.folder_check import WEIGHTS
from medmnist_diffusion.diffusion.samplers import Sampling, checked_sampling
from medmnist_diffusion.diffusion.sampling import conditioning_of, generate_in_shares, load_pipeline, with_own
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import file_hash, has_suffix
from medmnist_diffusion.generated import (
    GeneratedImages,
    check_format,
    check_new,
    format_for,
    record_conditioning,
    write_samples,
)
from medmnist_diffusion.pipelines import ClassConditionalDDPMPipeline
from medmnist_diffusion.processes import start_processes
from medmnist_diffusion.provenance import saw_no_patients
from medmnist_diffusion.resources import check_memory
from medmnist_diffusion.shipped import pipeline_folder

logger = logging.getLogger(__name__)


def sample(
    pipeline: str | Path,
    output: str | Path,
    num_per_class: int | None = None,
    sampling: Sampling | None = None,
    output_format: Format | None = None,
    *,
    num_images: int | None = None,
    labels: Sequence[str] = (),
) -> None:
    """Draw images from a pipeline, shared among the processes, and write them.

    Args:
        pipeline: its folder, or a name of `medmnist-diffusion models`.
        output: a new folder, or a new .npz file.
        num_per_class: images of each class; of several labels an image, of each label alone and of none.
        sampling: how they are drawn.
        output_format: default npz for a .npz output, else PNG folders, or NIfTI files of volumes.
        num_images: instead, at least so many images, with classes or combinations of labels as often as in the training images.
        labels: with `num_per_class`, only these: names of classes, or of several labels an image `effusion+mass` (and an
            empty text for none).

    Raises:
        UserError: if the output exists, the images do not fit into memory, or the pipeline cannot be used.

    Example:
        >>> md.sample(pipeline, "runs/x/samples.npz", num_per_class=2, sampling=md.Sampling(num_inference_steps=4))
        >>> Path("runs/x/samples.json").is_file()  # what made them, and how
        True
    """
    pipeline, output, sampling = pipeline_folder(pipeline), Path(output).expanduser(), sampling or Sampling()
    output_format = format_for(output, output_format)
    check_new(output)
    state = start_processes()
    sampling = with_own(sampling, pipeline)
    pipe = load_pipeline(pipeline, sampling.sampler)
    remedy = "Make fewer at once, with another --seed each time."
    check_format([*pipe.image_shape[1:], pipe.image_shape[0]], output_format)
    conditioning = conditioning_of(pipe)
    count = (num_images or 0) + (num_per_class or 0) * (len(labels) or len(conditioning.ids))
    check_images_memory(pipe.image_shape, count, remedy)
    conditions = _wanted(conditioning, pipeline, num_per_class, num_images, labels)
    made = _drawn(pipeline, pipe, conditions, sampling)
    if state.is_main_process:
        made.save(output, output_format)
        if made.record.synthetic:
            logger.info("Trained on the synthetic phantom set: computed shapes, no patients.")
        logger.info(
            "%d images by %d process(es) written to %s (%s).", len(made), state.num_processes, output, output_format
        )
    state.wait_for_everyone()


def generate(
    pipeline: str | Path,
    labels: Mapping[str, int] | Sequence[int | str | Sequence[int | str]] | np.ndarray,
    *,
    seed: int | None = None,
    sampling: Sampling | None = None,
) -> GeneratedImages:
    """Images of what was asked for, in memory.

    Args:
        pipeline: a name of `medmnist-diffusion models`, or a pipeline folder.
        labels: how many images of each class by its name; of several labels an image also `effusion+mass`, or an empty text for
            none. Or what each image shows, one after another: a class's name or id, or a list of labels.
        seed: the i-th image of a class is the same for the same seed, however many are made; default the sampling's.
        sampling: how they are drawn.

    Returns:
        The images in that order, with `as_torch_dataset`, `as_datasets`, `grid` and `save`.

    Raises:
        UserError: for classes that the pipeline does not know, images that do not fit into memory, or a pipeline that cannot be
            used.

    Example:
        >>> images = md.generate(pipeline, {"effusion": 2, "clear lungs": 1}, seed=0)
        >>> images.images.shape, images.labels.tolist(), images.names[-1]
        ((3, 28, 28, 1), [3, 3, 0], 'clear lungs')
    """
    folder, sampling = pipeline_folder(pipeline), sampling or Sampling()
    if seed is not None:
        given = sampling.model_dump(exclude_unset=True)
        sampling = checked_sampling(**given | {"batch_size": sampling.batch_size, "seed": seed})
    start_processes()
    sampling = with_own(sampling, folder)
    pipe = load_pipeline(folder, sampling.sampler)
    conditioning = conditioning_of(pipe)
    if isinstance(labels, Mapping):
        asked = [_named(name, conditioning) for name in labels]
        counts = list(labels.values())
        if any(not isinstance(count, int | np.integer) or count < 0 for count in counts):
            raise UserError(f"{dict(labels)}: give a number of images for each name.")
        conditions = np.repeat(np.array(asked, np.int64), counts)
    else:
        listed = labels.tolist() if hasattr(labels, "tolist") else labels  # an array or a tensor
        conditions = np.array([_condition(one, conditioning) for one in listed], np.int64)
    if not len(conditions):
        raise UserError(f"no images were asked for. Give how many of each: {{{conditioning.names[0]!r}: 10}}, say.")
    check_images_memory(pipe.image_shape, len(conditions), "Make fewer at once, with another seed each time.")
    return _drawn(folder, pipe, conditions, sampling)


def _drawn(
    folder: Path, pipe: ClassConditionalDDPMPipeline, conditions: np.ndarray, sampling: Sampling
) -> GeneratedImages:
    """Images of the conditions with the record of what made them."""
    made = draw(pipe, conditions, sampling)
    return GeneratedImages(made, samples_record(folder, pipe, made, sampling))


def _condition(asked: int | str | Sequence[int | str], conditioning: Conditioning) -> int:
    """What one image is asked to show, as a condition."""
    if isinstance(asked, str):
        return _named(asked, conditioning)
    parts = [asked] if isinstance(asked, int | np.integer) else list(asked)
    if not conditioning.multi_label and len(parts) != 1:
        raise UserError(f"{asked}: an image shows one class of this pipeline.")
    ids = [conditioning.names.index(one) if one in conditioning.names else one for one in parts]
    if unknown := [one for one in ids if one not in conditioning.id2label]:
        raise _unknown(unknown[0], conditioning)
    return condition_of(map(int, ids)) if conditioning.multi_label else int(ids[0])


def _wanted(
    conditioning: Conditioning,
    pipeline: Path,
    num_per_class: int | None,
    num_images: int | None,
    labels: Sequence[str],
) -> np.ndarray:
    """The conditions of the images to be made."""
    if (num_per_class is None) == (num_images is None):
        raise UserError("give either --num_per_class or --num_images.")
    if num_per_class is not None:
        conditions = [_named(name, conditioning) for name in labels]
        return np.repeat(conditions, num_per_class) if labels else conditioning.each(num_per_class)
    if labels:
        raise UserError("--labels needs --num_per_class: how many images of each.")
    return conditions_as_in_train(conditioning, pipeline, num_images or 0)


def conditions_as_in_train(conditioning: Conditioning, pipeline: Path, count: int) -> np.ndarray:
    """At least so many conditions, each as often as in the training images of a pipeline's folder."""
    train = TrainingSummary.of(pipeline).audit.splits["train"]
    counts = train.combinations if conditioning.multi_label else train.per_class
    # Combinations stand there in words.
    texts = ["" if name == NO_LABEL and conditioning.multi_label else name for name in counts or {}]
    seen = np.repeat([_named(text, conditioning, " + ") for text in texts], list((counts or {}).values()))
    return conditioning.as_in(seen, count)


def _named(text: str, conditioning: Conditioning, separator: str = "+") -> int:
    """A condition by the names of its labels."""
    parts = (
        [text] if text in conditioning.names or not conditioning.multi_label else text.split(separator) if text else []
    )
    if unknown := [part for part in parts if part not in conditioning.names]:
        raise _unknown(unknown[0], conditioning)
    ids = [conditioning.names.index(part) for part in parts]
    return condition_of(ids) if conditioning.multi_label else ids[0]


def _unknown(asked: Any, conditioning: Conditioning) -> UserError:
    return UserError(f"labels: {asked!r} is none of {', '.join(conditioning.names)}.")


def draw(pipe: ClassConditionalDDPMPipeline, labels: np.ndarray, sampling: Sampling) -> Split:
    """Images of the conditions, int64 N, as a split; the processes share the work, and each gets all of it."""
    state = PartialState()
    pipe.to(state.device)
    pipe.set_progress_bar_config(disable=not state.is_main_process, desc="sampling", **bar_options())
    rows = occurrences(labels)
    options = (sampling.num_inference_steps, sampling.guidance_scale, sampling.seed, sampling.batch_size)
    return Split("train", generate_in_shares(pipe, rows, *options), np.asarray(labels, np.int64))


def kept_samples(pipeline: Path, labels: np.ndarray, sampling: Sampling, seeds: Sequence[int]) -> Iterator[Split]:
    """The images of these labels, drawn so from the pipeline, for one seed after another: from its `samples_seedN.npz`, which is
    made where it is not there or does not match.

    Raises:
        UserError: if the pipeline cannot be used.
    """
    state, weights, pipe = PartialState(), file_hash(pipeline / WEIGHTS), None
    for seed in seeds:
        path, how = samples_path(pipeline, seed), sampling.model_copy(update={"seed": seed})
        split = _matching(path, weights, labels, how)
        state.wait_for_everyone()  # nobody writes what another one still reads
        if split is not None:
            logger.info("The images of %s, drawn before, are used again.", path.name)
        else:
            pipe = pipe or load_pipeline(pipeline, sampling.sampler)
            split = draw(pipe, labels, how)
            if state.is_main_process:
                write_samples(path, GeneratedImages(split, samples_record(pipeline, pipe, split, how)))
            state.wait_for_everyone()
        yield split


def samples_path(pipeline: Path, seed: int) -> Path:
    """Where `evaluate` keeps the images of a sampling seed."""
    return pipeline / f"samples_seed{seed}.npz"


def _matching(path: Path, weights: str, labels: np.ndarray, sampling: Sampling) -> Split | None:
    """The images in the file if they are of these labels, these weights and this sampling, and whole; else None."""
    record = read_record(path)
    if record is None or record.pipeline_weights_sha256 != weights:
        return None
    if any(getattr(record, name) != value for name, value in sampling.model_dump().items()):
        return None
    try:
        split = read_npz(path, ("train",), num_labels=record_conditioning(record).num_labels)["train"]
    except UserError:
        return None
    whole = np.array_equal(split.labels, labels) and split.content_hash == record.images_sha256
    return split if whole else None


def samples_record(
    pipeline: Path, pipe: ClassConditionalDDPMPipeline, made: Split, sampling: Sampling
) -> SamplesRecord:
    """What goes beside the images."""
    return SamplesRecord(
        id2label=pipe.id2label,
        task=conditioning_of(pipe).task,
        images_sha256=made.content_hash,
        **pipeline_record(pipeline),
        **sampling.model_dump(),
    )


def pipeline_record(folder: Path) -> dict[str, Any]:
    """Which pipeline made images: its weights' hash, the data set that it was trained on, and whether that is synthetic."""
    summary = TrainingSummary.of(folder) if (folder / TRAINING_SUMMARY).is_file() else None
    return {
        "pipeline_weights_sha256": file_hash(folder / WEIGHTS),
        "trained_on": summary.dataset.name if summary else "unknown",
        "synthetic": summary is not None and saw_no_patients(summary),
    }


def read_record(path: Path) -> SamplesRecord | None:
    """The record beside an npz of samples; None where there is none that is whole."""
    try:
        return SamplesRecord.model_validate_json(path.with_suffix(".json").read_text(encoding="utf-8"))
    except (OSError, ValidationError):
        return None


def read_sampling_record(path: Path) -> dict[str, Any]:
    """How the images of an npz or a folder that `sample` wrote were drawn; empty for images from elsewhere."""
    return read_export_record(path, {"sampler": str, "num_inference_steps": int, "guidance_scale": float, "seed": int})


def read_export_record(path: Path, types: dict[str, Callable[[Any], Any]]) -> dict[str, Any]:
    """What `sample` noted beside its npz, PNG folders or parquet, as the given types; empty unless all of it is there."""
    try:
        if has_suffix(path, ".npz"):
            record = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        elif (path / "sampling.json").is_file():
            record = json.loads((path / "sampling.json").read_text(encoding="utf-8"))
        else:
            with (path / "metadata.csv").open(newline="") as file:
                record = next(csv.DictReader(file))
        return {name: of_type(record[name]) for name, of_type in types.items()}
    except (OSError, ValueError, KeyError, TypeError, StopIteration, RecursionError):
        return {}


def read_images(path: Path, dataset: str, conditioning: Conditioning, shape: tuple[int, ...]) -> Split | None:
    """The images of an npz (its train split) or of a folder, as `sample` writes them; None for a path that is neither.

    Args:
        dataset: named in an error; its classes and shape are those that a folder must have.

    Raises:
        UserError: if they cannot be read.
    """
    if has_suffix(path, ".npz"):
        return read_npz(path, ("train",), num_labels=conditioning.num_labels)["train"]
    return load_labelled_folder(path, dataset, conditioning, shape) if path.is_dir() else None


def check_images_memory(image_shape: tuple[int, ...], count: int, remedy: str) -> None:
    """Raises:
    UserError: if so many images of a shape do not fit into memory, before the first one is made.
    """
    check_memory(count * (4 * int(np.prod(image_shape)) + 200), f"making {count:,} images", remedy)
