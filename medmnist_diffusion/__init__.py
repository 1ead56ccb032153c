"""Class-conditional diffusion models of small labelled medical image sets: train, evaluate, publish, judge.

    import medmnist_diffusion as md

    dataset = md.load_dataset("pneumoniamnist")
    pipeline = md.train(md.training_config(dataset="pneumoniamnist", output_dir="runs/x", max_train_minutes=20), dataset)
    metrics = md.evaluate(pipeline, dataset)

What stands in `__all__` is the public API. A name's module is imported when the name is first used, so that importing the package
takes a moment, not seconds. Research only, not for diagnosis.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.3.0"

_PLACES = {
    "ImageDataset": "data.dataset",
    "Metrics": "artifacts",
    "Sampling": "diffusion.samplers",
    "Split": "data.dataset",
    "TrainingConfig": "training.config",
    "UserError": "errors",
    "audit": "data.audit",
    "augment": "augmentation",
    "distill": "training.distill",
    "evaluate": "training.evaluate_fid",
    "evaluate_images": "metrics.evaluation",
    "generate": "samples",
    "load_dataset": "data.sources",
    "load_pipeline": "diffusion.sampling",
    "sample": "samples",
    "study_augmentation": "studies.augmentation.study",
    "study_loss": "studies.loss.study",
    "train": "training.train",
    "training_config": "training.config",
    "verdict": "publish.verdict",
    "write_card": "publish.card",
}
__all__ = [
    "ImageDataset",
    "Metrics",
    "Sampling",
    "Split",
    "TrainingConfig",
    "UserError",
    "audit",
    "augment",
    "distill",
    "evaluate",
    "evaluate_images",
    "generate",
    "load_dataset",
    "load_pipeline",
    "sample",
    "study_augmentation",
    "study_loss",
    "train",
    "training_config",
    "verdict",
    "write_card",
]

if TYPE_CHECKING:
    from medmnist_diffusion.artifacts import Metrics
    from medmnist_diffusion.augmentation import augment
    from medmnist_diffusion.data.audit import audit
    from medmnist_diffusion.data.dataset import ImageDataset, Split
    from medmnist_diffusion.data.sources import load_dataset
    from medmnist_diffusion.diffusion.samplers import Sampling
    from medmnist_diffusion.diffusion.sampling import load_pipeline
    from medmnist_diffusion.errors import UserError
    from medmnist_diffusion.metrics.evaluation import evaluate_images
    from medmnist_diffusion.publish.card import write_card
    from medmnist_diffusion.publish.verdict import verdict
    from medmnist_diffusion.samples import generate, sample
    from medmnist_diffusion.studies.augmentation.study import study_augmentation
    from medmnist_diffusion.studies.loss.study import study_loss
    from medmnist_diffusion.training.config import TrainingConfig, training_config
    from medmnist_diffusion.training.distill import distill
    from medmnist_diffusion.training.evaluate_fid import evaluate
    from medmnist_diffusion.training.train import train


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_PLACES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
