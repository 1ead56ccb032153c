"""Images from a pipeline folder: which sampler, and which seed for which image."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler

from medmnist_diffusion.console import bar_options
from medmnist_diffusion.data.conditioning import Conditioning, occurrences
from medmnist_diffusion.diffusion.batches import derived_seed
from medmnist_diffusion.diffusion.folder_check import check_folder
from medmnist_diffusion.diffusion.samplers import (
    DEFAULT_SAMPLER,
    DEFAULT_STEPS,
    DISTILLED_SAMPLER,
    SAMPLERS,
    Sampling,
)
from medmnist_diffusion.errors import UserError, one_line
from medmnist_diffusion.pipelines import ClassConditionalDDPMPipeline, UnusableImagesError
from medmnist_diffusion.processes import share_among_processes
from medmnist_diffusion.shipped import pipeline_folder


def load_pipeline(folder: str | Path, sampler: str | None = None) -> ClassConditionalDDPMPipeline:
    """A saved pipeline, by its folder or a name of `medmnist-diffusion models`, with the named sampler in its scheduler's place.

    The folder's weights are read by our own class; its pipeline.py is not run.

    Args:
        sampler: default: the default one, but that of a distilled pipeline its own.

    Raises:
        UserError: if the folder is no complete pipeline folder, or differs from its manifest.

    Example:
        >>> pipe = md.load_pipeline(pipeline)
        >>> pipe.get_label_ids("effusion")
        [3]
    """
    folder = pipeline_folder(folder)
    check_folder(folder)
    try:
        pipe = ClassConditionalDDPMPipeline.from_pretrained(folder, local_files_only=True, use_safetensors=True)
        set_sampler(pipe, sampler)
    except UserError:
        raise
    except Exception as error:  # whatever a folder made up by somebody makes diffusers raise
        reason = one_line(error)
        raise UserError(f"{folder} cannot be loaded ({reason}). Save the pipeline again.") from None
    for name, parameter in pipe.unet.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            raise UserError(
                f"{folder}: the weight {name} is not finite (NaN or infinite). Train again, or get it again."
            )
    _try_out(pipe, folder)
    return pipe


def with_own(sampling: Sampling, folder: Path) -> Sampling:
    """The sampling with what the pipeline in a folder decides where it is left open: its guidance, and of a distilled one all.

    Raises:
        UserError: for what a distilled pipeline cannot do.
    """
    index, given = check_folder(folder), sampling.model_dump(exclude_unset=True)
    guidance = index.default_guidance_scale if sampling.guidance_scale is None else sampling.guidance_scale
    own: dict[str, Any] = {"guidance_scale": guidance}
    if index.distilled_steps:
        own = {"sampler": DISTILLED_SAMPLER, "num_inference_steps": index.distilled_steps, "guidance_scale": 1.0}
        if any(given.get(name, value) != value for name, value in own.items()):
            raise UserError(
                f"{folder} was distilled for {in_steps(index.distilled_steps)}: leave the sampler, its steps and the guidance out."
            )
    return sampling.model_copy(update=own)


def in_steps(count: int) -> str:
    """Of a distilled pipeline, in words."""
    return f"{count} DDIM step{'s' * (count > 1)}"


def own_steps(pipe: ClassConditionalDDPMPipeline) -> int:
    """In how many steps a pipeline makes images where no number is given: by the default sampler, or as it was distilled."""
    return pipe.distilled_steps or DEFAULT_STEPS[DEFAULT_SAMPLER]


def _try_out(pipe: ClassConditionalDDPMPipeline, folder: Path) -> None:
    """One image in two steps: a configuration that network or scheduler cannot work with shows now."""
    pipe.set_progress_bar_config(disable=True)
    try:
        generate_rows(pipe, occurrences(conditioning_of(pipe).each(1)[:1]), pipe.distilled_steps or 2)
    except Exception as error:  # as above
        reason = one_line(error)
        raise UserError(f"{folder} makes no images ({reason}). Save the pipeline again.") from None
    pipe.set_progress_bar_config(**bar_options())


def conditioning_of(pipe: ClassConditionalDDPMPipeline) -> Conditioning:
    """What a pipeline can be asked for."""
    return Conditioning(pipe.id2label, "multi-label" if pipe.multi_label else "multi-class")


def set_sampler(pipe: ClassConditionalDDPMPipeline, name: str | None = None) -> None:
    """Put the named stock scheduler, or the default one, in the place of the pipeline's own; that of a distilled one stays.

    Raises:
        UserError: for another one than a distilled pipeline's.
    """
    if pipe.distilled_steps:
        if name not in (None, DISTILLED_SAMPLER):
            raise UserError(f"the pipeline was distilled for {in_steps(pipe.distilled_steps)}: it has no {name}.")
        return
    pipe.scheduler = getattr(diffusers, SAMPLERS[name or DEFAULT_SAMPLER]).from_config(pipe.scheduler.config)


def image_generator(seed: int, label: int, index: int) -> torch.Generator:
    """The random stream of image `index` of a class: the same image however many are made, in whatever batches."""
    return torch.Generator().manual_seed(derived_seed(seed, label, index))


def generate_images(
    pipe: ClassConditionalDDPMPipeline,
    labels: Sequence[int] | np.ndarray,
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    batch_size: int = 128,
    image: np.ndarray | None = None,
    strength: float = 1.0,
) -> np.ndarray:
    """uint8 N×H×W×C images (volumes N×D×H×W×C) of the given conditions, class ids or of several labels an image those of
    data/conditioning.py; the i-th occurrence of a condition is always the same image.

    Without `num_inference_steps` and `guidance_scale` the pipeline's own count. With `image` (uint8 N×H×W×C, one a condition)
    variants of these, as far from them as `strength` says.
    """
    return generate_rows(
        pipe, occurrences(labels), num_inference_steps, guidance_scale, seed, batch_size, image, strength
    )


def generate_rows(
    pipe: ClassConditionalDDPMPipeline,
    rows: Sequence[tuple[int, int]],
    num_inference_steps: int | None = None,
    guidance_scale: float | None = None,
    seed: int = 0,
    batch_size: int = 128,
    image: np.ndarray | None = None,
    strength: float = 1.0,
) -> np.ndarray:
    """uint8 N×H×W×C images for (label, index) pairs; each has a random stream of its own.

    Raises:
        UserError: for more steps than the model has noise levels, guidance without a null class, or images that are not finite.
    """
    num_inference_steps = num_inference_steps or own_steps(pipe)
    if num_inference_steps > (levels := pipe.scheduler.config.num_train_timesteps):
        raise UserError(f"{num_inference_steps} sampling steps were asked for; the model has {levels} noise levels.")
    if guidance_scale not in (None, 1.0) and pipe.config.null_label is None:
        raise UserError(
            f"guidance {guidance_scale:g} needs a null class, which this model was trained without: use 1."
        )
    others = image is not None or guidance_scale not in (None, 1.0)
    if (own := pipe.distilled_steps) and (others or num_inference_steps != own):
        raise UserError(
            f"the pipeline was distilled for {in_steps(own)} from noise: it takes no others, no guidance and no images. Use the "
            "one that it was made of."
        )
    try:
        output: Any = pipe(
            class_labels=[conditioning_of(pipe).asked_by_name(condition) for condition, _ in rows],
            generator=[image_generator(seed, label, index) for label, index in rows],
            image=None if image is None else image.astype(np.float32) / 255,
            strength=strength,
            guidance_scale=guidance_scale,
            batch_size=batch_size,
            output_type="np",
            **(
                {"timesteps": pipe.fast_timesteps(num_inference_steps)}
                if isinstance(pipe.scheduler, DPMSolverMultistepScheduler)
                else {"num_inference_steps": num_inference_steps}
            ),
        )
    except UnusableImagesError as error:
        raise UserError(f"{error} Or use another guidance.") from None
    return (output.images * 255).round().astype(np.uint8)


def generate_in_shares(
    pipe: ClassConditionalDDPMPipeline,
    rows: Sequence[tuple[int, int]],
    num_inference_steps: int,
    guidance_scale: float | None,
    seed: int,
    batch_size: int,
) -> np.ndarray:
    """`generate_rows`, shared among the processes: the same images however many there are; every process gets all of them."""
    options = (num_inference_steps, guidance_scale, seed, batch_size)
    return share_among_processes(len(rows), lambda mine: generate_rows(pipe, [rows[i] for i in mine], *options))
