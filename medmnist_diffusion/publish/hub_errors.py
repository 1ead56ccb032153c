"""Every refusal of the Hub and every break of the network in words that say what to do; never with the token."""

import contextlib
import re
from collections.abc import Iterator

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HTTPError, OfflineModeIsEnabled  # type: ignore[attr-defined]

from medmnist_diffusion.errors import UserError
from medmnist_diffusion.publish.private import PATTERNS

AGAIN = "The same command goes on: what has arrived is not sent again."
UNREACHABLE = (HfHubHTTPError, HTTPError, ConnectionError, TimeoutError)  # what a Hub that refuses or is away leads to


@contextlib.contextmanager
def hub_errors_as_user_errors(repo_id: str) -> Iterator[None]:
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
    except UNREACHABLE as error:
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
