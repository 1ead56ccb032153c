"""The card: valid for the Hub, its snippet runs, and it says nothing that was not measured."""

import json
import math
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard
from PIL import Image

from medmnist_diffusion import cli
from medmnist_diffusion.artifacts import Metrics, TrainingSummary
from medmnist_diffusion.publish.card import _metadata, write_card
from medmnist_diffusion.training.config import PRIVATE_SETTINGS, SETTINGS
from tests.conftest import run_python


@pytest.fixture(scope="module")
def evaluated(trained_run: Path, small_npz: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("evaluated") / "pipeline"
    shutil.copytree(trained_run / "pipeline", folder)
    arguments = [
        "--dataset",
        str(small_npz),
        "--features",
        "texture",
        "--num_images",
        "80",
        "--num_inference_steps",
        "5",
    ]
    assert cli.main(["evaluate", str(folder), *arguments]) == 0
    assert cli.main(["card", str(folder)]) == 0
    return folder


def test_an_unevaluated_card_claims_nothing(pipeline: Path) -> None:
    card = ModelCard.load(pipeline / "README.md")
    assert card.data.library_name == "diffusers"
    assert card.data.eval_results is None
    assert "Not evaluated yet" in card.text
    assert "no check for copies" in card.text
    assert "Research only, not for diagnosis" in card.text


def test_measured_figures_stand_in_the_card_with_their_floors(evaluated: Path) -> None:
    records = json.loads((evaluated / "metrics.json").read_text())["metrics"]
    card = ModelCard.load(evaluated / "README.md")
    in_index = {result.metric_name: result.metric_value for result in card.data.eval_results}
    for record in records:
        assert f"{record['value']:.3g}" in card.text
        assert f"{record['floor']:.3g}" in card.text
        if record["class"] is None:
            assert pytest.approx(record["value"], abs=1e-6) in in_index.values()
    assert set(card.data.tags) >= {"medical", "class-conditional", "research-only"}
    assert "None of these is an FID" in card.text
    assert card.text.index("Are the images realistic?") < card.text.index("samples.png") < card.text.index("<details>")
    assert card.data.datasets is None  # an npz is no data set of the Hub
    assert "Copies." in card.text
    assert "dpmsolver++, 5 steps" in card.text


def test_metadata_block_is_valid_yaml_for_the_hub(evaluated: Path) -> None:
    card = ModelCard.load(evaluated / "README.md")
    assert card.data.to_dict()["model-index"][0]["results"]
    assert card.data.license == "other"
    assert card.data.license_name == "unknown"
    assert card.data.pipeline_tag == "unconditional-image-generation"


# A data set's id, as the Hub checks it when a card is pushed.
HUB_ID = re.compile(r"(?:[A-Za-z0-9_-]+/)?[A-Za-z0-9_.-]+")


@pytest.mark.parametrize("name", ["pneumoniamnist", "Mein Datensatz (2), größer", "somebody/set", "细胞"])
def test_the_hub_takes_the_metadata(name: str, evaluated: Path) -> None:
    """Its rules, which can be asked by network alone: hub-docs' modelcard.md, and what it answers to those who broke them."""
    summary = TrainingSummary.of(evaluated)
    named = summary.model_copy(update={"dataset": summary.dataset.model_copy(update={"name": name})})
    data = yaml.safe_load(str(_metadata(named, Metrics.read(evaluated / "metrics.json"))))
    assert None not in data.values()  # a key without a value is refused
    (index,) = data["model-index"]
    assert index["name"]
    for result in index["results"]:
        assert HUB_ID.fullmatch(result["dataset"]["type"])
        assert result["dataset"]["name"] == name
        assert result["task"]["type"]
        for metric in result["metrics"]:
            assert metric["type"]
            assert math.isfinite(metric["value"])
    assert all(isinstance(tag, str) and tag for tag in data["tags"])
    assert re.fullmatch("[a-z0-9.-]+", data.get("license_name", "-"))


def test_only_the_official_features_in_full_are_called_fid_on_the_hub(evaluated: Path) -> None:
    metrics = Metrics.read(evaluated / "metrics.json")
    overall = next(record for record in metrics.metrics if record.class_ is None)
    of_inception = [
        overall.model_copy(update={"name": "frechet_distance", "extractor": "inception", "dimension": dimension})
        for dimension in (64, 768, 2048)
    ]
    data = _metadata(TrainingSummary.of(evaluated), metrics.model_copy(update={"metrics": of_inception}))
    assert [result.metric_type for result in data.eval_results] == ["frechet_distance", "frechet_distance", "fid"]


def test_the_whole_configuration_and_the_pictures_are_there(pipeline: Path) -> None:
    text = (pipeline / "README.md").read_text()
    for name in SETTINGS:
        assert name in PRIVATE_SETTINGS or f"{name}:" in text
    for picture in re.findall(r"!\[.*?\]\((.*?)\)", text):
        assert Image.open(pipeline / picture).size[0] > 100
    assert "{{" not in text
    assert "None" not in text


def test_the_snippet_of_the_card_runs_without_this_package(pipeline: Path, tmp_path: Path) -> None:
    write_card(pipeline, str(pipeline))
    (snippet,) = re.findall(r"```python\n(.*?)```", (pipeline / "README.md").read_text(), re.DOTALL)
    (tmp_path / "snippet.py").write_text(
        "import sys\nsys.modules['medmnist_diffusion'] = None  # any import of it fails\n" + snippet
    )
    result = run_python("snippet.py", cwd=tmp_path, HF_MODULES_CACHE=str(tmp_path / "modules"))
    assert result.returncode == 0, result.stderr[-2000:]
    assert Image.open(tmp_path / "sample.png").size == (28, 28)


def test_the_phantom_is_called_synthetic(tmp_path: Path) -> None:
    run = tmp_path / "run"
    arguments = ["--max_train_steps", "3", "--train_batch_size", "8", "--mixed_precision", "no", "--report_to", "none"]
    assert cli.main(["train", "--dataset", "phantom-rgb", "--output_dir", str(run), *arguments]) == 0
    card = ModelCard.load(run / "pipeline" / "README.md")
    assert "not images of patients" in card.text
    assert "focal opacity" in card.text
    assert "RGB" in card.text
    assert Image.open(run / "pipeline" / "samples.png").mode == "RGB"


def test_figures_of_another_data_set_or_other_weights_are_refused(
    evaluated: Path, tmp_path: Path, cli_error: Callable[..., str]
) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(evaluated, folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    other = "0" * 64
    for block, changed, message in (
        ("dataset", {"content_hash": other, "unordered_hash": other}, "other data"),
        ("dataset", {"content_hash": other, "unordered_hash": None}, "other data"),
        ("pipeline", {"weights_sha256": other}, "other weights"),
    ):
        wrong = {**metrics, block: {**metrics[block], **changed}}
        (folder / "metrics.json").write_text(json.dumps(wrong))
        assert message in cli_error("card", str(folder))


def test_memorization_is_said_aloud(evaluated: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pipeline"
    shutil.copytree(evaluated, folder)
    metrics = json.loads((folder / "metrics.json").read_text())
    for record in metrics["metrics"]:
        if record["name"] == "memorized_share":
            record.update(value=0.4, interval=[0.3, 0.5], p_value=1e-9)
    (folder / "metrics.json").write_text(json.dumps(metrics))
    write_card(folder)
    assert "That is more than chance" in (folder / "README.md").read_text()


def test_copies_of_one_class_are_said_aloud_and_chance_is_not(evaluated: Path, tmp_path: Path) -> None:
    """One class far below chance flags the model; one of many p-values just below 0.01 does not (Holm)."""
    folder = tmp_path / "pipeline"
    shutil.copytree(evaluated, folder)
    whole = json.loads((folder / "metrics.json").read_text())
    template = next(record for record in whole["metrics"] if record["name"] == "memorized_share")
    others = [record for record in whole["metrics"] if record["name"] != "memorized_share"]
    for p_value, flagged in ((1e-5, True), (0.005, False)):
        shares = [{**template, "class": c, "p_value": p_value if c == 1 else 0.4} for c in (None, 0, 1, 2, 3)]
        (folder / "metrics.json").write_text(json.dumps({**whole, "metrics": others + shares}))
        write_card(folder)
        assert ("That is more than chance" in (folder / "README.md").read_text()) is flagged


def test_an_empty_folder_is_no_pipeline(tmp_path: Path, cli_error: Callable[..., str]) -> None:
    assert "model_index.json is missing" in cli_error("card", str(tmp_path))
