"""What the loss study's cells say, and what they propose."""

import numpy as np

from medmnist_diffusion.artifacts import MetricRecord
from medmnist_diffusion.studies.loss.analysis import MAIN_FIGURE, PartResult, best_variant, proposed_settings, verdicts
from medmnist_diffusion.studies.loss.cells import VariantResult
from medmnist_diffusion.studies.loss.variants import TrainingVariant


def test_spoiled_is_compared_with_clean() -> None:
    """A loss that suffers less is found, whatever its level."""

    rng = np.random.default_rng(0)
    levels = {"L2": (2.0, 6.0), "Huber": (5.0, 5.5)}  # clean, spoiled
    cells = []
    for seed in range(3):
        for loss, (clean, spoiled) in levels.items():
            for arm, level in ((loss, clean), (f"{loss}, 20% spoiled", spoiled)):
                cells.append(judged(TrainingVariant(name=arm), seed, *(level * np.exp(rng.normal(0, 0.03, 2)))))
    arms = list(dict.fromkeys(c.arm.name for c in cells))
    part = PartResult(name="robustness", base={}, num_images=1, arms=arms, pairs=None, cells=cells)
    said = verdicts(part)
    assert f"{MAIN_FIGURE}, 20% spoiled ÷ clean: Huber suffers least." in said
    assert f"{MAIN_FIGURE}, 20% spoiled: Huber is best." in said
    assert not any("clean: Huber is best" in line for line in said)


def judged(arm: TrainingVariant, seed: int, classifier: float, texture: float) -> VariantResult:
    """A cell with these distances, as if the floors were 1."""
    records = [
        MetricRecord(
            name="frechet_distance", extractor=name, dimension=64, class_=None, value=value, interval=None, floor=1.0,
            ratio=value, floor_source="", n_real=1, n_generated=1, reference_split="train", seed=0,
        )
        for name, value in (("classifier", classifier), ("texture", texture))
    ]  # fmt: skip
    return VariantResult(arm=arm, seed=seed, fingerprint=f"{arm.name}{seed}", records=records)


def test_proposed_settings_are_better_and_nowhere_much_worse() -> None:
    rng = np.random.default_rng(0)
    levels = [
        (TrainingVariant(name="default"), (2.0, 2.0)),
        (TrainingVariant(name="width: 48", options={"block_out_channels": [48, 64]}), (1.5, 1.6)),
        (TrainingVariant(name="width: 64", options={"block_out_channels": [64, 64]}), (1.2, 1.2)),
        (
            TrainingVariant(name="loss: L1", options={"loss_type": "l1"}),
            (0.5, 3.0),
        ),  # better on average, worse in texture
        (TrainingVariant(name="batch: 128", options={"train_batch_size": 128}), (2.0, 2.0)),
        (TrainingVariant(name="guidance: 1.5", guidance_scale=1.5), (1.4, 1.5)),
    ]
    cells = [
        judged(arm, seed, *(np.array(level) * np.exp(rng.normal(0, 0.02, 2))))
        for seed in range(3)
        for arm, level in levels
    ]
    names = [arm.name for arm, _ in levels]
    pairs = [(name, "default") for name in names[1:]]
    part = PartResult(name="parameters", base={}, num_images=1, arms=names, pairs=pairs, cells=cells)
    proposal = ({"block_out_channels": [64, 64]}, {"guidance_scale": 1.5})
    assert proposed_settings(part) == proposal

    together = [judged(TrainingVariant(name="proposed"), seed, 0.3 + 0.1 * seed, 0.3) for seed in range(3)]
    whole = part.model_copy(
        update={
            "arms": [*names, "proposed"],
            "cells": [*cells, *together],
            "follow_ups": [("proposed", "default")],
        }
    )
    assert proposed_settings(whole) == proposal  # what was chosen by the others does not change the choice
    assert verdicts(whole)[0] == verdicts(part)[0]
    assert any(
        "proposed ÷ default" in line and "chosen and tested on the same seeds" in line for line in verdicts(whole)
    )


def test_an_arm_that_diverged_once_is_not_proposed() -> None:
    cells = [judged(TrainingVariant(name="default"), seed, 2.0 + 0.01 * seed, 2.0) for seed in range(3)]
    wild = TrainingVariant(name="rate: 1", options={"learning_rate": 1.0})
    cells += [judged(wild, seed, 1.0, 1.0) for seed in range(2)]
    cells.append(VariantResult(arm=wild, seed=2, fingerprint="w2", failed="diverged"))
    part = PartResult(
        name="parameters",
        base={},
        num_images=1,
        arms=["default", "rate: 1"],
        pairs=[("rate: 1", "default")],
        cells=cells,
    )
    assert proposed_settings(part) == ({}, {})
    assert any("Diverged, and so compared with none: rate: 1 (in 1 of 3 seeds)" in line for line in verdicts(part))
    assert best_variant([TrainingVariant(name="default"), wild], cells) == TrainingVariant(name="default")
