"""Properties of configurations that must hold for whatever input hypothesis thinks of."""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import yaml
from hypothesis import given
from hypothesis import strategies as st

from medmnist_diffusion.errors import UserError
from medmnist_diffusion.training.arguments import parse_config
from medmnist_diffusion.training.config import TrainingConfig, kept_settings, write_config

NUMBERS: dict[str, st.SearchStrategy[Any]] = {
    "learning_rate": st.floats(1e-6, 1.0), "train_batch_size": st.integers(1, 999), "seed": st.integers(0, 2**31),
    "label_dropout": st.floats(0, 1), "loss_type": st.sampled_from(["l1", "l2", "huber"]), "use_ema": st.booleans(),
    "block_out_channels": st.lists(st.integers(1, 9).map(lambda n: 8 * n), min_size=1, max_size=3),
    "snr_gamma": st.one_of(st.none(), st.floats(0.1, 10)), "max_train_steps": st.integers(1, 10**6),
}  # fmt: skip


def some_settings() -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=NUMBERS)


def command_line(values: dict[str, Any]) -> list[str]:
    words: list[str] = []
    for name, value in values.items():
        if value is not None:
            words += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return words


@given(some_settings(), some_settings())
def test_the_command_line_wins_over_the_file_and_both_over_the_defaults(
    in_file: dict[str, Any], on_line: dict[str, Any]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.yaml"
        path.write_text(yaml.safe_dump(in_file))
        config = parse_config(["--config", str(path), "--dataset", "d", "--output_dir", "o", *command_line(on_line)])
    given_values = {name: value for name, value in on_line.items() if value is not None}
    expected = {**dataclasses.asdict(TrainingConfig()), **in_file, **given_values}
    for name in NUMBERS:
        assert getattr(config, name) == expected[name], name


@given(some_settings())
def test_a_written_configuration_is_read_as_the_same(values: dict[str, Any]) -> None:
    config = parse_config(["--dataset", "d", "--output_dir", "o", *command_line(values)])
    with tempfile.TemporaryDirectory() as folder:
        write_config(kept_settings(config), Path(folder) / "c.yaml")
        assert parse_config(["--config", f"{folder}/c.yaml", "--output_dir", "o"]) == config


@given(
    st.dictionaries(
        st.text(max_size=20), st.one_of(st.none(), st.integers(), st.text(max_size=9), st.lists(st.integers()))
    )
)
def test_no_yaml_whatever_breaks_the_parser(values: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "c.yaml"
        path.write_text(yaml.safe_dump(values), encoding="utf-8")
        try:
            parse_config(["--config", str(path), "--dataset", "d", "--output_dir", "o"])
        except UserError as error:
            assert "\n" not in str(error)  # noqa: PT017
