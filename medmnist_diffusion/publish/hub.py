"""One folder to the Hub in one commit, and every refusal of the Hub in words that say what to do."""

import contextlib
import hashlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)
from huggingface_hub.utils import validate_repo_id
from rich.console import Console
from rich.table import Table

from medmnist_diffusion.errors import UserError
from medmnist_diffusion.publish.private import PATTERNS

TIMEOUT_SECONDS = 60.0  # huggingface_hub's own client waits for ever
WAITS = (0, 5, 20)  # seconds: a Hub that was late to answer may still be at work
BELONGS_TO_HUB = {".gitattributes"}  # what a new repository already holds
OURS = {"model_index.json", "pipeline.py", "manifest.json"}  # in every pipeline that this package publishes
AGAIN = "The same command goes on: what has arrived is not sent again."


def check_repo_id(repo_id: str) -> None:
    """Raises:
    UserError: unless it is `namespace/name` with the characters that the Hub allows.
    """
    try:
        validate_repo_id(repo_id)
    except HFValidationError as error:
        raise UserError(
            f"{repo_id!r} is no Hub id ({error}). Give namespace/name, as in your-name/my-model."
        ) from None
    if repo_id.count("/") != 1:
        raise UserError(f"{repo_id!r} is no Hub id. Give namespace/name, as in your-name/my-model.")


def check_token() -> None:
    """Raises:
    UserError: if huggingface_hub finds no token, by its own rules (HF_TOKEN, else what `hf auth login` kept), or one that is none.
    """
    token = huggingface_hub.get_token()
    if token is None:
        raise UserError(
            "no Hugging Face token is there. Run `hf auth login`, or set HF_TOKEN to a token that may write."
        )
    if not token.isascii():
        raise UserError(
            "the Hugging Face token holds other characters than ASCII. Set HF_TOKEN again, or run `hf auth login`."
        )


def show_upload(folder: Path, repo_id: str, repo_type: str, private: bool) -> None:
    """What would go where, file by file."""
    where = f"{repo_type} {repo_id} ({'private' if private else 'PUBLIC'})"
    table = Table("file", "kB", title=f"To {where}, in one commit", box=None, title_justify="left")
    for path in _files(folder):
        table.add_row(str(path.relative_to(folder)), f"{path.stat().st_size / 1000:,.1f}")
    Console(highlight=False, markup=False).print(table)


def upload(folder: Path, repo_id: str, repo_type: str, private: bool, update: bool, message: str) -> str:
    """Create the repository if need be and commit all files of the folder at once; returns the commit's address.

    Large files go first, and those that the Hub has are not sent again: an upload that broke goes on where it was. An update takes
    the place of all that was there: weights that stayed beside the new ones might be loaded in their place.

    Raises:
        UserError: for every refusal and break, with what to do. The token is in none of them.
    """
    api = _api()
    with _in_words(repo_id):
        before = _there(api, repo_id, repo_type)
        if before is None:
            api.create_repo(repo_id, repo_type=repo_type, private=private)
            before = _info(api, repo_id, repo_type)
        names = {file.rfilename for file in before.siblings or []}
        if private and not before.private:
            raise UserError(f"{repo_id} is public on the Hub. Make it private there, or say --public.")
        if (there := names - BELONGS_TO_HUB) and not update:
            raise UserError(
                f"{repo_id} exists and holds {len(there)} files ({min(there)}, …). Choose another name, or replace them by "
                "`publish … --update` (the Hub keeps the history)."
            )
        files = [
            CommitOperationAdd(path_in_repo=path.relative_to(folder).as_posix(), path_or_fileobj=path)
            for path in _files(folder)
        ]
        if _holds(before, hashes := _hashes(folder)):
            return f"{_address(api, repo_id, repo_type)} (it holds all of this already)"
        api.preupload_lfs_files(repo_id, files, repo_type=repo_type)
        gone = [CommitOperationDelete(name) for name in sorted(there - set(hashes))]
        address = _commit(api, repo_id, repo_type, [*files, *gone], hashes, message)
    if gone:
        print("Removed there: " + ", ".join(operation.path_in_repo for operation in gone))
    return address


def _commit(
    api: HfApi, repo_id: str, repo_type: str, operations: list[Any], hashes: dict[str, tuple[str, str]], message: str
) -> str:
    """The commit's address, also where only the answer was lost."""
    try:
        return str(api.create_commit(repo_id, operations, commit_message=message, repo_type=repo_type).commit_url)
    except (HfHubHTTPError, HTTPError, ConnectionError, TimeoutError) as error:
        late = isinstance(error, TimeoutError) or "Timeout" in type(error).__name__
        if isinstance(error, HfHubHTTPError):
            if error.response.status_code < 500:
                raise
            late = error.response.status_code == 504
        if (found := _arrived_nevertheless(api, repo_id, repo_type, hashes, late)) is None:
            raise
        return found


def check_replaceable(repo_id: str) -> None:
    """Raises:
    UserError: if the Hub can be asked, and says that a model repository holds something else than a pipeline of this package.
    """
    try:
        info = _there(_api(), repo_id, "model")
    except (HfHubHTTPError, HTTPError, ConnectionError, TimeoutError, OfflineModeIsEnabled):
        return  # it is asked again when there is something to upload
    names = {file.rfilename for file in info.siblings or []} - BELONGS_TO_HUB if info else set()
    if names and not names >= OURS:
        raise UserError(
            f"{repo_id} exists on the Hub and holds something else ({min(names)}, …). Choose another --hub_model_id, or publish "
            "by `medmnist-diffusion publish … --update` when training is over."
        )


def _there(api: HfApi, repo_id: str, repo_type: str) -> Any:
    """The repository's description; None where there is none."""
    try:
        return _info(api, repo_id, repo_type)
    except RepositoryNotFoundError as error:
        if error.response.status_code != 404:  # a refused token says so, not that nothing is there
            raise
        return None


def _info(api: HfApi, repo_id: str, repo_type: str) -> Any:
    return api.repo_info(repo_id, repo_type=repo_type, files_metadata=True, timeout=TIMEOUT_SECONDS)


def _address(api: HfApi, repo_id: str, repo_type: str) -> str:
    return f"{api.endpoint}/{'datasets/' if repo_type == 'dataset' else ''}{repo_id}"


def _hashes(folder: Path) -> dict[str, tuple[str, str]]:
    """Of every file the two hashes by which the Hub knows it: SHA-256 of a large one, git's name for another."""
    found = {}
    for path in _files(folder):
        content = path.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False)
        found[path.relative_to(folder).as_posix()] = (hashlib.sha256(content).hexdigest(), git.hexdigest())
    return found


def _holds(info: Any, hashes: dict[str, tuple[str, str]]) -> bool:
    """Whether a repository holds just these files."""
    there = {file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id for file in info.siblings or []}
    names = set(there) - BELONGS_TO_HUB
    return names == set(hashes) and all(there[name] in hashes[name] for name in names)


def _arrived_nevertheless(
    api: HfApi, repo_id: str, repo_type: str, hashes: dict[str, tuple[str, str]], late: bool
) -> str | None:
    """The commit's address, if it is there and only the answer was lost; None if it is not.

    Raises:
        UserError: if nobody can tell: the Hub does not answer, or was late and may still be at work.
    """
    for wait in WAITS if late else WAITS[:1]:
        time.sleep(wait)
        try:
            info = _info(api, repo_id, repo_type)
        except (HfHubHTTPError, HTTPError, ConnectionError, TimeoutError):
            break
        if _holds(info, hashes):
            return f"{_address(api, repo_id, repo_type)}/commit/{info.sha}"
    else:
        if not late:
            return None
    raise UserError(
        f"the connection broke while the commit was sent, and whether it arrived is not known. Look at {repo_id}; if it did not, "
        "the same command goes on."
    )


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _api() -> HfApi:
    """The Hub that HF_ENDPOINT names, by a client that does not wait for ever."""
    endpoint = os.environ.get("HF_ENDPOINT")
    if endpoint and not _is_address(endpoint):
        raise UserError(f"HF_ENDPOINT is {endpoint!r}, no address of a Hub. Unset it, or give https://… .")
    huggingface_hub.set_client_factory(_client_with_timeout)
    return HfApi(endpoint=endpoint)


def _is_address(endpoint: str) -> bool:
    try:
        parts = urlsplit(endpoint)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _client_with_timeout() -> Any:
    client = huggingface_hub.utils._http.default_client_factory()
    client.timeout = TIMEOUT_SECONDS
    return client


@contextlib.contextmanager
def _in_words(repo_id: str) -> Iterator[None]:
    """Every error of the Hub or the network as a UserError."""
    try:
        yield
    except OfflineModeIsEnabled:
        raise UserError("HF_HUB_OFFLINE is set: nothing can be uploaded. Unset it, or use --dry_run.") from None
    except HfHubHTTPError as error:
        raise UserError(_reason(error.response.status_code, repo_id, error.server_message)) from None
    except RuntimeError as error:  # what huggingface_hub makes of the last of several failures of one file
        cause = error.__cause__
        if isinstance(cause, HfHubHTTPError):
            raise UserError(_reason(cause.response.status_code, repo_id, cause.server_message)) from None
        raise UserError(
            f"a file could not be uploaded ({type(cause or error).__name__}). Nothing was committed. {AGAIN}"
        ) from None
    except (HTTPError, ConnectionError, TimeoutError) as error:
        raise UserError(
            f"the connection to the Hub broke or timed out ({type(error).__name__}). Nothing was committed. {AGAIN}"
        ) from None


def _without_tokens(said: str) -> str:
    """A server may repeat what it was sent."""
    return re.sub(PATTERNS["a token"].decode(), "…", said.replace(huggingface_hub.get_token() or "\0", "…"))


def _reason(status: int, repo_id: str, said: str | None) -> str:
    """What a status of the Hub means here, and what to do."""
    namespace = repo_id.split("/", maxsplit=1)[0]
    known = {
        401: "the Hub refuses the token. Run `hf auth login` with one that is valid and may write.",
        403: f"the token may not write to {namespace!r}. Use one with write access there, or another namespace.",
        404: f"{repo_id} is not there, or the token may not see it.",
        409: f"the Hub holds another state of {repo_id} (somebody else is committing?). Try again.",
        413: "a file is larger than the Hub accepts.",
        429: f"the Hub's rate limit is reached. Wait some minutes. {AGAIN}",
    }
    default = f"the Hub has trouble of its own. {AGAIN}" if status >= 500 else "the Hub refuses the upload."
    answer = f" It says: {' '.join(_without_tokens(said).split())[:200]}" if said else ""
    return f"{known.get(status, default)} (HTTP {status}.{answer} Nothing was committed.)"
