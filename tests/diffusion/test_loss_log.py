"""The loss log: what ends a run, and what warns."""

from typing import Any

import pytest

from medmnist_diffusion.diffusion.loss_log import LossLog
from medmnist_diffusion.errors import TrainingDivergedError
from tests.conftest import ROOT

LAUNCHES = ROOT / "training" / "configs" / "accelerate"


def row(step: Any, loss: Any, **more: Any) -> Any:
    return {"step": float(step), "seconds": 1.0, "loss": loss, **more}


@pytest.mark.parametrize("loss", [float("nan"), float("inf"), 50.0])
def test_nan_and_exploding_losses_end_the_run(loss: Any) -> None:
    log = LossLog(None)
    log.append(row(1, 1.0))
    with pytest.raises(TrainingDivergedError, match=r"at step 2.*checkpoints written before are kept"):
        log.append(row(2, loss))


def test_memorization_warning_needs_both_signs() -> Any:
    def log_of(*pairs: Any) -> Any:
        log = LossLog(None)
        for step, (train, val) in enumerate(pairs):
            log.append(row(step, 1.0, train_loss_fixed=train, val_loss=val))
        return log.memorizing()

    assert log_of((0.10, 0.11), (0.08, 0.10)) is None
    assert log_of((0.10, 0.10), (0.05, 0.10)) is None  # parted, but the held-out loss has not risen
    assert "begins to memorize" in log_of((0.10, 0.10), (0.05, 0.13))
