"""What must not leave this machine with a published folder: tokens, keys, local paths, the user's and the machine's name."""

import getpass
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
from PIL import Image

import medmnist_diffusion

PATTERNS = {
    "a token": rb"\b(?:hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9-]{20,}|AKIA[0-9A-Z]{16})",
    "a private key": rb"-----BEGIN [A-Z ]*PRIVATE KEY",
    "a local path": rb"(?:/(?:home|Users|root|tmp|mnt|media|var|private|work|scratch)/|\b[A-Za-z]:\\\\?)[^\s\"'`<>)]+",
}
SHORTEST_NAME = 3


def private_findings(folder: Path) -> list[str]:
    """`file: what was found` for every file under a folder; nothing of the finding itself beyond its first characters."""
    names = _own_names()
    findings = []
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        text = _text(path)
        for what, pattern in PATTERNS.items():
            if match := re.search(pattern, text):
                findings.append(f"{path.relative_to(folder)} holds {what} ({match[0][:12].decode(errors='replace')}…)")
        for what, name in names:
            if re.search(rb"(?<![A-Za-z0-9])" + re.escape(name.encode()) + rb"(?![A-Za-z0-9])", text):
                findings.append(f"{path.relative_to(folder)} holds {what}")
    return findings


def _own_names() -> Iterator[tuple[str, str]] | list[tuple[str, str]]:
    """What tells who published: not where it is a word of ours (a machine called `pipeline`)."""
    ours = b" ".join(path.read_bytes() for path in Path(medmnist_diffusion.__path__[0]).rglob("*.py")).decode()
    names = []
    for what, read in (("your user name", getpass.getuser), ("this machine's name", socket.gethostname)):
        try:
            name = read()
        except (OSError, KeyError):
            continue
        if len(name) >= SHORTEST_NAME and not re.search(rf"\b{re.escape(name)}\b", ours):
            names.append((what, name))
    if token := huggingface_hub.get_token():
        names.append(("your token", token))
    return names


def _text(path: Path) -> bytes:
    """What of a file one could read: of weights their header alone (their bytes look like anything), of pictures their notes."""
    if path.suffix == ".safetensors":
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            return file.read(length)
    if path.suffix == ".png":
        with Image.open(path) as image:
            image.load()  # notes may follow the pixels
            return " ".join(f"{key} {value}" for key, value in image.info.items()).encode()
    if path.suffix == ".parquet":
        import pyarrow.parquet

        return str(pyarrow.parquet.read_schema(path).metadata).encode()
    return path.read_bytes()
