"""Everything that a training run can be told: one dataclass, read from the command line, a YAML file, or both."""

import dataclasses
import difflib
import math
import reprlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml
from accelerate.tracking import get_available_trackers
from pydantic import TypeAdapter, ValidationError
from transformers import HfArgumentParser

from medmnist_diffusion.arguments import CommandParser
from medmnist_diffusion.diffusion.folder_check import MOST_TIMESTEPS
from medmnist_diffusion.diffusion.sampling import DEFAULT_SAMPLER, DEFAULT_STEPS
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import write_text


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass
class TrainingConfig:
    """The arguments of training/train.py, spelled as in diffusers' training scripts."""

    dataset: str = _option("", "A MedMNIST flag, an npz, an image folder, a Hub id, phantom or phantom-rgb.")
    output_dir: str = _option("", "The run's folder. The same command on the same folder resumes.")
    root: str | None = _option(None, "Where MedMNIST files lie (default: $MEDMNIST_ROOT, else ~/.medmnist).")
    size: int | None = _option(None, "Pixels a side (default 28).")
    drop_leaks: bool = _option(False, "Remove training images that also stand in val or test.")

    block_out_channels: list[int] = field(
        default_factory=lambda: [32, 64],
        metadata={"help": "Channels of the UNet's blocks; each next works at half size."},
    )
    layers_per_block: int = _option(1, "Residual layers in each block.")
    pixel_unshuffle: int | None = _option(
        None,
        "Height and width shrink by this factor, channels grow by its square (default: the largest power of two that leaves 14 "
        "pixels, and no more channels than the first block has).",
    )
    attention: bool = _option(False, "Self-attention at the lowest resolution.")
    dropout: float = _option(0.0, "Dropout inside the UNet.")

    prediction_type: Literal["v_prediction", "epsilon", "sample"] = _option("v_prediction", "What the UNet predicts.")
    beta_schedule: Literal["squaredcos_cap_v2", "linear"] = _option(
        "squaredcos_cap_v2", "The noise schedule; squaredcos_cap_v2 is the cosine one."
    )
    num_train_timesteps: int = _option(1000, "Noise levels.")
    timestep_sampling: Literal["log_snr", "uniform"] = _option(
        "log_snr", "Which noise levels are trained: normal in log SNR, or uniform in t."
    )
    loss_type: Literal["l2", "l1", "huber"] = _option("l2", "How the error is counted.")
    huber_delta: float = _option(1.0, "Where the Huber loss turns from square to linear.")
    snr_gamma: float | None = _option(None, "Min-SNR weighting; 5.0 is the paper's value.")
    label_dropout: float = _option(0.1, "Share of labels replaced by the null class, for guidance.")

    max_train_steps: int | None = _option(None, "Budget in optimizer steps.")
    num_train_epochs: int | None = _option(None, "Budget in passes over the training images.")
    max_train_minutes: float | None = _option(None, "Budget in wall time (default 20, if no budget is given).")
    optimizer: Literal["muon", "adamw"] = _option(
        "muon", "muon: Muon for the hidden kernels, AdamW for the rest. adamw: AdamW alone."
    )
    train_batch_size: int = _option(64, "Images a process and backward pass.")
    gradient_accumulation_steps: int = _option(1, "Backward passes an optimizer step.")
    learning_rate: float = _option(4e-3, "AdamW's highest learning rate, after the warm-up.")
    muon_learning_rate: float = _option(0.02, "Muon's, likewise.")
    lr_scheduler: Literal["cosine", "linear", "constant"] = _option(
        "cosine", "How the learning rate decays over the budget."
    )
    lr_warmup_steps: int = _option(100, "Steps of linear warm-up.")
    adam_weight_decay: float = _option(0.01, "Weight decay, of either optimizer.")
    max_grad_norm: float = _option(1.0, "Gradients are clipped to this norm.")
    class_balanced: bool = _option(False, "Draw every class equally often.")
    random_shift: int = _option(0, "Shift images by up to this many pixels (the model learns shifted images).")
    random_flip: bool = _option(False, "Mirror half of the images. Wrong for anything with a left and a right.")
    use_ema: bool = _option(True, "Average the weights over time; the pipeline gets the average.")
    ema_decay: float = _option(0.9999, "The largest EMA decay; it warms up as 1 - (1 + step)^(-2/3).")
    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = _option("auto", "auto tries fp32 and bf16 on the model.")
    seed: int = _option(0, "Seeds weights, data order, noise and samples.")

    logging_steps: int = _option(20, "Steps between rows of loss.csv.")
    validation_steps: int = _option(250, "Steps between held-out losses.")
    sample_steps: int = _option(1000, "Steps between sample grids.")
    checkpointing_steps: int = _option(500, "Steps between checkpoints.")
    checkpoints_total_limit: int = _option(2, "Checkpoints kept.")
    allow_changes: bool = _option(False, "Resume although settings or data differ from those of the run so far.")
    push_to_hub: bool = _option(False, "Evaluate the finished pipeline and publish it, privately, as --hub_model_id.")
    hub_model_id: str | None = _option(None, "namespace/name on the Hugging Face Hub.")
    data_license: str | None = _option(
        None, "Of a data set of your own, to publish: CC BY 4.0, CC BY-NC 4.0 or CC0 1.0."
    )
    report_to: str = _option("tensorboard", "Tracker, through Accelerate: tensorboard, wandb, …, or none.")


# Made before HfArgumentParser sees the class: it rewrites the fields' types.
_TYPES = TypeAdapter(TrainingConfig)

# What may differ when a run is resumed: how long, how often, and where; not what is computed.
FREE_ON_RESUME = {
    "output_dir", "root", "max_train_steps", "num_train_epochs", "max_train_minutes", "logging_steps",
    "validation_steps", "sample_steps", "checkpointing_steps", "checkpoints_total_limit", "report_to", "allow_changes",
    "push_to_hub", "hub_model_id", "data_license",
}  # fmt: skip

# Stays out of files that get published.
OWN = ("root", "output_dir", "allow_changes", "push_to_hub", "hub_model_id", "data_license")

# What a run chooses for itself where it is told nothing else; a resumed run keeps to its choice.
CHOSEN = {"mixed_precision": "auto", "pixel_unshuffle": None}

_POSITIVE = (
    "train_batch_size", "gradient_accumulation_steps",
    "learning_rate", "muon_learning_rate", "huber_delta", "max_grad_norm", "logging_steps", "validation_steps", "sample_steps",
    "checkpointing_steps", "checkpoints_total_limit",
)  # fmt: skip
_POSITIVE_OR_NONE = (
    "size",
    "pixel_unshuffle",
    "snr_gamma",
    "max_train_steps",
    "num_train_epochs",
    "max_train_minutes",
)
_RANGES = {
    "layers_per_block": (1, 32),
    "num_train_timesteps": (DEFAULT_STEPS[DEFAULT_SAMPLER], MOST_TIMESTEPS),  # grids are drawn in so many steps
    "seed": (0, 2**32 - 1),
}
_NOT_NEGATIVE = ("random_shift", "lr_warmup_steps", "adam_weight_decay")
BUDGETS = ("max_train_steps", "num_train_epochs", "max_train_minutes")
_SHARES = ("label_dropout", "dropout", "ema_decay")


class _Parser(CommandParser, HfArgumentParser):
    """Arguments from a dataclass, and a hint after a misspelt one."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)


def parse_config(argv: Sequence[str]) -> TrainingConfig:
    """The configuration from `--config FILE.yaml`, if given, overridden by the command line.

    Raises:
        UserError: for a missing or unreadable file, an unknown key (with the nearest known one), a value out of range.
    """
    parser = _Parser(
        TrainingConfig,
        prog="train.py",
        description="Train a class-conditional diffusion pipeline.",
        allow_abbrev=False,
    )
    parser.add_argument("--config", type=Path, help="A YAML file with any of these arguments (training/configs/).")
    path = parser.parse_known_args(argv)[0].config if any(arg.startswith("--config") for arg in argv) else None
    if path:
        values = read_config_file(path)
        if any(arg.split("=")[0].removeprefix("--").replace("-", "_") in BUDGETS for arg in argv):
            values = {name: value for name, value in values.items() if name not in BUDGETS}
        parser.set_defaults(**values)
    namespace = vars(parser.parse_args(argv))
    namespace.pop("config")
    config = TrainingConfig(**namespace)
    return checked_config(config)


def read_config_file(path: Path) -> dict[str, Any]:
    """A YAML file's settings, checked against TrainingConfig's names."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{path} cannot be read as YAML ({reason}). Correct it, or take one from training/configs/."
        ) from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: a list of `name: value` lines is expected.")
    if values.get("mixed_precision") is False:  # YAML's own reading of a bare `no`
        values["mixed_precision"] = "no"
    names = [item.name for item in dataclasses.fields(TrainingConfig)]
    for key in values:
        if key not in names:
            nearest = difflib.get_close_matches(str(key), names, 1)
            hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
            raise UserError(f"{path}: {key!r} is no training argument.{hint}")
        items = values[key] if isinstance(values[key], list) else [values[key]]
        if any(
            isinstance(item, (list, dict)) for item in items
        ):  # by YAML's aliases one can hold itself, or gigabytes
            raise UserError(f"{path}: {key!r} needs one value, or a list of them.")
    return values


def preset(name: str) -> dict[str, Any]:
    """The settings of one of training/configs/, by its name."""
    return read_config_file(Path(__file__).parent / "configs" / f"{name}.yaml")


def write_config(config: TrainingConfig, path: Path) -> None:
    """Write the configuration as YAML that `--config` reads, as far as `kept_settings` go."""
    write_text(path, yaml.safe_dump(kept_settings(config), sort_keys=False))


def kept_settings(config: TrainingConfig) -> dict[str, Any]:
    """All settings but what is this user's or this machine's own; of a data set's path the last part."""
    values = {name: value for name, value in dataclasses.asdict(config).items() if name not in OWN}
    return values | {"dataset": values["dataset"].replace("\\", "/").rstrip("/").rsplit("/", 1)[-1]}


def changed_settings(config: TrainingConfig, saved: dict[str, Any]) -> list[str]:
    """`name: old → new` for what a resumed run would compute differently from the saved settings."""
    return _differences(config, saved, lambda name: name not in FREE_ON_RESUME)


def changed_budget(config: TrainingConfig, saved: dict[str, Any]) -> list[str]:
    """`name: old → new` of the budget; the learning rate decays over it, so that its curve bends where the budget changes."""
    return _differences(config, saved, lambda name: name in BUDGETS)


def _differences(config: TrainingConfig, saved: dict[str, Any], counts: Callable[[str], bool]) -> list[str]:
    new = kept_settings(config)
    return [
        f"{name}: {saved[name]} → {value}"
        for name, value in new.items()
        if name in saved and counts(name) and saved[name] != value and not (name in CHOSEN and value == CHOSEN[name])
    ]


def chosen_before(config: TrainingConfig, saved: dict[str, Any]) -> TrainingConfig:
    """What a run once chose for itself it keeps to, unless it is told otherwise."""
    again = {name: saved[name] for name, value in CHOSEN.items() if name in saved and getattr(config, name) == value}
    return dataclasses.replace(config, **again)


def checked_config(config: TrainingConfig) -> TrainingConfig:
    """The configuration with its types put right and a budget; a UserError names the setting that is out of range."""

    def fail(name: str, need: str) -> None:
        raise UserError(f"--{name} is {reprlib.repr(getattr(config, name))}; {need}.")

    for name in ("dataset", "output_dir"):
        if not getattr(config, name):
            raise UserError(f"--{name} is needed, on the command line or in the --config file.")
    try:  # types and choices; a YAML file can hold anything
        config = _TYPES.validate_python(dataclasses.asdict(config))
    except ValidationError as error:
        problem = error.errors()[0]
        fail(str(problem["loc"][0]), problem["msg"].lower())
    for name, value in dataclasses.asdict(config).items():
        if isinstance(value, float) and not math.isfinite(value):
            fail(name, "a finite number is needed")
    for name in _POSITIVE + _POSITIVE_OR_NONE:
        value = getattr(config, name)
        if value is not None and value <= 0:
            fail(name, "a number above 0 is needed")
    for name in _NOT_NEGATIVE:
        if getattr(config, name) < 0:
            fail(name, "0 or more is needed")
    for name in _SHARES:
        if not 0 <= getattr(config, name) <= 1:
            fail(name, "a share in 0 … 1 is needed")
    for name, (least, most) in _RANGES.items():
        if not least <= getattr(config, name) <= most:
            fail(name, f"{least} … {most} is possible")
    if not config.block_out_channels or any(n % 8 or n <= 0 for n in config.block_out_channels):
        fail("block_out_channels", "one or more multiples of 8 are needed (group normalization has 8 groups)")
    if config.optimizer == "muon" and config.mixed_precision == "fp16":
        fail("mixed_precision", "Muon was never tried with its scaled gradients: use bf16, or --optimizer adamw")
    if config.report_to != "none" and config.report_to not in {str(t) for t in get_available_trackers()}:
        known = ", ".join(str(t) for t in get_available_trackers())
        fail("report_to", f"installed trackers are {known or '(none)'}; install another by pip, or use none")
    budgets = [getattr(config, name) for name in BUDGETS]
    if sum(budget is not None for budget in budgets) > 1:
        raise UserError("give only one of --max_train_steps, --num_train_epochs and --max_train_minutes.")
    if not any(budget is not None for budget in budgets):
        config.max_train_minutes = 20.0
    return config
