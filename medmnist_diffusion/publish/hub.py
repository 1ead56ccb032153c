"""One folder to the Hub in one commit: all of it is there, or nothing.

`HfApi.upload_folder` would be shorter, but where hf_xet is installed it commits a folder in several parts: an upload that breaks
would leave new weights beside an old card. `create_commit` is all or nothing, and drops unchanged files as well.
"""

import hashlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import huggingface_hub
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]
from huggingface_hub.utils.sha import git_hash

from medmnist_diffusion.errors import UserError
from medmnist_diffusion.publish.hub_errors import UNREACHABLE, hub_errors_as_user_errors

TIMEOUT_SECONDS = 60.0  # huggingface_hub's own client waits for ever
WAITS = (0, 5, 20)  # seconds: a Hub that was late to answer may still be at work
BELONGS_TO_HUB = {".gitattributes"}  # what a new repository already holds
FILES_OF_OUR_PIPELINES = {
    "model_index.json",
    "pipeline.py",
    "manifest.json",
}  # in every pipeline that this package publishes


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


@dataclass(frozen=True)
class Upload:
    """What became of an upload.

    Attributes:
        address: of the commit, or of the repository where it held all of this already.
        was_there: whether it did.
        removed: files of the repository that the new ones took the place of.
    """

    address: str
    was_there: bool = False
    removed: list[str] = field(default_factory=list)


def upload(folder: Path, repo_id: str, repo_type: str, *, private: bool, update: bool, message: str) -> Upload:
    """Create the repository if need be and commit all files of the folder at once.

    Large files go first, and those that the Hub has are not sent again: an upload that broke goes on where it was. An update takes
    the place of all that was there: weights that stayed beside the new ones might be loaded in their place.

    Args:
        repo_type: "model", "dataset", or "space" for a static one.
        message: of the commit.

    Raises:
        UserError: for every refusal and break, with what to do. The token is in none of them.
    """
    api = _api()
    with hub_errors_as_user_errors(repo_id):
        before = _repo_info_if_there(api, repo_id, repo_type)
        if before is None:
            sdk = "static" if repo_type == "space" else None
            api.create_repo(repo_id, repo_type=repo_type, private=private, space_sdk=sdk)
            before = _repo_info(api, repo_id, repo_type)
        if private and not before.private:
            raise UserError(f"{repo_id} is public on the Hub. Make it private there, or say --public.")
        if (there := _names(before)) and not update:
            raise UserError(
                f"{repo_id} exists and holds {len(there)} files ({min(there)}, …). Choose another name, or replace them by "
                "`publish … --update` (the Hub keeps the history)."
            )
        hashes = _hashes(folder)
        if _holds_exactly(before, hashes):
            return Upload(_address(api, repo_id, repo_type), was_there=True)
        files = [CommitOperationAdd(path_in_repo=name, path_or_fileobj=folder / name) for name in hashes]
        removed = sorted(there - set(hashes))
        # Before the commit, by itself: a break here is one before the commit, whatever became of the files.
        api.preupload_lfs_files(repo_id, files, repo_type=repo_type)
        operations = [*files, *map(CommitOperationDelete, removed)]
        return Upload(_commit(api, repo_id, repo_type, operations, hashes, message), removed=removed)


def _commit(
    api: HfApi, repo_id: str, repo_type: str, operations: list[Any], hashes: dict[str, tuple[str, str]], message: str
) -> str:
    """The commit's address, also where only the answer was lost."""
    try:
        return str(api.create_commit(repo_id, operations, commit_message=message, repo_type=repo_type).commit_url)
    except UNREACHABLE as error:
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
        info = _repo_info_if_there(_api(), repo_id, "model")
    except (*UNREACHABLE, OfflineModeIsEnabled):
        return  # it is asked again when there is something to upload
    names = _names(info) if info else set()
    if names and not names >= FILES_OF_OUR_PIPELINES:
        raise UserError(
            f"{repo_id} exists on the Hub and holds something else ({min(names)}, …). Choose another --hub_model_id, or publish "
            "by `medmnist-diffusion publish … --update` when training is over."
        )


def _repo_info_if_there(api: HfApi, repo_id: str, repo_type: str) -> Any:
    """The repository's description; None where there is none."""
    try:
        return _repo_info(api, repo_id, repo_type)
    except RepositoryNotFoundError as error:
        if error.response.status_code != 404:  # a refused token says so, not that nothing is there
            raise
        return None


def _repo_info(api: HfApi, repo_id: str, repo_type: str) -> Any:
    return api.repo_info(repo_id, repo_type=repo_type, files_metadata=True, timeout=TIMEOUT_SECONDS)


def _address(api: HfApi, repo_id: str, repo_type: str) -> str:
    return f"{api.endpoint}/{'' if repo_type == 'model' else f'{repo_type}s/'}{repo_id}"


def _names(info: Any) -> set[str]:
    """The files of a repository, but those that the Hub itself puts into each."""
    return {file.rfilename for file in info.siblings or []} - BELONGS_TO_HUB


def _hashes(folder: Path) -> dict[str, tuple[str, str]]:
    """Of every file the two hashes by which the Hub knows it: SHA-256 of a large one, git's name for another."""
    found = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = path.read_bytes()
        found[path.relative_to(folder).as_posix()] = (hashlib.sha256(content).hexdigest(), git_hash(content))
    return found


def _holds_exactly(info: Any, hashes: dict[str, tuple[str, str]]) -> bool:
    """Whether a repository holds just these files."""
    there = {file.rfilename: file.lfs.sha256 if file.lfs else file.blob_id for file in info.siblings or []}
    names = _names(info)
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
            info = _repo_info(api, repo_id, repo_type)
        except UNREACHABLE:
            break
        if _holds_exactly(info, hashes):
            return f"{_address(api, repo_id, repo_type)}/commit/{info.sha}"
    else:
        if not late:
            return None
    raise UserError(
        f"the connection broke while the commit was sent, and whether it arrived is not known. Look at {repo_id}; if it did not, "
        "the same command goes on."
    )


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
