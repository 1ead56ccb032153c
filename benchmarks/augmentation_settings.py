"""Which way of sampling makes images that help a classifier: guidance, temperature, and how far variants are from real images.

    python benchmarks/augmentation_settings.py runs/augmentation-pneumoniamnist --dataset pneumoniamnist --share 0.05

Takes the generators of a finished `study augmentation`, draw by draw, samples them in other ways, and trains the study's
classifier with a quarter of each batch from these images. Compared with the study's own controls, in pairs, with its own
statistics (Holm over all ways of sampling). This explores: what it finds was looked for among many, and a study of its own has to
confirm it.

Temperature: the first noise is multiplied by it. Below 1 images come nearer to what is most likely, above 1 they vary more.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState
from dataset_arguments import add_dataset_arguments
from judging import RESULTS

from medmnist_diffusion.cache import cached_arrays
from medmnist_diffusion.data import Split
from medmnist_diffusion.data.regimes import Regime, draw_regime
from medmnist_diffusion.data.sources import DataSource
from medmnist_diffusion.diffusion.sampling import generate_images, load_pipeline
from medmnist_diffusion.errors import UserError, run_command
from medmnist_diffusion.files import write_json
from medmnist_diffusion.metrics.classifier_scores import (
    figures_of,
    resampled_figures,
    resampled_test_sets,
    scores_of,
)
from medmnist_diffusion.metrics.classifier_training import predicted_logits
from medmnist_diffusion.metrics.mixed_training import Mixture, fit
from medmnist_diffusion.processes import available_cores
from medmnist_diffusion.studies.augmentation.arms import CLASSICAL, MAIN_ARM, OVERSAMPLED
from medmnist_diffusion.studies.augmentation.generators import GUIDANCE, STRENGTH, DiffusionSource, Lesson
from medmnist_diffusion.studies.augmentation.protocol import AugmentationProtocol
from medmnist_diffusion.studies.augmentation.study import AugmentationStudy, make_protocol
from medmnist_diffusion.studies.augmentation.verdicts import RESAMPLINGS
from medmnist_diffusion.studies.budget import precisions
from medmnist_diffusion.studies.run import absolute_source, loaded_here
from medmnist_diffusion.studies.statistics import ArmFigures, effects, mean_interval
from medmnist_diffusion.studies.workers import Workers, run_tasks

SETTINGS: dict[str, dict[str, float]] = {
    "guidance 1.5": {"guidance_scale": 1.5},
    "guidance 4": {"guidance_scale": 4.0},
    "temperature 0.9": {"temperature": 0.9},
    "temperature 1.1": {"temperature": 1.1},
    "strength 0.2": {"strength": 0.2},
    "strength 0.4": {"strength": 0.4},
    "strength 0.8": {"strength": 0.8},
}
OF_STUDY = {MAIN_ARM.name: "as it is", "guided-25": f"guidance {GUIDANCE:g}", "variants-25": f"strength {STRENGTH:g}"}
NUM_IMAGES = 1000
CONTROLS = (CLASSICAL.name, OVERSAMPLED.name)


def scores_with(study: AugmentationProtocol, regime: Regime, seed: int, name: str) -> np.ndarray:
    """The test scores of the classifier that has images of one setting beside a draw's real ones; kept in the study's folder."""
    study = study.of(regime, seed)
    source = study.source
    assert isinstance(source, DiffusionSource)
    data = draw_regime(study.dataset, regime, seed)
    path = study.folder / "settings" / f"{study.fingerprint(regime, seed)}-{name.replace(' ', '-')}.npz"

    def compute() -> dict[str, np.ndarray]:
        settings = dict(SETTINGS[name])
        pipe = load_pipeline(source.trained(Lesson(data)))
        pipe.scheduler.init_noise_sigma = settings.pop("temperature", 1.0)
        pipe.to(PartialState().device)
        pipe.set_progress_bar_config(disable=True)
        labels, options = data.dataset.balanced_labels(NUM_IMAGES), dict[str, Any](settings)
        if "strength" in settings:
            options["image"] = data.dataset.train.images_of(labels, seed)
        extra = Split(name, generate_images(pipe, labels, seed=seed, **options), labels)
        mixture = Mixture(data.dataset.train, extra, MAIN_ARM.share)
        fitted = fit(study.recipe, mixture, data.dataset.splits["val"], study.dataset.conditioning, seed)
        return {"scores": scores_of(predicted_logits(fitted.model, study.dataset.splits["test"]))}

    return cached_arrays(path, compute)["scores"]


@cache
def study_of(folder: Path, data: DataSource) -> AugmentationProtocol:
    """The finished study, with the settings that its results name.

    Raises:
        UserError: if there is none.
    """
    dataset = loaded_here(data)
    try:
        results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
        classifier, source = results["classifier"], json.loads(next(iter(results["sources"])))
    except (OSError, ValueError, KeyError):
        raise UserError(
            f"{folder} holds no finished study. Run `medmnist-diffusion study augmentation` first."
        ) from None
    study = AugmentationStudy(
        data, folder, precisions(folder, dataset), "few-images", tuple(OF_STUDY), False, classifier["network"],
        classifier["steps"], source["max_train_steps"], source["num_images"],
    )  # fmt: skip
    return make_protocol(study, dataset)


def one_draw(key: tuple[Path, DataSource], regime: Regime, seed: int) -> int:
    for name in SETTINGS:
        scores_with(study_of(*key), regime, seed, name)
    return seed


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("study", type=Path, help="the folder of a finished augmentation study, generators included")
    add_dataset_arguments(parser)
    parser.add_argument("--share", type=float, default=0.05, help="which of its regimes (default 0.05)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="a folder")
    args = parser.parse_args(argv)
    key = (args.study.resolve(), DataSource(absolute_source(args.dataset), args.root, args.size))
    study, regime = study_of(*key), Regime(args.share)
    needed = {*CONTROLS, *OF_STUDY}
    draws = {seed: study.of(regime, seed).read(regime, seed) for seed in range(100)}
    of_seed = {seed: draw for seed, draw in draws.items() if draw is not None and needed <= set(draw.scores)}
    seeds = list(of_seed)
    if len(seeds) < 2:
        raise UserError(f"{args.study} has no two finished draws of {regime.name}. Run `study augmentation` first.")
    workers = Workers(args.study / "settings.log", len(available_cores()))
    for _ in run_tasks(one_draw, [(key, regime, seed) for seed in seeds], workers, unit="draw"):
        pass
    labels = study.dataset.splits["test"].labels
    test_sets, auc = resampled_test_sets(labels, RESAMPLINGS), ArmFigures({}, {})
    for seed in seeds:
        draw = of_seed[seed]
        scores = {name: draw.scores_of(name) for name in CONTROLS}
        scores |= {name: draw.scores_of(arm) for arm, name in OF_STUDY.items()}
        for name, values in (scores | {name: scores_with(study, regime, seed, name) for name in SETTINGS}).items():
            auc.values.setdefault(name, {})[seed] = figures_of(values, labels)["auc"]
            auc.resampled.setdefault(name, {})[seed] = resampled_figures(values, labels, test_sets)["auc"]
    settings = [*OF_STUDY.values(), *SETTINGS]
    against = {control: effects(auc, [(name, control) for name in settings], settings) for control in CONTROLS}
    for name in (*CONTROLS, *settings):
        mean, low, high = mean_interval(auc, name)
        print(f"{name:18} AUC {mean:.4f} ({low:.4f} … {high:.4f})")
    write_json(
        args.output / f"augmentation_settings_{study.dataset.name}.json",
        {
            "command": f"python benchmarks/augmentation_settings.py STUDY --dataset {study.dataset.name} --share {args.share:g}",
            "regime": regime.name,
            "draws": len(seeds),
            "num_images": NUM_IMAGES,
            "auc": {name: dict(zip(("mean", "low", "high"), mean_interval(auc, name), strict=True)) for name in auc.values},
            "effects": [asdict(one) for found in against.values() for one in found],
        },
    )  # fmt: skip


if __name__ == "__main__":
    sys.exit(run_command(main))
