"""Everything that a training run can be told: one dataclass, from the command line, a YAML file, or Python.

What is true of a setting stands with it: its range, its help, and whether it may differ when a run is resumed. Importing this
needs neither torch nor diffusers.
"""

import dataclasses
import difflib
import reprlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import AfterValidator, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.dataclasses import dataclass
from pydantic.fields import FieldInfo

from medmnist_diffusion.choices import OTHER_SPELLINGS
from medmnist_diffusion.diffusion.samplers import DEFAULT_SAMPLER, DEFAULT_STEPS
from medmnist_diffusion.errors import UserError, one_line
from medmnist_diffusion.files import is_hub_id, write_text

MOST_TIMESTEPS = 100_000
MOST_EPSILON = 50.0  # beyond it nothing is hidden, and the accounting takes minutes and gigabytes
BUDGETS = ("max_train_steps", "num_train_epochs", "max_train_minutes")
DEFAULT_MINUTES = 20.0

# What else is known of a setting. FREE: it may differ when a run is resumed, since it decides how long, how often or where, not
# what is computed. PRIVATE: free, and kept out of files that get published. CHOSEN: the run chooses where it is told nothing, and
# a resumed run keeps to that.
FREE: Any = {"free": True}
PRIVATE: Any = {"free": True, "private": True}
CHOSEN: Any = {"chosen": True}

Count = Annotated[int, Field(ge=1)]
NotNegative = Annotated[int, Field(ge=0)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, Field(ge=0, le=1)]


def _kind_of_leaks(value: Any) -> Any:
    """`true` was all that could be said in version 0.1."""
    return {"true": "exact", "false": False, "no": False}.get(str(value).lower(), value)


def _one_or_two(value: Any) -> Any:
    """A list of one number, or of the same twice, is that number."""
    if isinstance(value, (list, tuple)):
        return value[0] if len({str(one) for one in value}) == 1 else list(value)
    return value


def _words(value: Any) -> Any:
    """`percentile` or `-160 240` as a list of texts, however it is written."""
    parts = value.split() if isinstance(value, str) else value
    return [str(one) for one in parts] if isinstance(parts, (list, tuple)) else value


def _multiples_of_8(channels: list[int] | None) -> list[int] | None:
    if channels is None:
        return None
    if not channels or any(n % 8 or n <= 0 for n in channels):
        raise ValueError("one or more multiples of 8 (group normalization has 8 groups)")
    return channels


@dataclass(config=ConfigDict(extra="forbid"))
class TrainingConfig:
    """The arguments of training/train.py, spelled as in diffusers' training scripts; `training_config` makes one."""

    dataset: str = Field(default="", description="A MedMNIST flag, an npz, an image folder, a Hub id, or phantom.")
    output_dir: str = Field(
        default="",
        description="The run's folder. The same command on the same folder resumes.",
        json_schema_extra=PRIVATE,
    )
    root: str | None = Field(
        default=None,
        description="Where MedMNIST files lie (default: $MEDMNIST_ROOT, else ~/.medmnist).",
        json_schema_extra=PRIVATE,
    )
    size: Annotated[int | list[int] | None, BeforeValidator(_one_or_two)] = Field(
        default=None, description="Pixels a side, or height and width (default 28)."
    )
    fit: Literal["crop", "pad", "squash"] | None = Field(
        default=None, description="How images of a folder become so large (default crop, to their middle)."
    )
    window: Annotated[list[str] | None, BeforeValidator(_words)] = Field(
        default=None,
        description="Of images with more than 8 bits, which values become black and white: auto, percentile, file, or two numbers "
        "(default auto: the files' own window where all say the same, else 0.5 and 99.5 % of all values).",
    )
    slices: Count | None = Field(
        default=None,
        description="Read each volume of a folder of NIfTI files as so many slices (default: as a volume).",
    )
    drop_leaks: Annotated[Literal[False, "exact", "twins"], BeforeValidator(_kind_of_leaks)] = Field(
        default=False,
        description="Remove training images that also stand in val or test (exact), and those that have a twin there, another "
        "file of the same picture (twins).",
    )

    unlabeled: str | None = Field(
        default=None,
        description="Also train on these images under the unknown condition: a folder of images, an npz, a flag or a Hub id.",
    )
    unlabeled_share: Annotated[float, Field(gt=0, lt=1)] = Field(
        default=0.5, description="Which share of every batch they are."
    )
    pretrained_model_name_or_path: str | None = Field(
        default=None,
        description="Start from this trained pipeline: a name of `models`, a folder, or a Hub id. Classes of the same name keep "
        "what it learned. A run that goes on does not need it again.",
        json_schema_extra=FREE,  # what it is shows by its weights
    )
    pretrained_learning_rate_factor: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None,
        description="What was taken over from there learns at this share of the rates, but for the first and the last layer and "
        "the class embedding (default: at the same).",
    )
    block_out_channels: Annotated[list[int] | None, AfterValidator(_multiples_of_8)] = Field(
        default=None,
        description="Channels of the UNet's blocks; each next works at half size (default 32 64; 64 96 or 128 128 where the "
        "encoder makes more than 32 channels of an image: 64 px in colour, 112 px in grey, volumes).",
        json_schema_extra=CHOSEN,
    )
    layers_per_block: Annotated[int, Field(ge=1, le=32)] = Field(
        default=1, description="Residual layers in each block (default 1, or the base's)."
    )
    pixel_unshuffle: Count | None = Field(
        default=None,
        description="Height and width shrink by this factor, channels grow by its square (default: the largest power of two that "
        "leaves 14 pixels, and at most 64 channels, or 256 of a volume).",
        json_schema_extra=CHOSEN,
    )
    attention: bool = Field(
        default=False, description="Self-attention at the lowest resolution (default: none, or the base's)."
    )
    dropout: Share = Field(default=0.0, description="Dropout inside the UNet.")

    prediction_type: Literal["v_prediction", "epsilon", "sample"] | None = Field(
        default=None,
        description="What the UNet predicts (default v_prediction; sample, the image itself, where the encoder makes more than 32 "
        "channels of it).",
        json_schema_extra=CHOSEN,
    )
    beta_schedule: Literal["squaredcos_cap_v2", "linear"] = Field(
        default="squaredcos_cap_v2", description="The noise schedule; squaredcos_cap_v2 is the cosine one."
    )
    num_train_timesteps: Annotated[int, Field(ge=DEFAULT_STEPS[DEFAULT_SAMPLER], le=MOST_TIMESTEPS)] = Field(
        default=1000, description="Noise levels."
    )
    timestep_sampling: Literal["log_snr", "uniform"] = Field(
        default="log_snr", description="Which noise levels are trained: normal in log SNR, or uniform in t."
    )
    loss_type: Literal["l2", "l1", "huber"] = Field(
        default="l2", description="Training loss: squared (l2), absolute (l1) or Huber."
    )
    huber_delta: Positive = Field(default=1.0, description="Where the Huber loss turns from square to linear.")
    snr_gamma: Positive | None = Field(default=None, description="Min-SNR weighting; 5.0 is the paper's value.")
    label_dropout: Share = Field(
        default=0.1, description="Share of labels replaced by the null class: needed for classifier-free guidance."
    )

    max_train_steps: Count | None = Field(
        default=None, description="Budget in optimizer steps.", json_schema_extra=FREE
    )
    num_train_epochs: Count | None = Field(
        default=None, description="Budget in passes over the training images.", json_schema_extra=FREE
    )
    max_train_minutes: Positive | None = Field(
        default=None, description="Budget in wall time (default 20, if no budget is given).", json_schema_extra=FREE
    )
    optimizer: Literal["muon", "adamw"] = Field(
        default="muon", description="muon: Muon for the hidden kernels, AdamW for the rest. adamw: AdamW alone."
    )
    train_batch_size: Count = Field(default=64, description="Images a process and backward pass.")
    gradient_accumulation_steps: Count = Field(default=1, description="Backward passes an optimizer step.")
    learning_rate: Positive = Field(default=4e-3, description="AdamW's highest learning rate, after the warm-up.")
    muon_learning_rate: Positive = Field(default=0.02, description="Muon's highest learning rate.")
    lr_scheduler: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="How the learning rate decays over the budget."
    )
    lr_warmup_steps: NotNegative = Field(default=100, description="Steps of linear warm-up.")
    adam_weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = Field(
        default=0.01, description="Weight decay of either optimizer."
    )
    max_grad_norm: Positive = Field(default=1.0, description="Gradients are clipped to this norm.")
    target_epsilon: Annotated[float, Field(gt=0, le=MOST_EPSILON)] | None = Field(
        default=None,
        description="Differential privacy: one training image more or less changes the chance of any weights by at most e^ε. 1 is "
        "strict, 10 is loose (needs the extra `private`; default: nothing is promised).",
    )
    target_delta: Annotated[float, Field(gt=0, lt=1)] | None = Field(
        default=None, description="The chance by which that may fail (default 1 ÷ 10 times the training images)."
    )
    class_balanced: bool = Field(default=False, description="Draw every class equally often.")
    random_shift: NotNegative = Field(
        default=0, description="Shift images by up to this many pixels (the model learns shifted images)."
    )
    random_flip: bool = Field(
        default=False, description="Mirror half of the images. Wrong for anything with a left and a right."
    )
    varied_share: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None,
        description="So large a part of a batch is turned, moved, scaled and mirrored, as classes of their own, which nothing is "
        "sampled from (default: half where there are at most 100 training images with one class each, else none).",
        json_schema_extra=CHOSEN,
    )
    use_ema: bool = Field(default=True, description="Average the weights over time; the pipeline gets the average.")
    ema_decay: Share = Field(
        default=0.9999, description="The largest EMA decay; it warms up as 1 - (1 + step)^(-2/3)."
    )
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = Field(
        default="auto", description="auto tries fp32 and bf16 on the model.", json_schema_extra=CHOSEN
    )
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] = Field(
        default=0, description="Seeds weights, data order, noise and samples."
    )

    logging_steps: Count = Field(default=20, description="Steps between rows of loss.csv.", json_schema_extra=FREE)
    validation_steps: Count = Field(
        default=250,
        description="Steps between held-out losses, at most: fewer where a set is small.",
        json_schema_extra=FREE,
    )
    sample_steps: Count = Field(default=1000, description="Steps between sample grids.", json_schema_extra=FREE)
    checkpointing_steps: Count = Field(default=500, description="Steps between checkpoints.", json_schema_extra=FREE)
    checkpoints_total_limit: Count = Field(default=2, description="Checkpoints kept.", json_schema_extra=FREE)
    keep: Literal["best", "latest"] = Field(
        default="best",
        description="best: where the held-out loss rises beyond its noise, training stops, and the best weights become the "
        "pipeline. latest: it trains its whole budget, and the latest weights do.",
        json_schema_extra=FREE,
    )
    allow_changes: bool = Field(
        default=False,
        description="Resume although settings or data differ from those of the run so far.",
        json_schema_extra=PRIVATE,
    )
    push_to_hub: bool = Field(
        default=False,
        description="Evaluate the finished pipeline and publish it, privately, as --hub_model_id.",
        json_schema_extra=PRIVATE,
    )
    hub_model_id: str | None = Field(
        default=None, description="namespace/name on the Hugging Face Hub.", json_schema_extra=PRIVATE
    )
    data_license: str | None = Field(
        default=None,
        description="Of a data set of your own, to publish: CC BY 4.0, CC BY-NC 4.0 or CC0 1.0.",
        json_schema_extra=PRIVATE,
    )
    report_to: str = Field(
        default="tensorboard",
        description="Tracker, through Accelerate: tensorboard, wandb, …, or none.",
        json_schema_extra=FREE,
    )


SETTINGS: dict[str, FieldInfo] = TrainingConfig.__pydantic_fields__  # type: ignore[attr-defined]


# What runs of earlier versions did, of which their files say nothing: such a run that goes on, and a file that one wrote, keep
# to it.
EARLIER: dict[str, Any] = {"keep": "latest", "varied_share": 0.0}
# Settings that came later and change nothing where they are not given.
_LATER = (
    "fit",
    "window",
    "slices",
    "unlabeled",
    "unlabeled_share",
    "pretrained_model_name_or_path",
    "pretrained_learning_rate_factor",
    "target_epsilon",
    "target_delta",
)


def _settings_that_are(what: str) -> set[str]:
    extras = {name: field.json_schema_extra for name, field in SETTINGS.items()}
    return {name for name, extra in extras.items() if isinstance(extra, dict) and extra.get(what)}


FREE_ON_RESUME = _settings_that_are("free")
PRIVATE_SETTINGS = _settings_that_are("private")
CHOSEN_BY_RUN = _settings_that_are("chosen")
WRITTEN_BY_RUNS = SETTINGS.keys() - PRIVATE_SETTINGS - EARLIER.keys() - set(_LATER)


def training_config(**settings: Any) -> TrainingConfig:
    """The configuration with its types put right and a budget.

    Raises:
        UserError: naming the setting that is missing, unknown or out of range.

    Example:
        >>> config = md.training_config(dataset="phantom", output_dir="runs/x", max_train_steps=3, report_to="none")
        >>> config.learning_rate
        0.004
    """
    for name in settings:
        check_name(name, "")
    for name in ("dataset", "output_dir"):
        if not settings.get(name):
            raise UserError(f"--{name} is needed, on the command line or in the --config file.")
    budgets = [name for name in BUDGETS if settings.get(name) is not None]
    if len(budgets) > 1:
        raise UserError("give only one of --max_train_steps, --num_train_epochs and --max_train_minutes.")
    if not budgets:
        settings["max_train_minutes"] = DEFAULT_MINUTES
    try:
        config = TrainingConfig(**settings)
    except ValidationError as error:
        problem = error.errors()[0]
        name = str(problem["loc"][0])
        need = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
        raise UserError(f"--{name} is {reprlib.repr(settings.get(name))}; it should be {need}.") from None
    if config.optimizer == "muon" and config.mixed_precision == "fp16":
        raise UserError(
            "--mixed_precision is fp16; Muon was never tried with its scaled gradients: use bf16, or --optimizer adamw."
        )
    return config


def read_config_file(path: Path) -> dict[str, Any]:
    """A YAML file's settings; their names are checked, their values not yet."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = one_line(error, 160)
        raise UserError(
            f"{path} cannot be read as YAML ({reason}). Correct it, or take one from training/configs/."
        ) from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: a list of `name: value` lines is expected.")
    if values.get("mixed_precision") is False:  # YAML's own reading of a bare `no`
        values["mixed_precision"] = "no"
    for key in values:
        check_name(str(key), f"{path}: ")
        items = values[key] if isinstance(values[key], list) else [values[key]]
        if any(
            isinstance(item, (list, dict)) for item in items
        ):  # by YAML's aliases one can hold itself, or gigabytes
            raise UserError(f"{path}: {key!r} needs one value, or a list of them.")
    return EARLIER | values if values.keys() >= WRITTEN_BY_RUNS else values


def check_name(name: str, where: str) -> None:
    """Raises:
    UserError: for what is no setting, with the nearest one.
    """
    if name not in SETTINGS:
        nearest = difflib.get_close_matches(name, SETTINGS, 1)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        hint = f" {OTHER_SPELLINGS[name]}" if name in OTHER_SPELLINGS else hint
        raise UserError(f"{where}{name!r} is no training argument.{hint}")


def preset(name: str) -> dict[str, Any]:
    """The settings of one of training/configs/, by its name."""
    return read_config_file(Path(__file__).parent / "configs" / f"{name}.yaml")


def write_config(settings: dict[str, Any], path: Path) -> None:
    """Write settings as YAML that `--config` reads."""
    write_text(path, yaml.safe_dump(settings, sort_keys=False))


def kept_settings(config: TrainingConfig) -> dict[str, Any]:
    """All settings but what is this user's or this machine's own; of a path the last part."""
    values = {name: value for name, value in dataclasses.asdict(config).items() if name not in PRIVATE_SETTINGS}
    paths = ["dataset", "unlabeled"]
    if not is_hub_id(config.pretrained_model_name_or_path or ""):
        paths.append("pretrained_model_name_or_path")
    return values | {name: last_part(values[name]) for name in paths}


def last_part(path: str | None) -> str | None:
    """Of a path what it is called."""
    return None if path is None else path.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]


def changed_settings(config: TrainingConfig, saved: dict[str, Any]) -> list[str]:
    """`name: old → new` for what a resumed run would compute differently from the saved settings."""
    return _differences(config, saved, lambda name: name not in FREE_ON_RESUME)


def changed_budget(config: TrainingConfig, saved: dict[str, Any]) -> list[str]:
    """`name: old → new` of the budget; the learning rate decays over it, so that its curve bends where the budget changes."""
    return _differences(config, saved, lambda name: name in BUDGETS)


def _differences(config: TrainingConfig, saved: dict[str, Any], counts: Callable[[str], bool]) -> list[str]:
    return [
        f"{name}: {saved[name]} → {value}"
        for name, value in kept_settings(config).items()
        if name in saved and counts(name) and _today(name, saved[name]) != value and not _left_to_the_run(name, value)
    ]


def _today(name: str, saved: Any) -> Any:
    """A setting of an older run as it is written now."""
    return _kind_of_leaks(saved) if name == "drop_leaks" else saved


def _left_to_the_run(name: str, value: Any) -> bool:
    return name in CHOSEN_BY_RUN and value == SETTINGS[name].default


def chosen_before(config: TrainingConfig, saved: dict[str, Any]) -> TrainingConfig:
    """What a run once chose for itself it keeps to, unless it is told otherwise."""
    saved = {"varied_share": EARLIER["varied_share"]} | saved
    again = {name: saved[name] for name in saved if _left_to_the_run(name, getattr(config, name, None))}
    return dataclasses.replace(config, **again)


def where_left_open(config: TrainingConfig, values: dict[str, Any]) -> dict[str, Any]:
    """Those of the values whose setting nobody has given: it has its default."""
    return {name: value for name, value in values.items() if getattr(config, name) == SETTINGS[name].default}
