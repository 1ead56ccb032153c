"""What the tests of saved pipelines share: how a folder is changed on purpose, and the arguments that sample from it."""

import json
from pathlib import Path

from medmnist_diffusion.manifest import MANIFEST

WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def without_manifest(pipeline: Path) -> Path:
    """As somebody who changes a folder on purpose leaves it."""
    (pipeline / MANIFEST).unlink()
    return pipeline


def sampling(pipeline: Path, **options: str) -> list[str]:
    extra = [part for name, value in options.items() for part in (f"--{name}", value)]
    return [
        "sample", str(pipeline), "--num_per_class", "1", "--num_inference_steps", "1", "--output", str(pipeline) + ".npz", *extra
    ]  # fmt: skip
