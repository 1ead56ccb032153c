"""The loss study's cells: spoiled images, what a cell depends on, planted truths on real trainings."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medmnist_diffusion.data import ImageDataset, load_dataset
from medmnist_diffusion.metrics.extractors import make_extractor
from medmnist_diffusion.studies.loss.analysis import PartResult, verdicts
from medmnist_diffusion.studies.loss.cells import CELLS, TrainingProtocol, corrupted, run_cell
from medmnist_diffusion.studies.loss.report import write_report
from medmnist_diffusion.studies.loss.variants import SOURCE, WATERFALL, TrainingVariant, waterfall
from medmnist_diffusion.training.config import TrainingConfig, preset, training_config
from medmnist_diffusion.training.setup import with_choices


def test_the_waterfall_ends_at_the_default(small: ImageDataset) -> None:
    arms = list(waterfall(preset("annotated")))
    assert [arm.name for arm in arms] == [SOURCE, *(name for name, _ in WATERFALL)]
    base: dict[str, Any] = {"dataset": "phantom", "output_dir": "x"}
    last, default = training_config(**{**base, **arms[-1].options}), training_config(**base)
    assert with_choices(last, small) == with_choices(default, small)
    fast = [arm.name for arm in arms].index("+ 10 DPM-Solver++ steps")
    assert [arm.num_inference_steps for arm in arms] == [200] * fast + [10] * (len(arms) - fast)


def test_spoiled_images(small_npz: Path) -> None:
    split = load_dataset(str(small_npz)).train
    spoiled = corrupted(split, 0.2, seed=1)
    changed = (spoiled.images[:] != split.images[:]).any((1, 2, 3))
    inverted = (spoiled.images[:] == 255 - split.images[:]).all((1, 2, 3))
    relabelled = spoiled.labels != split.labels
    assert (changed.sum(), inverted.sum(), relabelled.sum()) == (32, 16, 16)
    assert not (changed & relabelled).any()
    assert set(spoiled.labels) <= set(range(4))
    again = corrupted(split, 0.2, seed=1)
    assert np.array_equal(spoiled.images[:], again.images[:])


TINY = {
    "block_out_channels": [16, 32], "train_batch_size": 16, "lr_warmup_steps": 5, "mixed_precision": "no",
    "checkpointing_steps": 10,
}  # fmt: skip


@pytest.mark.slow
def test_a_crippled_loss_is_found_and_twins_are_not_told_apart(small_npz: Path, tmp_path: Path) -> None:
    dataset = load_dataset(str(small_npz))
    extractors = tuple(make_extractor(name, dataset) for name in ("texture",))
    protocol = TrainingProtocol(tmp_path, dataset, {**TINY, "max_train_steps": 80}, extractors, (), 100)
    crippled = {"learning_rate": 1e-9, "muon_learning_rate": 1e-9}  # it computes the loss, and learns nothing from it
    twin = {"ema_decay": 0.99991}  # trained anew, and never reached in so few steps
    arms = [
        TrainingVariant(name="L2"),
        TrainingVariant(name="L2 again"),
        TrainingVariant(name="twin", options=twin),
        TrainingVariant(name="crippled", options=crippled),
    ]
    cells = [run_cell(protocol, arm, seed) for seed in range(3) for arm in arms]
    assert len((tmp_path / CELLS).read_text().splitlines()) == 9  # the second name is found to be the first
    part = PartResult(
        name="losses", base=protocol.base, num_images=100, arms=[a.name for a in arms], pairs=None, cells=cells
    )
    (texture,) = [line for line in verdicts(part) if line.startswith("Fréchet distance, texture")]
    for arm in ("L2", "L2 again", "twin"):
        assert f"{arm} is better than crippled" in texture
    assert texture.count("better") == 3
    assert "cannot be told from" in texture


def test_a_diverging_arm_does_not_stop_the_others(small_npz: Path, tmp_path: Path) -> None:
    dataset = load_dataset(str(small_npz))
    extractors = (make_extractor("texture", dataset),)
    protocol = TrainingProtocol(tmp_path, dataset, {**TINY, "max_train_steps": 30}, extractors, (), 100)
    wild = TrainingVariant(
        name="wild", options={"optimizer": "adamw", "learning_rate": 1e6, "max_grad_norm": 1e9, "lr_warmup_steps": 0}
    )
    cells = [run_cell(protocol, arm, 0) for arm in (TrainingVariant(name="L2"), wild)]
    assert cells[1].failed
    assert "diverged" in cells[1].failed
    part = PartResult(name="losses", base=protocol.base, num_images=100, arms=["L2", "wild"], pairs=None, cells=cells)
    write_report(tmp_path, dataset, [part], [], "command")
    assert "Diverged, and so compared with none: wild (in 1 of 1 seeds)" in (tmp_path / "report.md").read_text()


def test_cells_know_all_that_they_depend_on(small_npz: Path, tmp_path: Path) -> None:
    dataset = load_dataset(str(small_npz))
    protocol = TrainingProtocol(
        tmp_path, dataset, {"max_train_steps": 30}, (make_extractor("texture", dataset),), (), 100
    )
    plain = TrainingVariant(name="x")
    different = [
        (protocol, plain, 1),
        (protocol, TrainingVariant(name="x", options={"loss_type": "l1"}), 0),
        (protocol, TrainingVariant(name="x", num_inference_steps=7), 0),
        (protocol, TrainingVariant(name="x", corrupted_share=0.1), 0),
        (replace(protocol, num_images=99), plain, 0),
        (replace(protocol, extractors=()), plain, 0),
        (replace(protocol, base={"max_train_steps": 31}), plain, 0),
    ]
    keys = {b.fingerprint(arm, seed) for b, arm, seed in [(protocol, plain, 0), *different]}
    assert len(keys) == 8
    same = TrainingVariant(name="y", options={"loss_type": TrainingConfig().loss_type})  # the default, written out
    assert protocol.fingerprint(same, 0) == protocol.fingerprint(plain, 0)
    assert protocol.run_folder(different[2][1], 0) == protocol.run_folder(plain, 0)  # sampling shares the training
