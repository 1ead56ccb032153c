"""What happens between two steps: held-out losses, a row of the log, a grid of samples, a checkpoint, a stop.

An event is due or not, by the step and the budget, the same in every process; the loop asks each in the order of the list.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from medmnist_diffusion.diffusion.batches import Batch
from medmnist_diffusion.diffusion.checkpoints import save_checkpoint
from medmnist_diffusion.diffusion.held_out import held_out_row
from medmnist_diffusion.diffusion.loss_log import LossLog
from medmnist_diffusion.diffusion.training_state import TrainingState
from medmnist_diffusion.errors import StoppedError
from medmnist_diffusion.files import could_not_write
from medmnist_diffusion.publish.pipeline_folder import build_pipeline, save_sample_grid
from medmnist_diffusion.publish.plots import plot_loss
from medmnist_diffusion.training.overfitting import patience_is_over
from medmnist_diffusion.training.run import Run

logger = logging.getLogger(__name__)
RAW_GRIDS_UNTIL = 1000  # while the average is young, the grid of the raw weights is drawn beside it


class Event(Protocol):
    """Something that happens after some of the steps."""

    def due(self, state: TrainingState) -> bool: ...

    def __call__(self, state: TrainingState) -> None: ...


@dataclass
class Validate:
    """The held-out losses of the average, for the next row of the log; the best weights so far are remembered. Where the losses
    have risen beyond their noise, and for long enough, training is to end."""

    run: Run
    log: LossLog
    fixed: dict[str, Batch]  # the same questions to training and to held-out images, every time
    warned: bool = False

    def due(self, state: TrainingState) -> bool:
        return state.spent >= 1 or state.step % self.run.validation_steps == 0

    def __call__(self, state: TrainingState) -> None:
        run, over = self.run, False
        if run.accelerator.is_main_process:
            row, losses = held_out_row(state.average, run.objective, self.fixed)
            self.log.next_row |= row
            state.keep_if_best(losses)
            if run.held_out_has_risen(losses, state.best):
                self._warn(state, row)
                over = patience_is_over(state.step, state.best.step, run.validation_steps)
        if run.config.keep == "best":
            state.overfitted = broadcast_object_list([over])[0] if run.accelerator.num_processes > 1 else over

    def _warn(self, state: TrainingState, row: dict[str, float]) -> None:
        if self.warned:
            return
        self.warned = True
        with tqdm.external_write_mode():
            logger.warning(
                "step %d: the held-out loss rises, %.4f after %.4f at step %d (of training images %.4f): the model begins to "
                "memorize.",
                state.step, row["val_loss"], state.best.val_loss, state.best.step, row["train_loss_fixed"],
            )  # fmt: skip


class Log:
    """A row of loss.csv, for the tracker and for the bar: every few steps, and whenever training pauses for `pauses`."""

    def __init__(
        self, run: Run, log: LossLog, bar: Any, max_steps: int | None, state: TrainingState, pauses: Sequence[Event]
    ) -> None:
        self.run, self.log, self.bar, self.max_steps, self.pauses = run, log, bar, max_steps, pauses
        self.step, self.seconds = state.step, state.seconds

    def due(self, state: TrainingState) -> bool:
        return state.step % self.run.config.logging_steps == 0 or any(event.due(state) for event in self.pauses)

    def __call__(self, state: TrainingState) -> None:
        accelerator = self.run.accelerator
        images = (state.step - self.step) * self.run.images_a_step
        trained = max(state.seconds - self.seconds - state.paused, 1e-9)
        self.step, self.seconds, state.paused = state.step, state.seconds, 0.0
        row = {
            "step": float(state.step),
            "seconds": state.seconds,
            "learning_rate": state.optimizers[0].param_groups[0]["lr"],
            "grad_norm": float(state.grad_norm),
            "images_per_second": images / trained,
            **state.meter.flush(accelerator),
            **self.log.next_row,
        }
        self.log.append(row)
        accelerator.log({key: value for key, value in row.items() if key != "step"}, step=state.step)
        # With a budget in minutes the total is an estimate, so that the bar shows the time left.
        self.bar.total = max(self.bar.n, self.max_steps or round(state.step / max(state.spent, 1e-9)))
        best = f", best held-out loss {state.best.val_loss:.4f} at step {state.best.step}" if state.best.step else ""
        words = f"loss {row['loss']:.4f}{best}, {row['images_per_second']:.0f} images/s"
        self.bar.set_postfix_str(words, refresh=False)
        if "val_loss" in row:
            self.log.write()


@dataclass
class DrawGrid:
    """A grid of samples of the average, from the same noise every time."""

    run: Run

    def due(self, state: TrainingState) -> bool:
        return state.step % self.run.config.sample_steps == 0

    def __call__(self, state: TrainingState) -> None:
        state.check_weights()
        if not self.run.accelerator.is_main_process:
            return
        self.draw(state.average, state.step)
        if state.step <= RAW_GRIDS_UNTIL and self.run.config.use_ema:
            self.draw(state.raw, state.step, "_raw")

    def draw(self, network: Any, step: int, suffix: str = "") -> None:
        """The grid of a step, of this network's weights."""
        path = self.run.folder / "samples" / f"step_{step:08d}{suffix}.png"
        pipe = build_pipeline(network, self.run.objective, self.run.dataset)
        save_sample_grid(pipe, self.run.dataset.conditioning, self.run.config.seed, path)


@dataclass
class Checkpoint:
    """All of the state on disk, and the best weights so far as a pipeline."""

    run: Run
    log: LossLog
    newest: Path | None = None
    newest_step: int = -1

    def due(self, state: TrainingState) -> bool:
        return state.spent >= 1 or state.overfitted or state.step % self.run.config.checkpointing_steps == 0

    def __call__(self, state: TrainingState) -> None:
        self.save(state)

    def save(self, state: TrainingState) -> Path:
        """The checkpoint of this step, written unless it is there already. All processes call this."""
        if self.newest and self.newest_step == state.step:
            return self.newest
        state.check_weights()
        run, remedy = (
            self.run,
            "The checkpoints before it are untouched: make room, and the same command goes on from them.",
        )
        with could_not_write(f"the state of step {state.step} in {run.folder}", remedy):
            if run.accelerator.is_main_process:
                self.log.write()
                if self.log.rows:
                    plot_loss(self.log.rows, run.folder / "loss.png")
                run.save_best(state, self.log)
            values, keep = run.checkpoint_state(state, self.log), run.config.checkpoints_total_limit
            self.newest = save_checkpoint(run.accelerator, run.folder / "checkpoints", state, values, keep)
        self.newest_step = state.step
        return self.newest


@dataclass
class Stop:
    """SIGTERM or Ctrl-C came: the state is saved, then the run ends."""

    checkpoint: Checkpoint

    def due(self, state: TrainingState) -> bool:
        return state.stop

    def __call__(self, state: TrainingState) -> None:
        saved_in = self.checkpoint.save(state)
        raise StoppedError(f"stopped at step {state.step}, saved in {saved_in}. The same command goes on from there.")
