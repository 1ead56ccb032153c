"""The pipelines that come with the package, each with its key figures: what `medmnist-diffusion models` prints."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from medmnist_diffusion.artifacts import MetricRecord, Metrics, TrainingSummary
from medmnist_diffusion.data.dataset import size_in_words
from medmnist_diffusion.publish.copies import copy_tests
from medmnist_diffusion.publish.figures import table_text
from medmnist_diffusion.publish.licences import license_of
from medmnist_diffusion.shipped import shipped_folders

DISTANCE, LABELS = ("frechet_distance",), ("label_accuracy", "label_auc")
KINDS = {"multi-class": "classes", "ordinal": "grades", "multi-label": "labels"}  # what a task's labels are
HEADINGS = ("name", "data", "classifier", "texture", "label", "copies")

HOW_TO_READ = """
classifier, texture: the distance to the training images ÷ that of as many real ones, in these feature spaces. 1 is as real.
label: how often (of several labels an image: how well) a classifier sees what was asked for ÷ the same in real images.
copies: whether more images than chance explains are copies of training images.
All figures: {cards}/NAME/README.md. Research only, not for diagnosis.
Images: medmnist-diffusion sample {name} --num_per_class 10 --output FOLDER, or medmnist_diffusion.generate("{name}", …).
"""


def models_table() -> str:
    """One row a pipeline, and how to read it."""
    folders = shipped_folders()
    if not folders:
        return "No pipelines come with this installation."
    table = Table(box=box.SIMPLE_HEAD)
    for heading in HEADINGS:  # in a narrow terminal nothing is cut
        table.add_column(heading, no_wrap=heading != "data", overflow="fold")
    for folder in folders:
        table.add_row(folder.name, *model_row(folder))
    return table_text(table) + "\n" + HOW_TO_READ.format(cards=folders[0].parent, name=folders[0].name)


def model_row(folder: Path) -> list[str]:
    """Data, size, key figures and licence of a pipeline folder."""
    summary = TrainingSummary.of(folder)
    dataset = summary.dataset
    figures = ["not measured"] * 4
    if (folder / "metrics.json").is_file():
        metrics = Metrics.read(folder / "metrics.json")
        ratios = [
            ratio(metrics, DISTANCE, "classifier"),
            ratio(metrics, DISTANCE, "texture"),
            ratio(metrics, LABELS, None),
        ]
        figures = [*ratios, _copies(metrics)]
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    labels = f"{len(dataset.id2label)} {KINDS[dataset.task]}"
    images = f"{size_in_words(dataset.full_shape)}, {labels}, {summary.training_images:,} of {dataset.name}"
    return [f"{images}, {license_of(summary)}, {size / 1e6:.1f} MB", *figures]


def ratio(metrics: Metrics, names: Sequence[str], extractor: str | None) -> str:
    """The first of these figures that was measured, of all classes together, ÷ the same of real images."""
    record = find(metrics.metrics, names, extractor)
    return "–" if record is None or not record.floor else f"{record.value / record.floor:.2f}"


def find(records: Iterable[MetricRecord], names: Sequence[str], extractor: str | None) -> MetricRecord | None:
    """The first of these figures that was measured, of all classes together."""
    found = (r for r in records if r.class_ is None and r.name in names and extractor in (None, r.extractor))
    return next(found, None)


def _copies(metrics: Metrics) -> str:
    tests = copy_tests(metrics)
    if tests.flagged:
        return "yes"
    return "not judged" if tests.unjudged or not tests.shares else "no sign"
