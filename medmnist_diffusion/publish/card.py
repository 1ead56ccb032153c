"""The model card: drawn from the files in the pipeline folder, never from memory."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NotRequired

import yaml
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from jinja2 import UndefinedError
from pydantic import TypeAdapter
from typing_extensions import TypedDict

import medmnist_diffusion.model_cards
from medmnist_diffusion.arguments import CommandParser
from medmnist_diffusion.artifacts import MetricRecord, Metrics
from medmnist_diffusion.data.audit import findings
from medmnist_diffusion.diffusion.folder_check import WEIGHTS, check_folder
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import file_hash, write_text
from medmnist_diffusion.metrics.intervals import holm
from medmnist_diffusion.metrics.table import figure_name, record_label

TEMPLATE = Path(medmnist_diffusion.model_cards.__path__[0]) / "template.md"
SUMMARY = "training_summary.json"
_ESCAPED = str.maketrans({"<": "&lt;", ">": "&gt;", "|": "\\|", "`": "'", "[": "\\[", "]": "\\]"})
UNFIT = (OSError, ValueError, KeyError, TypeError, AttributeError, IndexError)  # what files of another make lead to
UNKNOWN_LICENSE = "unknown"  # of a data set whose source gives none
COPYING = 0.01  # p-value below which the card says that the model copies
OPEN_LICENSES = {"CC BY 4.0": "cc-by-4.0", "CC BY-NC 4.0": "cc-by-nc-4.0", "CC0 1.0": "cc0-1.0"}


class _Described(TypedDict):
    """What a data set's description holds (data/audit.py, `describe`)."""

    name: str
    content_hash: str
    image_size: int
    channels: int
    id2label: dict[str, str]
    license: str
    citation: str
    description: str
    synthetic: bool
    source: str
    notes: list[str]


class _Summary(TypedDict):
    """training_summary.json, as training/train.py writes it."""

    dataset: _Described
    audit: dict[str, Any]
    parameters: int
    training_gflop_per_image: float
    training_images: int
    dropped_leaks: int
    processes: int
    weights: str
    step: int
    seconds: float
    images_seen: int
    val_loss: float | None
    changes: NotRequired[list[str]]
    extensions: NotRequired[list[str]]


_SUMMARY = TypeAdapter(_Summary)


def plain(value: Any) -> Any:
    """A text of somebody else as one line of a card: no markup, no headings. Of lists and dictionaries every text."""
    if isinstance(value, str):
        return " ".join(value.split()).translate(_ESCAPED)
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def write_card(folder: Path, load_from: str | None = None) -> Path:
    """Write README.md into a pipeline folder from its summary, configuration and metrics.json (if it was evaluated).

    Args:
        folder: what training wrote.
        load_from: what the loading snippet names, a path or a Hub id; default "path/to/this/folder".

    Raises:
        UserError: if the folder lacks what a card needs, or metrics.json belongs to another data set or other weights.
    """
    summary = read_summary(folder)
    metrics = Metrics.read(folder / "metrics.json") if (folder / "metrics.json").is_file() else None
    if metrics and metrics.dataset["content_hash"] != summary["dataset"]["content_hash"]:
        raise UserError(
            f"{folder / 'metrics.json'} was measured on {metrics.dataset['name']}, other data than this pipeline was trained "
            "on. Evaluate again with the training data set."
        )
    if metrics and metrics.pipeline.get("weights_sha256") != file_hash(folder / WEIGHTS):
        raise UserError(f"{folder / 'metrics.json'} was measured on other weights. Evaluate this pipeline again.")
    try:
        card = ModelCard.from_template(
            _metadata(summary, metrics),
            template_path=str(TEMPLATE),
            **_values(folder, summary, metrics, load_from),
        )
    except (*UNFIT, yaml.YAMLError, UndefinedError) as error:
        raise UserError(
            f"no card can be made of what lies in {folder} ({type(error).__name__}: {' '.join(str(error).split())[:160]}). "
            "Get the folder that training wrote again."
        ) from None
    write_text(folder / "README.md", str(card))
    return folder / "README.md"


def read_summary(folder: Path) -> dict[str, Any]:
    """training_summary.json; a UserError if the folder has none."""
    path = folder / SUMMARY
    try:
        return dict(_SUMMARY.validate_json(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, RecursionError):
        raise UserError(
            f"{path} is missing, or no training summary. Give a pipeline folder that training wrote."
        ) from None


def _metadata(summary: dict[str, Any], metrics: Metrics | None) -> ModelCardData:
    """The YAML block: what the Hub indexes. Only measured figures go into the model index."""
    dataset = summary["dataset"]
    results = [
        EvalResult(
            task_type="unconditional-image-generation",
            task_name="class-conditional image generation",
            dataset_type=dataset["name"],
            dataset_name=dataset["name"],
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
    license_id = OPEN_LICENSES.get(dataset["license"])
    return ModelCardData(
        library_name="diffusers",
        pipeline_tag="unconditional-image-generation",
        license=license_id or "other",
        license_name=None if license_id else dataset["license"],
        tags=[
            "medical",
            "class-conditional",
            "diffusion",
            "ddpm",
            "data-augmentation",
            "research-only",
            dataset["name"],
        ],
        datasets={"medmnist": ["medmnist-v2"], "hub": [dataset["name"]]}.get(dataset["source"]),
        model_name=_title(dataset),
        eval_results=results or None,
    )


def _title(dataset: dict[str, Any]) -> str:
    return f"{dataset['name']}-{dataset['image_size']}-ddpm"


def _values(folder: Path, summary: dict[str, Any], metrics: Metrics | None, load_from: str | None) -> dict[str, Any]:
    dataset = plain(summary["dataset"])
    config = yaml.safe_load((folder / "training_config.yaml").read_text(encoding="utf-8"))
    names = list(dataset["id2label"].values())
    return {
        "title": _title(dataset),
        "dataset": dataset,
        "colour": "grey" if dataset["channels"] == 1 else "RGB",
        "class_names": ", ".join(names),
        "id2label": ", ".join(f"{label} = {name}" for label, name in dataset["id2label"].items()),
        "example_label": json.dumps(list(summary["dataset"]["id2label"].values())[-1]),
        "load_from": load_from or "path/to/this/folder",
        "weights": summary["weights"],
        "ema": " (averaged over time, EMA)" if config["use_ema"] else "",
        "step": f"{summary['step']:,}",
        "images_seen": f"{summary['images_seen']:,}",
        "minutes": f"{summary['seconds'] / 60:.1f}",
        "processes": summary["processes"],
        "val_loss": "not measured" if summary["val_loss"] is None else f"{summary['val_loss']:.4f}",
        "parameters": f"{summary['parameters']:,}",
        "gflop": f"{summary['training_gflop_per_image']:.2f}",
        "training_images": f"{summary['training_images']:,}",
        "dropped_leaks": summary["dropped_leaks"],
        "training_config": yaml.safe_dump(config, sort_keys=False).strip().replace("```", "'''"),
        "has_loss": (folder / "loss.png").is_file(),
        "findings": plain(findings(summary["audit"])),
        "changes": plain(summary.get("changes", [])),
        "extensions": plain(summary.get("extensions", [])),
        "metrics": _metric_values(metrics, folder) if metrics else None,
    }


def _metric_values(metrics: Metrics, folder: Path) -> dict[str, Any]:
    overall = [record for record in metrics.metrics if record.class_ is None]
    sources: dict[str, dict[str, None]] = {}
    for record in overall:
        sources.setdefault(record.floor_source, {})[f"{figure_name(record.name)} ({record.extractor})"] = None
    return {
        "rows": overall_rows(metrics),
        "class_rows": [_row(record, metrics) for record in metrics.metrics if record.class_ is not None],
        "floor_sources": {source: ", ".join(labels) for source, labels in sources.items()},
        "sampling": metrics.sampling,
        "refused": metrics.refused,
        "has_fid": any(record.extractor == "inception" for record in overall),
        "has_pictures": (folder / "ratios.png").is_file() and (folder / "closest_generated.png").is_file(),
        "has_pairs": (folder / "closest_pairs.png").is_file(),
        "memorization": memorization(metrics),
    }


def overall_rows(metrics: Metrics) -> list[dict[str, Any]]:
    """The figures of all classes together, as a card shows them."""
    return [_row(record, metrics) for record in metrics.metrics if record.class_ is None]


def _row(record: MetricRecord, metrics: Metrics) -> dict[str, Any]:
    interval = "–" if record.interval is None else f"{record.interval[0]:.3g} … {record.interval[1]:.3g}"
    return {
        "label": record_label(record),
        "class_name": "" if record.class_ is None else metrics.dataset["id2label"][str(record.class_)],
        "value": f"{record.value:.3g}",
        "interval": interval,
        "floor": f"{record.floor:.3g}",
        "against_floor": _against_floor(record),
        "n_real": record.n_real,
        "n_generated": record.n_generated,
    }


def _against_floor(record: MetricRecord) -> str:
    """`÷: 2.1 (1.3 … 3.4)`, or for unbiased figures `−: 0.1 (-0.1 … 0.3)`, with the 95 % interval."""
    sign, value, interval = ("÷", record.ratio, record.ratio_interval)
    if record.difference is not None:
        sign, value, interval = ("−", record.difference, record.difference_interval)
    if value is None:
        return ""
    return f"{sign}: {value:.2g}" + ("" if interval is None else f" ({interval[0]:.2g} … {interval[1]:.2g})")


def memorization(metrics: Metrics) -> str:
    """The shares of copies, and whether any of them, overall or of a class, is more than chance: after Holm's correction."""
    shares, flagged = copying(metrics)
    if not shares:
        return "**Not checked**: " + ("; ".join(metrics.refused) or "it was not measured") + "."
    sentences = [
        f"{record.value:.2%} of the generated images lie nearer to a training image ({record.extractor}) than "
        f"{1 - record.floor:.1%} of fresh real images do (p = {record.p_value:.2g})."
        for record in shares
        if record.class_ is None
    ]
    if flagged:
        names = metrics.dataset["id2label"]
        where = ", ".join(
            f"{record.extractor}, {'all classes' if record.class_ is None else names[str(record.class_)]}"
            for record in flagged
        )
        sentences.append(
            f"**That is more than chance ({where}): this model reproduces training images.** Do not publish its images."
        )
    else:
        sentences.append(
            f"No sign of copying by these measures ({len(shares)} tests over spaces and classes, corrected after Holm); the pixel "
            "one counts mirrored and slightly shifted copies."
        )
    return " ".join(sentences)


def check_license(recorded: str, given: str | None) -> None:
    """Whether data of a recorded licence permit publication; `given` counts only where none is recorded.

    Raises:
        UserError: if not, or if the two contradict each other.
    """
    if given not in (None, recorded) and recorded != UNKNOWN_LICENSE:
        raise UserError(f"the training data's licence is {recorded!r}: --data_license {given!r} cannot replace it.")
    if (given or recorded) not in OPEN_LICENSES:
        raise UserError(
            f"the licence of the training data is {given or recorded!r}. Publishing needs one that permits it "
            f"({', '.join(OPEN_LICENSES)}): for data of your own say by --data_license which you give them."
        )


def copying(metrics: Metrics) -> tuple[list[MetricRecord], list[MetricRecord]]:
    """The shares of copies that were measured, and those of them that are more than chance, after Holm's correction."""
    shares = [record for record in metrics.metrics if record.name == "memorized_share"]
    corrected = holm([1.0 if record.p_value is None else record.p_value for record in shares])
    return shares, [record for record, p_value in zip(shares, corrected, strict=True) if p_value < COPYING]


def main(argv: Sequence[str]) -> None:
    parser = CommandParser(
        prog="medmnist-diffusion card", description="Write the model card (README.md) into a pipeline folder."
    )
    parser.add_argument("pipeline", type=Path, help="a pipeline folder that training wrote")
    parser.add_argument("--load_from", help="what the loading snippet names: a path or a Hub id")
    args = parser.parse_args(argv)
    check_folder(args.pipeline)
    print(f"Written to {write_card(args.pipeline, args.load_from)}")
