"""A folder that makes images in anybody's browser: the network as ONNX, its sampler as a table, and a page. No server of ours.

Any web server that sends files will do, such as a static Space of the Hugging Face Hub. The page sends nothing that a
reader does anywhere.
"""

import base64
import hashlib
import logging
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from medmnist_diffusion.artifacts import TrainingSummary
from medmnist_diffusion.cache import cache_dir
from medmnist_diffusion.data.dataset import size_in_words
from medmnist_diffusion.diffusion.sampling import in_steps, load_pipeline
from medmnist_diffusion.errors import UserError, one_line
from medmnist_diffusion.files import atomic_file, atomic_folder, write_json, write_text
from medmnist_diffusion.pipelines import ClassConditionalDDPMPipeline
from medmnist_diffusion.publish.card import measured_metrics
from medmnist_diffusion.publish.licences import citations_of, license_of
from medmnist_diffusion.publish.markdown import escaped
from medmnist_diffusion.publish.onnx_export import how_to_sample, write_onnx
from medmnist_diffusion.publish.publish import (
    CHECKED,
    Publication,
    checked_copy,
    publication_text,
    reasons_against_publishing,
    upload_unless_dry_run,
)
from medmnist_diffusion.publish.verdict import verdict
from medmnist_diffusion.shipped import is_shipped, name_of, pipeline_folder, shipped_names

logger = logging.getLogger(__name__)
STATIC = Path(__file__).parent / "static_page"
# The npm package that runs the network in a browser (MIT licence), and the hash by which npm's registry knows it.
RUNTIME, VERSION = "onnxruntime-web", "1.30.0"
INTEGRITY = "q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
MADE = ("network.onnx", "page.json", "README.md", "runtime")  # beside what lies in STATIC
RUNTIME_FILES = ("ort.wasm.min.mjs", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
NOT_MEASURED = ["They have not been measured, and no check for copies of training images has been done."]
GET_IT = f"`npm pack {RUNTIME}@{VERSION}` gets the file on a machine with a network; give it by --runtime."


def write_page(pipeline: str | Path, output: str | Path, runtime: Path | None = None) -> Path:
    """Write the folder.

    Args:
        pipeline: a pipeline folder, or a name of `medmnist-diffusion models`.
        output: a new folder, or one that this wrote.
        runtime: the file of the npm package onnxruntime-web; default: `npm pack` gets it, once.

    Raises:
        UserError: if `output` is something else, or the network or its runtime cannot be had.
    """
    folder, output = pipeline_folder(pipeline), Path(output).expanduser()
    if output.exists() and not _is_replaceable(output):
        raise UserError(
            f"{output} is there, and is no page that was written before, or holds more than that. Give another --output."
        )
    pipe = load_pipeline(folder)
    page = page_content(folder, pipe)
    if reasons := reasons_against_publishing(folder, "somebody/page"):
        page["warning"] = f"Not to be published: {'; '.join(reasons)}."
        logger.warning("Keep this page to yourself, which says so itself: %s.", "; ".join(reasons))
    _write(pipe, page, output, runtime or _runtime_of_npm())
    size = (output / "network.onnx").stat().st_size / 1e6
    logger.info(
        "Written to %s; its network has %.1f MB, which every reader loads. To look at it: python -m http.server --directory %s",
        output, size, output,
    )  # fmt: skip
    return output


def _is_replaceable(output: Path) -> bool:
    """Whether it is an empty folder, or holds a page and nothing else."""
    if not output.is_dir():
        return False
    found, ours = {path.name for path in output.iterdir()}, {*(source.name for source in STATIC.iterdir()), *MADE}
    return not found or {"page.json", "network.onnx"} <= found <= ours


def _write(pipe: ClassConditionalDDPMPipeline, page: dict[str, Any], output: Path, runtime: Path | None) -> None:
    """The folder of the page; without its runtime where that is None."""
    with atomic_folder(output) as temporary:
        for source in STATIC.iterdir():
            shutil.copy(source, temporary)
        if runtime is not None:
            _unpack_runtime(runtime, temporary / "runtime")
        write_onnx(pipe, temporary / "network.onnx")
        write_json(temporary / "page.json", page)
        write_text(temporary / "README.md", _space_card(page))


def publish_space(
    pipeline: Path,
    repo_id: str,
    *,
    private: bool = True,
    update: bool = False,
    dry_run: bool = False,
    data_license: str | None = None,
    runtime: Path | None = None,
) -> Publication:
    """Check an evaluated pipeline folder as `publish_pipeline` does, and upload its page as a static Space of the Hub.

    The arguments are those of `publish_pipeline` and `write_page`.

    Raises:
        UserError: if the pipeline should not be published, the page cannot be written, or for every refusal of the Hub.
    """
    with checked_copy(pipeline, repo_id, data_license) as copy, tempfile.TemporaryDirectory() as temporary:
        pipe, page = load_pipeline(copy), Path(temporary) / "page"
        shipped = is_shipped(pipeline_folder(pipeline))
        content = page_content(copy, pipe, pipeline_folder(pipeline).name if shipped else copy.name)
        if dry_run and runtime is None and not _kept_runtime().is_file():
            logger.info("%s %s is not here: npm will get it, 33 MB of which 14 MB go into the page.", RUNTIME, VERSION)
            _write(pipe, content, page, None)
        else:
            _write(pipe, content, page, runtime or _runtime_of_npm())
        published = upload_unless_dry_run(
            page,
            repo_id,
            "space",
            private=private,
            update=update,
            dry_run=dry_run,
            message="medmnist-diffusion: a page that makes images in the reader's browser",
        )
    logger.info("%s", publication_text(published, CHECKED))
    return published


def page_content(folder: Path, pipe: ClassConditionalDDPMPipeline, name: str | None = None) -> dict[str, Any]:
    """What the page shows and what its sampler needs: page.json.

    Args:
        name: what the pipeline is called; default: as its folder.
    """
    name = name or name_of(folder)
    summary = TrainingSummary.of(folder)
    dataset = summary.dataset
    figures = measured_metrics(folder, summary)
    kind = "volumes" if len(dataset.full_shape) > 3 else "images"
    cited = "".join(f"Data: {one.rstrip('. ')}. " for one in citations_of(summary))
    about = (
        f"Generated {kind} of {size_in_words(dataset.full_shape)}, by a diffusion model that learned from "
        f"{summary.training_images:,} {kind} of {dataset.name}."
    )
    if distilled := summary.distilled:
        steps = in_steps(distilled.num_inference_steps)
        about += f" It was distilled: it makes in {steps} what its teacher makes in {distilled.teacher_steps}."
    return {
        "name": name.replace("/", "-"),
        "load": name if name in shipped_names() else f"path/to/{name}",
        "warning": "",
        "title": f"Images like those of {dataset.name}",
        "about": about,
        "figures": [line.strip() for line in verdict(figures)] if figures else NOT_MEASURED,
        "footer": f"Licence: {license_of(summary)}. {cited}Made by medmnist-diffusion; runs by {RUNTIME} {VERSION}.",
        **how_to_sample(pipe),
    }


def _space_card(page: dict[str, Any]) -> str:
    """README.md as a static Space of the Hub needs it."""
    header = {"title": page["title"], "emoji": "🩻", "sdk": "static", "app_file": "index.html", "pinned": False}
    return (
        f"---\n{yaml.safe_dump(header, allow_unicode=True, sort_keys=False)}---\n\n"
        f"{escaped(page['about'])} Research only, not for diagnosis.\n\n"
        "The page needs a web server that sends these files, and nothing else: `python -m http.server`. "
        f"{escaped(page['footer'])}\n"
    )


def _kept_runtime() -> Path:
    return cache_dir() / "npm" / f"{RUNTIME}-{VERSION}.tgz"


def _runtime_of_npm() -> Path:
    """The package's file from the cache; where it is not there, npm gets it."""
    kept = _kept_runtime()
    if kept.is_file():
        return kept
    if (npm := shutil.which("npm")) is None:
        raise UserError(f"the page needs the npm package {RUNTIME} {VERSION}, and npm is not installed here. {GET_IT}")
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", "--silent", "--pack-destination", folder, f"{RUNTIME}@{VERSION}"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        if done.returncode:
            said = one_line(UserError(done.stderr.strip() or done.stdout.strip()))
            raise UserError(f"npm could not get {RUNTIME} {VERSION} ({said}). {GET_IT}")
        _check_runtime(Path(folder) / kept.name)
        with atomic_file(kept) as temporary:
            shutil.copy(Path(folder) / kept.name, temporary)
    return kept


def _check_runtime(path: Path) -> None:
    try:
        known = base64.b64encode(hashlib.sha512(path.read_bytes()).digest()).decode()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({one_line(error)}). {GET_IT}") from None
    if known != INTEGRITY:
        raise UserError(f"{path} is not {RUNTIME} {VERSION}: its hash is another. {GET_IT}")


def _unpack_runtime(path: Path, folder: Path) -> None:
    """The few files of the npm package that a page needs."""
    _check_runtime(path)
    folder.mkdir()
    with tarfile.open(path) as archive:
        for member in archive:
            inside = PurePosixPath(member.name)
            if inside.parent == PurePosixPath("package/dist") and inside.name in RUNTIME_FILES:
                content: Any = archive.extractfile(member)
                (folder / inside.name).write_bytes(content.read())
