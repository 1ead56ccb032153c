"""The machine: what no machine has memory for."""

import pytest
import torch

from medmnist_diffusion.diffusion import machine


def test_the_trial_of_precisions_counts_as_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """`auto` tries float32, too: what does not fit in float32 is refused before the trial."""
    needed: dict[str, float] = {}
    monkeypatch.setattr(machine, "check_memory", lambda bytes_, *_: needed.setdefault(precision, bytes_))  # type: ignore[has-type]
    for precision in ("no", "auto", "bf16"):
        machine.check_training_memory(torch.nn.Linear(2, 2), 1000, 64, precision)
    assert needed["auto"] == needed["no"] == needed["bf16"] + 0.5 * 64 * 1000
