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
