"""How every classifier here is trained: the real-data classifier of the metrics and those of the augmentation study alike."""

import copy
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import nn

from medmnist_diffusion.data.dataset import Split, to_model_range

CHECKS = 10  # validations in a training
WORST_LOSS = 1e9  # of a training whose validation loss is never finite

# Images float −1 … 1 N×C×H×W (volumes N×C×D×H×W), and labels int64 N, or float N×K of several labels an image; without end
Batches = Iterator[tuple[torch.Tensor, torch.Tensor]]
# Of logits N×K and of what a batch holds beside its images
Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def classification_loss(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of one class an image, labels int64 N; of several labels an image, float N×K, binary for each of them."""
    return (
        F.binary_cross_entropy_with_logits(logits, labels)
        if labels.is_floating_point()
        else F.cross_entropy(logits, labels)
    )


def train_classifier(
    model: nn.Module,
    batches: Batches,
    steps: int,
    learning_rate: float,
    weight_decay: float = 0.01,
    val: tuple[Split, torch.Tensor] | None = None,
    bfloat16: bool = False,
    loss: Loss = classification_loss,
    val_loss: Loss = classification_loss,
) -> tuple[int, float]:
    """Train `model` in place, on its own device, by AdamW with a one-cycle learning rate.

    Args:
        val: images, and what is to be learned of them: ten times in a training their loss is measured, and the weights with the
            lowest one are kept at the end.
        loss: what is trained.
        val_loss: by which validation counts.

    Returns:
        the step whose weights were kept, and their validation loss; the last step and no number without `val`.
    """
    device = next(model.parameters()).device
    layout = _layout(model)
    model.to(memory_format=layout)
    optimizer = torch.optim.AdamW(model.parameters(), learning_rate, weight_decay=weight_decay, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps)
    check_every = max(1, steps // CHECKS)
    best, best_step, best_loss = copy.deepcopy(model.state_dict()), 0, WORST_LOSS
    for step in range(1, steps + 1):
        model.train()
        images, labels = next(batches)
        with torch.autocast(device.type, torch.bfloat16, enabled=bfloat16):
            logits = model(images.to(device).contiguous(memory_format=layout))
        optimizer.zero_grad()
        loss(logits.float(), labels.to(device)).backward()
        optimizer.step()
        schedule.step()
        if val is not None and (step % check_every == 0 or step == steps):
            measured = float(val_loss(predicted_logits(model, val[0]), val[1]))
            if measured < best_loss:
                best, best_step, best_loss = copy.deepcopy(model.state_dict()), step, measured
    if val is None:
        return steps, float("nan")
    model.load_state_dict(best)
    return best_step, best_loss


@torch.no_grad()
def predicted_logits(model: nn.Module, split: Split) -> torch.Tensor:
    """Logits float32 N×K, on the CPU."""
    device = next(model.parameters()).device
    model.eval()
    chunks = (to_model_range(chunk).to(device, memory_format=_layout(model)) for chunk in split.chunks(256))
    return torch.cat([model(chunk).float().cpu() for chunk in chunks])


def _layout(model: nn.Module) -> torch.memory_format:
    """A third faster on CPUs than the usual one."""
    volumes = any(isinstance(layer, nn.Conv3d) for layer in model.modules())
    return torch.channels_last_3d if volumes else torch.channels_last
