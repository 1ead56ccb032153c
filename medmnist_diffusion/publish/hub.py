"""One folder to the Hub in one commit, and every refusal of the Hub in words that say what to do."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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

TIMEOUT_SECONDS = 60.0  # huggingface_hub's own client waits for ever
BELONGS_TO_HUB = {".gitattributes"}  # what a new repository already holds
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
    UserError: if huggingface_hub finds no token, by its own rules (HF_TOKEN, else what `hf auth login` kept).
    """
    if huggingface_hub.get_token() is None:
        raise UserError(
            "no Hugging Face token is there. Run `hf auth login`, or set HF_TOKEN to a token that may write."
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
    api = HfApi(endpoint=os.environ.get("HF_ENDPOINT"))
    huggingface_hub.set_client_factory(_client_with_timeout)
    with _in_words(repo_id):
        try:
            names = set(api.list_repo_files(repo_id, repo_type=repo_type))
        except RepositoryNotFoundError as error:
            if error.response.status_code != 404:  # a refused token says so, not that nothing is there
                raise
            api.create_repo(repo_id, repo_type=repo_type, private=private)
            names = set()
        before = api.repo_info(repo_id, repo_type=repo_type)
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
        api.preupload_lfs_files(repo_id, files, repo_type=repo_type)
    gone = [CommitOperationDelete(name) for name in sorted(there - {file.path_in_repo for file in files})]
    if gone:
        print("Removed there: " + ", ".join(operation.path_in_repo for operation in gone))
    with _in_words(repo_id):
        try:
            commit = api.create_commit(repo_id, [*files, *gone], commit_message=message, repo_type=repo_type)
        except (HfHubHTTPError, HTTPError, ConnectionError, TimeoutError) as error:
            if isinstance(error, HfHubHTTPError) and error.response.status_code < 500:
                raise
            after = _state(api, repo_id, repo_type)
            if after.sha == before.sha:
                raise
            return f"{api.endpoint}/{'datasets/' if repo_type == 'dataset' else ''}{repo_id}/commit/{after.sha}"
    return str(commit.commit_url)


def _state(api: HfApi, repo_id: str, repo_type: str) -> Any:
    """The repository as it is after the answer to a commit was lost."""
    try:
        return api.repo_info(repo_id, repo_type=repo_type)
    except (HfHubHTTPError, HTTPError, ConnectionError, TimeoutError):
        raise UserError(
            f"the connection broke while the commit was sent, and {repo_id} cannot be asked whether it arrived. Look there; "
            "if it did not, the same command goes on."
        ) from None


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


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
    answer = f" It says: {' '.join(said.split())[:200]}" if said else ""
    return f"{known.get(status, default)} (HTTP {status}.{answer} Nothing was committed.)"
