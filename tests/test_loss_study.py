"""The loss study: tests against scipy, what may be said, spoiled images, an interrupted run, planted truths, blind rating."""

import json
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path
from subprocess import Popen

import numpy as np
import pytest
from medmnist_diffusion.training.config import TrainingConfig, checked_config, preset
from scipy.stats import binomtest, ttest_rel

from medmnist_diffusion import cli
from medmnist_diffusion.data import load_dataset
from medmnist_diffusion.studies.cells import Arm, Protocol, corrupted, run_cell
from medmnist_diffusion.studies.comparison import compare_arms, mean_and_spread, verdict
from medmnist_diffusion.studies.loss import SOURCE, WATERFALL, Part, best_arm, waterfall
from medmnist_diffusion.studies.loss_report import PartResult, figures_of
from medmnist_diffusion.studies.rating import Rating, make_server

# Comparison


def seeds(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def test_pairs_against_scipy_and_holm_by_hand():
    values = {"a": seeds(1.0, 1.2, 0.9, 1.1), "b": seeds(2.1, 2.2, 1.7, 2.5), "c": seeds(1.1, 1.0, 1.0, 1.2)}
    pairs = {(p.first, p.second): p for p in compare_arms({"x": values})}
    raw = {}
    for first, second in pairs:
        logs = [np.log(list(values[name].values())) for name in (first, second)]
        expected = ttest_rel(*logs)
        raw[first, second] = expected.pvalue
        pair, interval = pairs[first, second], expected.confidence_interval(0.95)
        assert pair.raw_p_value == pytest.approx(expected.pvalue)
        assert pair.interval == pytest.approx((np.exp(interval.low), np.exp(interval.high)))
        assert pair.ratio == pytest.approx(np.exp((logs[0] - logs[1]).mean()))
    ranked = sorted(raw, key=lambda names: raw[names])
    corrected = np.minimum(np.maximum.accumulate([raw[names] * (3 - rank) for rank, names in enumerate(ranked)]), 1)
    assert [pairs[names].p_value for names in ranked] == pytest.approx(corrected.tolist())


def test_only_common_seeds_are_paired():
    (pair,) = compare_arms({"x": {"a": {0: 1.0, 1: 1.0, 2: 9.0}, "b": {0: 2.0, 1: 2.1}}})
    assert pair.seeds == 2
    assert pair.ratio == pytest.approx(1 / np.sqrt(2.0 * 2.1))
    assert compare_arms({"x": {"a": {0: 1.0}, "b": {1: 1.0}}}) == []


def test_what_is_said():
    clear = {"a": seeds(1.0, 1.01, 0.99), "b": seeds(2.0, 2.03, 1.98), "c": seeds(4.0, 4.1, 4.0)}
    assert verdict("x", clear, compare_arms({"x": clear})) == "x: a is best."
    same = {"a": seeds(1.0, 1.3, 0.8), "b": seeds(1.0, 1.3, 0.8)}
    assert verdict("x", same, compare_arms({"x": same})) == "x: the data cannot tell a and b apart."
    mixed = {**clear, "d": seeds(1.0, 1.02, 0.98)}
    said = verdict("x", mixed, compare_arms({"x": mixed}))
    assert "cannot be told apart; b and c are worse" in said
    once = {"a": seeds(1.0), "b": seeds(5.0)}
    assert "cannot tell" in verdict("x", once, compare_arms({"x": once}))
    assert mean_and_spread([1.0, 3.0]) == "2 ± 1.4"


def test_chance_alone_is_not_called_a_difference():
    """Four arms that are the same but for noise, 200 times: at most about 5 % of the studies may name a winner."""
    rng = np.random.default_rng(0)
    told = 0
    for _ in range(200):
        values = {name: seeds(*np.exp(rng.normal(0, 0.2, 3))) for name in "abcd"}
        told += any(pair.p_value < 0.05 for pair in compare_arms({"x": values}))
    assert binomtest(told, 200, 0.05, alternative="greater").pvalue > 0.01


# Arms


def test_the_waterfall_ends_at_the_default():
    arms = list(waterfall(preset("annotated")))
    assert [arm.name for arm in arms] == [SOURCE, *(name for name, _ in WATERFALL)]
    base = {"dataset": "phantom", "output_dir": "x"}
    assert checked_config(TrainingConfig(**{**base, **arms[-1].options})) == checked_config(TrainingConfig(**base))
    assert (arms[0].num_inference_steps, arms[1].num_inference_steps, arms[2].num_inference_steps) == (200, 200, 20)


def test_spoiled_images(small_npz):
    split = load_dataset(str(small_npz)).train
    spoiled = corrupted(split, 0.2, 4, seed=1)
    changed = (spoiled.images != split.images).any((1, 2, 3))
    inverted = (spoiled.images == 255 - split.images).all((1, 2, 3))
    relabelled = spoiled.labels != split.labels
    assert (changed.sum(), inverted.sum(), relabelled.sum()) == (32, 16, 16)
    assert not (changed & relabelled).any()
    assert set(spoiled.labels) <= set(range(4))
    again = corrupted(split, 0.2, 4, seed=1)
    assert np.array_equal(spoiled.images, again.images)


TINY = {
    "block_out_channels": [16, 32], "train_batch_size": 16, "lr_warmup_steps": 5, "mixed_precision": "no",
    "checkpointing_steps": 10,
}  # fmt: skip


# Planted truths, on real trainings


def test_a_crippled_loss_is_found_and_one_loss_under_two_names_is_not(small_npz, tmp_path):
    dataset = load_dataset(str(small_npz))
    protocol = Protocol(base={**TINY, "max_train_steps": 80}, features=("texture",), num_images=100)
    crippled = {"learning_rate": 1e-9, "muon_learning_rate": 1e-9}  # it computes the loss, and learns nothing from it
    arms = [Arm(name="L2"), Arm(name="L2 again"), Arm(name="crippled", options=crippled)]
    (tmp_path / "grids").mkdir()
    cells = [run_cell(tmp_path, arm, seed, protocol, dataset) for seed in range(3) for arm in arms]
    part = PartResult(name="losses", protocol=protocol, reference=None, arms=[arm.name for arm in arms], cells=cells)
    figures = figures_of(part)
    assert len(list((tmp_path / "cells").iterdir())) == 6  # the second name is found to be the first
    (said,) = figures.verdicts
    assert "L2 and L2 again cannot be told apart; crippled is worse" in said


# The command


def study(data: Path, output: Path) -> list[str]:
    return [
        "study", "loss", str(data), "--output", str(output), "--parts", "losses", "--seeds", "2", "--max_train_steps", "12",
        "--num_images", "60", "--features",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def finished_study(small_npz, tmp_path_factory):
    output = tmp_path_factory.mktemp("study") / "whole"
    assert cli.main(study(small_npz, output)) == 0
    return output


def figures(output: Path) -> list:
    part = json.loads((output / "results.json").read_text())["parts"]["losses"]
    for cell in part["cells"]:
        for name in ("seconds", "training_seconds"):
            del cell[name]
        for row in cell["losses"]:
            del row["seconds"], row["images_per_second"]
    return [part["cells"], part["pairs"], part["verdicts"], part["floors"]]


def test_killed_and_started_again_it_gives_the_same(finished_study, small_npz, tmp_path):
    output = tmp_path / "killed"
    with (tmp_path / "log").open("w") as log:
        process = Popen(
            [sys.executable, "-m", "medmnist_diffusion.cli", *study(small_npz, output)], stderr=log, stdout=log
        )
        while len(list((output / "cells").glob("[!.]*.json"))) < 3 and process.poll() is None:
            time.sleep(0.05)
        process.kill()
        process.wait()
    before = {path.name: path.stat().st_mtime_ns for path in (output / "cells").glob("[!.]*.json")}
    assert 3 <= len(before) < 10
    assert cli.main(study(small_npz, output)) == 0
    after = {path.name: path.stat().st_mtime_ns for path in (output / "cells").glob("*.json")}
    assert all(after[name] == when for name, when in before.items())  # nothing was done twice
    assert figures(output) == figures(finished_study)


def test_report(finished_study):
    text = (finished_study / "report.md").read_text()
    for arm in ("L1", "L2", "Huber, δ = 1", "Huber, δ = 0.1", "min-SNR", "*real images*"):
        assert arm in text
    for name in ("curves.png", "losses.png", "losses_grids.png"):
        assert (finished_study / name).is_file()
        assert name in text
    assert "Synthetic" not in text  # an npz of the user's own
    cells = json.loads((finished_study / "results.json").read_text())["parts"]["losses"]["cells"]
    assert len(cells) == 10  # four losses and the best one with min-SNR, two seeds
    assert {"val_l2", "train_l2", "val_l2_bucket_0", "val_l2_bucket_3"} <= set(cells[0]["losses"][0])
    row = cells[0]["losses"][-1]
    assert np.mean([row[f"val_l2_bucket_{i}"] for i in range(4)]) == pytest.approx(row["val_l2"], rel=1e-4)


def test_what_does_not_fit_the_budget_is_named(finished_study, small_npz, capsys):
    arguments = study(small_npz, finished_study)
    arguments[arguments.index("--parts") + 1 : arguments.index("--seeds")] = ["losses", "robustness"]
    assert cli.main([*arguments, "--budget", "90s"]) == 0  # the first is finished and costs nothing but its last arm
    assert "robustness: 12 arms × 2 seeds" in capsys.readouterr().out
    assert "robustness: about" in (finished_study / "report.md").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing", "phantom"], "'nothing' is no study"),
        (["loss", "phantom", "--budget", "soon"], "--budget is 'soon'"),
        (["loss", "phantom", "--seeds", "0"], "more than 0 is needed"),
        (["loss", "phantom", "--rate", "--output", "nowhere"], "holds no finished cell"),
    ],
)
def test_mistakes(arguments, message, cli_error):
    assert message in cli_error("study", *arguments)


# Rating


def test_rating_page(tmp_path):
    rng = np.random.default_rng(0)
    real, generated = (rng.integers(0, 256, (6, 28, 28, 1), np.uint8) for _ in range(2))
    rating = Rating(real, generated, tmp_path / "ratings.json")
    server = make_server(rating)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}/"

    def post(body: bytes) -> None:
        urllib.request.urlopen(urllib.request.Request(f"{address}answer", data=body), timeout=10).read()

    for index in range(12):
        page = urllib.request.urlopen(address, timeout=10).read().decode()
        assert f"Image {index + 1} of 12" in page
        said_real = rating.is_real[index] if index else not rating.is_real[index]  # one wrong answer
        answer = json.dumps({"index": index, "answer": "real" if said_real else "generated"}).encode()
        post(answer)
        post(answer)  # a key held down
    with pytest.raises(urllib.error.HTTPError):
        post(b"{}")
    page = urllib.request.urlopen(address, timeout=10).read().decode()
    server.shutdown()
    expected = binomtest(11, 12).proportion_ci(0.95, method="wilson")
    saved = json.loads((tmp_path / "ratings.json").read_text())
    assert saved["accuracy"] == pytest.approx(11 / 12)
    assert saved["interval"] == pytest.approx([expected.low, expected.high])
    assert "0.92" in page
    assert Rating(real, generated, tmp_path / "ratings.json").result()["rated"] == 12  # a rating goes on


def test_best_arm_is_the_nearest_to_its_floors(finished_study):
    part = PartResult.model_validate(
        {
            key: value
            for key, value in json.loads((finished_study / "results.json").read_text())["parts"]["losses"].items()
            if key in PartResult.model_fields
        }
    )
    arms = [cell.arm for cell in part.cells if cell.seed == 0]
    ratios = {
        arm.name: np.mean(
            [np.log(r.ratio) for cell in part.of(arm.name) for r in cell.records if r.name == "frechet_distance"]
        )
        for arm in arms
    }
    part_of_arms = Part("losses", part.protocol, tuple(arms))
    assert best_arm(part_of_arms, part.cells).name == min(ratios, key=lambda name: ratios[name])
