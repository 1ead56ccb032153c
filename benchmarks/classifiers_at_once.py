"""Does it pay to train several of the augmentation study's classifiers at once, stacked by vmap, instead of one after another?

    taskset -c 0 python benchmarks/classifiers_at_once.py      # two minutes; needs no data set

A worker of the study has one core. Timed is a training step of its small network and batch on that core: forward, backward, AdamW.
The same is done for several classifiers in one call, each with its own batch: their weights stacked, and the function mapped over
them (`torch.func.vmap`). Batch normalization counts no running averages in either, as vmap cannot.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from judging import RESULTS
from torch import nn
from torch.func import functional_call, grad, replace_all_batch_norm_modules_, stack_module_state, vmap

from medmnist_diffusion.diffusion.machine import describe_machine
from medmnist_diffusion.errors import run_command
from medmnist_diffusion.files import write_json
from medmnist_diffusion.metrics.mixed_training import ImageClassifier, Recipe

COUNTS = (2, 4, 8)
SECONDS = 10.0
RECIPE, CHANNELS, SIZE, CLASSES = Recipe(), 1, 28, 2


def batch(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    images = torch.rand(count, RECIPE.batch_size, CHANNELS, SIZE, SIZE) * 2 - 1
    return images, torch.randint(CLASSES, (count, RECIPE.batch_size))


def classifier() -> nn.Module:
    return replace_all_batch_norm_modules_(ImageClassifier(RECIPE.network, CHANNELS, CLASSES).train())


def one_after_another(count: int) -> Callable[[], None]:
    models = [classifier().to(memory_format=torch.channels_last) for _ in range(count)]
    optimizers = [torch.optim.AdamW(model.parameters(), RECIPE.learning_rates[0], fused=True) for model in models]

    def step() -> None:
        for model, optimizer, images, labels in zip(models, optimizers, *batch(count), strict=True):
            optimizer.zero_grad()
            F.cross_entropy(model(images.to(memory_format=torch.channels_last)), labels).backward()
            optimizer.step()

    return step


def at_once(count: int) -> Callable[[], None]:
    models = [classifier() for _ in range(count)]
    parameters, buffers = stack_module_state(models)
    optimizer = torch.optim.AdamW(parameters.values(), RECIPE.learning_rates[0], fused=True)

    def loss(parameters: dict[str, torch.Tensor], images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(functional_call(models[0], parameters, (images,)), labels)

    gradients = vmap(grad(loss))

    def step() -> None:
        for name, gradient in gradients(parameters, *batch(count)).items():
            parameters[name].grad = gradient
        optimizer.step()

    assert not buffers
    return step


def fastest(step: Callable[[], None]) -> float:
    """Seconds of the fastest call within SECONDS, after one that is not counted."""
    step()
    seconds, began = [], time.monotonic()
    while time.monotonic() - began < SECONDS:
        start = time.monotonic()
        step()
        seconds.append(time.monotonic() - start)
    return min(seconds)


def main(argv: Sequence[str]) -> None:
    argparse.ArgumentParser(description=__doc__.split("\n", 1)[0]).parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    for count in COUNTS:
        single, stacked = fastest(one_after_another(count)), fastest(at_once(count))
        rows.append(
            {
                "classifiers": count,
                "one_after_another_ms": round(1000 * single, 1),
                "at_once_ms": round(1000 * stacked, 1),
                "speed_up": round(single / stacked, 2),
            }
        )
        print(rows[-1], flush=True)
    command = "taskset -c 0 python benchmarks/classifiers_at_once.py"
    write_json(
        RESULTS / "classifiers_at_once.json", {"command": command, "machine": describe_machine(), "steps": rows}
    )


if __name__ == "__main__":
    sys.exit(run_command(main))
