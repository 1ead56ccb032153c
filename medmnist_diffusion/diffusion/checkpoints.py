"""Checkpoints of a training run: complete or not there, verified by their manifest before anything is read.

A checkpoint is a folder `checkpoints/step_00000500` with Accelerate's state (weights, optimizer, random states, scaler),
the EMA weights as safetensors, `state.json` (step, seconds spent, best held-out loss) and `manifest.json` (SHA-256 of
every file). Batches need no state: they are a function of the seed and the step.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from diffusers import UNet2DModel
from diffusers.training_utils import EMAModel

from medmnist_diffusion.files import file_hash, replace_folder, write_json

MANIFEST = "manifest.json"


def save_checkpoint(
    accelerator: Accelerator, folder: Path, step: int, state: dict[str, Any], ema_unet: UNet2DModel, keep: int
) -> None:
    """Write the checkpoint of `step` under `folder`, then remove all but the newest `keep`. All processes call this."""
    target = folder / f"step_{step:08d}"
    temporary = folder / f".step_{step:08d}.tmp"
    if accelerator.is_main_process:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(temporary))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        ema_unet.save_pretrained(temporary / "unet_ema")
        write_json(temporary / "state.json", {"step": step, **state})
        files = sorted(path for path in temporary.rglob("*") if path.is_file())
        write_json(temporary / MANIFEST, {str(path.relative_to(temporary)): file_hash(path) for path in files})
        replace_folder(temporary, target)
        for old in _checkpoints(folder)[keep:]:
            shutil.rmtree(old)
    accelerator.wait_for_everyone()


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint whose files match its manifest; a damaged one is named and passed over."""
    for checkpoint in _checkpoints(folder):
        if _intact(checkpoint):
            return checkpoint
        print(f"warning: {checkpoint} is damaged (its files do not match its manifest): passed over.")
    return None


def load_checkpoint(
    accelerator: Accelerator, checkpoint: Path, ema: EMAModel, ema_unet: UNet2DModel
) -> dict[str, Any]:
    """Put a verified checkpoint's state back in place; returns its state.json."""
    accelerator.load_state(str(checkpoint))
    state = json.loads((checkpoint / "state.json").read_text())
    saved = UNet2DModel.from_pretrained(checkpoint / "unet_ema")
    ema_unet.load_state_dict(saved.state_dict())
    ema.shadow_params = [parameter.detach().clone() for parameter in ema_unet.parameters()]
    ema.optimization_step = state["ema_step"]
    return state


def _checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, newest first (an incomplete one still has its temporary name)."""
    return sorted(folder.glob("step_*"), reverse=True)


def _intact(checkpoint: Path) -> bool:
    try:
        manifest = json.loads((checkpoint / MANIFEST).read_text())
        return all(file_hash(checkpoint / name) == value for name, value in manifest.items())
    except (OSError, ValueError):
        return False
