"""A pipeline's network as one ONNX file, and its sampler as a table: what another program needs to make the same images."""

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import UNet2DModel

from medmnist_diffusion.diffusion.sampling import load_pipeline, own_steps
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import atomic_file
from medmnist_diffusion.generated import check_new
from medmnist_diffusion.pipelines import ClassConditionalDDPMPipeline, label_vectors, label_width

TOLERANCE = 1e-3  # of the network's output, which is about −3 … 3
METADATA = "medmnist_diffusion"  # the key of the file's metadata that holds `how_to_sample` as JSON


class Network(torch.nn.Module):
    """The UNet with labels as a caller knows them: ids int64 N, or of several labels an image whether each is there, float
    N×(K+1), the last of them for *unknown*."""

    def __init__(self, pipe: ClassConditionalDDPMPipeline) -> None:
        super().__init__()
        self.unet: UNet2DModel = pipe.unet.float().eval()
        self.width = label_width(pipe.unet.config.block_out_channels) if pipe.multi_label else None

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, class_labels: torch.Tensor) -> torch.Tensor:
        labels = class_labels if self.width is None else label_vectors(class_labels, self.width)
        prediction: torch.Tensor = self.unet(sample, timestep, class_labels=labels).sample
        return prediction


def export_onnx(pipeline: str | Path, output: str | Path) -> Path:
    """Write the network of a pipeline, by its folder or name, as ONNX: a new file, as `write_onnx` makes it.

    Raises:
        UserError: if the file exists, or it cannot be made.
    """
    check_new(Path(output))
    write_onnx(load_pipeline(pipeline), Path(output))
    return Path(output)


def write_onnx(pipe: ClassConditionalDDPMPipeline, output: Path) -> None:
    """Write a pipeline's network as ONNX, checked by onnxruntime against torch.

    Inputs, with any number N of images: `sample` float N×C×H×W (images as the network sees them), `timestep` int64 N (0 … 999),
    `class_labels` as in `Network`. Output: `prediction` float N×C×H×W, of what `prediction_type` names. The file's metadata hold
    `how_to_sample` as JSON under the key `medmnist_diffusion`. Weights that were rounded to half precision are
    kept so; all are computed with in single precision.

    Raises:
        UserError: if the packages of the extra `onnx` are missing, or the two disagree by more than 1e-3; nothing is written then.
    """
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401  torch's exporter needs it
    except ImportError as error:
        raise UserError(f"ONNX needs {error.name}. Install it: pip install 'medmnist-diffusion[onnx]'.") from None
    network, inputs = Network(pipe), _example(pipe, count=2)
    batch = torch.export.Dim("batch", min=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own parts
        program: Any = torch.onnx.export(
            network, tuple(inputs.values()), input_names=list(inputs), output_names=["prediction"],
            dynamic_shapes=[{0: batch}] * len(inputs), dynamo=True, verbose=False,
        )  # fmt: skip
    model = program.model_proto
    _forget_where_it_was_made(model)
    _store_halves(model)
    model.metadata_props.add(key=METADATA, value=json.dumps(how_to_sample(pipe)))
    with atomic_file(output) as temporary:
        onnx.save(model, temporary)
        session = onnxruntime.InferenceSession(temporary, providers=["CPUExecutionProvider"])
        for count in (1, 3):
            example = _example(pipe, count)
            with torch.no_grad():
                wanted = network(*example.values()).numpy()
            (got,) = session.run(None, {name: value.numpy() for name, value in example.items()})
            off = float(np.abs(got - wanted).max())
            if not off <= TOLERANCE:
                raise UserError(
                    f"the ONNX network differs from torch's by {off:.2g}; up to {TOLERANCE:g} is rounding."
                )


def how_to_sample(pipe: ClassConditionalDDPMPipeline) -> dict[str, Any]:
    """All that is needed beside the network to make images in the pipeline's own steps: JSON-ready."""
    return {**description(pipe), **sampler_table(pipe, own_steps(pipe))}


def description(pipe: ClassConditionalDDPMPipeline) -> dict[str, Any]:
    """What is needed beside the network and a sampler to make images: JSON-ready."""
    encoder = pipe.image_encoder
    return {
        "labels": [pipe.id2label[label] for label in sorted(pipe.id2label)],
        "multi_label": pipe.multi_label,
        "null_label": None if pipe.distilled_steps else pipe.config.null_label,  # for guidance
        "distilled": pipe.distilled_steps is not None,
        "image_shape": list(encoder.image_shape),
        "encoded_shape": list(encoder.encoded_shape),
        "pixel_unshuffle": encoder.factor,
        "padding": list(encoder.padding),
        "prediction_type": pipe.scheduler.config.prediction_type,
        "guidance_scale": pipe.config.default_guidance_scale,
        "white_from": pipe.config.white_from if pipe.config.black_and_white else None,
    }


def sampler_table(pipe: ClassConditionalDDPMPipeline, num_inference_steps: int) -> dict[str, Any]:
    """A deterministic sampler's steps as sums, so that no solver needs to be written anew.

    Every step of a linear multistep solver is a weighted sum of the noise it began with and of the network's predictions so far.
    The weights are found by giving the scheduler unit vectors in their place.

    Returns:
        timesteps: where the network is asked.
        weights: a row a step: of the noise, then of the predictions 0 … k; the row's sum is the image after step k.
    """
    scheduler: Any = copy.deepcopy(pipe.scheduler)
    if pipe.distilled_steps:
        scheduler.set_timesteps(num_inference_steps)
    else:
        scheduler.set_timesteps(timesteps=pipe.fast_timesteps(num_inference_steps))
    units = torch.eye(num_inference_steps + 1)  # the noise, and each prediction
    state, rows = units[0] * scheduler.init_noise_sigma, []
    for step, timestep in enumerate(scheduler.timesteps):
        state = scheduler.step(units[step + 1], int(timestep), state).prev_sample
        rows.append(state[: step + 2].tolist())
    return {"timesteps": [int(one) for one in scheduler.timesteps], "weights": rows}


def _example(pipe: ClassConditionalDDPMPipeline, count: int) -> dict[str, torch.Tensor]:
    """Inputs of the network, with other labels and noise levels for each image."""
    generator = torch.Generator().manual_seed(count)
    classes, levels = len(pipe.id2label), pipe.scheduler.config.num_train_timesteps
    labels = torch.randint(classes, (count,), generator=generator)
    if pipe.multi_label:
        labels = torch.randint(2, (count, classes + 1), generator=generator).float()
    return {
        "sample": torch.randn((count, *pipe.image_encoder.encoded_shape), generator=generator),
        "timestep": torch.randint(levels, (count,), generator=generator),
        "class_labels": labels,
    }


def _forget_where_it_was_made(model: Any) -> None:
    """The exporter notes beside every node the lines of code that it came from, with paths of this machine."""
    for part in (*model.graph.node, *model.graph.value_info, *model.graph.input, *model.graph.output, model.graph):
        del part.metadata_props[:]
        part.doc_string = ""


def _store_halves(model: Any) -> None:
    """Keep weights that half precision holds exactly in half the bytes, with a Cast before their use: the numbers are the same."""
    import onnx
    from onnx import numpy_helper

    casts = []
    for weight in model.graph.initializer:
        values = numpy_helper.to_array(weight)
        halves = values.astype(np.float16) if values.dtype == np.float32 and values.size > 1000 else values
        if halves.dtype == np.float16 and (halves.astype(np.float32) == values).all():
            name = weight.name
            weight.CopyFrom(numpy_helper.from_array(halves, f"{name}_half"))
            casts.append(onnx.helper.make_node("Cast", [f"{name}_half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
