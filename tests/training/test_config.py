"""Settings: a file and a command line together, and every value that cannot be."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from medmnist_diffusion.data import ImageDataset, Split
from medmnist_diffusion.training.arguments import parse_config
from medmnist_diffusion.training.config import changed_settings, chosen_before, training_config
from medmnist_diffusion.training.setup import with_choices
from tests.conftest import ROOT

LAUNCHES = ROOT / "training" / "configs" / "accelerate"


def test_yaml_and_command_line_together(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("dataset: phantom\nlearning_rate: 0.005\nmax_train_steps: 7\nloss_type: huber\n")
    config = parse_config(["--config", str(tmp_path / "c.yaml"), "--output_dir", "x", "--max_train_steps", "9"])
    assert (config.dataset, config.learning_rate, config.max_train_steps) == ("phantom", 0.005, 9)
    assert (config.loss_type, config.max_train_minutes) == ("huber", None)


@pytest.mark.parametrize("path", sorted((ROOT / "training" / "configs").glob("*.yaml")), ids=lambda path: path.name)
def test_committed_configurations_are_valid(path: Path) -> None:
    parse_config(["--config", str(path), "--dataset", "phantom", "--output_dir", "x"])


def test_a_budget_on_the_command_line_replaces_that_of_the_file() -> None:
    path = ROOT / "training" / "configs" / "default.yaml"
    config = parse_config(
        ["--config", str(path), "--dataset", "phantom", "--output_dir", "x", "--max_train_steps", "9"]
    )
    assert (config.max_train_steps, config.max_train_minutes) == (9, None)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("block_out_channels: 32", "--block_out_channels is 32"),
        ("label_dropout: null", "--label_dropout is None"),
        ("layers_per_block: 1.5", "--layers_per_block is 1.5"),
        ("loss_type: l3", "'l2', 'l1' or 'huber'"),
    ],
)
def test_wrong_types_in_yaml(line: str, message: str, tmp_path: Path, cli_error: Callable[..., str]) -> None:
    (tmp_path / "c.yaml").write_text(line + "\n")
    assert message in cli_error(
        "train", "--dataset", "phantom", "--output_dir", str(tmp_path / "x"), "--config", str(tmp_path / "c.yaml")
    )


def test_a_bare_no_in_yaml_is_a_precision(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("mixed_precision: no\n")
    arguments = ["--dataset", "phantom", "--output_dir", "x", "--config", str(tmp_path / "c.yaml")]
    assert parse_config(arguments).mixed_precision == "no"


def test_default_configuration_writes_out_the_defaults() -> None:
    arguments = ["--dataset", "phantom", "--output_dir", "x"]
    path = ROOT / "training" / "configs" / "default.yaml"
    assert parse_config(["--config", str(path), *arguments]) == parse_config(arguments)


def test_no_budget_means_twenty_minutes() -> None:
    assert parse_config(["--dataset", "phantom", "--output_dir", "x"]).max_train_minutes == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dataset", "phantom"], "--output_dir is needed"),
        (["--output_dir", "x"], "--dataset is needed"),
        (["--learning_rate", "-1"], "greater than 0"),
        (["--learning_rate", "nan"], "a finite number"),
        (["--max_train_minutes", "inf"], "a finite number"),
        (["--label_dropout", "1.5"], "less than or equal to 1"),
        (["--block_out_channels", "30"], "multiples of 8"),
        (["--block_out_channels", "0"], "multiples of 8"),
        (["--seed", "-1"], "greater than or equal to 0"),
        (["--seed", str(2**40)], "less than or equal to 4294967295"),
        (["--layers_per_block", str(10**8)], "less than or equal to 32"),
        (["--num_train_timesteps", str(10**10)], "less than or equal to 100000"),
        (["--num_train_timesteps", "3"], "greater than or equal to 10"),
        (["--report_to", "nothing_such"], "installed trackers are"),
        (["--mixed_precision", "fp16"], "use bf16, or --optimizer adamw"),
        (["--max_train_steps", "5", "--num_train_epochs", "2"], "only one of"),
        (["--config", "nowhere.yaml"], "nowhere.yaml cannot be read"),
        (
            ["--block_out_channels", "16", "32", "32", "32", "32", "32", "--max_train_steps", "1"],
            "are smaller than 64",
        ),
    ],
)
def test_bad_settings(arguments: Any, message: str, cli_error: Callable[..., str], tmp_path: Path) -> None:
    base = [] if message.endswith("is needed") else ["--dataset", "phantom", "--output_dir", str(tmp_path / "x")]
    assert message in cli_error("train", *base, *arguments)
    assert not (tmp_path / "x" / "pipeline").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [("[" * 3000, "cannot be read as YAML"), ("block_out_channels: &a [*a]", "one value, or a list of them")],
    ids=["deep", "holds itself"],
)
def test_yaml_without_end(text: str, message: str, tmp_path: Path, cli_error: Callable[..., str]) -> None:
    (tmp_path / "x.yaml").write_text(text)
    arguments = ["--dataset", "phantom", "--output_dir", str(tmp_path / "x"), "--config", str(tmp_path / "x.yaml")]
    assert message in cli_error("train", *arguments)


def test_unknown_setting_in_yaml_names_the_nearest(tmp_path: Path, cli_error: Callable[..., str]) -> None:
    (tmp_path / "c.yaml").write_text("learning_rat: 0.1\n")
    assert "Did you mean 'learning_rate'?" in cli_error("train", "--config", str(tmp_path / "c.yaml"))


def images(count: int) -> Split:
    return Split("train", np.zeros((count, 28, 28, 1), np.uint8), np.arange(count) % 2)


class Shaped(ImageDataset):
    """A data set of which only the shape matters."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(map(int, self.description.split()))


@pytest.mark.parametrize(
    ("shape", "given", "expected"),
    [
        ("28 28 1", {}, (2, [32, 64], "v_prediction")),
        ("28 28 3", {}, (2, [32, 64], "v_prediction")),
        ("64 64 1", {}, (4, [32, 64], "v_prediction")),
        ("64 64 3", {}, (4, [64, 96], "sample")),
        ("28 28 28 1", {}, (2, [128, 128], "sample")),
        ("64 48 1", {}, (2, [32, 64], "v_prediction")),
        ("64 64 3", {"block_out_channels": [32, 64]}, (2, [32, 64], "v_prediction")),  # as it was when both were fixed
        ("64 64 3", {"prediction_type": "epsilon"}, (2, [32, 64], "epsilon")),
        ("28 28 1", {"pixel_unshuffle": 1}, (1, [32, 64], "v_prediction")),
    ],
)
def test_what_is_not_given_follows_from_the_data(shape: str, given: dict[str, Any], expected: tuple[Any, ...]) -> None:
    dataset = Shaped("x", {"train": images(101)}, {0: "a", 1: "b"}, description=shape)
    config = with_choices(training_config(dataset="x", output_dir="y", **given), dataset)
    assert (config.pixel_unshuffle, config.block_out_channels, config.prediction_type) == expected
    assert with_choices(config, dataset) == config  # a resumed run keeps to it


def test_a_run_of_an_older_version_keeps_what_was_fixed_then() -> None:
    config = training_config(dataset="x", output_dir="y")
    saved = {"block_out_channels": [32, 64], "prediction_type": "v_prediction", "pixel_unshuffle": 2}
    again = chosen_before(config, saved)
    assert (again.block_out_channels, again.prediction_type, again.pixel_unshuffle) == ([32, 64], "v_prediction", 2)
    assert again.varied_share == 0.0
    assert not changed_settings(config, saved)


@pytest.mark.parametrize(
    ("count", "task", "given", "share"),
    [
        (100, "multi-class", None, 0.5),
        (101, "multi-class", None, 0.0),
        (100, "multi-class", 0.0, 0.0),
        (101, "multi-class", 0.25, 0.25),
        (100, "multi-label", None, 0.0),
    ],
)
def test_of_few_images_a_share_is_varied(count: int, task: Any, given: float | None, share: float) -> None:
    dataset = ImageDataset("x", {"train": images(count)}, {0: "a", 1: "b"}, task=task)
    config = with_choices(training_config(dataset="x", output_dir="y", varied_share=given), dataset)
    assert config.varied_share == share


def test_a_file_that_an_earlier_version_wrote_gives_its_recipe(tmp_path: Path) -> None:
    """What came later stays off: the file of a run of 0.2.0; a file of a few settings leaves the rest to today's defaults."""
    older = ROOT / "tests" / "older_files" / "phantom-28" / "training_config.yaml"
    config = parse_config(["--config", str(older), "--output_dir", "x"])
    assert (config.keep, config.varied_share) == ("latest", 0.0)
    assert (config.block_out_channels, config.prediction_type, config.pixel_unshuffle) == ([32, 64], "v_prediction", 2)
    assert parse_config(["--config", str(older), "--output_dir", "x", "--keep", "best"]).keep == "best"
    (tmp_path / "few.yaml").write_text("dataset: phantom\nmax_train_steps: 7\n")
    few = parse_config(["--config", str(tmp_path / "few.yaml"), "--output_dir", "x"])
    assert (few.keep, few.varied_share) == ("best", None)
