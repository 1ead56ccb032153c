"""The Hub round trip over real HTTP against hub_server.py."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

from medmnist_diffusion import cli
from medmnist_diffusion.diffusion.sampling import generate_images, load_pipeline
from medmnist_diffusion.files import file_hash
from tests.conftest import WITHOUT_US, CliError, run_python
from tests.publish.hub_server import WRITE_TOKEN, Hub, Repo
from tests.publish.publishing import REPO, WEIGHTS, environment, publishing

STRANGER = (
    WITHOUT_US
    + """
import numpy as np, torch
from diffusers import DiffusionPipeline, DPMSolverMultistepScheduler
from huggingface_hub import snapshot_download
folder = snapshot_download(sys.argv[1]) if len(sys.argv) > 3 else sys.argv[1]
pipe = DiffusionPipeline.from_pretrained(folder, trust_remote_code=True)
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
    header = ModelCard(card).data.to_dict()
    assert [one["text"] for one in header["widget"]] == [*load_pipeline(folder).id2label.values()]
    shown = [
        Image.open(io.BytesIO(repo.files[one["output"]["url"]])) for one in header["widget"]
    ]  # a class each, enlarged
    expected = generate_images(load_pipeline(folder), range(len(shown)))
    for one, image in zip(shown, expected, strict=True):
        np.testing.assert_array_equal(np.asarray(one)[::3, ::3], image[..., 0])
    assert header["thumbnail"].removeprefix(f"https://huggingface.co/{REPO}/resolve/main/") in repo.files

    cache = {"HF_HOME": str(tmp_path / "home"), "HF_MODULES_CACHE": str(tmp_path / "home" / "modules")}
    result = run_python("-c", STRANGER, REPO, str(tmp_path / "images.npy"), cwd=tmp_path, **environment(hub), **cache)
    assert result.returncode == 0, result.stderr[-2000:]
    whole = ("-c", STRANGER, REPO, str(tmp_path / "images.npy"), "whole")
    assert run_python(*whole, cwd=tmp_path, **environment(hub), **cache).returncode == 0
    asked = len(hub.requests)
    offline = {**environment(hub), **cache, "HF_HUB_OFFLINE": "1"}  # from the cache, as the README says
    result = run_python(*whole, cwd=tmp_path, **offline)
    assert result.returncode == 0, result.stderr[-2000:]
    assert len(hub.requests) == asked
    pipe = load_pipeline(folder)
    pipe.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed) for seed in range(4)]
    ours = pipe(class_labels=[0, 1, 2, 3], timesteps=pipe.fast_timesteps(5), output_type="np", generator=generators)
    np.testing.assert_array_equal(np.load(tmp_path / "images.npy"), ours.images)  # type: ignore[union-attr]


def test_diffusers_own_push_takes_our_code_along(hub: Hub, folder: Path, tmp_path: Path) -> None:
    program = """
import sys
from medmnist_diffusion.pipelines import ClassConditionalDDPMPipeline
pipe = ClassConditionalDDPMPipeline.from_pretrained(sys.argv[1])
pipe.push_to_hub(sys.argv[2], private=True)
pipe.save_pretrained(sys.argv[3], push_to_hub=True, repo_id=sys.argv[2] + "-again")
"""
    home = {"HF_HOME": str(tmp_path / "home")}
    arguments = (str(folder), "tester/pushed", str(tmp_path / "saved"))
    result = run_python("-c", program, *arguments, cwd=tmp_path, **environment(hub), **home)
    assert result.returncode == 0, result.stderr[-2000:]
    for name in ("tester/pushed", "tester/pushed-again"):
        files = hub.repos["model", name].files
        assert files["pipeline.py"] == (folder / "pipeline.py").read_bytes()
        assert json.loads(files["model_index.json"])["_class_name"] == ["pipeline", "ClassConditionalDDPMPipeline"]
        assert files[WEIGHTS] == (folder / WEIGHTS).read_bytes()
    assert hub.repos["model", "tester/pushed"].private


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
    expected = generate_images(load_pipeline(folder), labels, num_inference_steps=3, seed=5)[..., 0]
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
