"""Faults and refusals of the Hub, over real HTTP against hub_server.py: each is outlived, or said in one line."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi

from medmnist_diffusion import cli
from medmnist_diffusion.publish import hub as hub_module
from tests.conftest import CliError
from tests.publish.hub_server import READ_TOKEN, Fault, Hub
from tests.publish.publishing import REPO, WEIGHTS, publishing


def test_a_file_that_never_arrives(
    hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, cli_error: CliError
) -> None:
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    hub.faults = [Fault("PUT /lfs", 500, times=1000)]
    assert "trouble of its own" in cli_error(*publishing(folder))
    hub.faults = [Fault("PUT /lfs", None, times=1000)]
    assert "Nothing was committed" in cli_error(*publishing(folder))
    hub.faults = []
    assert cli.main(publishing(folder)) == 0


def test_an_upload_that_broke_goes_on(hub: Hub, folder: Path, cli_error: CliError) -> None:
    """Cut while the commit is sent: nothing is there; the second time no large file travels again."""
    hub.faults = [Fault("POST /api/models/tester/phantom-28/commit")]
    error = cli_error(*publishing(folder))
    assert "The same command goes on" in error
    assert not hub.repos["model", REPO].commits
    sent = sum(line.startswith("PUT /lfs") for line in hub.requests)
    assert sent >= 4
    assert cli.main(publishing(folder)) == 0
    assert sum(line.startswith("PUT /lfs") for line in hub.requests) == sent
    assert len(hub.repos["model", REPO].commits) == 1


@pytest.mark.parametrize("status", [None, 504], ids=["cut", "504 of a gateway"])
def test_a_commit_whose_answer_was_lost_is_there(
    status: int | None, hub: Hub, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hub.faults = [Fault("POST /api/models/tester/phantom-28/commit", status, done=True)]
    assert cli.main(publishing(folder)) == 0
    assert f"Committed: {hub.endpoint}/tester/phantom-28/commit/" in capsys.readouterr().out
    assert len(hub.repos["model", REPO].commits) == 1


@pytest.mark.parametrize("late", [False, True], ids=["gone", "late"])
def test_a_commit_of_which_nobody_knows(
    late: bool, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, cli_error: CliError
) -> None:
    """The Hub is gone after it, or answers 504 and may still be at work: that is what is said."""
    commit = HfApi.create_commit

    def last_words(self: HfApi, *args: Any, **options: Any) -> object:
        gone = [Fault("/commit/", done=True), Fault("GET /api/models/tester", times=99)]
        hub.faults = [Fault("/commit/", 504)] if late else gone
        return commit(self, *args, **options)

    monkeypatch.setattr(HfApi, "create_commit", last_words)
    monkeypatch.setattr(hub_module, "WAITS", (0, 0))
    error = cli_error(*publishing(folder))
    assert "whether it arrived is not known" in error
    assert "Nothing was committed" not in error


def test_what_is_there_already_is_not_committed_again(
    hub: Hub, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(publishing(folder)) == 0
    capsys.readouterr()
    assert cli.main(publishing(folder, "--update")) == 0
    assert "it holds all of this already" in capsys.readouterr().out
    assert len(hub.repos["model", REPO].commits) == 1


@pytest.mark.parametrize(
    "fault",
    [Fault("PUT /lfs"), Fault("PUT /lfs", 500), Fault("preupload", 503), Fault("preupload", 429, headers={"Retry-After": "0"})],
    ids=["cut in a file", "500 for a file", "503", "429 with a time to wait"],
)  # fmt: skip
def test_faults_that_pass_are_outlived(fault: Fault, hub: Hub, folder: Path) -> None:
    hub.faults = [fault]
    assert cli.main(publishing(folder)) == 0
    assert fault.times == 0
    assert hub.repos["model", REPO].files[WEIGHTS] == (folder / WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Fault("/commit/", 429), "rate limit is reached"),
        (Fault("/commit/", 500), "trouble of its own"),
        (Fault("/commit/", 403), "may not write to 'tester'"),
        (Fault("/commit/", 409), "another state"),
        (Fault("/commit/", 413), "larger than the Hub accepts"),
        (Fault("GET /api/models/tester", 418), "refuses the upload"),
    ],
    ids=lambda value: str(value.status) if isinstance(value, Fault) else "",
)
def test_refusals_say_what_to_do(fault: Fault, message: str, hub: Hub, folder: Path, cli_error: CliError) -> None:
    hub.faults = [fault]
    error = cli_error(*publishing(folder))
    assert message in error
    assert "Nothing was committed" in error


@pytest.mark.parametrize(
    ("token", "message"),
    [("hf_" + "x" * 34, "refuses the token"), (READ_TOKEN, "may not write"), ("", "no Hugging Face token")],
    ids=["wrong", "read only", "none"],
)
def test_tokens(
    token: str, message: str, hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch, cli_error: CliError
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)
    error = cli_error(*publishing(folder))
    assert message in error
    assert "xxx" not in error
    assert not hub.repos


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("HF_TOKEN", "hf_ümläut", "other characters than ASCII"),
        ("HF_ENDPOINT", "garbage", "no address of a Hub"),
        ("HF_ENDPOINT", "http://[::1", "no address of a Hub"),
    ],
)
def test_an_environment_that_cannot_be(
    variable: str,
    value: str,
    message: str,
    hub: Hub,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    cli_error: CliError,
) -> None:
    monkeypatch.setenv(variable, value)
    assert message in cli_error(*publishing(folder))


def test_another_namespace(hub: Hub, folder: Path, cli_error: CliError) -> None:
    assert "may not write to 'somebody'" in cli_error(*publishing(folder, repo="somebody/else"))


def test_a_hub_that_is_not_there(folder: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub, cli_error: CliError) -> None:
    """Its time-out is short here: huggingface_hub tries six times."""
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    assert "broke or timed out" in cli_error(*publishing(folder))


@pytest.mark.parametrize("request_line", ["GET /api/models/tester", "/preupload/", "/commit/"])
def test_a_hub_that_does_not_answer(
    request_line: str, folder: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub, cli_error: CliError
) -> None:
    monkeypatch.setattr(hub_module, "TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(hub_module, "WAITS", (0, 0))
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)  # between attempts
    hub.faults = [Fault(request_line, seconds=1, times=99)]
    error = cli_error(*publishing(folder))
    assert ("whether it arrived is not known" if request_line == "/commit/" else "(ReadTimeout)") in error


def test_offline_mode(folder: Path, monkeypatch: pytest.MonkeyPatch, hub: Hub, cli_error: CliError) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in cli_error(*publishing(folder))
