"""What must not leave this machine with a published folder: tokens, keys, local paths, the user's and the machine's name."""

import getpass
import importlib.util
import inspect
import re
import socket
import struct
from collections.abc import Collection
from pathlib import Path

import huggingface_hub
from PIL import Image

from medmnist_diffusion.pipelines import ClassConditionalDDPMPipeline

PATTERNS = {
    "a token": rb"\b(?:hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9-]{20,}|AKIA[0-9A-Z]{16})",
    "a private key": rb"-----BEGIN [A-Z ]*PRIVATE KEY",
    # From a root that computers have; not in the middle of an address or of another path.
    "a local path": rb"(?<![\w.:/-])/(?:home|Users|root|tmp|mnt|media|var|private|work|workspace|scratch|data|opt|srv|content|"
    rb"Volumes|nfs|gpfs|lustre)/[^\s\"'`<>)]+|(?<![\w.])~/\w|\b[A-Za-z]:\\+[^\s\"'`<>)]+|(?<!\\)\\\\\w[\w.-]*\\",
}
SHORTEST_NAME = 3
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PICTURE_CHUNKS = (b"IHDR", b"PLTE", b"IDAT", b"tRNS", b"pHYs", b"IEND")


def private_findings(folder: Path, repo_id: str, left_out: Collection[Path] = ()) -> list[str]:
    """`file: what was found` for every file under a folder, without the finding itself.

    The namespace of `repo_id` is no secret: it is the repository's address.

    Args:
        left_out: files that are not published, and not looked at.
    """
    patterns = list(PATTERNS.items())
    for what, name in _own_names(repo_id):
        patterns.append((what, rb"(?<![A-Za-z0-9])" + re.escape(name.encode()) + rb"(?![A-Za-z0-9])"))
    findings = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path not in left_out):
        file = path.relative_to(folder)
        try:
            text = _text(path)
        except (OSError, ValueError, SyntaxError, struct.error, Image.DecompressionBombError) as error:
            findings.append(f"{file} cannot be read ({error})")
            continue
        findings += [f"{file} holds {what}" for what, pattern in patterns if re.search(pattern, text)]
    return findings


def _own_names(repo_id: str) -> list[tuple[str, str]]:
    """What tells who published; not where it is a word that our own files hold anyway (a machine called `pipeline`)."""
    sources = [
        *_package_folder("medmnist_diffusion.model_cards").glob("*.md"),
        *_package_folder("medmnist_diffusion.training").glob("*.py"),
        Path(inspect.getfile(ClassConditionalDDPMPipeline)),
    ]
    ours = " ".join([repo_id.split("/", maxsplit=1)[0], *(path.read_text(encoding="utf-8") for path in sources)])
    names = []
    for what, read in (("your user name", getpass.getuser), ("this machine's name", socket.gethostname)):
        try:
            name = read()
        except (OSError, KeyError):
            continue
        if len(name) >= SHORTEST_NAME and not re.search(rf"\b{re.escape(name)}\b", ours):
            names.append((what, name))
    names += [("a local path of this machine", str(path)) for path in {Path.home(), Path.cwd()} if len(path.parts) > 2]
    if token := huggingface_hub.get_token():
        names.append(("your token", token))
    return names


def _package_folder(name: str) -> Path:
    """Where a package lies, which need not be loaded for that."""
    spec = importlib.util.find_spec(name)
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0])


def _text(path: Path) -> bytes:
    """What of a file one could read: of weights their header alone (their bytes look like anything), of pictures their notes."""
    if path.suffix == ".safetensors":
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            return file.read(length)
    if path.suffix == ".png":
        with Image.open(path, formats=["PNG"]) as image:
            image.load()  # notes may follow the pixels
            notes = " ".join(f"{key} {value}" for key, value in image.info.items()).encode()
        beside = _beside_pixels(path.read_bytes())
        return b" ".join([notes, beside, beside.replace(b"\0", b"")])  # EXIF may be UTF-16
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return str(pyarrow.parquet.read_schema(path).metadata).encode()
    return path.read_bytes()


def _beside_pixels(png: bytes) -> bytes:
    """What a PNG holds in other chunks than those that make the picture, and after its end."""
    found, at = b"", len(PNG_SIGNATURE)
    while at + 8 <= len(png):
        length, kind = struct.unpack(">I4s", png[at : at + 8])
        if kind not in PICTURE_CHUNKS:
            found += png[at + 8 : at + 8 + length] + b" "
        at += 12 + length
        if kind == b"IEND":
            return found + png[at:]
    return found
