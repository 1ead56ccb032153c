"""A run's constants and its folder: the machine that it is trained on, what is said before it starts, and what it leaves."""

import logging
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.tracking import get_available_trackers
from accelerate.utils import DistributedType, GradientAccumulationPlugin, broadcast_object_list
from diffusers import UNet2DModel

from medmnist_diffusion.artifacts import BaseRecord, CheckpointState, PrivacyRecord, TrainingSummary
from medmnist_diffusion.data import ImageDataset, Split
from medmnist_diffusion.data.audit import audit, findings
from medmnist_diffusion.data.duplicates import clean_held_out
from medmnist_diffusion.data.unlabeled import Unlabeled
from medmnist_diffusion.diffusion.loss import Objective
from medmnist_diffusion.diffusion.loss_log import LossLog
from medmnist_diffusion.diffusion.machine import check_training_memory, probe_precision, training_cost
from medmnist_diffusion.diffusion.training_state import Best, TrainingState
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.provenance import seen_elsewhere, too_good
from medmnist_diffusion.publish.pipeline_folder import save_pipeline_folder, saved_step
from medmnist_diffusion.publish.plots import MOST_CLASSES
from medmnist_diffusion.training.config import TrainingConfig, kept_settings, write_config
from medmnist_diffusion.training.history import History
from medmnist_diffusion.training.overfitting import bearable_steps, has_risen

logger = logging.getLogger(__name__)
# Accelerate reads these wherever they come from.
UNFIT_VARIABLES = {
    "ACCELERATE_DYNAMO_BACKEND": "torch.compile",
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "sharded training",
    "ACCELERATE_FP8_BACKEND": "fp8",
}
BEST = "best held-out loss"
FEWEST_HELD_OUT = 10


@dataclass(frozen=True)
class Expected:
    """What a step costs: GFLOP an image, and the images a second that were tried, a precision."""

    gflop: float
    speeds: dict[str, float]


@dataclass(frozen=True)
class Run:
    """What does not change while a run trains."""

    folder: Path
    config: TrainingConfig
    dataset: ImageDataset
    held_out: Split  # val images that are independent of the training images
    objective: Objective
    accelerator: Accelerator
    history: History
    facts: dict[str, Any]  # of TrainingSummary, what is known before training
    images_a_step: int

    def held_out_has_risen(self, losses: np.ndarray, best: Best) -> bool:
        """Whether the held-out losses are above those of the best weights beyond their noise."""
        return has_risen(losses, best, len(self.held_out))

    def summary(self, weights: str, step: int, seconds: float, val_loss: float) -> TrainingSummary:
        """How the weights of a step came about."""
        return TrainingSummary(
            **self.facts,
            changes=self.history.changes,
            extensions=self.history.extensions,
            weights=weights,
            step=step,
            seconds=round(seconds, 1),
            images_seen=step * self.images_a_step,
            val_loss=val_loss,
        )

    def checkpoint_state(self, state: TrainingState, log: LossLog) -> CheckpointState:
        """state.json of the checkpoint of this step."""
        return CheckpointState(
            **state.state_dict(),
            images_a_step=self.images_a_step,
            config=kept_settings(self.config),
            data=self.history.data,
            changes=self.history.changes,
            extensions=self.history.extensions,
            bases=self.facts.get("bases", []),
            comparable_from=log.comparable_from,
        )

    @property
    def validation_steps(self) -> int:
        """Steps between held-out losses: where the best weights are kept, at least four times before those of a small set rise."""
        every = self.config.validation_steps
        if self.config.keep == "latest":
            return every
        return min(every, max(1, bearable_steps(len(self.dataset.train), self.images_a_step) // 4))

    def save_pipeline(self, name: str, network: UNet2DModel, log: LossLog, summary: TrainingSummary) -> Path:
        """A pipeline folder of the run, with the losses up to its step."""
        rows = [row for row in log.rows if row["step"] <= summary.step]
        settings = kept_settings(self.config)
        return save_pipeline_folder(self.folder / name, network, self.objective, self.dataset, settings, rows, summary)

    def save_best(self, state: TrainingState, log: LossLog) -> None:
        """`pipeline_best`, if the weights with the lowest held-out loss are new since the last call."""
        best = state.best
        if best.network is not None:
            summary = self.summary(BEST, best.step, best.seconds, best.val_loss)
            self.save_pipeline("pipeline_best", best.network, log, summary)
            best.network = None

    def save_last(self, state: TrainingState, log: LossLog, val_loss: float, risen: bool) -> Path:
        """The run's `pipeline`: the latest weights or, where their held-out loss has risen and it is asked for, the best ones."""
        self.save_best(state, log)
        best, folder = state.best, self.folder / "pipeline_best"
        if self.config.keep == "latest" or not risen or saved_step(folder) is None:
            summary = self.summary("latest", state.step, state.seconds, val_loss)
            return self.save_pipeline("pipeline", state.average, log, summary)
        summary = self.summary(BEST, best.step, best.seconds, best.val_loss)
        after = {"last_step": state.step, "last_val_loss": val_loss, "stopped_early": state.overfitted}
        network = UNet2DModel.from_pretrained(folder, subfolder="unet").to(self.accelerator.device)
        return self.save_pipeline("pipeline", network, log, summary.model_copy(update=after))


def prepare_machine(
    config: TrainingConfig, network: UNet2DModel, objective: Objective, run: Path
) -> tuple[Accelerator, TrainingConfig, Expected]:
    """Precision, memory and trackers checked, and the Accelerator of it; the configuration gets the precision.

    Raises:
        UserError: for what this machine or this launch cannot do.
    """
    check_tracker(config.report_to)
    gflop, activations = training_cost(network, objective)
    check_training_memory(network, activations, config.train_batch_size, config.mixed_precision)
    precision, speeds = _choose_precision(config, network, objective)
    if config.optimizer == "muon" and precision == "fp16":
        raise UserError(
            "Muon was never tried with fp16's scaled gradients: launch with bf16, or give --optimizer adamw."
        )
    _check_environment(config)
    AcceleratorState._reset_state()  # a process that trains twice may want another precision
    accelerator = Accelerator(
        mixed_precision=precision,
        # A plugin, since the number alone gives way to a variable of the environment.
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=config.gradient_accumulation_steps),
        dynamo_backend="no",
        log_with=None if config.report_to == "none" else config.report_to,
        project_dir=run,
    )
    if accelerator.distributed_type == DistributedType.FSDP:
        raise UserError(
            "FSDP shares the weights out, and this script keeps a whole average of them. A network of this size fits every GPU "
            "many times over: use training/configs/accelerate/multi_gpu.yaml."
        )
    return accelerator, replace(config, mixed_precision=precision), Expected(gflop, speeds)


def _check_environment(config: TrainingConfig) -> None:
    """What Accelerate's launcher or configuration file has put into the environment, where it would change the training.

    The precision is taken from there where `--mixed_precision auto` leaves it open; the number of steps to accumulate is not.

    Raises:
        UserError: for what this training cannot do.
    """
    for name, what in UNFIT_VARIABLES.items():
        if os.environ.get(name, "no").lower() not in ("no", "false", "0", ""):
            raise UserError(
                f"{name}={os.environ[name]} in the environment asks for {what}, which is not done here. Unset it."
            )
    if (precision := os.environ.get("ACCELERATE_MIXED_PRECISION", "no")) not in ("no", "bf16", "fp16"):
        raise UserError(f"ACCELERATE_MIXED_PRECISION={precision} in the environment: no, bf16 and fp16 are possible.")
    steps = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if steps not in ("1", str(config.gradient_accumulation_steps)):
        logger.warning(
            "ACCELERATE_GRADIENT_ACCUMULATION_STEPS=%s in the environment is not used: --gradient_accumulation_steps is %d.",
            steps, config.gradient_accumulation_steps,
        )  # fmt: skip


def check_tracker(name: str) -> None:
    """Raises:
    UserError: for a tracker that is not installed.
    """
    known = {str(tracker) for tracker in get_available_trackers()}
    if name != "none" and name not in known:
        listed = ", ".join(sorted(known)) or "(none)"
        raise UserError(
            f"--report_to is {name!r}; installed trackers are {listed}. Install another by pip, or use none."
        )


def _choose_precision(
    config: TrainingConfig, network: UNet2DModel, objective: Objective
) -> tuple[Any, dict[str, float]]:
    """The configured precision, else the launcher's, else the faster one by a short trial in the first process.

    With the images a second that the trial reached.
    """
    state, launched = PartialState(), os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    wanted = config.mixed_precision if config.mixed_precision != "auto" else launched if launched != "no" else None
    choice: list[Any] = [None]
    if state.is_main_process:
        choice = [probe_precision(network, objective, config.train_batch_size, wanted)]
    return broadcast_object_list(choice)[0] if state.num_processes > 1 else choice[0]


def begin_run(
    folder: Path,
    config: TrainingConfig,
    given: ImageDataset,
    dataset: ImageDataset,
    objective: Objective,
    accelerator: Accelerator,
    history: History,
    expected: Expected,
    parameters: int,
    bases: list[BaseRecord],
    unlabeled: Unlabeled | None = None,
    privacy: PrivacyRecord | None = None,
) -> Run:
    """The run's constants; its configuration is written and the trackers start.

    Args:
        given: the data set as it was read, with which evaluation compares.
        dataset: what is trained on: without leaks, if they are dropped.
        bases: what it starts from.
        unlabeled: images that it also sees, without labels.
        privacy: what is promised of the training images.

    Raises:
        UserError: for more images a step than before; for a private run in several processes.
    """
    if privacy and accelerator.num_processes > 1:
        raise UserError("--target_epsilon is made for one process: launch with --num_processes 1.")
    facts: dict[str, Any] = {}
    images_a_step = config.train_batch_size * accelerator.num_processes * config.gradient_accumulation_steps
    history.check_batch(folder, images_a_step)
    # Which validation images have a copy in train is for no private weights to show: they are chosen by all of them.
    held_out, held_out_seen = (dataset.splits["val"], False) if privacy else _held_out(dataset)
    if accelerator.is_main_process:
        write_config(kept_settings(config), folder / "training_config.yaml")
        data_audit = audit(given, file_names=False)  # it gets published
        facts = {
            "dataset": data_audit.dataset,
            "audit": data_audit,
            "parameters": parameters,
            "training_gflop_per_image": round(expected.gflop, 3),
            "training_images": len(dataset.train),
            "dropped_leaks": len(given.train) - len(dataset.train),
            "processes": accelerator.num_processes,
            "bases": bases,
            "held_out_images": len(held_out),
            "held_out_seen": held_out_seen,
        }
        if privacy:
            facts["privacy"] = privacy
            logger.info(
                "  privacy: ε = %g, δ = %.2g in %d steps; each image's gradient is clipped to %g, with %.3g times as much noise",
                privacy.epsilon, privacy.delta, privacy.steps, privacy.max_grad_norm, privacy.noise_multiplier,
            )  # fmt: skip
        if unlabeled:
            facts["unlabeled"] = unlabeled.record.model_copy(update={"share": config.unlabeled_share})
            logger.info(
                "  unlabeled: %s images of %s, %.0f %% of every batch",
                f"{unlabeled.record.images:,}", unlabeled.record.name, 100 * config.unlabeled_share,
            )  # fmt: skip
        if bases:
            logger.info(
                "  base: %s, trained on %s. %s", bases[0].name, bases[0].trained_on, " ".join(bases[0].adapted)
            )
            if others := seen_elsewhere(bases, data_audit.dataset):
                logger.info("  base: %s", too_good(others, given.name))
        for line in (*dataset.notes, *(unlabeled.notes if unlabeled else []), *findings(audit(given))):
            logger.info("  data: %s", line)
    if config.report_to != "none":
        values = {key: value for key, value in asdict(config).items() if isinstance(value, (int, float, str, bool))}
        accelerator.init_trackers("logs", config=values)
    return Run(folder, config, dataset, held_out, objective, accelerator, history, facts, images_a_step)


def _held_out(dataset: ImageDataset) -> tuple[Split, bool]:
    """The val images that neither stand in train nor have a twin there: with the others memorizing would go unseen. All of them
    where hardly any are left, and whether it is so."""
    val, independent = dataset.splits["val"], clean_held_out(dataset)
    if len(independent) == len(val):
        return val, False
    if len(independent) < FEWEST_HELD_OUT:
        logger.warning(
            "only %d of %d val images neither stand in train nor have a twin there: whether the model memorizes cannot be told "
            "from the held-out loss.", len(independent), len(val),
        )  # fmt: skip
        return val, True
    left_out = len(val) - len(independent)
    logger.info(
        "  held-out losses are of %d val images: %d more stand in train, or have a twin there",
        len(independent),
        left_out,
    )
    return independent, False


def say_plan(run: Run, expected: Expected, max_steps: int | None, step: int) -> None:
    """The whole configuration and what to expect, before anything starts."""
    config, accelerator = run.config, run.accelerator
    if not accelerator.is_main_process:
        return
    for name, value in asdict(config).items():
        logger.info("  %s: %s", name, value)
    parameters = run.facts["parameters"]
    logger.info("  %s parameters, %.2f GFLOP an image (forward and backward)", f"{parameters:,}", expected.gflop)
    tried = "".join(f", {name}: {speed:.0f} images/s tried" for name, speed in expected.speeds.items())
    logger.info(
        "  %s process(es) on %s, %s thread(s) each, precision %s%s",
        accelerator.num_processes, accelerator.device, torch.get_num_threads(), accelerator.mixed_precision, tried,
    )  # fmt: skip
    if (classes := run.dataset.num_classes) > MOST_CLASSES:
        logger.info("  grids of samples show the first %d of %d classes", MOST_CLASSES, classes)
    if config.keep == "best":
        count = len(run.dataset.train)
        logger.info(
            "  %s training images usually bear about %s steps; then the held-out loss rises, and training stops",
            f"{count:,}", f"{bearable_steps(count, run.images_a_step):,}",
        )  # fmt: skip
    if run.validation_steps < config.validation_steps:
        logger.info("  held-out losses every %d steps, as the set is small", run.validation_steps)
    if config.varied_share:
        logger.info(
            "  %g %% of each batch are turned, moved, scaled and mirrored, as classes of their own: no sample is (--varied_share)",
            100 * config.varied_share,
        )
    if max_steps is None:
        logger.info("  expected time: %g minutes, as asked", config.max_train_minutes)
    elif expected.speeds:
        images = (max_steps - step) * config.train_batch_size * config.gradient_accumulation_steps
        minutes = images / max(expected.speeds.values()) / 60
        logger.info("  expected time: about %.1f minutes for %s steps", minutes, max_steps - step)
    else:
        logger.info("  %s steps; the progress bar shows the time left", max_steps)
