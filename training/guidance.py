"""A pipeline's own guidance, chosen by what a classifier sees.

Guidance makes what was asked for clearer, and images less like real ones where it is clear enough already (docs/speed.md has the
figures). So the least is taken with which the classifier finds it as often as in held-out images.
"""

import json
import logging
import math
from pathlib import Path

import yaml
from accelerate import PartialState

from medmnist_diffusion.artifacts import MetricRecord, TrainingSummary
from medmnist_diffusion.diffusion.folder_check import MODEL_INDEX, write_manifest
from medmnist_diffusion.diffusion.samplers import Sampling
from medmnist_diffusion.diffusion.sampling import in_steps, load_pipeline
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import write_json
from medmnist_diffusion.metrics.evaluation import evaluate_images
from medmnist_diffusion.metrics.real_side import RealSide
from medmnist_diffusion.publish.models import LABELS, find
from medmnist_diffusion.samples import draw

logger = logging.getLogger(__name__)
SCALES = (1.0, 1.1, 1.2)  # more did harm wherever it was tried
IMAGES, OTHER_SEEDS = 500, 1_000_000  # drawn for the choice: by other seeds than those that are judged afterwards


def tune_guidance(folder: Path, real: RealSide, sampling: Sampling) -> float:
    """Choose the guidance, and write it into the pipeline's folder.

    Args:
        folder: a pipeline trained on the real side's data set.
        sampling: how images are drawn; its guidance does not count.

    Raises:
        UserError: if the pipeline was trained without the unknown condition, or labels cannot be judged.
    """
    config = yaml.safe_load((folder / "training_config.yaml").read_text(encoding="utf-8"))
    if not config.get("label_dropout"):
        raise UserError(
            f"{folder} was trained with --label_dropout 0: it knows no guidance. Leave --tune_guidance out."
        )
    if (distilled := TrainingSummary.of(folder).distilled) is not None:
        raise UserError(
            f"{folder} was distilled for {in_steps(distilled.num_inference_steps)}, with its teacher's guidance in them. Leave "
            "--tune_guidance out."
        )
    pipe, dataset = load_pipeline(folder, sampling.sampler), real.dataset
    labels, chosen = dataset.labels_in_shares(IMAGES), SCALES[-1]
    for scale in SCALES:
        how = sampling.model_copy(update={"guidance_scale": scale, "seed": sampling.seed + OTHER_SEEDS})
        images = draw(pipe, labels, how)
        found = evaluate_images(
            dataset, images, [], seed=real.seed, per_class=False, parts=("labels",), real_side=real
        )
        record = find(found.records, LABELS, None)
        if record is None:
            raise UserError(f"guidance cannot be chosen: {'; '.join(found.refused) or 'labels were not judged'}.")
        logger.info("Guidance %g: right label %.3f, in held-out images %.3f.", scale, record.value, record.floor)
        if as_in_real_images(record):
            chosen = scale
            break
    if PartialState().is_main_process:
        index = json.loads((folder / MODEL_INDEX).read_text(encoding="utf-8"))
        write_json(folder / MODEL_INDEX, {**index, "default_guidance_scale": chosen})
        write_manifest(folder)
        logger.info("The pipeline's own guidance is now %g.", chosen)
    PartialState().wait_for_everyone()
    return chosen


def as_in_real_images(record: MetricRecord) -> bool:
    """Whether a figure is as high as its floor, within one standard error of their difference."""
    return record.value >= record.floor - math.hypot(record.error or 0.0, record.floor_error or 0.0)
