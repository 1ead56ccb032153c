"""The training variants that the loss study compares: losses, the way from the source's recipe to the default, single changes."""

from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict

from medmnist_diffusion.diffusion.samplers import DEFAULT_SAMPLER, DEFAULT_STEPS


class TrainingVariant(BaseModel):
    """What a cell does differently: settings of TrainingConfig, of sampling, and of the training images."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    options: dict[str, Any] = {}
    sampler: str = DEFAULT_SAMPLER
    num_inference_steps: int = DEFAULT_STEPS[DEFAULT_SAMPLER]
    guidance_scale: float = 1.0
    corrupted_share: float = 0.0  # of the training images; evaluation is always against the clean ones


LOSSES: dict[str, dict[str, Any]] = {
    "L1": {"loss_type": "l1"},
    "L2": {"loss_type": "l2"},
    "Huber, δ = 1": {"loss_type": "huber", "huber_delta": 1.0},
    "Huber, δ = 0.1": {"loss_type": "huber", "huber_delta": 0.1},
}
SNR_GAMMA = 5.0
SPOILED = (0.05, 0.2)
SOURCE = "source's recipe"
SOURCE_STEPS: dict[str, Any] = {"sampler": "ddpm", "num_inference_steps": 200}

# From the source's recipe to the default: each step adds its change to all before it, and is compared with the one before it, so
# its effect is the one at this place in the order. The small network comes first: in the same time it is trained ten times as many
# steps, and what the other settings do cannot be seen in a network that has hardly been trained. None: the default's own setting.
WATERFALL: tuple[tuple[str, dict[str, Any]], ...] = (
    ("+ small network on unshuffled images", {"pixel_unshuffle": None, "attention": False, "layers_per_block": 1,
                                              "block_out_channels": None}),
    ("+ no flips", {"random_flip": False}),
    ("+ 10 DPM-Solver++ steps", {}),  # sampling alone
    ("+ v-prediction", {"prediction_type": "v_prediction"}),
    ("+ T = 1000", {"num_train_timesteps": 1000}),
    ("+ cosine schedule", {"beta_schedule": "squaredcos_cap_v2"}),
    ("+ L2 loss", {"loss_type": "l2"}),
    ("+ average of the weights", {"use_ema": True}),
    ("+ batch 64", {"train_batch_size": 64}),
    ("+ warm-up, decay, clipping", {"lr_scheduler": "cosine", "lr_warmup_steps": 100, "max_grad_norm": 1.0,
                                    "adam_weight_decay": 0.01, "learning_rate": 4e-3}),
    ("+ Muon", {"optimizer": "muon"}),
    ("+ noise levels by log SNR", {"timestep_sampling": "log_snr"}),
    ("+ label dropout", {"label_dropout": 0.1}),
)  # fmt: skip

# One change at a time around the default: `setting: value`.
DEFAULT = "default"
PARAMETERS: dict[str, dict[str, Any]] = {
    "loss: L1": LOSSES["L1"],
    "loss: Huber, δ = 0.1": LOSSES["Huber, δ = 0.1"],
    "target: epsilon": {"prediction_type": "epsilon"},
    "target: image": {"prediction_type": "sample"},
    "schedule: linear": {"beta_schedule": "linear"},
    "noise levels: uniform": {"timestep_sampling": "uniform"},
    "weighting: min-SNR 5": {"snr_gamma": SNR_GAMMA},
    "average: none": {"use_ema": False},
    "average: 20 steps": {"ema_decay": 0.95},
    "optimizer: AdamW": {"optimizer": "adamw"},
    "label dropout: none": {"label_dropout": 0.0},
    "batch: 128": {"train_batch_size": 128},
    "width: 16, 32": {"block_out_channels": [16, 32]},
    "width: 48, 64": {"block_out_channels": [48, 64]},
}
SAMPLING: dict[str, dict[str, Any]] = {  # these share the default's training
    "sampling steps: 6": {"num_inference_steps": 6},
    "sampling steps: 20": {"num_inference_steps": 20},
    "guidance: 1.5": {"guidance_scale": 1.5},
}


def losses() -> list[TrainingVariant]:
    return [TrainingVariant(name=name, options=options) for name, options in LOSSES.items()]


def spoiled() -> list[TrainingVariant]:
    """Every loss on clean training images, and on those of which some are spoiled."""
    return [
        TrainingVariant(name=f"{name}, {share:.0%} spoiled" if share else name, options=options, corrupted_share=share)
        for share in (0.0, *SPOILED)
        for name, options in LOSSES.items()
    ]


def waterfall(source: dict[str, Any]) -> Iterator[TrainingVariant]:
    """The source's recipe, then each change on top of those before it. Its own 200 sampling steps are used until they change."""
    options, sampling = source, SOURCE_STEPS
    yield TrainingVariant(name=SOURCE, options=options, **sampling)
    for name, change in WATERFALL:
        sampling = sampling if change else {}
        options = {key: value for key, value in {**options, **change}.items() if value is not None}
        yield TrainingVariant(name=name, options=options, **sampling)


def parameters() -> Iterator[TrainingVariant]:
    yield TrainingVariant(name=DEFAULT)
    for name, options in PARAMETERS.items():
        yield TrainingVariant(name=name, options=options)
    for name, sampling in SAMPLING.items():
        yield TrainingVariant(name=name, **sampling)
