"""A start from a trained network: its weights in a new one, for other classes, colours, sizes or tasks.

All layers within are taken over as they are. The first and the last one see pixels, and the encoder may pack other pixels into
their channels now: another number of colours, slices, or pixels a cell. They are taken over through a linear map, as if the base
saw the new images in its own colours and at its own resolution. Classes of the same name keep what the base learned of them; a new
class starts at random, as in a training from scratch. (If all started as "unknown", the network would first have to learn that
they differ. With few images the weights of the lowest held-out loss come before that: the arm "base, classes alike at first" of
benchmarks/finetune.py.)
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from diffusers import UNet2DModel

from medmnist_diffusion.data.conditioning import Conditioning, same_name
from medmnist_diffusion.diffusion.unet import CLASSES
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.pipelines import PixelUnshuffle, label_vectors

FIRST, LAST, LAST_BIAS = "conv_in.weight", "conv_out.weight", "conv_out.bias"
TIME_OUT, TIME_BIAS = "time_embedding.linear_2.", "time_embedding.linear_2.bias"
SHAPE = ("block_out_channels", "layers_per_block", "down_block_types", "up_block_types", "add_attention")


@dataclass(frozen=True)
class Ends:
    """A network, what stands between it and images, and what it can be asked for."""

    network: UNet2DModel
    encoder: PixelUnshuffle
    conditioning: Conditioning


def take_over(new: Ends, base: Ends) -> list[str]:
    """Put the base's weights into a new network, in place; returns in sentences what was made anew.

    Raises:
        UserError: naming what differs, if the networks have other layers, or one is of volumes and the other of images.
    """
    _check_alike(new, base)
    theirs, said = base.network.state_dict(), list[str]()
    weights = {
        name: weight.clone() for name, weight in theirs.items() if name not in (FIRST, LAST, LAST_BIAS, CLASSES)
    }
    seen, made = channel_map(new.encoder, base.encoder), channel_map(base.encoder, new.encoder)
    weights[FIRST] = torch.einsum("obhw,bn->onhw", theirs[FIRST], seen)
    weights[LAST] = torch.einsum("nb,bihw->nihw", made, theirs[LAST])
    weights[LAST_BIAS] = made @ theirs[LAST_BIAS]
    if seen.shape[0] != seen.shape[1] or not torch.equal(seen, torch.eye(len(seen))):
        said.append("The first and the last layer were adapted to other colours or another size.")
    if CLASSES in new.network.state_dict():
        drawn = new.network.state_dict()[CLASSES]
        count, width = base.conditioning.num_classes + 1, drawn.shape[1]
        rows = theirs[CLASSES] if CLASSES in theirs else label_vectors(torch.eye(count), width)
        made_rows, own = _class_rows(new.conditioning, base.conditioning, rows, drawn * rows.std())
        weights[CLASSES] = torch.cat(
            [made_rows, drawn[len(made_rows) :] * rows.std()]
        )  # those of varied images at random
        if own:
            said.append(f"Classes that the base does not know start at random: {', '.join(own)}.")
    elif CLASSES in theirs:
        said.append("The base was asked for one class; labels are new to the network.")
    else:
        order, own = _label_places(new.conditioning, base.conditioning, len(theirs[TIME_BIAS]))
        for name in weights:
            if name.startswith(TIME_OUT):
                weights[name] = weights[name][order]
            elif name.endswith("time_emb_proj.weight"):
                weights[name] = weights[name][:, order]
        if own:
            said.append(f"Labels that the base does not know start at random: {', '.join(own)}.")
    new.network.load_state_dict(weights)
    return said


def channel_map(source: PixelUnshuffle, target: PixelUnshuffle) -> torch.Tensor:
    """float32 T×S: how a cell of the source's network, S channels, looks in the channels T of the target's.

    Colours become their mean, grey becomes equal colours; along each side, cells are averaged or repeated by how they overlap.
    """
    colours, wanted = source.image_shape[0], target.image_shape[0]
    parts = [torch.full((wanted, colours), 1 / colours) if colours != wanted else torch.eye(colours)]
    if len(source.image_shape) > 3:
        parts.append(_overlaps(source.image_shape[1], target.image_shape[1]))
    parts += [_overlaps(source.factor, target.factor)] * 2
    whole = parts[0]
    for part in parts[1:]:
        whole = torch.kron(whole, part)
    return whole


def _overlaps(source: int, target: int) -> torch.Tensor:
    """float32 T×S: how much of each of T equal parts of a side lies in each of S equal parts; rows sum to 1."""
    starts, others = torch.arange(target)[:, None] / target, torch.arange(source)[None] / source
    shared = torch.minimum(starts + 1 / target, others + 1 / source) - torch.maximum(starts, others)
    return shared.clamp(min=0) * target


def _class_rows(
    new: Conditioning, base: Conditioning, known: torch.Tensor, drawn: torch.Tensor
) -> tuple[torch.Tensor, list[str]]:
    """The class embedding's rows, K + 1 with "unknown" at the end; and the names of those that the base does not know.

    Args:
        known: the base's own rows.
        drawn: a row at random for each.
    """
    theirs = {same_name(name): row for name, row in zip(base.names, known, strict=False)}
    unknown = known[base.num_classes] if len(known) > base.num_classes else known.mean(0)
    rows = [theirs.get(same_name(name), row) for name, row in zip(new.names, drawn, strict=False)]
    return torch.stack([*rows, unknown]), [name for name in new.names if same_name(name) not in theirs]


def _label_places(new: Conditioning, base: Conditioning, width: int) -> tuple[list[int], list[str]]:
    """Which of the base's `width` numbers of the time embedding each of the new network's is; and the names of the labels that the
    base does not know.

    Label i is added to number i, "unknown" to the one after the last label's. What reads the embedding can be put in another order
    with it. So a label of the same name gets the base's place, and a new one a place at which the base never saw a label.
    """
    theirs = {same_name(name): place for place, name in enumerate(base.names)}
    known = [theirs.pop(same_name(name), None) for name in new.names]
    places = [*known, base.num_classes]
    free = [place for place in (*range(base.num_classes + 1, width), *range(base.num_classes)) if place not in places]
    order = [free.pop(0) if place is None else place for place in places]
    return order + free, [name for name, place in zip(new.names, known, strict=True) if place is None]


def _check_alike(new: Ends, base: Ends) -> None:
    configs: list[Mapping[str, object]] = [one.network.config for one in (new, base)]
    for setting in SHAPE:
        ours, theirs = (_plain(config[setting]) for config in configs)
        if ours != theirs:
            raise UserError(
                f"the base has {setting} {theirs}, and this training {ours}. Leave it to the base, or train anew."
            )
    if len(new.encoder.image_shape) != len(base.encoder.image_shape):
        kinds = ["volumes" if len(one.encoder.image_shape) > 3 else "images" for one in (base, new)]
        raise UserError(f"the base makes {kinds[0]}, and this data set holds {kinds[1]}. Train anew.")


def _plain(value: object) -> object:
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value
