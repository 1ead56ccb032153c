"""Checkpoints of a training run: complete or not there, verified by their manifest before anything is read.

A checkpoint is a folder `checkpoints/step_00000500` with Accelerate's state (weights, optimizer, random states, scaler),
the EMA weights as safetensors, each process's loss sums since the last row of loss.csv, `state.json` (step, seconds spent, best
held-out loss, settings, data) and `manifest.json` (SHA-256 of every file). Batches need no state: they are a function of the seed
and the step.

Accelerate writes optimizers and random states by torch.save; they are read with `weights_only`, after the manifest was checked.
Our own part is JSON and safetensors rather than what `Accelerator.register_for_checkpointing` would pickle.
"""

import logging
import shutil
from pathlib import Path

from accelerate import Accelerator
from diffusers import UNet2DModel
from pydantic import ValidationError
from safetensors.torch import load_file, save_file

from medmnist_diffusion.artifacts import CheckpointState
from medmnist_diffusion.diffusion.training_state import TrainingState
from medmnist_diffusion.errors import UserError, one_line
from medmnist_diffusion.files import replace_folder, write_json
from medmnist_diffusion.manifest import MANIFEST, folder_manifest, intact

logger = logging.getLogger(__name__)


def save_checkpoint(
    accelerator: Accelerator, folder: Path, state: TrainingState, values: CheckpointState, keep: int
) -> Path:
    """Write the checkpoint of this step under `folder`, then remove all but the newest `keep`. All processes call this."""
    target = folder / f"step_{state.step:08d}"
    temporary = folder / f".step_{state.step:08d}.tmp"
    try:
        if accelerator.is_main_process:
            for left in folder.glob(".step_*.tmp"):  # of a process that was killed while it wrote
                shutil.rmtree(left)
            temporary.mkdir(parents=True)
        accelerator.wait_for_everyone()
        accelerator.save_state(str(temporary))
        save_file({"sums": state.meter.sums}, temporary / _meter_file(accelerator))
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            state.average.save_pretrained(temporary / "unet_ema")
            write_json(temporary / "state.json", values.model_dump())
            write_json(temporary / MANIFEST, folder_manifest(temporary))
            replace_folder(temporary, target)
            _remove_old(folder, target, keep)
    except BaseException:
        if accelerator.is_main_process:
            shutil.rmtree(temporary, ignore_errors=True)
        raise
    accelerator.wait_for_everyone()
    return target


def _remove_old(folder: Path, newest: Path, keep: int) -> None:
    """Damaged ones, of later or earlier steps, must not push out those that are whole."""
    until_now = [path for path in _checkpoints(folder) if path.name <= newest.name]
    kept = [path for path in until_now if _whole(path)][:keep]
    for old in until_now:
        if old not in kept:
            shutil.rmtree(old)


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose files match its manifest; a damaged one is named and passed over."""
    for checkpoint in _checkpoints(folder):
        if _whole(checkpoint):
            return checkpoint
        logger.warning("%s is damaged (its files do not match its manifest): passed over.", checkpoint)
    return None


def load_checkpoint(accelerator: Accelerator, checkpoint: Path, state: TrainingState) -> None:
    """Put a verified checkpoint's state in place.

    Raises:
        UserError: if it is the state of another network or other optimizers.
    """
    try:
        accelerator.load_state(str(checkpoint))
        state.average.load_state_dict(UNet2DModel.from_pretrained(checkpoint / "unet_ema").state_dict())
    except (RuntimeError, ValueError, KeyError, OSError) as error:
        reason = one_line(error, 160)
        raise UserError(
            f"{checkpoint} does not fit what is to be trained ({reason}). Another network or optimizer needs a run of its own: "
            "choose another --output_dir."
        ) from None
    if (sums := checkpoint / _meter_file(accelerator)).is_file():
        state.meter.sums.copy_(load_file(sums)["sums"])
    state.load_state_dict(read_state(checkpoint))


def read_state(checkpoint: Path) -> CheckpointState:
    """The checkpoint's state.json.

    Raises:
        UserError: if it is none of this package's.
    """
    path = checkpoint / "state.json"
    try:
        return CheckpointState.model_validate_json(path.read_text(encoding="utf-8"))
    except (OSError, ValidationError) as error:
        raise UserError(f"{path} is no state of a run ({one_line(error, 160)}). Remove its folder.") from None


def _whole(checkpoint: Path) -> bool:
    return intact(checkpoint, ("state.json", "model.safetensors", "optimizer.bin"))


def _meter_file(accelerator: Accelerator) -> str:
    return f"loss_meter_{accelerator.process_index}.safetensors"


def _checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, newest first (an incomplete one still has its temporary name)."""
    return sorted((path for path in folder.glob("step_*") if path.is_dir()), reverse=True)
