"""The Hub round trip over real HTTP against tests/hub_server.py, with faults; and what must not be published."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import HfApi
from PIL import Image, PngImagePlugin
from safetensors.torch import load_file, save_file

from medmnist_diffusion import cli
from medmnist_diffusion.data import phantom
from medmnist_diffusion.data.npz import write_npz
from medmnist_diffusion.diffusion import folder_check
from medmnist_diffusion.diffusion.sampling import generate, load_pipeline
from medmnist_diffusion.files import file_hash
from medmnist_diffusion.metrics import classifier
from medmnist_diffusion.publish import hub as hub_module
from medmnist_diffusion.publish.card import write_card

from .conftest import WITHOUT_US, run_python, small_training
from .hub_server import READ_TOKEN, WRITE_TOKEN, Fault, Hub, Repo

CliError = Callable[..., str]
REPO = "tester/phantom-28"
WEIGHTS = "unet/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline folder with its figures, as `train` and `evaluate` leave it."""
    made = tmp_path_factory.mktemp("published")
    write_npz(made / "small.npz", phantom.make_phantom(counts={"train": 480, "val": 240, "test": 120}))
    assert cli.main(["train", *small_training(made / "small.npz", made / "run"), "--max_train_steps", "20"]) == 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classifier, "STEPS", 40)
        patch.setattr(classifier, "RECIPE", "short")
        arguments = ["--features", "classifier", "--num_images", "160", "--num_inference_steps", "3"]
        assert (
            cli.main(["evaluate", str(made / "run" / "pipeline"), "--dataset", str(made / "small.npz"), *arguments])
            == 0
        )
    return made / "run" / "pipeline"


@pytest.fixture
def folder(evaluated: Path, tmp_path: Path) -> Path:
    return shutil.copytree(evaluated, tmp_path / "pipeline")


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with Hub() as server:
        for name, value in environment(server).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        yield server


def environment(hub: Hub, token: str = WRITE_TOKEN) -> dict[str, str]:
    return {"HF_ENDPOINT": hub.endpoint, "HF_TOKEN": token, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}


def publishing(folder: Path, *options: str, repo: str = REPO) -> list[str]:
    return ["publish", str(folder), repo, "--data_license", "CC0 1.0", *options]


# The round trip

STRANGER = (
    WITHOUT_US
    + """
import numpy as np, torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], trust_remote_code=True)
pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config)
images = pipe(class_labels=[0, 1, 2, 3], timesteps=pipe.fast_timesteps(5), output_type="np",
              generator=[torch.Generator().manual_seed(s) for s in range(4)]).images
np.save(sys.argv[2], images)
"""
)


def test_published_loaded_by_a_stranger_and_the_same_images(
    hub: Hub, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert cli.main(publishing(folder)) == 0
    out = capsys.readouterr().out
    assert WEIGHTS in out
    assert f'from_pretrained("{REPO}", trust_remote_code=True)' in out
    assert WRITE_TOKEN not in out
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before

    repo = hub.repos["model", REPO]
    assert repo.private
    assert len(repo.commits) == 1  # all in one
    assert repo.files[WEIGHTS] == (folder / WEIGHTS).read_bytes()
    card = repo.files["README.md"].decode()
    assert f'from_pretrained("{REPO}"' in card
    assert "license: cc0-1.0" in card

    cache = {"HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "home" / "modules")}
    result = run_python("-c", STRANGER, REPO, str(tmp_path / "images.npy"), cwd=tmp_path, **environment(hub), **cache)
    assert result.returncode == 0, result.stderr[-2000:]
    pipe = load_pipeline(folder)
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    ours = pipe(class_labels=[0, 1, 2, 3], timesteps=pipe.fast_timesteps(5), output_type="np", generator=generators)
    np.testing.assert_array_equal(np.load(tmp_path / "images.npy"), ours.images)


def test_a_data_set_of_images_goes_up_and_comes_down(hub: Hub, folder: Path, tmp_path: Path) -> None:
    arguments = ["sample", str(folder), "--num_per_class", "3", "--num_inference_steps", "3", "--seed", "5"]
    assert cli.main([*arguments, "--output", str(tmp_path / "images.npz")]) == 0
    publish = ["publish-dataset", str(tmp_path / "images.npz"), "tester/synthetic", "--pipeline", str(folder),
               "--data_license", "CC0 1.0", "--public"]  # fmt: skip
    assert cli.main(publish) == 0
    repo = hub.repos["dataset", "tester/synthetic"]
    assert not repo.private
    card = repo.files["README.md"].decode()
    assert "**Synthetic.** 12 generated 28×28 grey images" in card
    assert "no benefit is claimed" in card
    assert "seed 5" in card
    code = (
        "import sys, numpy as np\nfrom datasets import load_dataset\n"
        "table = load_dataset(sys.argv[1])['train']\n"
        "np.savez(sys.argv[2], images=np.stack([np.asarray(i) for i in table['image']]), labels=np.array(table['label']))\n"
    )
    result = run_python("-c", code, "tester/synthetic", str(tmp_path / "back.npz"), cwd=tmp_path,
                        **environment(hub), HF_HOME=str(tmp_path / "home"))  # fmt: skip
    assert result.returncode == 0, result.stderr[-2000:]
    labels = np.repeat(np.arange(4), 3)
    expected = generate(load_pipeline(folder), labels, num_inference_steps=3, seed=5)[..., 0]
    with np.load(tmp_path / "back.npz") as back:
        np.testing.assert_array_equal(back["labels"], labels)
        np.testing.assert_array_equal(back["images"], expected)


@pytest.mark.parametrize("change", ["other weights", "other images", "a link"])
def test_images_that_the_generator_did_not_make(
    change: str, folder: Path, tmp_path: Path, cli_error: CliError
) -> None:
    """The note beside the images names their hash: neither real images nor a file from elsewhere slip in."""
    images = tmp_path / "images"
    arguments = ["sample", str(folder), "--num_per_class", "3", "--num_inference_steps", "1", "--output", str(images)]
    assert cli.main(arguments) == 0
    picture = sorted(images.rglob("*.png"))[0]
    if change == "other weights":
        record = (images / "metadata.csv").read_text()
        weights = file_hash(folder / WEIGHTS)
        (images / "metadata.csv").write_text(record.replace(weights, "0" * 64))
    elif change == "other images":
        Image.new("L", (28, 28), 7).save(picture)
    else:
        Image.new("L", (28, 28), 7).save(tmp_path / "scan.png")
        picture.unlink()
        picture.symlink_to(tmp_path / "scan.png")
    error = cli_error(
        "publish-dataset", str(images), REPO, "--pipeline", str(folder), "--data_license", "CC0 1.0", "--dry_run"
    )
    assert ("symbolic links" if change == "a link" else "does not hold the images that `sample` made") in error


def test_dry_run_needs_no_network_and_no_token(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.delenv("HF_TOKEN", raising=False)
    assert cli.main(publishing(folder, "--dry_run")) == 0
    out = capsys.readouterr().out
    assert "nothing was uploaded" in out
    assert "private" in out
    assert "README.md" in out


def test_a_repository_that_holds_files_needs_update(hub: Hub, folder: Path, cli_error: CliError) -> None:
    assert cli.main(publishing(folder)) == 0
    assert "publish … --update" in cli_error(*publishing(folder))
    files = hub.repos["model", REPO].files
    index = "unet/diffusion_pytorch_model.safetensors.index.json"  # diffusers would load what it names
    files[index] = b"{}"
    assert cli.main(publishing(folder, "--update")) == 0
    assert set(hub.repos["model", REPO].files) == set(files) - {index}
    assert hub.repos["model", REPO].files[WEIGHTS] == (folder / WEIGHTS).read_bytes()


@pytest.mark.parametrize("options", [[], ["--update"]])
def test_a_public_repository_is_not_called_private(
    options: list[str], hub: Hub, folder: Path, cli_error: CliError
) -> None:
    hub.repos["model", REPO] = Repo(private=False, files={".gitattributes": b""})
    assert "is public on the Hub" in cli_error(*publishing(folder, *options))
    assert cli.main(publishing(folder, "--public", *options)) == 0


# Faults


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

    def last_words(self: HfApi, *args: object, **options: object) -> object:
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


# What must not be published


def test_not_evaluated(trained_run: Path, cli_error: CliError) -> None:
    assert "it was not evaluated" in cli_error(*publishing(trained_run / "pipeline", "--dry_run"))


def test_a_licence_that_nobody_knows(folder: Path, cli_error: CliError) -> None:
    error = cli_error("publish", str(folder), REPO, "--dry_run")
    assert "licence of the training data is 'unknown'" in error


def test_addresses_are_no_paths_and_your_hub_name_no_secret(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "tester")
    summary = json.loads((folder / "training_summary.json").read_text())
    summary["dataset"]["citation"] = "https://www.example.org/media/press/scans.html and /datasets/x"
    (folder / "training_summary.json").write_text(json.dumps(summary))
    folder_check.write_manifest(folder)
    assert cli.main(publishing(folder, "--dry_run")) == 0


def test_a_model_that_copies(folder: Path, cli_error: CliError) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    for record in metrics["metrics"]:
        if record["name"] == "memorized_share":
            record["p_value"] = 1e-9
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert "reproduces training images" in cli_error(*publishing(folder, "--dry_run"))


def test_without_a_check_for_copies(folder: Path, cli_error: CliError) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["metrics"] = [record for record in metrics["metrics"] if record["name"] != "memorized_share"]
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert "no check for copies" in cli_error(*publishing(folder, "--dry_run"))


@pytest.mark.parametrize(
    "name", ["optimizer.bin", "real/patient_0001.png", "patients.json", ".metrics.77.tmp.json", "link.json"]
)
def test_files_that_training_does_not_write(name: str, folder: Path, tmp_path: Path, cli_error: CliError) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    if name == "link.json":
        (tmp_path / "secret.json").write_text("{}")
        (folder / name).symlink_to(tmp_path / "secret.json")
    else:
        (folder / name).write_bytes(b"{}")
    error = cli_error(*publishing(folder, "--dry_run"))
    assert f"does not belong into a published folder: {name}" in error


def test_other_code(folder: Path, cli_error: CliError) -> None:
    (folder / "pipeline.py").write_text((folder / "pipeline.py").read_text() + "\nimport os\n")
    folder_check.write_manifest(folder)
    assert "pipeline.py is not the file" in cli_error(*publishing(folder, "--dry_run"))


def test_a_changed_folder_is_not_published_under_a_new_manifest(folder: Path, cli_error: CliError) -> None:
    """Giving a licence writes a manifest of the copy: not before the folder's own was checked."""
    index = json.loads((folder / "model_index.json").read_text())
    names = list(index["id2label"].values())
    index["id2label"] = dict(zip(index["id2label"], reversed(names), strict=True))
    (folder / "model_index.json").write_text(json.dumps(index))
    assert "is not what manifest.json says" in cli_error(*publishing(folder, "--dry_run"))


def test_shards_beside_the_weights(folder: Path, cli_error: CliError) -> None:
    """diffusers would read them in the place of the weights that the manifest knows."""
    shard = folder / "unet" / "diffusion_pytorch_model-00001-of-00001.safetensors"
    shutil.copy(folder / WEIGHTS, shard)
    names = dict.fromkeys(load_file(shard), shard.name)
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
    assert "it is no part of a pipeline" in cli_error(*publishing(folder, "--dry_run"))


@pytest.mark.parametrize("recorded", ["CC BY-NC 4.0", "hospital use only"])
def test_a_known_licence_is_not_replaced(recorded: str, folder: Path, cli_error: CliError) -> None:
    summary = json.loads((folder / "training_summary.json").read_text())
    summary["dataset"]["license"] = recorded
    (folder / "training_summary.json").write_text(json.dumps(summary))
    folder_check.write_manifest(folder)
    assert "cannot replace it" in cli_error(*publishing(folder, "--dry_run"))


def test_training_that_went_on_with_other_data(folder: Path, cli_error: CliError) -> None:
    summary = json.loads((folder / "training_summary.json").read_text())
    summary["changes"] = ["step 60: train images: a → b"]
    (folder / "training_summary.json").write_text(json.dumps(summary))
    folder_check.write_manifest(folder)
    error = cli_error(*publishing(folder, "--dry_run"))
    assert "step 60: train images" in error


def test_markup_in_what_others_wrote_stays_text(folder: Path) -> None:
    summary = json.loads((folder / "training_summary.json").read_text())
    summary["dataset"]["notes"] = ["x\n\n## Approved for diagnosis\n<img src=x> | `a`"]
    (folder / "training_summary.json").write_text(json.dumps(summary))
    card = write_card(folder).read_text()
    assert "\n## Approved" not in card
    assert "<img" not in card


def figures_with_a_note(folder: Path, note: str) -> None:
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["refused"].append(note)
    (folder / "metrics.json").write_text(json.dumps(metrics))


def picture_with_a_note(folder: Path, note: str) -> None:
    info = PngImagePlugin.PngInfo()
    info.add_text("Comment", note)
    Image.new("L", (8, 8)).save(folder / "samples.png", pnginfo=info)


def picture_with_a_tail(folder: Path, note: str) -> None:
    """Behind its end, where no reader of pictures looks."""
    with (folder / "samples.png").open("ab") as file:
        file.write(note.encode())


def picture_with_exif(folder: Path, note: str) -> None:
    exif = Image.Exif()
    exif[0x9C9C] = note.encode("utf-16-le")  # Windows' comment
    Image.new("L", (8, 8)).save(folder / "samples.png", exif=exif)


def weights_with_a_note(folder: Path, note: str) -> None:
    save_file(load_file(folder / WEIGHTS), folder / WEIGHTS, {"format": "pt", "note": note})
    folder_check.write_manifest(folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["pipeline"]["weights_sha256"] = file_hash(folder / WEIGHTS)
    (folder / "metrics.json").write_text(json.dumps(metrics))


@pytest.mark.parametrize("place", ["json", "png", "png's end", "exif", "weights"])
@pytest.mark.parametrize(
    ("note", "message"),
    [("hf_" + "A1b2" * 9, "holds a token"), ("/home/somebody/scans/7.png", "a local path"),
     ("C:\\Users\\somebody\\x", "a local path"), ("trained by somebody-odd", "your user name"),
     ("/data/hospital/a.npz", "a local path"),
     ("/Volumes/USB/x", "a local path"), ("~/scans", "a local path")],
    ids=["token", "path", "windows path", "user", "data", "volume", "home"],
)  # fmt: skip
def test_private_text(
    place: str, note: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, cli_error: CliError
) -> None:
    monkeypatch.setattr("getpass.getuser", lambda: "somebody-odd")
    places = {
        "json": figures_with_a_note, "png": picture_with_a_note, "png's end": picture_with_a_tail, "exif": picture_with_exif,
        "weights": weights_with_a_note,
    }  # fmt: skip
    places[place](folder, note)
    error = cli_error(*publishing(folder, "--dry_run"))
    assert message in error
    assert note[:8] not in error.split("cannot be published", 1)[1]


@pytest.mark.parametrize("repo", ["no-namespace", "a/b/c", "bad name/x", "../x"])
def test_ids_that_the_hub_does_not_know(repo: str, folder: Path, cli_error: CliError) -> None:
    assert "is no Hub id" in cli_error("publish", str(folder), repo, "--dry_run")


# From training


def test_training_can_publish_what_it_made(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli_error: CliError
) -> None:
    """Trained, evaluated, published; the id and the licence stay out of the published configuration. The same command does it
    again; what is somebody else's is left alone, and that is said before training."""
    monkeypatch.setattr(classifier, "STEPS", 40)
    monkeypatch.setattr(classifier, "RECIPE", "short")
    data, run = tmp_path / "small.npz", tmp_path / "run"
    write_npz(data, phantom.make_phantom(counts={"train": 480, "val": 240, "test": 120}))
    options = ["--max_train_steps", "5", "--push_to_hub", "true", "--hub_model_id", REPO, "--data_license", "CC0 1.0"]
    assert cli.main(["train", *small_training(data, run), *options]) == 0
    files = hub.repos["model", REPO].files
    assert files[WEIGHTS] == (run / "pipeline" / WEIGHTS).read_bytes()
    assert "metrics.json" in files
    assert b"hub_model_id" not in files["training_config.yaml"]
    assert cli.main(["train", *small_training(data, run), *options]) == 0
    hub.repos["model", REPO].files = {"README.md": b"mine"}
    assert "holds something else" in cli_error("train", *small_training(data, tmp_path / "other"), *options)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "needs --hub_model_id"),
        (["--hub_model_id", "nobody"], "is no Hub id"),
        (["--hub_model_id", REPO, "--data_license", "mine"], "needs one of"),
        (["--hub_model_id", REPO], "no Hugging Face token"),
    ],
)
def test_what_would_not_be_published_is_said_before_training(
    options: list[str],
    message: str,
    small_npz: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cli_error: CliError,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "" if message.startswith("no Hugging") else WRITE_TOKEN)
    arguments = [*small_training(small_npz, tmp_path / "run"), "--max_train_steps", "5", "--push_to_hub", "true"]
    assert message in cli_error("train", *arguments, *options)
    assert not (tmp_path / "run").exists()
