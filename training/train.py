"""Train a class-conditional diffusion model of a small labelled image set, and save it as a pipeline with its card.

    accelerate launch training/train.py --dataset pneumoniamnist --output_dir runs/pneumonia
    accelerate launch training/train.py --config training/configs/default.yaml --dataset phantom --output_dir runs/x

Read `_train` and `_loop`: they are the whole method. An image x_0 is mixed with noise, x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε,
at a random noise level t; the network sees x_t, t and the image's class, and learns to undo the mixing. Sampling later
runs this backwards, from pure noise to an image, step by step.

The same seed on the same machine gives the same weights, if the budget is in steps or epochs, stopped and resumed or not. With a
budget in minutes the number of steps depends on how fast the machine happens to be, and so do the weights. A private training
(`--target_epsilon`) gives other weights each time: its noise must not be known.
"""

import medmnist_diffusion.waiting  # noqa: F401, before torch: how its threads wait

# isort: split
import logging
import sys
from pathlib import Path

from accelerate.utils import set_seed
from tqdm import tqdm

from medmnist_diffusion.artifacts import TrainingSummary
from medmnist_diffusion.console import bar_options
from medmnist_diffusion.data import ImageDataset
from medmnist_diffusion.data.duplicates import drop_leaks
from medmnist_diffusion.data.unlabeled import Unlabeled, load_unlabeled
from medmnist_diffusion.diffusion.batches import Batch, TrainingBatches
from medmnist_diffusion.diffusion.checkpoints import load_checkpoint
from medmnist_diffusion.diffusion.dp_sgd import PrivateBatches, PrivateGradients
from medmnist_diffusion.diffusion.held_out import fixed_batch, held_out_row
from medmnist_diffusion.diffusion.loss import diffusion_loss, log_snr
from medmnist_diffusion.diffusion.loss_log import LossLog
from medmnist_diffusion.diffusion.machine import check_weights_memory
from medmnist_diffusion.diffusion.optimizers import build_optimizers
from medmnist_diffusion.diffusion.stopping import StopRequest, exclusive, stop_signals
from medmnist_diffusion.diffusion.training_state import Best, TrainingState
from medmnist_diffusion.errors import StoppedError
from medmnist_diffusion.processes import start_processes
from medmnist_diffusion.publish.card import which_weights
from medmnist_diffusion.publish.licences import check_data
from medmnist_diffusion.publish.pipeline_folder import saved_step
from medmnist_diffusion.training.base import base_of, inner_rate, start_from, with_base
from medmnist_diffusion.training.budget import Budget, learning_rate_factor
from medmnist_diffusion.training.config import TrainingConfig
from medmnist_diffusion.training.events import Checkpoint, DrawGrid, Event, Log, Stop, Validate
from medmnist_diffusion.training.history import NOTHING, read_history
from medmnist_diffusion.training.privacy import promised, with_privacy
from medmnist_diffusion.training.run import Run, begin_run, prepare_machine, say_plan
from medmnist_diffusion.training.setup import build_network, build_objective, network_options, source_of, with_choices

logger = logging.getLogger(__name__)


def train(config: TrainingConfig, dataset: ImageDataset | None = None, unlabeled: Unlabeled | None = None) -> Path:
    """Train as configured; returns the pipeline folder with the latest averaged weights, or where these have begun to memorize
    with the best ones (`config.keep`).

    Args:
        config: all settings, from `training_config`.
        dataset: train on this one instead of loading `config.dataset`.
        unlabeled: the same for `config.unlabeled`.

    Raises:
        UserError: for anything that the user can mend, before training starts.
        StoppedError: after SIGTERM or Ctrl-C, when a checkpoint is written.
        TrainingDivergedError: when the loss explodes; the last checkpoint is kept.

    Example:
        >>> pipeline = md.train(config, dataset)
        >>> pipeline.as_posix()
        'runs/x/pipeline'
    """
    start_processes()
    folder = Path(config.output_dir).expanduser()
    with exclusive(folder), stop_signals() as stop:
        return _train(config, dataset, unlabeled, folder, stop)


def _train(
    config: TrainingConfig,
    dataset: ImageDataset | None,
    unlabeled: Unlabeled | None,
    folder: Path,
    stop: StopRequest,
) -> Path:
    config = with_privacy(config, unlabeled)
    # 1. The data, uint8 images with their classes or labels; and what the run's folder says if it was begun before.
    given = dataset or source_of(config).load()  # what evaluation will compare with
    base = base_of(config, folder)
    if config.unlabeled and unlabeled is None:
        unlabeled = load_unlabeled(config.unlabeled, given, source_of(config))
    config, history = read_history(
        folder, config, given,
        base.record.weights_sha256 if base else NOTHING, unlabeled.record.content_hash if unlabeled else NOTHING,
    )  # fmt: skip
    bases = [base.record, *base.earlier] if base else history.bases
    if config.push_to_hub:
        check_data(given.license, config.data_license, bases, unlabeled.record if unlabeled else None)
    dataset, dropped = drop_leaks(given, twins=config.drop_leaks == "twins") if config.drop_leaks else (given, 0)
    if config.drop_leaks:
        logger.info("%d training images that also stand in val or test were removed.", dropped)

    privacy = promised(config, dataset, history, bases)

    # 2. The network, a stock UNet2DModel, and what it learns: to undo the noise of a stock DDPMScheduler.
    set_seed(config.seed)
    config = with_choices(with_base(config, dataset, base) if base else config, dataset)
    check_weights_memory(network_options(config, dataset))
    network, objective = build_network(config, dataset), build_objective(config, dataset)
    if base:
        bases = start_from(base, network, objective, dataset)

    # 3. The machine: processes, threads, precision.
    accelerator, config, expected = prepare_machine(config, network, objective, folder)
    batch_size = config.train_batch_size * accelerator.num_processes

    # 4. The optimizers work on the raw weights; a running average (EMA) of these is what gets published.
    optimizers = build_optimizers(
        network.to(accelerator.device),
        config.optimizer,
        config.learning_rate,
        config.muon_learning_rate,
        config.adam_weight_decay,
        inner=inner_rate(config, bases),
    )
    average = build_network(config, dataset)
    ema_decay = config.ema_decay * config.use_ema
    state = TrainingState(accelerator, network, average, optimizers, ema_decay, config.num_train_timesteps)
    run = begin_run(
        folder,
        config,
        given,
        dataset,
        objective,
        accelerator,
        history,
        expected,
        network.num_parameters(),
        bases,
        unlabeled,
        privacy,
    )
    private = PrivateGradients(state.raw, privacy, batch_size) if privacy else None

    # 5. Which images, noise and noise levels a step sees is a function of the seed and its number alone (unless it is private).
    batches = (PrivateBatches if privacy else TrainingBatches)(
        dataset.train,
        batch_size,
        config.seed,
        config.num_train_timesteps,
        dataset.conditioning,
        label_dropout=config.label_dropout,
        class_balanced=config.class_balanced,
        random_shift=config.random_shift,
        random_flip=config.random_flip,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        device=accelerator.device,
        log_snr=log_snr(objective.scheduler) if config.timestep_sampling == "log_snr" else None,
        noise_shape=objective.encoder.padded_shape,
        unlabeled=unlabeled.split if unlabeled else None,
        unlabeled_share=config.unlabeled_share,
        varied_share=config.varied_share or 0.0,
    )
    # The same questions to training and to held-out images, every time: where the answers part, memorizing begins.
    asked = {"train": dataset.train, "val": run.held_out}
    noise_shape = objective.encoder.padded_shape
    fixed = {name: fixed_batch(split, config.num_train_timesteps, noise_shape) for name, split in asked.items()}

    # 6. Where a stopped run left off.
    log = _resume(run, state)
    budget = Budget(config, accelerator, len(dataset.train), batches.labelled, state.seconds)
    log.stops = privacy is None  # whether a private training goes on must not hang on its training images
    say_plan(run, expected, budget.max_steps, state.step)
    state.spent = budget.spent(state.step)
    if (state.spent >= 1 or state.overfitted) and saved_step(folder / "pipeline") == state.step:
        more = "--keep latest" if state.overfitted else "A larger budget"
        logger.info("%s is trained already (%d steps). %s trains on.", folder, state.step, more)
        return folder / "pipeline"

    # 7. The loop, and the pipeline folder at its end.
    stop.ready = True
    _loop(run, state, batches, fixed, log, budget, stop, private)
    _finish(run, state, fixed, log, budget)
    if stop.received:
        raise StoppedError(f"stopped, but training had come to its end: {folder / 'pipeline'} is complete.")
    return folder / "pipeline"


def _loop(
    run: Run,
    state: TrainingState,
    batches: TrainingBatches,
    fixed: dict[str, Batch],
    log: LossLog,
    budget: Budget,
    stop: StopRequest,
    private: PrivateGradients | None,
) -> None:
    """Steps until the budget is spent; after each, the events that are due."""
    config, accelerator = run.config, run.accelerator
    grid, checkpoint, validate = DrawGrid(run), Checkpoint(run, log), Validate(run, log, fixed)
    state.network.train()
    with tqdm(
        total=budget.max_steps,
        initial=state.step,
        unit="step",
        disable=not accelerator.is_main_process,
        desc="training",
        **bar_options(),
    ) as bar:
        log_row = Log(run, log, bar, budget.max_steps, state, pauses=[validate, grid, checkpoint])
        events: list[Event] = [validate, log_row, grid, checkpoint, Stop(checkpoint)]
        while state.spent < 1 and not state.overfitted:
            state.set_learning_rate(learning_rate_factor(config, state.step, state.spent))
            for part in range(config.gradient_accumulation_steps):
                with accelerator.accumulate(state.network):
                    batch = batches[state.step * config.gradient_accumulation_steps + part]
                    losses = diffusion_loss(state.network, batch, run.objective)
                    state.meter.update(losses.per_image, batch.timesteps)
                    accelerator.backward(losses.weighted.mean())
                    if private:  # each image's gradient is clipped, and noise is added
                        state.grad_norm = private.put_in_place()
                    elif accelerator.sync_gradients:
                        state.grad_norm = accelerator.clip_grad_norm_(state.network.parameters(), config.max_grad_norm)
                    for optimizer in state.optimizers:
                        optimizer.step()
                        optimizer.zero_grad()
            state.finish_step()  # the average follows the weights
            state.seconds, state.spent = budget.seconds(), budget.spent(state.step)
            state.stop = stop.agreed(accelerator, state.step)
            if not stop.received:  # whoever reads the bar may be gone by the same Ctrl-C
                bar.update()
            bar.disable = bar.disable or state.stop
            for event in events:
                if event.due(state):
                    event(state)
            state.paused += budget.seconds() - state.seconds


def _finish(run: Run, state: TrainingState, fixed: dict[str, Batch], log: LossLog, budget: Budget) -> None:
    """The last grid, and the pipeline folder that gets evaluated and published. Where that lies, all else does."""
    if run.accelerator.is_main_process:
        row, losses = held_out_row(state.average, run.objective, fixed)
        DrawGrid(run).draw(state.average, state.step)
        pipeline = run.save_last(state, log, row["val_loss"], run.held_out_has_risen(losses, state.best))
        summary = TrainingSummary.of(pipeline)
        logger.info(
            "\nTrained %d steps (%d images) in %.0f s; held-out loss %.4f (best %.4f at step %d).\n%s\nPipeline: %s\n"
            'Load it anywhere with\n  DiffusionPipeline.from_pretrained("%s", trust_remote_code=True)',
            state.step, state.step * run.images_a_step, budget.seconds(), row["val_loss"], state.best.val_loss, state.best.step,
            which_weights(summary), pipeline, pipeline,
        )  # fmt: skip
    run.accelerator.wait_for_everyone()
    for tracker in run.accelerator.trackers:
        tracker.finish()


def _resume(run: Run, state: TrainingState) -> LossLog:
    """Put the newest checkpoint's state in place, if there is one; returns the losses so far."""
    path, history = run.folder / "loss.csv", run.history
    is_main = run.accelerator.is_main_process
    if history.checkpoint is None:
        return LossLog(path if is_main else None)
    load_checkpoint(run.accelerator, history.checkpoint, state)
    if history.changed_now:  # losses of other settings or data do not compare
        state.best, state.overfitted = Best(), False
    state.overfitted = state.overfitted and run.config.keep == "best"
    log = LossLog.resumed(path, state.step) if is_main else LossLog(None)
    log.comparable_from = history.comparable_from
    if is_main:
        lines = [f"Resuming at step {state.step} from {history.checkpoint}.", *history.changed_now]
        logger.info("\n  changed: ".join(lines))
    return log


if __name__ == "__main__":
    from medmnist_diffusion import cli  # the command line reads the arguments: `medmnist-diffusion train` is the same

    sys.exit(cli.main(["train", *sys.argv[1:]]))
