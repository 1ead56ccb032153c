"""A class-conditional diffusion pipeline for small images: one file that needs torch and diffusers, nothing else.

The same file goes into every saved folder as `pipeline.py`, so that a machine without medmnist-diffusion loads it with
`DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`.

Inside are a stock `UNet2DModel` and any stock scheduler. What this file adds: label names, one or several labels an image,
classifier-free guidance (Ho & Salimans 2022, arXiv 2207.12598), and pixel-unshuffle (Shi et al. 2016, arXiv 1609.05158), which
lets a stock UNet work on a smaller grid with more channels: 1×28×28 becomes 4×14×14, and nothing is lost on the way back. The
slices of a volume become channels in the same way.
"""

import contextlib
import inspect
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline, ImagePipelineOutput, UNet2DModel
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.utils import logging
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image, ImageOps

logger = logging.get_logger(__name__)

SOURCE = Path(__file__).read_text(
    encoding="utf-8"
)  # of this file, before another folder's pipeline.py can take its place

# 20 steps suffice a fast solver (DPM-Solver++, DDIM), 10 with `fast_timesteps`; ancestral samplers need more, up to their
# 1,000.
DEFAULT_STEPS = 20
DEFAULT_STEPS_ANCESTRAL = 100
ANCESTRAL = ("DDPMScheduler", "DDPMParallelScheduler", "EulerAncestralDiscreteScheduler")
FAST_START, RHO = 20.0, 7.0  # of `fast_timesteps`; before σ/α = 20 an image is not yet decided
# The stock schedulers that make right images here: benchmarks/schedulers.py tries all that diffusers has (docs/schedulers.md).
# The others are made for other networks (flow matching, tokens, networks of their own scale), or run the other way.
SCHEDULERS: tuple[str, ...] = (
    "DDIMScheduler", "DDIMParallelScheduler", "DDPMScheduler", "DDPMParallelScheduler", "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler", "DPMSolverSDEScheduler", "DPMSolverSinglestepScheduler", "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2AncestralDiscreteScheduler", "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler", "PNDMScheduler", "SASolverScheduler", "TCDScheduler", "UniPCMultistepScheduler",
)  # fmt: skip
# What a scheduler in the place of the pipeline's own must share with it: what the network was trained for.
TRAINED_WITH = ("prediction_type", "num_train_timesteps", "beta_schedule")
LABEL_SCALE = 4.0  # of labels as vectors: large against the time embedding, or the network hardly sees them
# Options without which they do not: in general, and with `image`.
NEEDED_OPTIONS = {"HeunDiscreteScheduler": "use_karras_sigmas", "KDPM2AncestralDiscreteScheduler": "use_karras_sigmas"}
NEEDED_WITH_IMAGE = {"PNDMScheduler": "skip_prk_steps"}


class UnusableImagesError(RuntimeError):
    """Images that are not finite, or all flat: the weights, their precision or the options do not work."""


class PixelUnshuffle:
    """Between images and what the network sees: `factor`×`factor` neighbours move into channels, and back. Nothing is lost.

    Images are N×C×H×W or volumes N×C×D×H×W, encoded ones N×(C·D·factor²)×(H/factor)×(W/factor), both float in −1 … 1. Where height
    or width do not divide, images are padded at their edges (with their own last rows and columns) and cropped again.

    Args:
        factor: how far height and width shrink.
        image_shape: of one image, C×H×W or C×D×H×W.
        multiple: what height and width are padded to a multiple of; default `factor`. Networks that halve the grid need more.
    """

    name = "pixel_unshuffle"

    def __init__(self, factor: int, image_shape: Sequence[int], multiple: int | None = None) -> None:
        self.factor, self.image_shape = factor, tuple(image_shape)
        multiple = multiple or factor
        self.padding = tuple(-side % multiple for side in self.image_shape[-2:])  # rows, columns

    @property
    def padded_shape(self) -> tuple[int, ...]:
        """Of one image with its padding: noise has this shape."""
        (*first, height, width), (rows, columns) = self.image_shape, self.padding
        return (*first, height + rows, width + columns)

    @property
    def encoded_shape(self) -> tuple[int, int, int]:
        """Of one encoded image, C×H×W."""
        *channels, height, width = self.padded_shape
        return math.prod(channels) * self.factor**2, height // self.factor, width // self.factor

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Of images, or of noise of the padded shape."""
        flat = images.flatten(1, -3)  # slices of a volume are channels
        if any(self.padding) and tuple(images.shape[1:]) == self.image_shape:
            (rows, columns), (above, left) = self.padding, (side // 2 for side in self.padding)
            flat = F.pad(flat, (left, columns - left, above, rows - above), mode="replicate")
        return F.pixel_unshuffle(flat, self.factor)

    def decode(self, encoded: torch.Tensor) -> torch.Tensor:
        (above, left), (height, width) = (side // 2 for side in self.padding), self.image_shape[-2:]
        cropped = F.pixel_shuffle(encoded, self.factor)[..., above : above + height, left : left + width]
        return cropped.unflatten(1, self.image_shape[:-2]) if len(self.image_shape) > 3 else cropped


def label_width(block_out_channels: Sequence[int]) -> int:
    """How many numbers labels as vectors have in a UNet2DModel with these blocks: as many as its time embedding."""
    return 4 * block_out_channels[0]


def label_vectors(labels: torch.Tensor, width: int) -> torch.Tensor:
    """Whether each label is there, n×K, as what a UNet2DModel with `class_embed_type="identity"` adds to its time embedding: float
    n×width, LABEL_SCALE where it is, filled up with zeros."""
    return F.pad(labels.float() * LABEL_SCALE, (0, width - labels.shape[1]))


class ClassConditionalDDPMPipeline(DiffusionPipeline):
    """Generates images, or volumes, of chosen classes or labels.

    Args:
        unet: a `UNet2DModel` built with `num_class_embeds`, or for several labels an image with `class_embed_type="identity"`; its
            channels are image channels (× slices) × `pixel_unshuffle`².
        scheduler: the training `DDPMScheduler`, or one of SCHEDULERS, made `from_config(pipe.scheduler.config)`.
        id2label: class id → name. The ids are 0 … K − 1.
        pixel_unshuffle: the factor by which height and width shrink inside the UNet.
        null_label: the class id that stood for "unknown" in training, K; None if there was none (then no guidance).
        encoder: the name of what stands between images and the network; `pixel_unshuffle` is the one there is.
        image_shape: of one image C×H×W, of one volume C×D×H×W; default what the network's own shape makes.
        black_and_white: the training images hold nothing but black and white: what is made becomes white above `white_from`, else
            black.
        white_from: that level, of 0 … 1.
        default_guidance_scale: the guidance of calls that name none.
        distilled_steps: the network was taught to make an image in so many DDIM steps, and knows no others; None for none.

    Raises:
        ValueError: if the UNet was built without either, and so would ignore every label; or if what only another
            pipeline knows was left out (`Pipeline(**pipe.components)`): `from_pipe` passes it on.
    """

    # This file as it was imported: where another folder's pipeline.py is loaded later, it takes this one's place and globals.
    _source = Path(__file__).read_text(encoding="utf-8")

    model_cpu_offload_seq = "unet"
    # `prompt_embeds` is what diffusers' own callbacks call the condition: here the labels, as the network gets them.
    _callback_tensor_inputs = ("latents", "prompt_embeds")

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: Any,
        id2label: dict | None = None,
        pixel_unshuffle: int = 1,
        null_label: int | None = None,
        encoder: str = PixelUnshuffle.name,
        image_shape: Sequence[int] | None = None,
        black_and_white: bool = False,
        default_guidance_scale: float = 1.0,
        white_from: float = 0.5,
        distilled_steps: int | None = None,
    ) -> None:
        super().__init__()
        if encoder != PixelUnshuffle.name:
            raise ValueError(f"The encoder {encoder!r} is unknown to this version; it knows {PixelUnshuffle.name!r}.")
        self.multi_label = unet.config.class_embed_type == "identity"
        if not unet.config.num_class_embeds and not self.multi_label:
            raise ValueError(
                "The UNet was built without num_class_embeds: it would silently ignore every class label. "
                "Build UNet2DModel(num_class_embeds=number of classes + 1)."
            )
        if not _is_whole(pixel_unshuffle) or pixel_unshuffle < 1 or not (null_label is None or _is_whole(null_label)):
            raise ValueError("pixel_unshuffle and null_label must be whole numbers.")
        pixel_unshuffle, null_label = int(pixel_unshuffle), None if null_label is None else int(null_label)
        shape = _image_shape(unet, pixel_unshuffle) if image_shape is None else tuple(map(int, image_shape))
        if shape[0] not in (1, 3) or (id2label is None and null_label is None and pixel_unshuffle == 1):
            raise ValueError(
                f"id2label, pixel_unshuffle and null_label are needed: this network has {unet.config.in_channels} channels and "
                f"{unet.config.num_class_embeds} labels. Pass them, or make the pipeline of another one by "
                f"{type(self).__name__}.from_pipe(pipe)."
            )
        names = {int(key): str(name) for key, name in (id2label or {}).items()}
        if len(names) < len(id2label or {}) or len(set(names.values())) < len(names):
            raise ValueError(f"id2label {id2label} has an id or a name twice.")
        num_classes = len(names) if self.multi_label else unet.config.num_class_embeds - (null_label is not None)
        names = names or {label: str(label) for label in range(num_classes)}
        if not names or sorted(names) != list(range(num_classes)) or null_label not in (None, num_classes):
            raise ValueError(
                f"The UNet embeds {unet.config.num_class_embeds or 'several'} labels, which does not fit id2label with ids "
                f"{sorted(names)} and null_label={null_label}."
            )
        if self.multi_label and num_classes >= (numbers := label_width(unet.config.block_out_channels)):
            raise ValueError(f"The UNet has room for {numbers - 1} labels, not for {num_classes}.")
        self.register_modules(unet=unet, scheduler=scheduler)
        self.image_encoder = PixelUnshuffle(
            pixel_unshuffle, shape, pixel_unshuffle * 2 ** (len(unet.config.block_out_channels) - 1)
        )
        if self.image_encoder.encoded_shape != (wanted := _network_shape(unet)):
            raise ValueError(
                f"Images of the shape {shape} become {self.image_encoder.encoded_shape}; the UNet takes {wanted}."
            )
        self.register_to_config(
            id2label=names,
            pixel_unshuffle=pixel_unshuffle,
            null_label=null_label,
            encoder=encoder,
            image_shape=None if shape == _image_shape(unet, pixel_unshuffle) else list(shape),
            black_and_white=bool(black_and_white),
            default_guidance_scale=float(default_guidance_scale),
            white_from=float(white_from),
        )
        if distilled_steps is not None:  # left out elsewhere, so that older versions read the folder
            if not _is_whole(distilled_steps) or distilled_steps < 1:
                raise ValueError(f"distilled_steps is {distilled_steps}; it must be a whole number, at least 1.")
            self.register_to_config(distilled_steps=int(distilled_steps))
        self._guidance_scale, self._interrupt, self._num_timesteps, self._running = 1.0, False, 0, False
        own = getattr(scheduler, "config", {})
        self._trained = {key: own[key] for key in TRAINED_WITH if key in own}
        self.id2label = names
        self.labels = {name: label for label, name in names.items()}

    def get_label_ids(self, label: str | Sequence[str]) -> list[int]:
        """Class ids of label names; a ValueError names the labels there are."""
        names = [label] if isinstance(label, str) else list(label)
        unknown = [name for name in names if name not in self.labels]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no label of this pipeline; it knows {list(self.labels)}.")
        return [self.labels[name] for name in names]

    @torch.no_grad()
    def __call__(
        self,
        class_labels: int | str | Sequence[int | str | Sequence[int | str]] | np.ndarray | torch.Tensor,
        num_images_per_label: int = 1,
        image: Any = None,
        strength: float = 0.6,
        guidance_scale: float | None = None,
        num_inference_steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: torch.Tensor | None = None,
        eta: float = 0.0,
        batch_size: int = 128,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, int, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple:
        """Generate `num_images_per_label` images for each entry of `class_labels`, in that order.

        Args:
            class_labels: ids or names (or both), one or many. Where names are numbers themselves, an id that is another class's
                name is refused: give the name as text. Of a model with several labels an image, each entry is a label or a list
                of labels, `[["effusion", "mass"], [], "nodule"]`, where `[]` is an image without any; or give zeros and ones, N×K.
            num_images_per_label: images for each entry; those of one entry follow each other.
            image: one image for each entry to start from, instead of pure noise: PIL images, arrays N×H×W×C or tensors N×C×H×W
                (or a list of single ones). Whole numbers span the range of their type (uint8: 0 … 255), floats 0 … 1. The result
                is a variant of it (SDEdit, Meng et al. 2022, arXiv 2108.01073).
            strength: with `image`, the share of the steps that is taken, in 0 … 1: how much noise the image gets, and so how
                far the variants go.
            guidance_scale: 1 is no guidance; above 1 sharpens the class at the expense of variety. Default: the pipeline's own,
                `pipe.config.default_guidance_scale`.
            num_inference_steps: default 20, or 100 with ancestral schedulers (ANCESTRAL); a distilled pipeline has its own.
            timesteps: noise levels to visit, descending, instead of `num_inference_steps` of the scheduler's own choice; see
                `fast_timesteps`. Not every scheduler takes them.
            generator: one for all images, or a list with one for each image. Every image has a random stream of its
                own, so its pixels do not depend on `batch_size` or on its neighbours (to within one grey level, since
                matrix products round differently in batches of different sizes). With a single generator the stream of
                image i is seeded by the generator's i-th draw.
            latents: the noise to start from, one for each image, N×C×H×W as the network sees images, instead of the generators'.
            eta: DDIM's (and TCD's) stochasticity in 0 … 1; other schedulers ignore it.
            batch_size: images that go through the UNet at once: bounds memory, not the result.
            output_type: "pil", "np" (N×H×W×C in 0 … 1), "pt" (N×C×H×W in 0 … 1), or "latent" (N×C×H×W as the network sees
                images, about −1 … 1). Volumes are N×D×H×W×C, N×C×D×H×W, or for "pil" a list of slices each.
            return_dict: `ImagePipelineOutput` if True, else a tuple with the images.
            callback_on_step_end: called as `f(pipe, step, timestep, {"latents": …})` after each step of each batch; may return a
                dict with new latents, set `pipe._guidance_scale`, or end the work by `pipe._interrupt = True`: images come back
                as they are then, of the batches that were begun.
            callback_on_step_end_tensor_inputs: what the callback gets: `latents`, and `prompt_embeds`, which here are the labels
                as the network sees them (int64 ids, or vectors of several labels; with guidance the unconditional ones first).

        Returns:
            The images: PIL images in mode L or RGB, an array, or a tensor.

        Raises:
            ValueError: for unknown labels, a generator list of the wrong length, guidance without a null class, a scheduler that
                does not fit, noise levels that do not descend, images that do not fit the labels or the model, or what a
                distilled pipeline cannot do.
            UnusableImagesError: if images are not finite, or all of one grey: the weights, or their precision, do not fit.

        Example:
            >>> pipe = DiffusionPipeline.from_pretrained("runs/demo/pipeline", trust_remote_code=True)
            >>> pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
            >>> image = pipe(class_labels=0, timesteps=pipe.fast_timesteps(10)).images[0]
        """
        if num_images_per_label < 1 or batch_size < 1:
            raise ValueError("num_images_per_label and batch_size must be at least 1.")
        if latents is not None and image is not None:
            raise ValueError("Give latents or image to start from, not both.")
        if isinstance(callback_on_step_end, (PipelineCallback, MultiPipelineCallbacks)):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        if guidance_scale is None:
            guidance_scale = self.config.default_guidance_scale
        self._check_options(output_type, guidance_scale, eta, callback_on_step_end_tensor_inputs)
        self._check_distilled(num_inference_steps, timesteps, guidance_scale, eta, image)
        schedule = self._checked_schedule(num_inference_steps, timesteps)
        skipped = 0 if image is None else self._skipped_steps(schedule, strength)

        labels = self._label_tensor(class_labels).repeat_interleave(num_images_per_label, 0)
        generators = self._one_generator_an_image(generator, len(labels))
        starts = None if image is None else self._starting_latents(image, len(labels), num_images_per_label)
        noise = None if latents is None else self._checked_latents(latents, len(labels))
        self._guidance_scale, self._interrupt = guidance_scale, False
        self._set_timesteps(schedule, skipped)
        batches = [slice(start, start + batch_size) for start in range(0, len(labels), batch_size)]
        samples = []
        with self._only_call(), self.progress_bar(total=len(batches) * self._num_timesteps) as progress:
            for batch in batches:
                if self.interrupt:
                    break
                self._guidance_scale = guidance_scale  # a callback may have changed it
                self._set_timesteps(schedule, skipped)
                samples.append(
                    self._denoise(
                        labels[batch].to(self._execution_device),
                        generators[batch],
                        None if noise is None else noise[batch],
                        None if starts is None else starts[batch],
                        eta,
                        progress,
                        callback_on_step_end,
                        callback_on_step_end_tensor_inputs,
                    )
                )
        self.maybe_free_model_hooks()

        images: Any = torch.cat(samples)
        if output_type != "latent":
            images = (self.image_encoder.decode(images) / 2 + 0.5).clamp(0, 1)
        self._check_images(images, latent=output_type == "latent")
        if self.config.black_and_white and output_type != "latent":
            images = (images > self.config.white_from).to(images.dtype)
        if output_type in ("np", "pil"):
            images = images.movedim(1, -1).numpy()
        if output_type == "pil":
            images = [self.numpy_to_pil(one) for one in images] if images.ndim == 5 else self.numpy_to_pil(images)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    @contextlib.contextmanager
    def _only_call(self) -> Iterator[None]:
        """One call at a time: the scheduler has a state, which a preview within a callback would overwrite."""
        self._running = True
        try:
            yield
        finally:
            self._running = False

    @property
    def guidance_scale(self) -> float:
        """Of the call that runs; a callback may change it by `_guidance_scale`."""
        return self._guidance_scale

    @property
    def do_classifier_free_guidance(self) -> bool:
        return self._guidance_scale > 1 and self.config.null_label is not None and self.distilled_steps is None

    @property
    def distilled_steps(self) -> int | None:
        """In how many DDIM steps a distilled network makes an image; None of any other."""
        return self.config.get("distilled_steps")

    @property
    def num_timesteps(self) -> int:
        """How often the network is called for each image, of the call that runs."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether a callback has ended the work, by `_interrupt`."""
        return self._interrupt

    def _denoise(
        self,
        labels: torch.Tensor,
        generators: list[torch.Generator],
        noise: torch.Tensor | None,
        starts: torch.Tensor | None,
        eta: float,
        progress: Any,
        callback: Callable[[Any, int, int, dict], dict] | None,
        callback_tensor_inputs: Sequence[str],
    ) -> torch.Tensor:
        """One batch along `self._timesteps`, from noise or from noisy `starts`: float32 N×C×H×W as the network sees images, on
        the CPU.

        The latents are float32 whatever the network's own type: in half precision most solvers overflow at the noisiest levels.
        """
        if noise is None:
            shape = (len(labels), *self.image_encoder.encoded_shape)
            noise = randn_tensor(shape, generator=generators, device=self._execution_device, dtype=torch.float32)
        noise = noise.to(self._execution_device)
        if hasattr(self.scheduler, "noise_sampler_seed"):  # DPMSolverSDE takes seeds, not generators
            self.scheduler.noise_sampler_seed = _one_seed_each(generators)
        if starts is None:
            latents = noise * self.scheduler.init_noise_sigma
        else:
            latents = self.scheduler.add_noise(starts.to(noise), noise, self._timesteps[:1].expand(len(noise)))
        parameters = inspect.signature(self.scheduler.step).parameters
        step_options: dict[str, Any] = {"generator": generators, "eta": eta}
        step_options = {name: value for name, value in step_options.items() if name in parameters}

        for step, timestep in enumerate(self._timesteps):
            if self.interrupt:
                break
            # Unconditional and conditional predictions in one forward pass: the batch is doubled.
            guided = self.do_classifier_free_guidance
            model_labels = torch.cat([self._unknown(labels), labels]) if guided else labels
            model_input = self.scheduler.scale_model_input(
                torch.cat([latents, latents]) if guided else latents, timestep
            )
            network_labels = model_labels.to(self.unet.dtype) if self.multi_label else model_labels
            prediction = self.unet(
                model_input.to(self.unet.dtype), timestep, class_labels=network_labels
            ).sample.float()
            if guided:
                unconditional, conditional = prediction.chunk(2)
                prediction = unconditional + self.guidance_scale * (conditional - unconditional)
            latents = self.scheduler.step(prediction, timestep, latents, **step_options).prev_sample

            if callback is not None:
                tensors = {"latents": latents, "prompt_embeds": model_labels}
                tensors = {name: tensors[name] for name in callback_tensor_inputs}
                changed = callback(self, step, int(timestep), tensors) or {}
                if not isinstance(changed, dict) or not set(changed) <= set(self._callback_tensor_inputs):
                    raise ValueError(
                        f"a callback must return a dict with keys of {list(self._callback_tensor_inputs)}."
                    )
                latents = changed.get("latents", latents)
            progress.update()
        return latents.float().cpu()

    def _check_options(
        self, output_type: str, guidance_scale: float, eta: float, callback_tensor_inputs: Sequence[str]
    ) -> None:
        if output_type not in ("pil", "np", "pt", "latent"):
            raise ValueError(f"output_type must be 'pil', 'np', 'pt' or 'latent', not {output_type!r}.")
        if not 0 <= eta <= 1:
            raise ValueError(f"eta is {eta}; it must be in 0 … 1.")
        if self._running:
            raise RuntimeError(
                "A call of this pipeline is running. For one within it, use a copy: copy.deepcopy(pipe)."
            )
        if not 1 <= guidance_scale < math.inf:
            raise ValueError(f"guidance_scale is {guidance_scale}; it must be at least 1, which is no guidance.")
        if guidance_scale != 1.0 and self.config.null_label is None:
            raise ValueError("This model was trained without a null class: guidance_scale must be 1.")
        if unknown := set(callback_tensor_inputs) - set(self._callback_tensor_inputs):
            raise ValueError(f"callbacks get {list(self._callback_tensor_inputs)}, not {sorted(unknown)}.")

    def _check_distilled(
        self,
        num_inference_steps: int | None,
        timesteps: Sequence[int] | None,
        guidance_scale: float,
        eta: float,
        image: Any,
    ) -> None:
        """A distilled network knows nothing but its own steps, from noise alone: with others it would make grain or fog."""
        own = self.distilled_steps
        if own is None:
            return
        taught = f"This pipeline was distilled for {own} DDIM step{'s' * (own > 1)} from pure noise"
        scheduler = self.scheduler.config
        changed = [key for key in ("clip_sample", "thresholding", "trained_betas") if scheduler.get(key)]
        if self._stock_scheduler() != "DDIMScheduler" or scheduler.get("timestep_spacing") != "trailing" or changed:
            raise ValueError(
                f'{taught}: use its own scheduler, DDIMScheduler with timestep_spacing="trailing" and clip_sample=False.'
            )
        if timesteps is not None or num_inference_steps not in (None, own):
            raise ValueError(f"{taught}: leave num_inference_steps and timesteps out.")
        if guidance_scale != 1 or eta != 0 or image is not None:
            raise ValueError(
                f"{taught}: it takes no guidance_scale, eta or image. Use the pipeline that it was made of."
            )

    def _checked_schedule(self, num_inference_steps: int | None, timesteps: Sequence[int] | None) -> dict[str, Any]:
        """What the scheduler's `set_timesteps` is to be called with."""
        kind, name = self._stock_scheduler(), type(self.scheduler).__name__
        if kind and kind not in SCHEDULERS:
            raise ValueError(f"{name} does not fit this kind of network. Use one of {', '.join(SCHEDULERS)}.")
        self._check_option(NEEDED_OPTIONS, "")
        for key, trained in self._trained.items():
            if (now := self.scheduler.config.get(key, trained)) != trained:
                raise ValueError(
                    f"The network was trained with {key}={trained!r}, the scheduler has {now!r}: make it by "
                    f"{name}.from_config(pipe.scheduler.config), of the pipeline's own scheduler."
                )
        if timesteps is not None and num_inference_steps is not None:
            raise ValueError("Give timesteps or num_inference_steps, not both.")
        levels = self.scheduler.config.num_train_timesteps
        if timesteps is None:
            if num_inference_steps is None:
                num_inference_steps = self.distilled_steps
            if num_inference_steps is None:
                num_inference_steps = DEFAULT_STEPS_ANCESTRAL if kind in ANCESTRAL else DEFAULT_STEPS
            if not _is_whole(num_inference_steps) or not 1 <= num_inference_steps <= levels:
                raise ValueError(f"num_inference_steps is {num_inference_steps}; it must be in 1 … {levels}.")
            if kind == "PNDMScheduler" and num_inference_steps < 4 and not self.scheduler.config.skip_prk_steps:
                raise ValueError("PNDMScheduler needs 4 steps or more, or skip_prk_steps=True.")
            return {"num_inference_steps": int(num_inference_steps)}
        if "timesteps" not in inspect.signature(self.scheduler.set_timesteps).parameters:
            raise ValueError(
                f"{name} takes no timesteps of your choice. Give num_inference_steps, or use another scheduler."
            )
        visited = timesteps.tolist() if isinstance(timesteps, (torch.Tensor, np.ndarray)) else list(timesteps)
        whole = all(_is_whole(level) and 0 <= level < levels for level in visited)
        if not visited or not whole or any(later >= earlier for earlier, later in pairwise(visited)):
            raise ValueError(f"timesteps must be whole numbers in 0 … {levels - 1}, each below the one before it.")
        return {"timesteps": [int(level) for level in visited]}

    def _stock_scheduler(self) -> str | None:
        """The name of diffusers' class that the scheduler is, or is derived from; None of one that is all its own."""
        bases = (base for base in type(self.scheduler).__mro__ if base.__module__.startswith("diffusers.schedulers"))
        return next((base.__name__ for base in bases if base.__name__.endswith("Scheduler")), None)

    def _check_option(self, needed: dict[str, str], purpose: str) -> None:
        name = type(self.scheduler).__name__
        option = needed.get(self._stock_scheduler() or name)
        if option and not self.scheduler.config.get(option):
            raise ValueError(
                f"{name} needs {option}{purpose}: make it by {name}.from_config(pipe.scheduler.config, {option}=True)."
            )

    def _skipped_steps(self, schedule: dict[str, Any], strength: float) -> int:
        """How many of the first, noisiest steps are left out for variants of images."""
        steps = schedule.get("num_inference_steps") or len(schedule["timesteps"])
        if not 0 < strength <= 1 or round(steps * strength) == 0:
            raise ValueError(f"strength {strength:g} leaves none of {steps} steps; it must be in {1 / steps:g} … 1.")
        self._check_option(NEEDED_WITH_IMAGE, " to start from an image")
        return steps - round(steps * strength)

    def _set_timesteps(self, schedule: dict[str, Any], skipped: int) -> None:
        """The scheduler's state as before its first step, and the noise levels that are left: `self._timesteps`."""
        takes_device = "device" in inspect.signature(self.scheduler.set_timesteps).parameters
        self.scheduler.set_timesteps(**schedule, **({"device": self._execution_device} if takes_device else {}))
        if hasattr(self.scheduler, "set_begin_index"):  # else it is looked up by a timestep that can stand there twice
            self.scheduler.set_begin_index(skipped * self.scheduler.order)
        self._timesteps = self.scheduler.timesteps[skipped * self.scheduler.order :]
        self._num_timesteps = len(self._timesteps)

    def _checked_latents(self, latents: torch.Tensor, count: int) -> torch.Tensor:
        shape = (count, *self.image_encoder.encoded_shape)
        if not isinstance(latents, torch.Tensor) or not bool(torch.isfinite(latents).all()):
            raise ValueError("latents must be a tensor of finite numbers.")
        if tuple(latents.shape) != shape:
            raise ValueError(f"latents has the shape {tuple(latents.shape)}; the labels and the network need {shape}.")
        return latents.float()

    def _check_images(self, images: torch.Tensor, latent: bool) -> None:
        """Broken weights, or a precision that they do not bear, show as NaN, which would become black, or as flat images."""
        how = f"{type(self.scheduler).__name__}, network in {str(self.unet.dtype).removeprefix('torch.')}"
        remedy = "Use another scheduler or a network in float32, or train again."
        if not bool(torch.isfinite(images).all()):
            raise UnusableImagesError(f"Some images are not finite (NaN or infinite; {how}). {remedy}")
        if latent:
            return
        flat = images.flatten(1).amax(1) == images.flatten(1).amin(1)
        if bool(flat.all()) and not self.interrupt:
            raise UnusableImagesError(f"All images are of one grey, without any structure ({how}). {remedy}")
        if bool(flat.any()):
            logger.warning(f"{int(flat.sum())} of {len(flat)} images are of one grey, without any structure ({how}).")

    def fast_timesteps(self, num_inference_steps: int) -> list[int]:
        """Noise levels for DPM-Solver++ in few steps, descending: pure noise, then those of Karras et al. 2022 (arXiv 2206.00364,
        equation 5, ρ = 7) from σ/α = `FAST_START` to the least noise.

        A scheduler that spreads its steps over the whole cosine schedule (`use_lu_lambdas`) spends a third of them where next to
        nothing of an image is left.
        """
        if not 1 <= num_inference_steps <= len(self.scheduler.alphas_cumprod):
            raise ValueError(f"num_inference_steps must be in 1 … {len(self.scheduler.alphas_cumprod)}.")
        noise = (1 / self.scheduler.alphas_cumprod.double() - 1).sqrt()  # σ/α, rising with the timestep
        start, end = min(FAST_START, float(noise[-1])), float(noise[0])
        ramp = torch.linspace(0, 1, max(1, num_inference_steps - 1)).double()
        wanted = (start ** (1 / RHO) + ramp * (end ** (1 / RHO) - start ** (1 / RHO))) ** RHO
        levels = [len(noise) - 1, *torch.searchsorted(noise, wanted).tolist()][:num_inference_steps]
        # Where the schedule is coarser than the steps, each level once: the later ones move down, the last ones up.
        for i in range(1, len(levels)):
            levels[i] = min(levels[i], levels[i - 1] - 1)
        return [max(level, len(levels) - 1 - i) for i, level in enumerate(levels)]

    def _label_tensor(self, class_labels: Any) -> torch.Tensor:
        """What the network takes of each entry: ids, int64 N; or of several labels vectors, float N×width."""
        if self.multi_label:
            return label_vectors(self._label_rows(class_labels), label_width(self.unet.config.block_out_channels))
        if isinstance(class_labels, (torch.Tensor, np.ndarray)):
            if class_labels.ndim > 1:
                shape = tuple(class_labels.shape)
                raise ValueError(
                    f"class_labels has the shape {shape}: one id for each image is needed, no one-hot rows."
                )
            class_labels = class_labels.tolist()
        many = (
            [class_labels] if isinstance(class_labels, str) or not isinstance(class_labels, Iterable) else class_labels
        )
        ids = [self._label_id(label) for label in many]
        if not ids:
            raise ValueError("class_labels is empty.")
        return torch.tensor(ids)

    def _label_rows(self, class_labels: Any) -> torch.Tensor:
        """Zeros and ones, N×K, of labels as `__call__` takes them."""
        if isinstance(class_labels, (torch.Tensor, np.ndarray)) and class_labels.ndim > 1:
            rows = torch.as_tensor(class_labels)
            if rows.ndim != 2 or rows.shape[1] != len(self.id2label) or not bool(((rows == 0) | (rows == 1)).all()):
                raise ValueError(
                    f"class_labels has the shape {tuple(rows.shape)}; N×{len(self.id2label)} zeros and ones are needed."
                )
            return rows.cpu()
        if isinstance(class_labels, (torch.Tensor, np.ndarray)):
            class_labels = class_labels.tolist()
        one = isinstance(class_labels, str) or not isinstance(class_labels, Iterable)
        entries = [class_labels] if one else list(class_labels)
        if not entries:
            raise ValueError("class_labels is empty. For one image without any label give [[]].")
        rows = torch.zeros(len(entries), len(self.id2label))
        for row, entry in zip(rows, entries, strict=True):
            labels = [entry] if isinstance(entry, str) or not isinstance(entry, Iterable) else entry
            row[[self._label_id(label) for label in labels]] = 1
        return rows

    def _unknown(self, labels: torch.Tensor) -> torch.Tensor:
        """The condition that stood for "unknown" in training, as many times as there are labels."""
        if not self.multi_label:
            return torch.full_like(labels, self.config.null_label)
        unknown = torch.zeros_like(labels)
        unknown[:, self.config.null_label] = LABEL_SCALE
        return unknown

    def _label_id(self, label: Any) -> int:
        if isinstance(label, str):
            return self.get_label_ids(label)[0]
        if not _is_whole(label) or int(label) not in self.id2label:
            raise ValueError(f"{label!r} is no class of this pipeline; it knows {self.id2label}.")
        if self.labels.get(str(label), label) != label:
            raise ValueError(
                f"{label} is the id of {self.id2label[label]!r} and the name of another class: give the class's name as text."
            )
        return int(label)

    def _starting_latents(self, image: Any, count: int, repeats: int) -> torch.Tensor:
        """Images as the UNet sees them: float N×C×H×W in −1 … 1, unshuffled, each repeated."""
        arrays = isinstance(image, (np.ndarray, torch.Tensor))
        single = isinstance(image, Image.Image) or (arrays and self._is_one_image(image))
        many: Any = [image] if single else list(image)
        if not many:
            raise ValueError("image is empty.")
        images = torch.stack([self._unit_image(one) for one in many])
        shape = (count // repeats, *self.image_shape)
        if tuple(images.shape) != shape:
            raise ValueError(
                f"image has the shape {tuple(images.shape)} (N×C×H×W); the labels and the model need {shape}."
            )
        return self.image_encoder.encode(images * 2 - 1).repeat_interleave(repeats, 0)

    def _is_one_image(self, image: Any) -> bool:
        """Whether an array or tensor is one image, not several."""
        channels, *sides = self.image_shape
        one = (channels, *sides) if isinstance(image, torch.Tensor) else (*sides, channels)
        return image.ndim == len(sides) or tuple(image.shape) == one

    def _unit_image(self, image: Any) -> torch.Tensor:
        """One PIL image, array H×W or H×W×C, or tensor H×W or C×H×W as a float tensor C×H×W in 0 … 1; volumes with D before H."""
        channels_first = isinstance(image, torch.Tensor)
        if isinstance(image, Image.Image):
            array = self._pil_array(image)
        elif isinstance(image, torch.Tensor):
            array = (image.float() if image.is_floating_point() else image).numpy(force=True)
        else:
            array = np.asarray(image)
        highest = {"bool": 1, "uint8": 255, "uint16": 65535}.get(array.dtype.name, 1)
        if highest == 1 and array.dtype.kind not in "bf":
            raise ValueError(
                f"image holds {array.dtype}: give uint8 in 0 … 255, uint16 in 0 … 65535, or floats in 0 … 1."
            )
        values = array.astype(np.float32) / highest
        low, high = float(values.min()), float(values.max())
        if not -1e-3 <= low <= high <= 1 + 1e-3:  # NaN is never in between
            raise ValueError(
                f"image holds floats in {low:g} … {high:g}; 0 … 1 is needed. Divide by the highest value a pixel can have."
            )
        without_channels = values.ndim == len(self.image_shape) - 1
        values = values[None] if without_channels else values if channels_first else np.moveaxis(values, -1, 0)
        return torch.from_numpy(np.ascontiguousarray(values))

    def _pil_array(self, image: Image.Image) -> np.ndarray:
        """A PIL image upright, with as many channels as the model has, as an array of whole numbers."""
        image = ImageOps.exif_transpose(image)
        if image.mode in ("F", "I"):
            raise ValueError(f"a PIL image of mode {image.mode} can span any range: give an array of floats in 0 … 1.")
        if image.mode.startswith("I;16"):
            return np.asarray(image).astype(np.uint16)
        if image.has_transparency_data and np.asarray(image.convert("RGBA"))[..., 3].min() < 255:
            raise ValueError("a PIL image has transparent parts: lay it on a background first.")
        array = np.asarray(image.convert("RGB"))
        if self.image_shape[0] == 3:
            return array
        if (array != array[..., :1]).any():
            raise ValueError("a PIL image has colours, and this model makes grey images: convert it to mode L.")
        return array[..., 0]

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Of one generated image, C×H×W, or volume, C×D×H×W."""
        return self.image_encoder.image_shape

    def _one_generator_an_image(
        self, generator: torch.Generator | Sequence[torch.Generator] | None, count: int
    ) -> list[torch.Generator]:
        if isinstance(generator, Sequence):
            several = list(generator)
            if not all(isinstance(one, torch.Generator) for one in several):
                raise ValueError("generator must be a torch.Generator, or a list with one for each image.")
            if len(several) != count:
                raise ValueError(f"{len(several)} generators were given for {count} images.")
            if len({id(one) for one in several}) < count:
                raise ValueError(
                    "one generator stands several times in the list: every image needs a stream of its own."
                )
            return several
        if not (generator is None or isinstance(generator, torch.Generator)):
            raise ValueError("generator must be a torch.Generator, or a list with one for each image.")
        device = generator.device if generator is not None else "cpu"
        seeds = torch.randint(2**63 - 1, (count,), generator=generator, device=device)
        return [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]

    # Saving and loading. diffusers finds a custom class through `"_class_name": [module, class]` in model_index.json
    # and the module's file beside it; save_pretrained alone writes only the class's name.

    def save_pretrained(self, save_directory: Any, *args: Any, **kwargs: Any) -> None:
        """As in diffusers, with this file beside the weights as pipeline.py.

        Raises:
            ValueError: for a subclass, whose own code no folder would hold; before anything is written.
        """
        if "_source" not in vars(type(self)):
            raise ValueError(
                f"{type(self).__name__} is a subclass, whose code would not be saved. Save "
                "ClassConditionalDDPMPipeline.from_pipe(pipe), or copy pipeline.py and change the copy."
            )
        super().save_pretrained(save_directory, *args, **kwargs)

    def save_config(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write model_index.json with this file beside it as pipeline.py (called by `save_pretrained`)."""
        super().save_config(save_directory, push_to_hub=False)
        folder = Path(save_directory)
        index = json.loads((folder / self.config_name).read_text())
        index["_class_name"] = ["pipeline", type(self).__name__]
        (folder / self.config_name).write_text(json.dumps(index, indent=2) + "\n")
        (folder / "pipeline.py").write_text(self._source, encoding="utf-8")

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """As in diffusers, but `from_pretrained` of this class uses this class, not the folder's pipeline.py."""
        config = super().load_config(*args, **kwargs)
        config_dict = config[0] if isinstance(config, tuple) else config
        if isinstance(config_dict.get("_class_name"), list):
            config_dict["_class_name"] = cls.__name__
        return config


def _network_shape(unet: UNet2DModel) -> tuple[int, int, int]:
    """What the network takes of one image, C×H×W."""
    size = unet.config.sample_size
    height, width = size if isinstance(size, (tuple, list)) else (size, size)
    return unet.config.in_channels, height, width


def _image_shape(unet: UNet2DModel, factor: int) -> tuple[int, int, int]:
    """The shape of the image that fills all of that, C×H×W."""
    channels, height, width = _network_shape(unet)
    return channels // factor**2, height * factor, width * factor


def _is_whole(number: Any) -> bool:
    return isinstance(number, Integral) and not isinstance(number, (bool, np.bool_))


def _one_seed_each(generators: list[torch.Generator]) -> list[int]:
    return [int(torch.randint(2**63 - 1, (1,), generator=one, device=one.device)) for one in generators]
