"""`medmnist-diffusion publish-dataset`: generated images go to the Hub as parquet, with a card that says what made them.

The images are what `sample` wrote; the pipeline that made them gives the figures, the check for copies and the licence.
"""

import json
import logging
import tempfile
from pathlib import Path

from huggingface_hub import DatasetCard, DatasetCardData

from medmnist_diffusion.artifacts import DatasetDescription, Metrics, TrainingSummary, same_images
from medmnist_diffusion.choices import OPEN_LICENSES
from medmnist_diffusion.data import Conditioning, Split
from medmnist_diffusion.data.dataset import size_in_words
from medmnist_diffusion.diffusion.folder_check import WEIGHTS
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import file_hash, write_json, write_text
from medmnist_diffusion.generated import write_parquet
from medmnist_diffusion.provenance import saw_no_patients
from medmnist_diffusion.publish.card import TEMPLATE
from medmnist_diffusion.publish.copies import copying_sentences
from medmnist_diffusion.publish.figures import overall_rows
from medmnist_diffusion.publish.hub import check_repo_id
from medmnist_diffusion.publish.licences import citations_of, license_of
from medmnist_diffusion.publish.markdown import escaped
from medmnist_diffusion.publish.private import private_findings
from medmnist_diffusion.publish.publish import (
    Publication,
    copy_for_publication,
    publication_text,
    reasons_against_publishing,
    upload_unless_dry_run,
)
from medmnist_diffusion.samples import read_export_record, read_images, read_sampling_record

logger = logging.getLogger(__name__)


def read_export(path: Path, summary: TrainingSummary) -> Split:
    """The images and labels that `sample` wrote: an npz, PNG folders or parquet.

    Raises:
        UserError: if they are not readable, or of another size or other classes than the pipeline's.
    """
    dataset, conditioning, shape = summary.dataset, conditioning_of(summary.dataset), summary.dataset.full_shape
    if any(child.is_symlink() for child in (path, *path.rglob("*"))):
        raise UserError(
            f"{path} holds symbolic links, which are not published. Give what `medmnist-diffusion sample` wrote."
        )
    split = read_images(path, dataset.name, conditioning, shape)
    if split is None:
        raise UserError(f"{path} is no npz and no folder. Give what `medmnist-diffusion sample` wrote.")
    if split.images.shape[1:] != shape or len(conditioning.outside(split.labels)):
        raise UserError(f"{path} does not hold images of this pipeline: {shape} (H×W×C) of its classes are needed.")
    return split


def study_sentences(study: Path | None, summary: TrainingSummary) -> list[str]:
    """The sentences of an augmentation study of the same data; empty without one.

    Raises:
        UserError: if it is no such study, or one of other data.
    """
    if study is None:
        return []
    try:
        results = json.loads((study / "results.json").read_text(encoding="utf-8"))
        same = same_images(results["dataset"], summary.dataset)
        lines = [escaped(str(regime["sentence"])) for regime in results["regimes"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{study} is no folder of an augmentation study ({error}).") from None
    if not same:
        raise UserError(f"{study} is a study of other data than this pipeline was trained on.")
    return lines


def write_dataset(folder: Path, split: Split, pipeline: Path, export: Path, study: Path | None, repo_id: str) -> None:
    """The parquet file, how it was made, and the card, into a new folder."""
    summary, metrics = TrainingSummary.of(pipeline), Metrics.read(pipeline / "metrics.json")
    dataset, sampling = summary.dataset, read_sampling_record(export)
    conditioning = conditioning_of(dataset)
    if len(dataset.full_shape) > 3:
        raise UserError(
            "volumes are not published as a data set: parquet on the Hub holds pictures. Publish the pipeline."
        )
    write_parquet(folder, "train", split, conditioning)
    weights = file_hash(pipeline / WEIGHTS)
    write_json(
        folder / "generation.json",
        {"synthetic": True, "pipeline_weights_sha256": weights, "trained_on": dataset.name, **sampling},
    )
    counts, names = conditioning.counts(split.labels), conditioning.names
    license_name = license_of(summary)
    card = DatasetCard.from_template(
        DatasetCardData(
            license=OPEN_LICENSES[license_name],
            task_categories=["image-classification"],
            tags=["synthetic", "medical", "diffusion", "research-only", dataset.name],
            size_categories=_size_category(len(split)),
            pretty_name=f"{dataset.name}, generated",
        ),
        template_path=str(TEMPLATE.with_name("dataset_template.md")),
        title=f"{dataset.name}, generated",
        dataset=escaped(dataset.model_dump()),
        saw_no_patients=saw_no_patients(summary),
        license=license_name,
        bases=[escaped(base.model_dump()) for base in summary.bases],
        citations=escaped(citations_of(summary)),
        repo_id=repo_id,
        count=f"{len(split):,}",
        size=size_in_words(dataset.full_shape),
        class_counts=", ".join(f"{counts[label]:,} {name}" for label, name in enumerate(names)),
        id2label=", ".join(f"{label} = {name}" for label, name in enumerate(names)),
        step=f"{summary.step:,}",
        training_images=f"{summary.training_images:,}",
        weights=weights,
        sampling=sampling,
        rows=overall_rows(metrics),
        memorization=copying_sentences(metrics),
        measured_here=export.is_file() and file_hash(export) in metrics.pipeline.get("samples_sha256", {}).values(),
        verdicts=study_sentences(study, summary),
    )
    write_text(folder / "README.md", str(card))


def conditioning_of(dataset: DatasetDescription) -> Conditioning:
    """What the images of a described data set can show."""
    return Conditioning({int(label): name for label, name in dataset.id2label.items()}, dataset.task)


def _size_category(count: int) -> str:
    """The Hub's own names."""
    for limit, name in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M")):
        if count < limit:
            return name
    return "1M<n<10M"


def publish_dataset(
    images: Path,
    repo_id: str,
    *,
    pipeline: Path,
    study: Path | None = None,
    private: bool = True,
    update: bool = False,
    dry_run: bool = False,
    data_license: str | None = None,
) -> Publication:
    """Check generated images and the pipeline that made them, and upload the images as parquet with a card.

    Args:
        images: what `sample` wrote: an npz, PNG folders or parquet.
        repo_id: namespace/name on the Hub; made if it is not there.
        pipeline: the evaluated pipeline folder that made the images: its figures, check for copies and licence.
        study: the folder of an augmentation study of the same data, whose sentences the card quotes.
        private, update, dry_run, data_license: as in `publish`.

    Raises:
        UserError: if the images should not be published, or for every refusal of the Hub: nothing is committed then.
    """
    check_repo_id(repo_id)
    with tempfile.TemporaryDirectory() as temporary:
        copy, folder = Path(temporary) / "pipeline", Path(temporary) / "dataset"
        copy_for_publication(pipeline, copy, repo_id, data_license)
        split = read_export(images, TrainingSummary.of(copy))
        reasons = reasons_against_publishing(copy, repo_id)
        made = {"pipeline_weights_sha256": file_hash(copy / WEIGHTS), "images_sha256": split.content_hash}
        if read_export_record(images, dict.fromkeys(made, str)) != made:
            reasons.append(f"{images} does not hold the images that `sample` made with {pipeline}")
        if not reasons:
            write_dataset(folder, split, copy, images, study, repo_id)
            reasons = private_findings(folder, repo_id)
        if reasons:
            raise UserError(f"{images} cannot be published: {'; '.join(reasons)}.")
        published = upload_unless_dry_run(
            folder,
            repo_id,
            "dataset",
            private=private,
            update=update,
            dry_run=dry_run,
            message=f"medmnist-diffusion: {len(split)} generated images",
        )
    logger.info(
        "%s", publication_text(published, "made by this pipeline, its figures, copies, licence, no private text")
    )
    return published
