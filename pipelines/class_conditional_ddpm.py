"""A class-conditional diffusion pipeline for small images: one file that needs torch and diffusers, nothing else.

The same file goes into every saved folder as `pipeline.py`, so that a machine without medmnist-diffusion loads it with
`DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)`.

Inside are a stock `UNet2DModel` and any stock scheduler. What this file adds: label names, classifier-free guidance
(Ho & Salimans 2022, arXiv 2207.12598), and pixel-unshuffle (Shi et al. 2016, arXiv 1609.05158), which lets a stock UNet
work on a smaller grid with more channels: 1×28×28 becomes 4×14×14, and nothing is lost on the way back.
"""

import inspect
import json
import shutil
from collections.abc import Callable, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline, ImagePipelineOutput, UNet2DModel
from diffusers.utils.torch_utils import randn_tensor
from PIL import Image

# 20 steps suffice a fast solver (DPM-Solver++, DDIM), 10 with `fast_timesteps`; the ancestral DDPM sampler needs more, up to its
# 1,000.
DEFAULT_STEPS = 20
DEFAULT_STEPS_ANCESTRAL = 100
FAST_START, RHO = 20.0, 7.0  # of `fast_timesteps`; before σ/α = 20 an image is not yet decided


class PixelUnshuffle:
    """Between images and what the network sees: `factor`×`factor` neighbours move into channels, and back. Nothing is lost.

    Images are N×C×H×W, encoded ones N×(C·factor²)×(H/factor)×(W/factor), both float in −1 … 1.
    """

    name = "pixel_unshuffle"

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        return F.pixel_unshuffle(images, self.factor)

    def decode(self, encoded: torch.Tensor) -> torch.Tensor:
        return F.pixel_shuffle(encoded, self.factor)

    def encoded_shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        """Of an image of this shape."""
        return channels * self.factor**2, height // self.factor, width // self.factor

    def image_shape(self, channels: int, height: int, width: int) -> tuple[int, int, int]:
        """Of what is decoded from this shape."""
        return channels // self.factor**2, height * self.factor, width * self.factor


class ClassConditionalDDPMPipeline(DiffusionPipeline):
    """Generates images of chosen classes.

    Args:
        unet: a `UNet2DModel` built with `num_class_embeds`; its channels are image channels × `pixel_unshuffle`².
        scheduler: the training `DDPMScheduler`, or any stock scheduler made `from_config(pipe.scheduler.config)`.
        id2label: class id → name. The ids are 0 … K − 1.
        pixel_unshuffle: the factor by which height and width shrink inside the UNet.
        null_label: the class id that stood for "no label" in training; None if there was none (then no guidance).
        encoder: the name of what stands between images and the network; `pixel_unshuffle` is the one there is.

    Raises:
        ValueError: if the UNet was built without `num_class_embeds`, and so would ignore every label.
    """

    model_cpu_offload_seq = "unet"
    _callback_tensor_inputs = ("latents",)

    def __init__(
        self,
        unet: UNet2DModel,
        scheduler: Any,
        id2label: dict | None = None,
        pixel_unshuffle: int = 1,
        null_label: int | None = None,
        encoder: str = PixelUnshuffle.name,
    ) -> None:
        super().__init__()
        if encoder != PixelUnshuffle.name:
            raise ValueError(f"The encoder {encoder!r} is unknown to this version; it knows {PixelUnshuffle.name!r}.")
        if not unet.config.num_class_embeds:
            raise ValueError(
                "The UNet was built without num_class_embeds: it would silently ignore every class label. "
                "Build UNet2DModel(num_class_embeds=number of classes + 1)."
            )
        num_classes = unet.config.num_class_embeds - (null_label is not None)
        names = {int(key): str(name) for key, name in (id2label or {}).items()}
        names = names or {label: str(label) for label in range(num_classes)}
        if sorted(names) != list(range(num_classes)) or null_label not in (None, num_classes):
            raise ValueError(
                f"The UNet embeds {unet.config.num_class_embeds} labels, which does not fit id2label with ids "
                f"{sorted(names)} and null_label={null_label}."
            )
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(
            id2label=names, pixel_unshuffle=pixel_unshuffle, null_label=null_label, encoder=encoder
        )
        self.image_encoder = PixelUnshuffle(pixel_unshuffle)
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
        class_labels: int | str | Sequence[int | str] | torch.Tensor,
        num_images_per_label: int = 1,
        image: torch.Tensor | np.ndarray | Sequence[Image.Image] | None = None,
        strength: float = 0.6,
        guidance_scale: float = 1.0,
        num_inference_steps: int | None = None,
        timesteps: Sequence[int] | None = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        eta: float = 0.0,
        batch_size: int = 128,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: Callable[[Any, int, int, dict], dict] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> ImagePipelineOutput | tuple:
        """Generate `num_images_per_label` images for each entry of `class_labels`, in that order.

        Args:
            class_labels: ids or names (or both), one or many.
            num_images_per_label: images for each entry; those of one entry follow each other.
            image: one image for each entry to start from, instead of pure noise: PIL images, an array N×H×W×C or a tensor
                N×C×H×W in 0 … 1. The result is a variant of it (SDEdit, Meng et al. 2022, arXiv 2108.01073).
            strength: with `image`, the share of the steps that is taken, in 0 … 1: how much noise the image gets, and so how
                far the variants go.
            guidance_scale: 1 is no guidance; above 1 sharpens the class at the expense of variety.
            num_inference_steps: default 20, or 100 with the ancestral `DDPMScheduler`.
            timesteps: noise levels to visit, descending, instead of `num_inference_steps` of the scheduler's own choice; see
                `fast_timesteps`. Not every scheduler takes them.
            generator: one for all images, or a list with one for each image. Every image has a random stream of its
                own, so its pixels do not depend on `batch_size` or on its neighbours (to within one grey level, since
                matrix products round differently in batches of different sizes). With a single generator the stream of
                image i is seeded by the generator's i-th draw.
            eta: DDIM's stochasticity in 0 … 1; other schedulers ignore it.
            batch_size: images that go through the UNet at once: bounds memory, not the result.
            output_type: "pil", "np" (N×H×W×C in 0 … 1), or "pt" (N×C×H×W in 0 … 1).
            return_dict: `ImagePipelineOutput` if True, else a tuple with the images.
            callback_on_step_end: called as `f(pipe, step, timestep, {"latents": …})` after each step; may return a
                dict with new latents.

        Returns:
            The images: PIL images in mode L or RGB, an array, or a tensor.

        Raises:
            ValueError: for unknown labels, a generator list of the wrong length, guidance without a null class, or images that
                do not fit the labels or the model.

        Example:
            >>> pipe = DiffusionPipeline.from_pretrained("runs/demo/pipeline", trust_remote_code=True)
            >>> pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
            >>> image = pipe(class_labels=0, timesteps=pipe.fast_timesteps(10)).images[0]
        """
        if output_type not in ("pil", "np", "pt"):
            raise ValueError(f"output_type must be 'pil', 'np' or 'pt', not {output_type!r}.")
        if num_images_per_label < 1 or batch_size < 1:
            raise ValueError("num_images_per_label and batch_size must be at least 1.")
        if guidance_scale != 1.0 and self.config.null_label is None:
            raise ValueError("This model was trained without a null class: guidance_scale must be 1.")
        if num_inference_steps is None:
            ancestral = type(self.scheduler).__name__ == "DDPMScheduler"
            num_inference_steps = DEFAULT_STEPS_ANCESTRAL if ancestral else DEFAULT_STEPS

        labels = self._label_tensor(class_labels).repeat_interleave(num_images_per_label)
        generators = self._one_generator_an_image(generator, len(labels))
        starts = None if image is None else self._starting_latents(image, len(labels), num_images_per_label)
        batches = range(0, len(labels), batch_size)

        images = []
        steps = num_inference_steps if timesteps is None else len(timesteps)
        skipped = 0 if starts is None else steps - round(steps * strength)
        if not 0 <= skipped < steps:
            raise ValueError(f"strength {strength:g} leaves none of {steps} steps; it must be in {1 / steps:g} … 1.")
        with self.progress_bar(total=len(batches) * (steps - skipped)) as progress:
            for start in batches:
                images.append(
                    self._denoise(
                        labels[start : start + batch_size].to(self._execution_device),
                        generators[start : start + batch_size],
                        None if starts is None else starts[start : start + batch_size],
                        skipped,
                        guidance_scale,
                        {"num_inference_steps": num_inference_steps}
                        if timesteps is None
                        else {"timesteps": list(timesteps)},
                        eta,
                        progress,
                        callback_on_step_end,
                        callback_on_step_end_tensor_inputs,
                    )
                )
        self.maybe_free_model_hooks()

        samples: Any = torch.cat(images)
        if output_type != "pt":
            samples = samples.permute(0, 2, 3, 1).numpy()
        if output_type == "pil":
            samples = self.numpy_to_pil(samples)
        return ImagePipelineOutput(images=samples) if return_dict else (samples,)

    def _denoise(
        self,
        labels: torch.Tensor,
        generators: list[torch.Generator],
        starts: torch.Tensor | None,
        skipped: int,
        guidance_scale: float,
        schedule: dict[str, Any],
        eta: float,
        progress: Any,
        callback: Callable[[Any, int, int, dict], dict] | None,
        callback_tensor_inputs: Sequence[str],
    ) -> torch.Tensor:
        """One batch from noise, or from noisy `starts` after the `skipped` first steps, to images: float N×C×H×W in 0 … 1, on the
        CPU."""
        shape = (len(labels), *self._encoded_shape())
        latents = randn_tensor(shape, generator=generators, device=self._execution_device, dtype=self.unet.dtype)

        # Conditional and unconditional predictions in one forward pass: the batch is doubled.
        guided = guidance_scale != 1.0
        model_labels = torch.cat([labels, torch.full_like(labels, self.config.null_label)]) if guided else labels

        self.scheduler.set_timesteps(**schedule, device=self._execution_device)
        if hasattr(self.scheduler, "set_begin_index"):  # else it is looked up by a timestep that can stand there twice
            self.scheduler.set_begin_index(skipped * self.scheduler.order)
        timesteps = self.scheduler.timesteps[skipped * self.scheduler.order :]
        if starts is None:
            latents = latents * self.scheduler.init_noise_sigma
        else:
            latents = self.scheduler.add_noise(starts.to(latents), latents, timesteps[:1].expand(len(latents)))
        parameters = inspect.signature(self.scheduler.step).parameters
        step_options: dict[str, Any] = {"generator": generators, "eta": eta}
        step_options = {name: value for name, value in step_options.items() if name in parameters}

        for step, timestep in enumerate(timesteps):
            model_input = torch.cat([latents, latents]) if guided else latents
            model_input = self.scheduler.scale_model_input(model_input, timestep)
            prediction = self.unet(model_input, timestep, class_labels=model_labels).sample
            if guided:
                conditional, unconditional = prediction.chunk(2)
                prediction = unconditional + guidance_scale * (conditional - unconditional)
            latents = self.scheduler.step(prediction, timestep, latents, **step_options).prev_sample

            if callback is not None:
                tensors = {name: {"latents": latents}[name] for name in callback_tensor_inputs}
                latents = (callback(self, step, int(timestep), tensors) or {}).get("latents", latents)
            progress.update()

        images = self.image_encoder.decode(latents)
        return (images / 2 + 0.5).clamp(0, 1).float().cpu()

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

    def _label_tensor(self, class_labels: int | str | Sequence[int | str] | torch.Tensor) -> torch.Tensor:
        if isinstance(class_labels, torch.Tensor):
            class_labels = class_labels.reshape(-1).tolist()
        many: Any = [class_labels] if isinstance(class_labels, (Integral, str)) else class_labels
        ids = [self.get_label_ids(label)[0] if isinstance(label, str) else int(label) for label in many]
        if not ids:
            raise ValueError("class_labels is empty.")
        unknown = [label for label in ids if label not in self.id2label]
        if unknown:
            raise ValueError(f"{unknown[0]} is no class of this pipeline; it knows {self.id2label}.")
        return torch.tensor(ids)

    def _starting_latents(self, image: Any, count: int, repeats: int) -> torch.Tensor:
        """Images as the UNet sees them: float N×C×H×W in −1 … 1, unshuffled, each repeated."""
        if not isinstance(image, torch.Tensor):
            if not isinstance(image, np.ndarray):
                image = np.stack([np.asarray(one, np.float32) / 255 for one in image])
            image = torch.from_numpy(np.ascontiguousarray(image if image.ndim == 4 else image[..., None])).permute(
                0, 3, 1, 2
            )
        shape = (count // repeats, *self.image_shape)
        if tuple(image.shape) != shape:
            raise ValueError(
                f"image has the shape {tuple(image.shape)} (N×C×H×W); the labels and the model need {shape}."
            )
        return self.image_encoder.encode(image.float() * 2 - 1).repeat_interleave(repeats, 0)

    def _encoded_shape(self) -> tuple[int, int, int]:
        """What the network takes of one image, C×H×W."""
        config = self.unet.config
        size = config.sample_size if isinstance(config.sample_size, (tuple, list)) else (config.sample_size,) * 2
        return (config.in_channels, *size)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Of one generated image, C×H×W."""
        return self.image_encoder.image_shape(*self._encoded_shape())

    def _one_generator_an_image(
        self, generator: torch.Generator | Sequence[torch.Generator] | None, count: int
    ) -> list[torch.Generator]:
        if isinstance(generator, Sequence):
            if len(generator) != count:
                raise ValueError(f"{len(generator)} generators were given for {count} images.")
            return list(generator)
        device = generator.device if generator is not None else "cpu"
        seeds = torch.randint(2**63 - 1, (count,), generator=generator, device=device)
        return [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]

    # Saving and loading. diffusers finds a custom class through `"_class_name": [module, class]` in model_index.json
    # and the module's file beside it; save_pretrained alone writes only the class's name.

    def save_config(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> None:
        """Write model_index.json with this file beside it as pipeline.py (called by `save_pretrained`)."""
        super().save_config(save_directory, push_to_hub=False)
        folder = Path(save_directory)
        index = json.loads((folder / self.config_name).read_text())
        index["_class_name"] = ["pipeline", type(self).__name__]
        (folder / self.config_name).write_text(json.dumps(index, indent=2) + "\n")
        source, target = Path(inspect.getfile(type(self))), folder / "pipeline.py"
        if source.resolve() != target.resolve():
            shutil.copyfile(source, target)

    @classmethod
    def load_config(cls, *args: Any, **kwargs: Any) -> Any:
        """As in diffusers, but `from_pretrained` of this class uses this class, not the folder's pipeline.py."""
        config = super().load_config(*args, **kwargs)
        config_dict = config[0] if isinstance(config, tuple) else config
        if isinstance(config_dict.get("_class_name"), list):
            config_dict["_class_name"] = cls.__name__
        return config
