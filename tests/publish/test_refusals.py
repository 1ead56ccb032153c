"""What must not be published."""

import compileall
import json
import shutil
from pathlib import Path

import pytest
from PIL import Image, PngImagePlugin
from safetensors.torch import load_file, save_file

from medmnist_diffusion import cli
from medmnist_diffusion.diffusion import folder_check
from medmnist_diffusion.files import file_hash
from medmnist_diffusion.publish.card import write_card
from medmnist_diffusion.publish.publish import publish_pipeline, reasons_against_publishing
from tests.conftest import CliError
from tests.publish.publishing import REPO, WEIGHTS, publishing


def test_not_evaluated(trained_run: Path, cli_error: CliError) -> None:
    assert "it was not evaluated" in cli_error(*publishing(trained_run / "pipeline", "--dry_run"))


def test_a_licence_that_nobody_knows(folder: Path, cli_error: CliError) -> None:
    error = cli_error("publish", str(folder), REPO, "--dry_run")
    assert "licence of the training data is 'unknown'" in error


def test_what_evaluation_drew_is_no_reason(folder: Path) -> None:
    """It stays where it is; its packed pixels can look like anything, and a page is made of the folder as it stands."""
    (folder / "samples_seed7.npz").write_bytes(b"packed ~/h and /home/somebody/data of pixels")
    assert not [one for one in reasons_against_publishing(folder, "somebody/page") if "samples" in one]
    (folder / "notes.txt").write_text("see /home/somebody/data")
    assert [one for one in reasons_against_publishing(folder, "somebody/page") if "notes.txt" in one]


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
    others = [record for record in metrics["metrics"] if record["name"] not in ("memorized_share", "copied_share")]
    (folder / "metrics.json").write_text(json.dumps({**metrics, "metrics": others}))
    assert "no check for copies" in cli_error(*publishing(folder, "--dry_run"))


def test_where_copies_cannot_be_judged(folder: Path, cli_error: CliError) -> None:
    """Figures of an older version, and of too few real images: "no sign" would say more than is known."""
    metrics = json.loads((folder / "metrics.json").read_text())
    older = [record for record in metrics["metrics"] if record["name"] != "copied_share"]
    (folder / "metrics.json").write_text(json.dumps({**metrics, "metrics": older}))
    assert "cannot be judged" in cli_error(*publishing(folder, "--dry_run"))
    for record in metrics["metrics"]:
        if record["name"] == "copied_share":
            record["detectable"] = 0.4
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert "copies below 40% would go unseen" in cli_error(*publishing(folder, "--dry_run"))
    for record in metrics["metrics"]:
        if record["name"] == "copied_share":
            record |= {"detectable": 0.05, "near_fresh": 0.12, "seen_copies": 0.95}
    (folder / "metrics.json").write_text(json.dumps(metrics))
    assert "12% of the real images to compare with lie nearer" in cli_error(*publishing(folder, "--dry_run"))
    for known, words in ((None, "an older version measured it"), (0.6, "only 60% count as copies")):
        for record in metrics["metrics"]:
            if record["name"] == "copied_share":
                record |= {"near_fresh": 0.01, "seen_copies": known}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        assert words in cli_error(*publishing(folder, "--dry_run"))


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


def test_what_pip_and_a_download_leave_in_a_folder_stays_there(folder: Path) -> None:
    """pip compiles the pipeline.py of a pipeline that comes with the package."""
    assert compileall.compile_dir(folder, quiet=1)
    assert list(folder.glob("__pycache__/*.pyc"))
    (folder / ".cache" / "huggingface").mkdir(parents=True)
    (folder / ".cache" / "huggingface" / "download.lock").touch()
    published = publish_pipeline(folder, REPO, dry_run=True, data_license="CC BY 4.0")
    assert "pipeline.py" in published.files
    assert not [name for name in published.files if name.startswith((".", "__pycache__"))]
