"""`medmnist-diffusion publish`: a pipeline folder goes to the Hub, if it is what it claims to be.

What is uploaded is a copy with a card drawn anew from the folder's own figures; the folder stays as it is.
"""

import contextlib
import inspect
import logging
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from medmnist_diffusion.artifacts import TRAINING_SUMMARY, Metrics, TrainingSummary
from medmnist_diffusion.choices import OPEN_LICENSES
from medmnist_diffusion.diffusion.folder_check import FIXED, check_folder, write_manifest
from medmnist_diffusion.diffusion.sampling import load_pipeline
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.files import file_hash, write_json
from medmnist_diffusion.manifest import MANIFEST
from medmnist_diffusion.pipelines import ClassConditionalDDPMPipeline
from medmnist_diffusion.publish.card import write_card
from medmnist_diffusion.publish.copies import copy_tests
from medmnist_diffusion.publish.figures import table_text
from medmnist_diffusion.publish.gallery import GALLERY, write_gallery
from medmnist_diffusion.publish.hub import Upload, check_repo_id, check_token, upload
from medmnist_diffusion.publish.licences import check_data, license_of, with_license
from medmnist_diffusion.publish.private import private_findings
from medmnist_diffusion.shipped import or_a_name, pipeline_folder

logger = logging.getLogger(__name__)
CODE = "pipeline.py"
PICTURES = ("samples", "loss", "ratios", "closest_generated", "closest_pairs", "real_beside_generated")
SAMPLES = (
    "samples_seed*.npz",
    "samples_seed*.json",
)  # what `evaluate` measured: it stays, or goes by `publish-dataset`
LEFT_BY_OTHERS = (".gitattributes", ".cache", "__pycache__")  # by a download from the Hub, by pip and Python
CHECKED = "safetensors only, manifest, pipeline.py, figures, copies, licence, no private text"
PUBLISHED = {*FIXED, MANIFEST, "README.md", "metrics.json", *(f"{name}.png" for name in PICTURES)}


@dataclass(frozen=True)
class Publication:
    """What was published, or would be.

    Attributes:
        repo_id: namespace/name on the Hub.
        repo_type: "model", "dataset" or "space".
        private: whether only its owners see it.
        files: name in the repository → bytes.
        upload: what became of it; None after a dry run.
    """

    repo_id: str
    repo_type: str
    private: bool
    files: dict[str, int]
    upload: Upload | None


def reasons_against_publishing(folder: Path, repo_id: str) -> list[str]:
    """Why this pipeline folder should not be published; empty if nothing speaks against it.

    Raises:
        UserError: if it is no pipeline folder, or damaged.
    """
    load_pipeline(folder)  # the manifest, the network, finite weights
    found: list[str] = []
    if not (folder / CODE).is_file() or file_hash(folder / CODE) != file_hash(
        inspect.getfile(ClassConditionalDDPMPipeline)
    ):
        found.append(f"{CODE} is not the file that this version of medmnist-diffusion writes: save the pipeline again")
    summary = TrainingSummary.of(folder)
    if changes := summary.changes:
        found.append(
            f"its training went on with other settings or data ({'; '.join(changes)}): its card would not be true"
        )
    if license_of(summary) not in OPEN_LICENSES:
        found.append(f"the licence of what it was trained on is {license_of(summary)!r}")
    return [*found, *_unmeasured(folder), *private_findings(folder, repo_id, _drawn_by_evaluation(folder))]


def _drawn_by_evaluation(folder: Path) -> set[Path]:
    """What `copy_for_publication` leaves here."""
    return {path for pattern in SAMPLES for path in folder.glob(pattern) if path.is_file() and not path.is_symlink()}


def _unmeasured(folder: Path) -> list[str]:
    """What the card would have to leave open: figures, and whether images are copies."""
    if not (folder / "metrics.json").is_file():
        return ["it was not evaluated: run `medmnist-diffusion evaluate` on it first"]
    metrics = Metrics.read(folder / "metrics.json")
    found = []
    if not any(record.name == "frechet_distance" for record in metrics.metrics):
        found.append("metrics.json holds no Fréchet distance: evaluate again")
    tests = copy_tests(metrics)
    if not tests.shares:
        found.append("no check for copies of training images was made: evaluate against the training set")
    elif why := tests.unjudged:
        found.append(f"whether it copies training images cannot be judged: {why}")
    if tests.flagged:
        or_soft = ", or its images are so soft that they lie nearer to everything" if tests.may_be_soft else ""
        found.append(
            f"it reproduces training images more often than chance does{or_soft} (see the card): do not publish it"
        )
    return found


def copy_for_publication(folder: Path, target: Path, repo_id: str, data_license: str | None) -> None:
    """A copy of the folder, with its data's licence if that was given, and its card drawn anew.

    Raises:
        UserError: if the folder is damaged, holds anything that training and evaluation do not write there, or may not be
            published.
    """
    folder = pipeline_folder(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder. Give the pipeline folder that training wrote.{or_a_name()}")
    check_folder(folder)
    kept_here = _drawn_by_evaluation(folder)
    of_others = {path for name in LEFT_BY_OTHERS for path in (folder / name, *(folder / name).rglob("*"))}
    others = [
        path.relative_to(folder).as_posix()
        for path in sorted({*folder.rglob("*")} - kept_here - of_others)
        if path.is_symlink() or not (path.is_dir() or path.is_file())
        or (path.is_file() and path.relative_to(folder).as_posix() not in PUBLISHED and path.parent != folder / GALLERY)
    ]  # fmt: skip
    if others:
        raise UserError(
            f"{folder} holds what does not belong into a published folder: {', '.join(others)}. Move it elsewhere."
        )
    summary = TrainingSummary.of(folder)
    check_data(summary.dataset.license, data_license, summary.bases, summary.unlabeled)
    shutil.copytree(folder, target, ignore=shutil.ignore_patterns(*SAMPLES, GALLERY, *LEFT_BY_OTHERS))
    if data_license:
        write_json(target / TRAINING_SUMMARY, with_license(summary, data_license).model_dump())
        write_manifest(target)
    write_card(target, repo_id)


@contextlib.contextmanager
def checked_copy(pipeline: Path, repo_id: str, data_license: str | None) -> Iterator[Path]:
    """A copy of an evaluated pipeline folder that may be published, with a card that names the repository.

    Raises:
        UserError: if it should not be published, with all reasons.
    """
    check_repo_id(repo_id)
    with tempfile.TemporaryDirectory() as temporary:
        copy = Path(temporary) / repo_id.split("/")[1]
        copy_for_publication(pipeline, copy, repo_id, data_license)
        if reasons := reasons_against_publishing(copy, repo_id):
            raise UserError(f"{pipeline} cannot be published: {'; '.join(reasons)}.")
        yield copy


def publish_pipeline(
    pipeline: Path,
    repo_id: str,
    *,
    private: bool = True,
    update: bool = False,
    dry_run: bool = False,
    data_license: str | None = None,
) -> Publication:
    """Check an evaluated pipeline folder, and upload a copy of it whose card names the repository.

    Args:
        pipeline: what training wrote and `evaluate` measured, or a name of `medmnist-diffusion models`; it stays as it is.
        repo_id: namespace/name on the Hub; made if it is not there.
        private: whether a new repository is private; a public one is refused.
        update: replace what the repository holds (the Hub keeps its history).
        dry_run: check all, without a network; upload nothing.
        data_license: the licence of a training set of the user's own, one of `OPEN_LICENSES`.

    Raises:
        UserError: if the folder should not be published, or for every refusal of the Hub: nothing is committed then.
    """
    with checked_copy(pipeline, repo_id, data_license) as copy:
        write_gallery(copy)
        write_card(copy, repo_id)
        published = upload_unless_dry_run(
            copy,
            repo_id,
            "model",
            private=private,
            update=update,
            dry_run=dry_run,
            message="medmnist-diffusion: class-conditional pipeline",
        )
    logger.info("%s", publication_text(published, CHECKED))
    return published


def upload_unless_dry_run(
    folder: Path, repo_id: str, repo_type: str, *, private: bool, update: bool, dry_run: bool, message: str
) -> Publication:
    """Upload a checked folder, with the token that huggingface_hub finds."""
    files = {
        path.relative_to(folder).as_posix(): path.stat().st_size
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
    done = None
    if not dry_run:
        check_token()
        done = upload(folder, repo_id, repo_type, private=private, update=update, message=message)
    return Publication(repo_id, repo_type, private, files, done)


def publication_text(published: Publication, checked: str) -> str:
    """What went where, file by file, and how it is loaded."""
    repo_id, done = published.repo_id, published.upload
    where = f"{published.repo_type} {repo_id} ({'private' if published.private else 'PUBLIC'})"
    table = Table("file", "kB", title=f"To {where}, in one commit", box=None, title_justify="left")
    for name, size in published.files.items():
        table.add_row(name, f"{size / 1000:,.1f}")
    lines = [f"Checked: {checked}.", table_text(table)]
    if done is None:
        lines.append("Dry run: nothing was uploaded.")
    else:
        if done.removed:
            lines.append("Removed there: " + ", ".join(done.removed))
        lines.append(f"Committed: {done.address}{' (it holds all of this already)' if done.was_there else ''}")
    if published.repo_type == "space":
        lines.append(f"\nThe Hub shows it at https://huggingface.co/spaces/{repo_id}, in a minute or two.")
    elif published.repo_type == "dataset":
        lines.append(f'\nLoad it with\n  from datasets import load_dataset\n  load_dataset("{repo_id}")')
    else:
        lines.append(
            f"\nLoad it with\n  from diffusers import DiffusionPipeline\n"
            f'  pipe = DiffusionPipeline.from_pretrained("{repo_id}", trust_remote_code=True)'
        )
    return "\n".join(lines)
