"""loss.csv: one row every few steps, rewritten whole, and continued after a resume."""

import csv
import logging
import math
from pathlib import Path
from typing import Any

import torch

from medmnist_diffusion.errors import TrainingDivergedError, UserError
from medmnist_diffusion.files import atomic_file

logger = logging.getLogger(__name__)
BUCKETS = 4  # quarters of the timestep range, from little noise to pure noise
COLUMNS = [
    "step", "seconds", "loss", "learning_rate", "grad_norm", "images_per_second",
    *(f"loss_bucket_{bucket}" for bucket in range(BUCKETS)), "train_loss_fixed", "val_loss",
    "train_l2", "val_l2", *(f"val_l2_bucket_{bucket}" for bucket in range(BUCKETS)),
]  # fmt: skip

EXPLODED = 20.0  # times the lowest loss so far


class LossLog:
    """The loss history of a run, in memory and in loss.csv. Without a path it keeps to memory (other processes)."""

    def __init__(self, path: Path | None, rows: list[dict[str, float]] | None = None) -> None:
        self.path, self.rows = path, rows or []
        self.next_row: dict[str, float] = {}  # what is known of it before it is complete
        self.stops = True  # whether a loss that explodes ends the run
        self.comparable_from = -1  # the step up to which losses are of other settings or data

    @classmethod
    def resumed(cls, path: Path, step: int) -> "LossLog":
        """The log as it stood at `step`: later rows belong to work that was lost and will be done again."""
        if not path.is_file():
            logger.warning("%s is gone, and with it the losses up to step %d.", path, step)
            return cls(path)
        return cls(path, [row for row in read_loss_csv(path) if row["step"] <= step])

    def append(self, row: dict[str, float]) -> None:
        """Add a row and begin the next; a loss that is not finite, or has exploded, ends the run.

        Raises:
            TrainingDivergedError: naming the step and what to try.
        """
        self.next_row = {}
        lowest = min((old["loss"] for old in self.rows if old["step"] > self.comparable_from), default=math.inf)
        if self.stops and (not math.isfinite(row["loss"]) or row["loss"] > EXPLODED * lowest):
            self.write()
            raise TrainingDivergedError(
                diverged(f"the loss is {row['loss']:.3g} at step {row['step']:.0f} (lowest so far {lowest:.3g})")
            )
        self.rows.append({key: float(_written(value)) for key, value in row.items()})  # as after a resume

    def write(self) -> None:
        if self.path is None:
            return
        with atomic_file(self.path) as temporary, temporary.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, restval="")
            writer.writeheader()
            writer.writerows({key: _written(value) for key, value in row.items()} for row in self.rows)


def _written(value: float) -> str:
    return f"{value:.6g}"


def read_loss_csv(path: Path) -> list[dict[str, float]]:
    """The rows of a loss.csv, without their empty cells.

    Raises:
        UserError: for a file that is no table of numbers with a step in every row.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            reader = csv.DictReader(file)
            rows = [{key: float(value) for key, value in row.items() if value} for row in reader]
        if not all({"step", "loss"} <= set(row) for row in (reader.fieldnames or [], *rows)):
            raise ValueError("step or loss is missing")
    except (OSError, ValueError, TypeError, csv.Error) as error:
        raise UserError(f"{path} is damaged ({error}). Restore it, or remove it: the history is lost then.") from None
    return rows


def diverged(what: str) -> str:
    """The message of a run that ends itself."""
    return (
        f"{what}: training diverged. The checkpoints written before are kept. Start again in a new --output_dir with a lower "
        "--learning_rate, more --lr_warmup_steps, or --mixed_precision no."
    )


class LossMeter:
    """Sums losses on the device between two log rows, so that no step waits for the device."""

    def __init__(self, num_train_timesteps: int, device: torch.device) -> None:
        self.width = num_train_timesteps / BUCKETS
        self.sums = torch.zeros(BUCKETS, 2, device=device)

    def update(self, losses: torch.Tensor, timesteps: torch.Tensor) -> None:
        """Count unweighted losses n at their timesteps n."""
        buckets = (timesteps / self.width).long()
        self.sums[:, 0].index_add_(0, buckets, losses.detach().float())
        self.sums[:, 1].index_add_(0, buckets, torch.ones_like(losses, dtype=torch.float32))

    def flush(self, accelerator: Any) -> dict[str, float]:
        """Mean loss and mean loss by bucket over all processes since the last flush."""
        sums = accelerator.reduce(self.sums, reduction="sum").cpu()
        self.sums.zero_()
        means = {f"loss_bucket_{i}": float(total / n) for i, (total, n) in enumerate(sums.tolist()) if n}
        return {"loss": float(sums[:, 0].sum() / sums[:, 1].sum()), **means}
