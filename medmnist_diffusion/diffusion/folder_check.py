"""Before a pipeline folder is loaded: is it what its manifest says, and what our training writes? Nothing in it is run.

A folder from somebody else can name other classes than ours, hold a network of any size, or weights that belong to another
network. All of that is read as text and checked here, before diffusers builds anything.
"""

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import diffusers
import torch
from diffusers import UNet2DModel
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError, safe_open

from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import file_hash
from medmnist_diffusion.manifest import MANIFEST, folder_manifest
from medmnist_diffusion.shipped import or_a_name

MODEL_INDEX, UNET_CONFIG, SCHEDULER_CONFIG = "model_index.json", "unet/config.json", "scheduler/scheduler_config.json"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
NEEDED = (MODEL_INDEX, UNET_CONFIG, SCHEDULER_CONFIG, WEIGHTS)
# What decides which images come out: these files are in the manifest; cards, figures and plots come and go.
FIXED = (*NEEDED, "pipeline.py", "training_config.yaml", "training_summary.json")
LARGEST_JSON = 10 * 2**20
LARGEST_SIZE, MOST_TIMESTEPS = 1024, 100_000  # pixels a side; noise levels

Positive = Annotated[int, Field(gt=0)]
Model = TypeVar("Model", bound=BaseModel)


class ModelIndex(BaseModel):
    """model_index.json: two stock components and what our pipeline's __init__ takes."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    class_name: Any = Field(alias="_class_name")
    diffusers_version: str = Field(alias="_diffusers_version")
    name_or_path: str | None = Field(None, alias="_name_or_path")
    unet: tuple[Literal["diffusers"], Literal["UNet2DModel"]]
    scheduler: tuple[Literal["diffusers"], str]
    id2label: dict[int, str]
    pixel_unshuffle: Positive
    null_label: int | None
    encoder: Literal["pixel_unshuffle"] = "pixel_unshuffle"
    image_shape: Annotated[list[Positive], Field(min_length=3, max_length=4)] | None = (
        None  # C×H×W, of volumes C×D×H×W
    )
    black_and_white: bool = False
    white_from: Annotated[float, Field(gt=0, lt=1)] = 0.5
    default_guidance_scale: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 1.0
    distilled_steps: Positive | None = None


class _UNetConfig(BaseModel):
    """The parts of a UNet2DModel's configuration that decide how large it is; its own class checks the others."""

    sample_size: Positive | tuple[Positive, Positive]
    in_channels: Positive
    out_channels: Positive
    layers_per_block: Positive
    block_out_channels: list[Positive]
    num_class_embeds: Positive | None = None
    class_embed_type: Literal["identity"] | None = None  # identity: of several labels an image
    downsample_padding: Annotated[int, Field(ge=0, le=1)] = 1


class _SchedulerConfig(BaseModel):
    num_train_timesteps: Annotated[int, Field(gt=0, le=MOST_TIMESTEPS)]
    prediction_type: Literal["epsilon", "sample", "v_prediction"]


def write_manifest(folder: Path) -> None:
    """Note the SHA-256 of all files of a new pipeline folder that decide its images."""
    known = folder_manifest(folder)
    values = {name: known[name] for name in FIXED if name in known}
    (folder / MANIFEST).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def check_folder(folder: Path) -> ModelIndex:
    """Check a pipeline folder before it is loaded; returns its model_index.json.

    Raises:
        UserError: if a part is missing, differs from the manifest, or fits no pipeline of ours; it names the file.
    """
    for name in NEEDED:
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} is no pipeline folder: {name} is missing. Give the folder that training wrote.{or_a_name()}"
            )
    for path in (*(folder / "unet").rglob("*"), *(folder / "scheduler").rglob("*")):
        # diffusers prefers an index of shards, or another variant, to the file that is checked here.
        if path.relative_to(folder).as_posix() not in NEEDED and path.suffix != ".bin":
            raise _refused(folder, path.relative_to(folder).as_posix(), "it is no part of a pipeline of ours")
    _check_manifest(folder)
    index = _checked(folder, MODEL_INDEX, ModelIndex)
    kind = getattr(diffusers, index.scheduler[1], None)
    if not (isinstance(kind, type) and issubclass(kind, diffusers.SchedulerMixin)):
        raise _refused(folder, MODEL_INDEX, f"{index.scheduler[1]} is no scheduler of diffusers")
    _checked(folder, SCHEDULER_CONFIG, _SchedulerConfig)
    config = _checked(folder, UNET_CONFIG, _UNetConfig)
    factor, size = index.pixel_unshuffle, config.sample_size
    largest = factor * max(size if isinstance(size, tuple) else (size,))
    if largest > LARGEST_SIZE:
        raise _refused(folder, UNET_CONFIG, f"images of {largest} pixels; {LARGEST_SIZE} at most")
    channels = (1, 3) if index.image_shape is None else (math.prod(index.image_shape[:-2]),)
    if config.in_channels != config.out_channels or config.in_channels not in [one * factor**2 for one in channels]:
        raise _refused(
            folder,
            UNET_CONFIG,
            f"{config.in_channels} and {config.out_channels} channels do not fit unshuffle {factor}",
        )
    if (config.num_class_embeds is None) == (config.class_embed_type is None):
        raise _refused(folder, UNET_CONFIG, "either num_class_embeds or class_embed_type is needed")
    _check_shapes(folder, config)
    return index


def _check_manifest(folder: Path) -> None:
    """Every file that the manifest names is as it was; a folder that another program saved may have none."""
    if not (folder / MANIFEST).is_file():
        return
    manifest = _read_json(folder, MANIFEST)
    for name, value in manifest.items():
        if name not in FIXED:
            raise _refused(folder, MANIFEST, f"it names {name!r}, which is no part of a pipeline")
        if not (folder / name).is_file() or file_hash(folder / name) != value:
            raise UserError(
                f"{folder / name} is not what {MANIFEST} says: it was damaged or changed after training. Get the folder again; "
                f"only if you changed it yourself, remove {MANIFEST}."
            )
    if missing := [name for name in NEEDED if name not in manifest]:
        raise _refused(folder, MANIFEST, f"it does not name {missing[0]}")


def _check_shapes(folder: Path, config: _UNetConfig) -> None:
    """The weights are those of the configured network, known from their header alone; neither is loaded."""
    try:
        with safe_open(folder / WEIGHTS, framework="pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise _refused(folder, WEIGHTS, str(error)) from None
    if config.layers_per_block * len(config.block_out_channels) > len(shapes):  # before a billion layers are built
        raise _refused(folder, UNET_CONFIG, "the network has more layers than there are weights")
    try:
        with torch.device("meta"):
            unet = UNet2DModel.from_config(_read_json(folder, UNET_CONFIG))
    except Exception as error:  # whatever a configuration made up by somebody makes diffusers raise
        raise _refused(folder, UNET_CONFIG, str(error)) from None
    wanted = {name: tuple(value.shape) for name, value in unet.state_dict().items()}
    if shapes != wanted:
        name = min(name for name in wanted.keys() | shapes.keys() if wanted.get(name) != shapes.get(name))
        raise _refused(
            folder,
            WEIGHTS,
            f"{name} is {shapes.get(name, 'missing')}, the network of {UNET_CONFIG} has {wanted.get(name, 'none')}",
        )


def _checked(folder: Path, name: str, kind: type[Model]) -> Model:
    try:
        return kind.model_validate(_read_json(folder, name))
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"]))
        raise _refused(folder, name, f"{where}: {problem['msg'].lower()}") from None


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    try:
        if path.stat().st_size > LARGEST_JSON:
            raise _refused(folder, name, "it is too large")
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _refused(folder, name, str(error)) from None
    if not isinstance(values, dict):
        raise _refused(folder, name, "it is no JSON object")
    return values


def _refused(folder: Path, name: str, reason: str) -> UserError:
    return UserError(
        f"{folder / name} cannot be used ({' '.join(reason.split())[:200]}). Save the pipeline again, or get it again from where "
        "it came from."
    )
