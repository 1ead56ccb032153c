"""Teach a trained pipeline to make an image in a few steps: distillation.

    medmnist-diffusion distill runs/pneumonia/pipeline --output runs/pneumonia/two-steps

A sampler without randomness turns each noise into one image. The teacher, the pipeline as it is, does so in ten steps. The
student, a copy of its network, learns to come from the same noise to the same image in two. No data are needed, only the
teacher's images. So much is *knowledge distillation* (Luhman & Luhman 2021, arXiv 2101.02388).

Here the student's steps are trained as one: the error of its last image flows back through all of them. Nothing is asked of the
first step but to prepare what the second one needs. Trained each for itself, two steps blur.
"""

import medmnist_diffusion.waiting  # noqa: F401, before torch: how its threads wait

# isort: split
import logging
import math
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import set_seed
from diffusers import DDIMScheduler, UNet2DModel
from tqdm import tqdm

from medmnist_diffusion.artifacts import TRAINING_SUMMARY, DistillationRecord, TrainingSummary
from medmnist_diffusion.console import bar_options
from medmnist_diffusion.data.conditioning import Conditioning
from medmnist_diffusion.diffusion.batches import Walk, derived_seed
from medmnist_diffusion.diffusion.encoder import network_labels
from medmnist_diffusion.diffusion.folder_check import WEIGHTS, check_folder, write_manifest
from medmnist_diffusion.diffusion.loss import Objective
from medmnist_diffusion.diffusion.machine import probe_precision
from medmnist_diffusion.diffusion.optimizers import build_optimizers
from medmnist_diffusion.diffusion.sampling import conditioning_of, load_pipeline, own_steps
from medmnist_diffusion.errors import TrainingDivergedError, UserError
from medmnist_diffusion.files import atomic_folder, could_not_write, file_hash, write_json
from medmnist_diffusion.generated import check_new
from medmnist_diffusion.pipelines import ClassConditionalDDPMPipeline, label_width
from medmnist_diffusion.processes import start_alone
from medmnist_diffusion.publish.card import write_card
from medmnist_diffusion.publish.pipeline_folder import save_sample_grid
from medmnist_diffusion.resources import check_memory
from medmnist_diffusion.samples import conditions_as_in_train
from medmnist_diffusion.shipped import name_of, pipeline_folder
from medmnist_diffusion.training.budget import warmed_and_decayed

logger = logging.getLogger(__name__)

NUM_PAIRS = 20_000  # noises with the teacher's images
STEPS = (1, 2, 4)  # that a student may have
BATCH, LEARNING_RATE, MUON_LEARNING_RATE, WARMUP_STEPS = 64, 3e-3, 1.5e-2, 50
FINE = 1.0  # weight of the errors of fine texture
KEPT = ("training_config.yaml", "loss.png")  # of the teacher's folder: how that was trained
_NOISE, _ORDER, _CONDITIONS = 51, 52, 53  # random streams


@dataclass(frozen=True)
class Pairs:
    """Noises and the images that a teacher makes of them, in batches that stay together.

    Attributes:
        labels: what the network takes of conditions, N or N×width.
        images: float16 N×C×H×W, as the network sees images.
        seed: of the noises, which are drawn again where they are needed.
    """

    labels: torch.Tensor
    images: torch.Tensor
    seed: int

    def __len__(self) -> int:
        return len(self.images) // BATCH

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Noise float32, labels and images float32 of a batch."""
        rows = slice(number * BATCH, (number + 1) * BATCH)
        return noise_of(self.seed, number, self.images.shape[1:]), self.labels[rows], self.images[rows].float()


def noise_of(seed: int, number: int, shape: torch.Size | tuple[int, ...]) -> torch.Tensor:
    """The noises of a batch."""
    return torch.randn(BATCH, *shape, generator=torch.Generator().manual_seed(derived_seed(seed, _NOISE, number, 0)))


def distill(
    pipeline: str | Path,
    output: str | Path,
    *,
    num_inference_steps: int = 2,
    max_train_minutes: float = 10.0,
    max_train_steps: int | None = None,
    num_pairs: int = NUM_PAIRS,
    seed: int = 0,
) -> Path:
    """Write a pipeline that makes the images of another one in a few steps.

    With `max_train_steps` the same seed on the same machine gives the same weights, where its trial of the fastest precision finds
    the same one. A budget in minutes makes as many steps as the machine happens to.

    Args:
        pipeline: the teacher: its folder, or a name of `medmnist-diffusion models`.
        output: a new folder.
        num_inference_steps: of the student, 1, 2 or 4.
        max_train_minutes: of the student's training, which begins when the teacher has made its images.
        max_train_steps: so many steps instead.
        num_pairs: images that the teacher makes to be learned from, in batches of 64.
        seed: of their noise and order.

    Returns:
        The folder. `medmnist-diffusion evaluate` says how good the student's images are.

    Raises:
        UserError: if the folder exists or cannot be written, the teacher is a student itself, a number is out of range, or the
            images do not fit into memory.
        TrainingDivergedError: if the loss is no number any more; nothing is written.

    Example:
        >>> student = md.distill(pipeline, "runs/x/two-steps", max_train_steps=4, num_pairs=64)
        >>> md.generate(student, {"effusion": 1}).record.num_inference_steps
        2
    """
    folder, output = pipeline_folder(pipeline), Path(output).expanduser()
    _check(folder, output, num_inference_steps, max_train_minutes, max_train_steps, num_pairs)
    start_alone("distill")
    set_seed(derived_seed(seed) % 2**32)
    teacher = load_pipeline(folder)
    if teacher.distilled_steps:
        raise UserError(f"{folder} was distilled itself. Give the pipeline that it was made of.")
    student = student_of(teacher, folder, num_inference_steps)
    pairs = teachers_pairs(teacher, folder, math.ceil(num_pairs / BATCH), seed)
    precision = _precision(student)
    began = time.monotonic()
    steps = teach(student, pairs, max_train_minutes, max_train_steps, precision)
    seconds = time.monotonic() - began
    off, apart = differences(student, teachers_pairs(teacher, folder, 4, seed + 1, "images to compare"))
    record = DistillationRecord(
        teacher=name_of(folder),
        teacher_weights_sha256=file_hash(folder / WEIGHTS),
        teacher_steps=own_steps(teacher),
        teacher_guidance_scale=teacher.config.default_guidance_scale,
        num_inference_steps=num_inference_steps,
        pairs=len(pairs) * BATCH,
        seed=seed,
        mixed_precision=precision,
        steps=steps,
        seconds=round(seconds, 1),
        difference=off,
        difference_of_others=apart,
    )
    save_student(student, folder, output, record, seed)
    logger.info(
        "%d step(s) in %.0f s. From the same noise the student's images differ from the teacher's by %.1f grey levels (root mean "
        "square); two of the teacher's differ by %.1f.\nPipeline: %s\nHow good "
        "they are: medmnist-diffusion evaluate %s --dataset %s",
        steps, seconds, off, apart, output, output, TrainingSummary.of(output).dataset.name,
    )  # fmt: skip
    return output


def _check(
    folder: Path, output: Path, steps: int, minutes: float, max_train_steps: int | None, num_pairs: int
) -> None:
    """What can be known before minutes of work.

    Raises:
        UserError: naming it.
    """
    if steps not in STEPS:
        raise UserError(f"--num_inference_steps is {steps}; 1, 2 or 4 is possible.")
    if not 0 < minutes < math.inf:
        raise UserError(f"--max_train_minutes is {minutes:g}; a number above 0 is needed.")
    if max_train_steps is not None and max_train_steps < 1:
        raise UserError(f"--max_train_steps is {max_train_steps}; at least 1 is needed.")
    if num_pairs < 1:
        raise UserError(f"--num_pairs is {num_pairs}; at least 1 is needed.")
    check_new(output)
    if folder.resolve() in output.resolve().parents:
        raise UserError(
            f"--output {output} lies within the teacher's folder, which would be damaged. Give another one."
        )
    check_folder(folder)
    TrainingSummary.of(folder)
    if not (folder / KEPT[0]).is_file():
        raise UserError(f"{folder / KEPT[0]} is missing. Give a pipeline folder that training wrote.")
    with could_not_write(str(output), "Give another --output."):
        output.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryDirectory(dir=output.parent).cleanup()


def student_of(
    teacher: ClassConditionalDDPMPipeline, folder: Path, num_inference_steps: int
) -> ClassConditionalDDPMPipeline:
    """A pipeline with a copy of the teacher's network that is to make images in so many steps, and cannot yet."""
    network = UNet2DModel.from_config(_settings(teacher.unet.config))
    network.load_state_dict(teacher.unet.state_dict())
    scheduler = DDIMScheduler.from_pretrained(
        folder, subfolder="scheduler", timestep_spacing="trailing", clip_sample=False
    )
    own = {"distilled_steps": num_inference_steps, "default_guidance_scale": 1.0}
    config = {name: value for name, value in _settings(teacher.config).items() if name not in ("unet", "scheduler")}
    return ClassConditionalDDPMPipeline(network.to(PartialState().device), scheduler, **config | own)


def _settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Without what diffusers notes of where it was loaded from."""
    return {name: value for name, value in config.items() if not name.startswith("_")}


def teachers_pairs(
    teacher: ClassConditionalDDPMPipeline, folder: Path, batches: int, seed: int, title: str = "teacher's images"
) -> Pairs:
    """So many batches of noise with the images that the teacher makes of it, in its own steps and with its own guidance: half of
    them as often of each condition as in its training images, half of each equally often. What lies beyond black and white, which
    nobody sees, is cut off."""
    conditioning, shape = conditioning_of(teacher), teacher.image_encoder.encoded_shape
    check_memory(2 * 2 * batches * BATCH * math.prod(shape), f"{batches * BATCH} images of the teacher", "Take fewer.")
    conditions = _conditions(conditioning, folder, batches * BATCH, seed)
    teacher.to(PartialState().device)
    teacher.set_progress_bar_config(disable=True)
    images = []
    for number in tqdm(range(batches), desc=title, unit="batch", **bar_options()):
        rows = conditions[number * BATCH : (number + 1) * BATCH]
        made: Any = teacher(
            class_labels=[conditioning.asked_by_name(one) for one in rows.tolist()],
            latents=noise_of(seed, number, shape),
            timesteps=teacher.fast_timesteps(own_steps(teacher)),
            output_type="latent",
        )
        images.append(torch.as_tensor(made.images).clamp(-1, 1).half())
    width = label_width(teacher.unet.config.block_out_channels)
    return Pairs(network_labels(conditioning, torch.from_numpy(conditions), width), torch.cat(images), seed)


def _conditions(conditioning: Conditioning, folder: Path, count: int, seed: int) -> np.ndarray:
    """Every other one as in the training images, the others each equally often."""
    rng = np.random.default_rng([seed, _CONDITIONS])
    if TrainingSummary.of(folder).privacy:  # how often there is which is for no student of it to show
        return np.resize(rng.permutation(conditioning.each(1)), count).astype(np.int64)
    seen = rng.permutation(conditions_as_in_train(conditioning, folder, count))[:count]
    evenly = np.resize(rng.permutation(conditioning.each(1)), count)
    return np.where(np.arange(count) % 2, evenly, seen).astype(np.int64)


def teach(
    student: ClassConditionalDDPMPipeline,
    pairs: Pairs,
    max_train_minutes: float,
    max_train_steps: int | None = None,
    precision: str = "no",
) -> int:
    """Train the student's network, in place, until the budget is spent; returns the number of steps."""
    network, device = student.unet, PartialState().device
    optimizers = build_optimizers(network, "muon", LEARNING_RATE, MUON_LEARNING_RATE, weight_decay=0.0)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    rates, walk = [group["lr"] for group in groups], Walk(len(pairs), 1, pairs.seed, _ORDER)
    began, step, spent = time.monotonic(), 0, 0.0
    with tqdm(total=max_train_steps, desc="distilling", unit="step", **bar_options()) as bar:
        while spent < 1:
            factor = warmed_and_decayed("cosine", WARMUP_STEPS, step, spent)
            for group, rate in zip(groups, rates, strict=True):
                group["lr"] = factor * rate
            noise, labels, images = (part.to(device) for part in pairs[int(walk.rows(step)[0])])
            with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
                made = last_image(student, noise, labels)
            loss = image_loss(student.image_encoder.decode(made - images))
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            step += 1
            minutes = (time.monotonic() - began) / 60
            spent = step / max_train_steps if max_train_steps else minutes / max_train_minutes
            if step % 50 == 0 or spent >= 1:  # reading a number from the device makes it wait
                if not math.isfinite(value := float(loss.detach())):
                    raise TrainingDivergedError(f"the loss is {value} after {step} step(s). Nothing was written.")
                bar.set_postfix_str(f"loss {value:.4f}", refresh=False)
            bar.update()
    return step


def image_loss(errors: torch.Tensor) -> torch.Tensor:
    """Mean absolute error of pixels, and of their differences to the next row, column and slice (Mathieu et al. 2016, arXiv
    1511.05440): by pixels alone fine texture hardly counts, and is smoothed away."""
    return errors.abs().mean() + FINE * sum(errors.diff(dim=axis).abs().mean() for axis in range(2, errors.ndim))


def last_image(student: ClassConditionalDDPMPipeline, noise: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """What the pipeline makes of this noise, float32 N×C×H×W as the network sees images. Errors flow back through all steps."""
    scheduler, latents = student.scheduler, noise
    scheduler.set_timesteps(student.distilled_steps)
    for timestep in scheduler.timesteps:
        prediction = student.unet(latents, timestep, class_labels=labels).sample
        latents = scheduler.step(prediction.float(), int(timestep), latents).prev_sample
    return latents


def _precision(student: ClassConditionalDDPMPipeline) -> str:
    """That which is fastest for this network on this machine, by a trial: `no` (float32) or `bf16`."""
    width = label_width(student.unet.config.block_out_channels)
    objective = Objective(student.scheduler, student.image_encoder, conditioning_of(student), label_width=width)
    return probe_precision(student.unet, objective, BATCH)[0]


@torch.no_grad()
def differences(student: ClassConditionalDDPMPipeline, pairs: Pairs) -> tuple[float, float]:
    """Root mean squared difference, in grey levels, between the student's and the teacher's images of the same noise; and between
    the teacher's of one noise and of another."""
    device, decode = PartialState().device, student.image_encoder.decode
    errors = []
    for noise, labels, images in (pairs[number] for number in range(len(pairs))):
        made = last_image(student, noise.to(device), labels.to(device)).cpu()
        made, wanted = (decode(one).clamp(-1, 1) * 127.5 for one in (made, images))
        errors.append([float((made - wanted).square().mean()), float((wanted.roll(1, 0) - wanted).square().mean())])
    off, apart = np.sqrt(np.mean(errors, axis=0))
    return round(float(off), 2), round(float(apart), 2)


def save_student(
    student: ClassConditionalDDPMPipeline, teacher: Path, output: Path, record: DistillationRecord, seed: int
) -> None:
    """Write the folder: complete or not at all."""
    summary = TrainingSummary.of(teacher).model_copy(update={"distilled": record})
    with atomic_folder(output) as temporary:
        student.to("cpu").save_pretrained(temporary)
        for name in KEPT:
            if (teacher / name).is_file():
                shutil.copy(teacher / name, temporary)
        write_json(temporary / TRAINING_SUMMARY, summary.model_dump())
        save_sample_grid(student, conditioning_of(student), seed, temporary / "samples.png")
        write_manifest(temporary)
        write_card(temporary)
