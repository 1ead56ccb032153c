"""A start from a base: all weights, all at a third of the rate, or low-rank additions (LoRA) alone? Three ways in one plain loop.

    pip install peft
    python benchmarks/lora.py --data ../shared/data --bases runs/bases --seeds 3
    python benchmarks/lora.py --table               # of results/lora.json, as Markdown

LoRA (Hu et al. 2021, arXiv 2106.09685; peft) holds the base's kernels as they are and learns a low-rank addition to each. What
must fit the new data learns as a whole in every way: first and last layer, class embedding, normalizations. Same images, noise,
steps and AdamW in all ways; the weights of the lowest held-out loss are judged. The targets, their few images and the bases are
those of benchmarks/finetune.py.
"""

import argparse
import copy
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from diffusers import UNet2DModel
from finetune import BASE, IMAGES, SAMPLING_STEPS, SCRATCH, arguments, copied, drawn, measure, start_of
from judging import RESULTS, drawn_labels, judge
from sets import SETS, described
from trainings import Row

from medmnist_diffusion.data import ImageDataset, load_dataset
from medmnist_diffusion.diffusion.batches import TrainingBatches
from medmnist_diffusion.diffusion.held_out import fixed_batch, held_out_losses
from medmnist_diffusion.diffusion.loss import Objective, diffusion_loss
from medmnist_diffusion.diffusion.optimizers import build_optimizers
from medmnist_diffusion.diffusion.sampling import generate_images
from medmnist_diffusion.errors import run_command
from medmnist_diffusion.publish.pipeline_folder import build_pipeline
from medmnist_diffusion.training.base import load_base, start_from, with_base
from medmnist_diffusion.training.config import training_config
from medmnist_diffusion.training.setup import build_network, build_objective, with_choices

# A way → where it starts, its learning rate, and the rank of its additions (0: all weights learn).
WAYS = {
    "scratch": (SCRATCH, 1e-3, 0),
    "all weights": (BASE, 1e-3, 0),
    "a third of the rate": (BASE, 3e-4, 0),
    "LoRA, rank 4": (BASE, 1e-3, 4),
    "LoRA, rank 16": (BASE, 1e-3, 16),
    "LoRA, rank 16, three times the rate": (BASE, 3e-3, 16),
}
WHOLE = ("conv_in", "conv_out", "class_embedding", "norm")  # parts of names of what learns as a whole in every way
BATCH, EVERY, WARM_UP, MAX_NORM = 64, 25, 50, 1.0
COUNTS = (100, 1000)
RESULT = RESULTS / "lora.json"


def prepared(target: str, few: ImageDataset, start: str | None, seed: int) -> tuple[UNet2DModel, Objective]:
    """The network of a training with default settings, with the base's weights in it if there is one."""
    config = training_config(dataset=target, output_dir="unused", seed=seed, varied_share=0.0)
    torch.manual_seed(seed)
    base = load_base(start) if start else None
    config = with_choices(with_base(config, few, base) if base else config, few)
    network, objective = build_network(config, few), build_objective(config, few)
    if base:
        start_from(base, network, objective, few)
    return network, objective


def with_additions(network: UNet2DModel, rank: int) -> None:
    """Low-rank additions to every kernel and matrix between the first and the last layer, in place; these alone learn, and what
    must fit new data."""
    from peft import LoraConfig, inject_adapter_in_model

    kernels = [
        name
        for name, layer in network.named_modules()
        if isinstance(layer, torch.nn.Conv2d | torch.nn.Linear) and not any(part in name for part in WHOLE)
    ]
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=rank, target_modules=kernels), network)
    for name, parameter in network.named_parameters():
        if any(part in name for part in WHOLE):
            parameter.requires_grad_(True)


def tuned(
    network: UNet2DModel, objective: Objective, few: ImageDataset, steps: int, rate: float, seed: int
) -> tuple[UNet2DModel, list[tuple[int, float]]]:
    """The averaged weights with the lowest held-out loss, and that loss every 25 steps."""
    levels = len(objective.scheduler.alphas_cumprod)
    shape = objective.encoder.padded_shape
    batches = TrainingBatches(few.train, BATCH, seed, levels, few.conditioning, noise_shape=shape)
    held_out = fixed_batch(few.splits["val"], levels, shape)
    (optimizer,) = build_optimizers(network, "adamw", rate, 0.0, 0.0)
    average, best, curve = copy.deepcopy(network).eval(), copy.deepcopy(network), []
    network.train()
    for step in range(steps + 1):
        if step % EVERY == 0:
            curve.append((step, float(held_out_losses(average, objective, held_out)[0].mean())))
            if curve[-1][1] == min(loss for _, loss in curve):
                best.load_state_dict(average.state_dict())
        optimizer.param_groups[0]["lr"] = rate * min(1.0, (step + 1) / WARM_UP) * (0.05 + 0.95 * (1 - step / steps))
        diffusion_loss(network, batches[step], objective).weighted.mean().backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), MAX_NORM)
        optimizer.step()
        optimizer.zero_grad()
        decay = min(0.99, (1 + step) / (10 + step))
        with torch.no_grad():
            for kept, new in zip(average.parameters(), network.parameters(), strict=True):
                kept.lerp_(new, 1 - decay)
    return best.eval(), curve


def run(args: argparse.Namespace, cell: Row) -> Iterator[Row]:
    """One way with one seed."""
    start, rate, rank = WAYS[cell["way"]]
    with tempfile.TemporaryDirectory() as folder:
        whole = load_dataset(str(described(args.data / SETS[cell["target"]], Path(folder))))
        few = drawn(whole, cell["count"], cell["seed"])
        network, objective = prepared(cell["target"], few, start_of(args, start, cell["target"]), cell["seed"])
        if rank:
            with_additions(network, rank)
        learned = sum(one.numel() for one in network.parameters() if one.requires_grad)
        network, curve = tuned(network, objective, few, args.steps, rate, cell["seed"])
        labels = drawn_labels(whole.train.labels, IMAGES, cell["seed"])
        pipe = build_pipeline(network, objective, few)
        images = generate_images(pipe, labels, SAMPLING_STEPS, seed=cell["seed"])
        step, loss = min(curve, key=lambda one: one[1])
        yield {
            **judge(whole, images, labels),
            **copied(few, whole, images, labels),
            "step": step,
            "val_loss": loss,
            "curve": curve,
            "learned_parameters": learned,
        }


def main(argv: Sequence[str]) -> None:
    args = arguments(__doc__, 400, COUNTS, "way", list(WAYS), list(WAYS)).parse_args(argv)
    measure(args, RESULT, "python benchmarks/lora.py", "way", run)


if __name__ == "__main__":
    sys.exit(run_command(main))
