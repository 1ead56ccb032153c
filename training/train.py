"""Train a class-conditional diffusion model of a small labelled image set, and save it as a pipeline with its card.

    accelerate launch training/train.py --dataset pneumoniamnist --output_dir runs/pneumonia
    accelerate launch training/train.py --config training/configs/default.yaml --dataset phantom --output_dir runs/x

Read `_train` from top to bottom: it is the whole method. An image x_0 is mixed with noise, x_t = √ᾱ_t x_0 + √(1−ᾱ_t) ε,
at a random noise level t; the network sees x_t, t and the image's class, and learns to undo the mixing. Sampling later
runs this backwards, from pure noise to an image, step by step.

The same seed on the same machine gives the same weights, if the budget is in steps or epochs, stopped and resumed or not. With a
budget in minutes the number of steps depends on how fast the machine happens to be, and so do the weights.
"""

import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import Accelerator, PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType, broadcast_object_list, set_seed
from diffusers.training_utils import EMAModel
from tqdm import tqdm

from medmnist_diffusion.data import ImageDataset, load_dataset
from medmnist_diffusion.data.audit import audit, findings
from medmnist_diffusion.data.duplicates import drop_leaks
from medmnist_diffusion.diffusion.batches import TrainingBatches
from medmnist_diffusion.diffusion.checkpoints import load_checkpoint, newest_checkpoint, read_state, save_checkpoint
from medmnist_diffusion.diffusion.held_out import HeldOut, held_out_row
from medmnist_diffusion.diffusion.loss_log import LossLog, LossMeter, diverged
from medmnist_diffusion.diffusion.machine import (
    check_training_memory,
    check_weights_memory,
    probe_precision,
    start_processes,
    training_cost,
)
from medmnist_diffusion.diffusion.objectives import log_snr, loss_per_image, min_snr_weights, prediction_target
from medmnist_diffusion.diffusion.optimizers import build_optimizers
from medmnist_diffusion.diffusion.stopping import StopRequest, exclusive, stop_signals
from medmnist_diffusion.diffusion.unet import build_noise_scheduler, build_unet, unshuffle_factor
from medmnist_diffusion.errors import StoppedError, TrainingDivergedError, UserError, run_command
from medmnist_diffusion.files import could_not_write, recover_folder
from medmnist_diffusion.publish.card import check_license
from medmnist_diffusion.publish.pipeline_folder import save_pipeline_folder, save_sample_grid, saved_step
from medmnist_diffusion.publish.plots import plot_loss
from medmnist_diffusion.training.config import (
    TrainingConfig,
    changed_budget,
    changed_settings,
    chosen_before,
    kept_settings,
    parse_config,
    write_config,
)

HELD_OUT_SEED = 0  # whatever the run's own seed, so that runs compare
RAW_GRIDS_UNTIL = 1000  # while the average is young, the grid of the raw weights is drawn beside it


def train(config: TrainingConfig, dataset: ImageDataset | None = None) -> Path:
    """Train as configured; returns the pipeline folder with the latest EMA weights.

    Args:
        config: all settings.
        dataset: train on this one instead of loading `config.dataset`.

    Raises:
        UserError: for anything that the user can mend, before training starts.
        StoppedError: after SIGTERM or Ctrl-C, when a checkpoint is written.
        TrainingDivergedError: when the loss explodes; the last checkpoint is kept.
    """
    start_processes()
    run = Path(config.output_dir).expanduser()
    with exclusive(run), stop_signals() as stop:
        return _train(config, dataset, run, stop)


def _train(config: TrainingConfig, dataset: ImageDataset | None, run: Path, stop: StopRequest) -> Path:
    # 1. The run's folder. A run that was begun with other settings is not continued with these, unless that is asked for.
    for name in ("pipeline", "pipeline_best"):
        recover_folder(run / name)
    checkpoint = newest_checkpoint(run / "checkpoints")
    state = read_state(checkpoint) if checkpoint else {}
    saved = state.get("config", {})
    changes = changed_settings(config, saved)
    extensions = [
        *state.get("extensions", []),
        *(f"step {state['step']}: {one}" for one in changed_budget(config, saved)),
    ]
    config = chosen_before(config, saved)

    # 2. The data: uint8 images and integer labels, and what an audit finds wrong with them.
    as_given = dataset or load_dataset(config.dataset, config.root, config.size)  # what evaluation will compare with
    matters = ("train", "val", "test") if config.drop_leaks else ("train", "val")
    content = {f"{name} images": as_given.splits[name].content_hash[:12] for name in matters}
    content["classes"] = ", ".join(as_given.id2label.values())
    before = state.get("data", content)
    changes += [f"{name}: {before[name]} → {new}" for name, new in content.items() if before.get(name, new) != new]
    # What the run was trained with before it was changed.
    history = [*state.get("changes", []), *(f"step {state['step']}: {change}" for change in changes)]
    if config.push_to_hub:
        check_license(as_given.license, config.data_license)
    if changes and not config.allow_changes:
        raise UserError(
            f"{run} holds a run with other settings or data ({'; '.join(changes)}). Use the same to resume it, or another "
            "--output_dir; or go on with the new ones by --allow_changes true."
        )
    dataset, dropped = drop_leaks(as_given) if config.drop_leaks else (as_given, 0)
    if config.drop_leaks:
        print(f"{dropped} training images that also stand in val or test were removed.")

    # 3. The network and the noise it learns to undo: both stock diffusers classes.
    set_seed(config.seed)
    network = unet_arguments(config, dataset)
    factor = network["pixel_unshuffle"]
    config = replace(config, pixel_unshuffle=factor)
    check_weights_memory(network)
    unet = build_unet(**network)
    scheduler = build_noise_scheduler(config.beta_schedule, config.prediction_type, config.num_train_timesteps)

    # 4. The machine: processes, threads, precision.
    gflop, activations = training_cost(unet)
    check_training_memory(unet, activations, config.train_batch_size, config.mixed_precision)
    precision, speeds = _choose_precision(config, unet, PartialState())
    if config.optimizer == "muon" and precision == "fp16":
        raise UserError(
            "Muon was never tried with fp16's scaled gradients: launch with bf16, or give --optimizer adamw."
        )
    config = replace(config, mixed_precision=precision)
    AcceleratorState._reset_state()  # a process that trains twice may want another precision
    accelerator = Accelerator(
        mixed_precision=precision,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        log_with=None if config.report_to == "none" else config.report_to,
        project_dir=run,
    )
    if accelerator.distributed_type == DistributedType.FSDP:
        raise UserError(
            "FSDP shares the weights out, and this script keeps a whole average of them. A network of this size fits every GPU "
            "many times over: use training/configs/accelerate/multi_gpu.yaml."
        )
    is_main = accelerator.is_main_process
    batch_size = config.train_batch_size * accelerator.num_processes
    images_a_step = batch_size * config.gradient_accumulation_steps
    max_steps = _max_steps(config, len(dataset.train), batch_size)

    # 5. The optimizers work on the raw weights; a running average (EMA) of these is what gets published.
    unet.to(accelerator.device)
    optimizers = build_optimizers(
        unet, config.optimizer, config.learning_rate, config.muon_learning_rate, config.adam_weight_decay
    )
    ema_unet = build_unet(**network).to(accelerator.device).eval()
    ema_unet.load_state_dict(unet.state_dict())
    ema = EMAModel(
        ema_unet.parameters(),
        decay=config.ema_decay * config.use_ema,
        use_ema_warmup=True,
        power=2 / 3,
        foreach=True,
    )
    ema.to(accelerator.device)
    unet, *optimizers = accelerator.prepare(unet, *optimizers)
    full_rates = [group["lr"] for optimizer in optimizers for group in optimizer.param_groups]
    raw_unet = accelerator.unwrap_model(unet)

    batches = TrainingBatches(
        dataset.train,
        batch_size,
        config.seed,
        config.num_train_timesteps,
        null_label=dataset.num_classes,
        label_dropout=config.label_dropout,
        class_balanced=config.class_balanced,
        random_shift=config.random_shift,
        random_flip=config.random_flip,
        rank=accelerator.process_index,
        world_size=accelerator.num_processes,
        device=accelerator.device,
        log_snr=log_snr(scheduler) if config.timestep_sampling == "log_snr" else None,
    )
    # The same questions to training and to held-out images, every time: where the answers part, memorizing begins.
    held_out = {
        name: HeldOut.draw(dataset.splits[name], config.num_train_timesteps, HELD_OUT_SEED)
        for name in ("train", "val")
    }

    # 6. Where a stopped run left off.
    step, seconds_before, best_val_loss = 0, 0.0, math.inf
    meter = LossMeter(config.num_train_timesteps, accelerator.device)
    best: tuple[int, float, dict[str, torch.Tensor]] | None = (
        None  # step, seconds, weights; written with the next checkpoint
    )
    log = LossLog(run / "loss.csv" if is_main else None)
    if checkpoint:
        load_checkpoint(accelerator, checkpoint, ema, ema_unet, meter)
        step, seconds_before = state["step"], state["seconds"]
        if state.get("images_a_step", images_a_step) != images_a_step:
            raise UserError(
                f"{run} was trained with {state['images_a_step']} images a step over all processes, now it would be "
                f"{images_a_step}: other batches, another run. Use as many processes as before."
            )
        best_val_loss = math.inf if changes else state["best_val_loss"] or math.inf
        log = LossLog.resumed(run / "loss.csv", step) if is_main else log
        log.comparable_from = step if changes else state.get("comparable_from", -1)
        accelerator.print(f"Resuming at step {step} from {checkpoint}.", *changes, sep="\n  changed: ")

    if is_main:
        data_audit = audit(as_given)
        write_config(config, run / "training_config.yaml")
        _print_plan(
            config, raw_unet, gflop, speeds, accelerator, max_steps, step, [*dataset.notes, *findings(data_audit)]
        )
        facts = {
            "dataset": data_audit.dataset.model_dump(),
            "audit": data_audit.model_dump(),
            "parameters": sum(parameter.numel() for parameter in raw_unet.parameters()),
            "training_gflop_per_image": round(gflop, 3),
            "training_images": len(dataset.train),
            "dropped_leaks": dropped,
            "processes": accelerator.num_processes,
            "changes": history,
            "extensions": extensions,
        }
    if config.report_to != "none":
        values = {key: value for key, value in asdict(config).items() if isinstance(value, (int, float, str, bool))}
        accelerator.init_trackers("logs", config=values)

    def save_pipeline(name: str, weights: str, val_loss: float, at_step: int, at_seconds: float) -> Path:
        """A pipeline folder with the weights that `ema_unet` holds."""
        return save_pipeline_folder(
            run / name,
            ema_unet,
            scheduler,
            dataset,
            config,
            [row for row in log.rows if row["step"] <= at_step],
            {**facts, "weights": weights, "step": at_step, "seconds": round(at_seconds, 1),
             "images_seen": at_step * images_a_step, "val_loss": val_loss},
        )  # fmt: skip

    def save_best() -> None:
        """The weights with the lowest held-out loss, if they are new since the last call."""
        nonlocal best
        if best is not None:
            at_step, at_seconds, weights = best
            ema_unet.load_state_dict(weights)
            save_pipeline("pipeline_best", "best held-out loss", best_val_loss, at_step, at_seconds)
            ema.copy_to(ema_unet.parameters())
            best = None

    def check_weights() -> None:
        if not all(bool(torch.isfinite(parameter).all()) for parameter in raw_unet.parameters()):
            raise TrainingDivergedError(diverged(f"weights are not finite at step {step}"))

    def save_state() -> Path:
        check_weights()
        values = {
            "seconds": elapsed(),
            "images_a_step": images_a_step,
            "best_val_loss": best_val_loss if math.isfinite(best_val_loss) else None,
            "ema_step": ema.optimization_step,
            "config": kept_settings(config),
            "data": content,
            "changes": history,
            "extensions": extensions,
            "comparable_from": log.comparable_from,
        }
        ema.copy_to(ema_unet.parameters())
        remedy = "The checkpoints before it are untouched: make room, and the same command goes on from them."
        with could_not_write(f"the state of step {step} in {run}", remedy):
            if is_main:
                log.write()
                save_best()
            keep = config.checkpoints_total_limit
            return save_checkpoint(accelerator, run / "checkpoints", step, values, ema_unet, meter, keep)

    # 7. The loop. A step is a pure function of the weights and of (seed, step).
    began = time.monotonic() - seconds_before
    warnings_given: set[str] = set()
    last_step, last_time = step, time.monotonic()
    grad_norm = torch.tensor(0.0)

    def elapsed() -> float:
        return time.monotonic() - began

    def progress() -> float:
        """How much of the budget is spent, 0 … 1; in a budget of minutes all processes take the first one's clock."""
        if max_steps is not None:
            return step / max_steps
        assert config.max_train_minutes is not None
        spent = elapsed() / (60 * config.max_train_minutes)
        return broadcast_object_list([spent])[0] if accelerator.num_processes > 1 else spent

    def log_step(validate: bool) -> None:
        """A row of loss.csv; with `validate` also the held-out losses, the plot, and the best pipeline so far."""
        nonlocal last_step, last_time, best, best_val_loss
        now = time.monotonic()
        row = {
            "step": float(step),
            "seconds": elapsed(),
            "learning_rate": optimizers[0].param_groups[0]["lr"],
            "grad_norm": float(grad_norm),
            "images_per_second": (step - last_step) * images_a_step / (now - last_time),
            **meter.flush(accelerator),
        }
        last_step, last_time = step, now
        ema.copy_to(ema_unet.parameters())
        if validate and is_main:
            row |= held_out_row(ema_unet, scheduler, held_out, factor, config.loss_type, config.huber_delta)
        log.append(row)
        accelerator.log({key: value for key, value in row.items() if key != "step"}, step=step)
        _show(bar, row, max_steps or round(step / max(spent, 1e-9)))

        if validate and is_main:
            log.write()
            plot_loss(log.rows, run / "loss.png")
            if (warning := log.memorizing()) and "memorizing" not in warnings_given:
                warnings_given.add("memorizing")
                bar.write(f"warning: {warning}")
            if row["val_loss"] < best_val_loss:
                best_val_loss = row["val_loss"]
                best = step, seconds, {name: value.clone() for name, value in ema_unet.state_dict().items()}

    seconds, spent = seconds_before, progress()
    if spent >= 1 and saved_step(run / "pipeline") == step:
        accelerator.print(f"{run} is trained already ({step} steps). A larger budget trains on.")
        return run / "pipeline"
    unet.train()
    stop.ready = True
    with tqdm(
        total=max_steps, initial=step, unit="step", disable=not is_main, desc="training", dynamic_ncols=True
    ) as bar:
        while spent < 1:
            rate = _learning_rate_factor(config, step, spent)
            groups = [group for optimizer in optimizers for group in optimizer.param_groups]
            for group, full_rate in zip(groups, full_rates, strict=True):
                group["lr"] = full_rate * rate

            for part in range(config.gradient_accumulation_steps):
                with accelerator.accumulate(unet):
                    batch = batches[step * config.gradient_accumulation_steps + part]
                    # Pixel-unshuffle moves 2×2 neighbours (say) into channels; everything after it is plain diffusion.
                    clean = F.pixel_unshuffle(batch.images, factor)
                    noise = F.pixel_unshuffle(batch.noise, factor)
                    noisy = scheduler.add_noise(clean, noise, batch.timesteps)
                    with accelerator.autocast():
                        prediction = unet(noisy, batch.timesteps, class_labels=batch.labels).sample
                    target = prediction_target(scheduler, clean, noise, batch.timesteps)
                    losses = loss_per_image(prediction.float(), target, config.loss_type, config.huber_delta)
                    meter.update(losses, batch.timesteps)
                    if config.snr_gamma is not None:
                        losses = losses * min_snr_weights(scheduler, batch.timesteps, config.snr_gamma)
                    accelerator.backward(losses.mean())
                    if accelerator.sync_gradients:
                        grad_norm = accelerator.clip_grad_norm_(unet.parameters(), config.max_grad_norm)
                    for optimizer in optimizers:
                        optimizer.step()
                        optimizer.zero_grad()
            step += 1
            ema.step(raw_unet.parameters())
            if not stop.received:  # whoever reads the bar may be gone by the same Ctrl-C
                bar.update()
            seconds, spent = elapsed(), progress()

            validate = spent >= 1 or step % config.validation_steps == 0
            draw_samples = step % config.sample_steps == 0
            checkpoint_now = spent >= 1 or step % config.checkpointing_steps == 0
            stop_now = stop.agreed(accelerator, step)
            bar.disable = bar.disable or stop_now
            pause = validate or draw_samples or checkpoint_now
            if step % config.logging_steps == 0 or pause:
                log_step(validate)
            if draw_samples:
                check_weights()
            if draw_samples and is_main:
                ema.copy_to(ema_unet.parameters())
                name = f"step_{step:08d}"
                save_sample_grid(ema_unet, scheduler, dataset, config, run / "samples" / f"{name}.png")
                if step <= RAW_GRIDS_UNTIL and config.use_ema:
                    save_sample_grid(raw_unet, scheduler, dataset, config, run / "samples" / f"{name}_raw.png")
            if checkpoint_now or stop_now:
                saved_in = save_state()
                if stop_now:
                    raise StoppedError(
                        f"stopped at step {step}, saved in {saved_in}. The same command goes on from there."
                    )
            if pause:
                last_time = time.monotonic()  # images/s counts training alone

    # 8. The end: the last grid, and the pipeline folder that gets evaluated and published. Where that lies, all else does.
    if is_main:
        val_loss = held_out_row(ema_unet, scheduler, held_out, factor, config.loss_type, config.huber_delta)[
            "val_loss"
        ]
        save_sample_grid(ema_unet, scheduler, dataset, config, run / "samples" / f"step_{step:08d}.png")
        folder = save_pipeline("pipeline", "latest", val_loss, step, seconds)
        print(
            f"\nTrained {step} steps ({step * images_a_step} images) in {elapsed():.0f} s; held-out loss {val_loss:.4f}"
            f" (best {best_val_loss:.4f}).\nPipeline: {folder}\nLoad it anywhere with\n"
            f'  DiffusionPipeline.from_pretrained("{folder}", trust_remote_code=True)'
        )
    accelerator.wait_for_everyone()
    for tracker in accelerator.trackers:
        tracker.finish()
    if stop.received:
        raise StoppedError(f"stopped, but training had come to its end: {run / 'pipeline'} is complete.")
    return run / "pipeline"


def _learning_rate_factor(config: TrainingConfig, step: int, spent: float) -> float:
    """Linear warm-up by steps, then decay by the share of the budget that is spent: so it fits minutes as well as steps."""
    warmup = min(1.0, (step + 1) / max(1, config.lr_warmup_steps))
    if config.lr_scheduler == "cosine":
        return warmup * 0.5 * (1 + math.cos(math.pi * spent))
    return warmup * (1 - spent if config.lr_scheduler == "linear" else 1.0)


def _max_steps(config: TrainingConfig, images: int, batch_size: int) -> int | None:
    """The budget in steps; None where it is in minutes."""
    if config.num_train_epochs is not None:
        return math.ceil(config.num_train_epochs * images / (batch_size * config.gradient_accumulation_steps))
    return config.max_train_steps


def unet_arguments(config: TrainingConfig, dataset: ImageDataset) -> dict[str, Any]:
    """What `build_unet` needs to know."""
    factor = unshuffle_factor(dataset.image_size, dataset.channels, config.block_out_channels)
    return {
        "image_size": dataset.image_size,
        "channels": dataset.channels,
        "num_classes": dataset.num_classes,
        "block_out_channels": config.block_out_channels,
        "layers_per_block": config.layers_per_block,
        "pixel_unshuffle": config.pixel_unshuffle or factor,
        "attention": config.attention,
        "dropout": config.dropout,
    }


def _choose_precision(config: TrainingConfig, unet: Any, state: PartialState) -> tuple[Any, dict[str, float]]:
    """The configured precision, else the launcher's, else the faster one by a short trial in the first process.

    With the images a second that the trial reached.
    """
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    wanted = config.mixed_precision if config.mixed_precision != "auto" else launched if launched != "no" else None
    choice: list[Any] = [probe_precision(unet, config.train_batch_size, wanted) if state.is_main_process else None]
    return broadcast_object_list(choice)[0] if state.num_processes > 1 else choice[0]


def _print_plan(
    config: TrainingConfig,
    unet: Any,
    gflop: float,
    speeds: dict[str, float],
    accelerator: Accelerator,
    max_steps: int | None,
    step: int,
    about_the_data: list[str],
) -> None:
    """The whole configuration and what to expect, before anything starts."""
    for name, value in asdict(config).items():
        print(f"  {name}: {value}")
    for line in about_the_data:
        print(f"  data: {line}")
    parameters = sum(parameter.numel() for parameter in unet.parameters())
    print(f"  {parameters:,} parameters, {gflop:.2f} GFLOP an image (forward and backward)")
    print(
        f"  {accelerator.num_processes} process(es) on {accelerator.device}, {torch.get_num_threads()} thread(s) each, "
        f"precision {accelerator.mixed_precision}"
        + "".join(f", {name}: {speed:.0f} images/s tried" for name, speed in speeds.items())
    )
    if max_steps is None:
        print(f"  expected time: {config.max_train_minutes:g} minutes, as asked")
    elif speeds:
        images = (max_steps - step) * config.train_batch_size * config.gradient_accumulation_steps
        print(f"  expected time: about {images / max(speeds.values()) / 60:.1f} minutes for {max_steps - step} steps")
    else:
        print(f"  {max_steps} steps; the progress bar shows the time left")


def _show(bar: Any, row: dict[str, float], total: int) -> None:
    """Loss and speed beside the bar. With a budget in minutes the total is an estimate, so that the bar shows the time left."""
    bar.total = max(bar.n, total)
    bar.set_postfix_str(f"loss {row['loss']:.4f}, {row['images_per_second']:.0f} images/s", refresh=False)


def main(argv: Sequence[str]) -> None:
    config = parse_config(argv)
    if config.push_to_hub:
        from medmnist_diffusion.publish.publish import check_before_training
        from medmnist_diffusion.training.publish_trained import publish_trained

        check_before_training(config.hub_model_id, config.data_license)
    folder = train(config)
    if config.push_to_hub:
        publish_trained(folder, config.dataset, config.root, config.size, config.hub_model_id, config.data_license)
    PartialState().destroy_process_group()


if __name__ == "__main__":
    sys.exit(run_command(main))
