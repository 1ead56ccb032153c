"""The model card: drawn from the files in the pipeline folder, never from memory."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import UndefinedError
from safetensors import SafetensorError, safe_open

import medmnist_diffusion.model_cards
from medmnist_diffusion.artifacts import DatasetDescription, Metrics, TrainingSummary, same_images
from medmnist_diffusion.choices import OPEN_LICENSES
from medmnist_diffusion.data.audit import findings
from medmnist_diffusion.data.conditioning import Conditioning
from medmnist_diffusion.data.dataset import size_in_words
from medmnist_diffusion.diffusion.folder_check import MODEL_INDEX, WEIGHTS
from medmnist_diffusion.errors import UserError, one_line
from medmnist_diffusion.files import file_hash, write_text
from medmnist_diffusion.metrics.table import figure_name, record_label
from medmnist_diffusion.provenance import saw_no_patients, seen_elsewhere, too_good
from medmnist_diffusion.publish.copies import copying_sentences
from medmnist_diffusion.publish.figures import class_rows, overall_rows
from medmnist_diffusion.publish.gallery import gallery_metadata
from medmnist_diffusion.publish.licences import citations_of, license_of
from medmnist_diffusion.publish.markdown import escaped
from medmnist_diffusion.publish.verdict import LIGHTS, SHOWN_LIGHTS, answers

TEMPLATE = Path(medmnist_diffusion.model_cards.__path__[0]) / "template.md"
# What files of another make lead to.
UNFIT = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, SafetensorError)


def write_card(folder: Path, load_from: str | None = None) -> Path:
    """Write README.md into a pipeline folder from its summary, configuration and metrics.json (if it was evaluated).

    Args:
        folder: what training wrote.
        load_from: what the loading snippet names, a path or a Hub id; default "path/to/this/folder".

    Raises:
        UserError: if the folder lacks what a card needs, or metrics.json belongs to another data set or other weights.

    Example:
        >>> md.write_card(pipeline).as_posix()
        'runs/x/pipeline/README.md'
    """
    summary = TrainingSummary.of(folder)
    metrics = measured_metrics(folder, summary)
    try:
        card = ModelCard.from_template(
            _metadata(summary, metrics, gallery_metadata(folder, load_from, _shown_names(summary.dataset))),
            template_path=str(TEMPLATE),
            **_values(folder, summary, metrics, load_from),
        )
    except (*UNFIT, yaml.YAMLError, UndefinedError) as error:
        raise UserError(
            f"no card can be made of what lies in {folder} ({type(error).__name__}: {one_line(error, 160)}). "
            "Get the folder that training wrote again."
        ) from None
    write_text(folder / "README.md", str(card))
    return folder / "README.md"


def measured_metrics(folder: Path, summary: TrainingSummary) -> Metrics | None:
    """A pipeline's metrics.json; None if it was not evaluated.

    Raises:
        UserError: if it belongs to another data set or other weights.
    """
    if not (folder / "metrics.json").is_file():
        return None
    metrics = Metrics.read(folder / "metrics.json")
    if not same_images(metrics.dataset, summary.dataset):
        raise UserError(
            f"{folder / 'metrics.json'} was measured on {metrics.dataset['name']}, other data than this pipeline was trained "
            "on. Evaluate again with the training data set."
        )
    if metrics.pipeline.get("weights_sha256") != file_hash(folder / WEIGHTS):
        raise UserError(f"{folder / 'metrics.json'} was measured on other weights. Evaluate this pipeline again.")
    return metrics


def _metadata(
    summary: TrainingSummary, metrics: Metrics | None, gallery: dict[str, Any] | None = None
) -> ModelCardData:
    """The YAML block: what the Hub indexes. Only measured figures go into the model index."""
    dataset = summary.dataset
    results = [
        EvalResult(
            task_type="unconditional-image-generation",
            task_name="class-conditional image generation",
            dataset_type=_hub_name(dataset.name),
            dataset_name=dataset.name,
            dataset_split="train",
            metric_type="fid"
            if (record.extractor, record.name, record.dimension) == ("inception", "frechet_distance", 2048)
            else record.name,
            metric_name=record_label(record),
            metric_value=round(record.value, 6),
        )
        for record in (metrics.metrics if metrics else [])
        if record.class_ is None
    ]
    license_name = license_of(summary)
    license_id = OPEN_LICENSES.get(license_name)
    base = next((one.name for one in summary.bases[:1] if "/" in one.name), None)  # a Hub id: the Hub links it
    return ModelCardData(
        library_name="diffusers",
        pipeline_tag="unconditional-image-generation",
        license=license_id or "other",
        license_name=None if license_id else license_name,
        tags=[
            "medical",
            "class-conditional",
            "diffusion",
            "ddpm",
            "data-augmentation",
            "research-only",
            _hub_name(dataset.name),
        ],
        # Ids of the Hub, where MedMNIST has none of its own.
        datasets=[dataset.name] if dataset.source == "hub" else None,
        model_name=_title(summary),
        base_model=base,
        base_model_relation="finetune" if base else None,
        eval_results=results or None,
        **(gallery or {}),
    )


def _hub_name(name: str) -> str:
    """A data set's name in the letters that the Hub takes: it refuses a whole upload for a blank in one."""
    return re.sub(r"[^A-Za-z0-9_./-]+", "-", name).strip("-") or "data"


def _title(summary: TrainingSummary) -> str:
    dataset, distilled = summary.dataset, summary.distilled
    kind = "ddpm" if distilled is None else f"ddim-{distilled.num_inference_steps}-steps"
    return f"{dataset.name}-{'x'.join(map(str, dict.fromkeys(dataset.full_shape[:-1])))}-{kind}"


def _shown_names(dataset: DatasetDescription) -> list[str]:
    """Of the classes; of several labels "no label" comes before them."""
    return Conditioning({int(label): name for label, name in dataset.id2label.items()}, dataset.task).shown_names


def _example(dataset: DatasetDescription) -> str:
    """What the loading snippet asks for: a class, or of several labels an image the last two together."""
    names = list(dataset.id2label.values())
    return json.dumps(names[-2:] if dataset.task == "multi-label" else names[-1])


def which_weights(summary: TrainingSummary) -> str:
    """In a sentence or two, which weights a pipeline has, and why not the latest."""
    if summary.last_step is None:
        words = "lowest held-out loss" if summary.weights != "latest" else "latest step"
        sentence = f"The pipeline has the weights of its run's {words}, {summary.step:,}."
        if summary.held_out_seen:
            sentence += (
                " Nearly all val images stand in train, or have a twin there: their loss cannot tell whether the model "
                "memorizes."
            )
        return sentence
    risen = (summary.last_val_loss or 0.0) / (summary.val_loss or 1.0) - 1
    stopped = " and training stopped there" if summary.stopped_early else ""
    return (
        f"The pipeline has the weights of step {summary.step:,}: after it the model began to memorize. By step "
        f"{summary.last_step:,} the held-out loss had risen by {risen:.0%}{stopped}."
    )


def _half_precision(weights: Path) -> bool:
    """Whether the weights are kept as float16."""
    with safe_open(weights, framework="pt") as file:
        return {file.get_slice(name).get_dtype() for name in file.keys()} == {"F16"}  # noqa: SIM118


def _values(folder: Path, summary: TrainingSummary, metrics: Metrics | None, load_from: str | None) -> dict[str, Any]:
    dataset = escaped(summary.dataset.model_dump())
    config = yaml.safe_load((folder / "training_config.yaml").read_text(encoding="utf-8"))
    index = json.loads((folder / MODEL_INDEX).read_text(encoding="utf-8"))
    names = list(dataset["id2label"].values())
    others = seen_elsewhere(summary.bases, summary.dataset)
    return {
        "title": escaped(_title(summary)),
        "dataset": dataset,
        "saw_no_patients": saw_no_patients(summary),
        "too_good": escaped(too_good(others, summary.dataset.name)) if others else None,
        "citations": escaped(citations_of(summary)),
        "size": size_in_words(summary.dataset.full_shape),
        "is_volume": len(summary.dataset.full_shape) > 3,
        "multi_label": summary.dataset.task == "multi-label",
        "black_and_white": index.get("black_and_white", False),
        "white_from": round(255 * index.get("white_from", 0.5)),
        "class_names": ", ".join(names),
        "id2label": ", ".join(f"{label} = {name}" for label, name in dataset["id2label"].items()),
        "example_label": _example(summary.dataset),
        "load_from": load_from or "path/to/this/folder",
        "which_weights": which_weights(summary),
        "half_precision": _half_precision(folder / WEIGHTS),
        "ema": "; they are averaged over time (EMA)" if config["use_ema"] else "",
        "step": f"{summary.step:,}",
        "images_seen": f"{summary.images_seen:,}",
        "minutes": f"{summary.seconds / 60:.1f}",
        "processes": summary.processes,
        "val_loss": "not measured" if summary.val_loss is None else f"{summary.val_loss:.4f}",
        "parameters": f"{summary.parameters:,}",
        "gflop": f"{summary.training_gflop_per_image:.2f}",
        "training_images": f"{summary.training_images:,}",
        "dropped_leaks": summary.dropped_leaks,
        "training_config": yaml.safe_dump(config, sort_keys=False).strip().replace("```", "'''"),
        "has_comparison": (folder / "real_beside_generated.png").is_file(),
        "has_loss": (folder / "loss.png").is_file(),
        "findings": escaped(findings(summary.audit)),
        "changes": escaped(summary.changes),
        "unlabeled": escaped(summary.unlabeled.model_dump()) if summary.unlabeled else None,
        "bases": [escaped(base.model_dump()) for base in summary.bases],
        "extensions": escaped(summary.extensions),
        "privacy": summary.privacy.model_dump() if summary.privacy else None,
        "distilled": escaped(summary.distilled.model_dump()) if summary.distilled else None,
        "metrics": _metric_values(metrics, folder) if metrics else None,
    }


def _metric_values(metrics: Metrics, folder: Path) -> dict[str, Any]:
    overall = [record for record in metrics.metrics if record.class_ is None]
    sources: dict[str, dict[str, None]] = {}
    for record in overall:
        sources.setdefault(record.floor_source, {})[f"{figure_name(record.name)} ({record.extractor})"] = None
    return {
        "answers": [escaped({**asdict(one), "light": SHOWN_LIGHTS[one.light]}) for one in answers(metrics)],
        "lights": LIGHTS,
        "rows": overall_rows(metrics),
        "class_rows": [escaped(row) for row in class_rows(metrics)],
        "floor_sources": {source: ", ".join(labels) for source, labels in sources.items()},
        "sampling": metrics.sampling,
        "refused": escaped(metrics.refused),
        "has_fid": any(record.extractor == "inception" for record in overall),
        "has_pictures": (folder / "ratios.png").is_file() and (folder / "closest_generated.png").is_file(),
        "has_pairs": (folder / "closest_pairs.png").is_file(),
        "memorization": copying_sentences(metrics),
    }
