"""The loss study: tests against scipy, what may be said, spoiled images, an interrupted run, planted truths, blind rating."""

import json
import sys
import threading
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from subprocess import Popen

import numpy as np
import pytest
from scipy.stats import binomtest, ttest_rel
from scipy.stats import t as student_t

from medmnist_diffusion import cli
from medmnist_diffusion.data import load_dataset
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.metrics.extractors import make_extractor
from medmnist_diffusion.metrics.records import MetricRecord
from medmnist_diffusion.studies.loss.cells import Arm, Bench, CellResult, corrupted, run_cell
from medmnist_diffusion.studies.loss.comparison import all_pairs, changes, contrasts, verdict
from medmnist_diffusion.studies.loss.rating import Rating, make_server
from medmnist_diffusion.studies.loss.report import PRIMARY, PartResult, proposed_settings, verdicts, write_report
from medmnist_diffusion.studies.loss.study import SOURCE, WATERFALL, Clock, Part, best_arm, plan_seeds, waterfall
from medmnist_diffusion.studies.tables import mean_and_spread
from medmnist_diffusion.training.config import TrainingConfig, checked_config, preset

# Comparison


def seeds(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def test_two_arms_give_the_paired_t_test():
    values = {"a": seeds(1.0, 1.2, 0.9, 1.1), "b": seeds(1.4, 1.3, 1.2, 1.6)}
    (found,) = contrasts("x", values, [("a", "b")])
    logs = [np.log(list(of_arm.values())) for of_arm in values.values()]
    expected = ttest_rel(*logs)
    interval = expected.confidence_interval(0.95)
    assert found.p_value == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx((np.exp(interval.low), np.exp(interval.high)))
    assert found.ratio == pytest.approx(np.exp((logs[0] - logs[1]).mean()))


def test_more_arms_share_their_variance_and_the_pair_has_to_agree():
    """Against least squares with a column an arm and a seed, Holm's correction by hand, scipy's paired test; a cell is missing."""
    rng = np.random.default_rng(0)
    logs = np.array([0.0, 0.05, 0.3])[:, None] + rng.normal(0, 0.3, 4) + rng.normal(0, 0.1, (3, 4))
    cells = [(arm, seed) for arm in range(3) for seed in range(4) if (arm, seed) != (1, 3)]
    values = {"abc"[arm]: {seed: np.exp(logs[arm, seed]) for a, seed in cells if a == arm} for arm in range(3)}
    found = {(c.first, c.second): c for c in contrasts("x", values, all_pairs("abc"))}
    design = np.array([[i == arm for i in (1, 2)] + [j == seed for j in range(4)] for arm, seed in cells], float)
    solution, rest, _, _ = np.linalg.lstsq(design, np.array([logs[cell] for cell in cells]), rcond=None)
    covariance = np.linalg.inv(design.T @ design) * rest[0] / (11 - 6)
    common, paired, intervals = {}, {}, {}
    for pair, weights in {("a", "b"): [-1, 0], ("a", "c"): [0, -1], ("b", "c"): [1, -1]}.items():
        weights = np.array([*weights, 0, 0, 0, 0])
        estimate, error = weights @ solution, np.sqrt(weights @ covariance @ weights)
        assert np.log(found[pair].ratio) == pytest.approx(estimate)
        common[pair] = 2 * student_t.sf(abs(estimate) / error, 5)
        rows = [logs["abc".index(arm), : 3 if "b" in pair else 4] for arm in pair]
        paired[pair] = ttest_rel(*rows)
        own, reach = paired[pair].confidence_interval(0.95), student_t.ppf(0.975, 5) * error
        intervals[pair] = np.exp([min(estimate - reach, own.low), max(estimate + reach, own.high)])
    ranked = sorted(common, key=lambda pair: common[pair])
    corrected = np.minimum(np.maximum.accumulate([common[pair] * (3 - rank) for rank, pair in enumerate(ranked)]), 1)
    for pair, p in zip(ranked, corrected, strict=True):
        assert found[pair].p_value == pytest.approx(max(p, paired[pair].pvalue))
        assert found[pair].interval == pytest.approx(tuple(intervals[pair]))


def test_cells_that_are_missing():
    (found,) = contrasts("x", {"a": {0: 1.0, 1: 1.0, 2: 9.0}, "b": {0: 2.0, 1: 2.1}}, [("a", "b")])
    assert found.seeds == 2
    assert found.ratio == pytest.approx(1 / np.sqrt(2.0 * 2.1))
    clear = {"a": seeds(1.0, 1.01, 0.99), "b": seeds(2.0, 2.03, 1.98)}
    assert contrasts("x", {**clear, "c": {0: 1.5}}, [("a", "b")])[0].p_value < 0.05  # a third arm's gaps cost nothing
    assert contrasts("x", {"a": {0: 1.0}, "b": {1: 1.0}}, [("a", "b")]) == []
    (once,) = contrasts("x", {"a": {0: 1.0}, "b": {0: 5.0}}, [("a", "b")])
    assert (once.p_value, once.interval) == (1.0, None)


def said(values) -> str:
    return verdict("x", list(values), contrasts("x", values, all_pairs(list(values))))


def test_what_is_said():
    clear = {"a": seeds(1.0, 1.01, 0.99), "b": seeds(2.0, 2.03, 1.98), "c": seeds(4.0, 4.1, 4.0)}
    assert said(clear) == "x: a is best."
    assert said({"a": seeds(1.0, 1.3, 0.8), "b": seeds(1.0, 1.3, 0.8)}) == "x: the data cannot tell a and b apart."
    several = said({**clear, "d": seeds(1.0, 1.02, 0.98)})
    assert several.startswith("x: a is better than b and c; ")
    assert several.endswith("a, the lowest, cannot be told from d.") or several.endswith(
        "d, the lowest, cannot be told from a."
    )
    assert "cannot tell" in said({"a": seeds(1.0), "b": seeds(5.0)})
    found = contrasts("x", clear, [("b", "a"), ("c", "b")])
    assert changes("x", found) == "x: worse: b (× 2), c (× 2)."
    assert mean_and_spread([1.0, 3.0]) == "2 ± 1.4"
    assert mean_and_spread([1000.0, 1000.0]) == "1000 ± 0"
    assert mean_and_spread([0.012345]) == "0.0123"


def test_a_loss_that_is_half_as_good_is_found_with_three_seeds():
    """The study's own layout, five arms and three seeds with 10 % of noise: found nearly always, and the equal arms are not told
    apart more often than 5 %."""
    rng, found, false = np.random.default_rng(0), 0.0, 0
    for _ in range(200):
        values = {arm: seeds(*np.exp(rng.normal(0.7 * (arm == "e"), 0.1, 3))) for arm in "abcde"}
        tests = contrasts("x", values, all_pairs("abcde"))
        found += np.mean([c.p_value < 0.05 for c in tests if "e" in (c.first, c.second)])
        false += any(c.p_value < 0.05 for c in tests if "e" not in (c.first, c.second))
    assert found > 190
    assert binomtest(false, 200, 0.05, alternative="greater").pvalue > 0.01


def test_arms_that_vary_much_are_not_told_apart_from_the_default_by_the_others_calm():
    """The layout of the parameters, with variances as unequal as were measured; by a common variance 14 % of studies are wrong."""
    rng, false = np.random.default_rng(1), 0
    for _ in range(300):
        spread = 0.07 * np.sqrt(3 / rng.chisquare(3, 17))
        values = {f"arm {i}": seeds(*np.exp(rng.normal(0, spread[i], 3))) for i in range(17)}
        tests = contrasts("x", values, [(f"arm {i}", "arm 0") for i in range(1, 17)])
        false += any(c.p_value < 0.05 for c in tests)
    assert binomtest(false, 300, 0.05, alternative="greater").pvalue > 0.01


# Arms


def test_the_waterfall_ends_at_the_default():
    arms = list(waterfall(preset("annotated")))
    assert [arm.name for arm in arms] == [SOURCE, *(name for name, _ in WATERFALL)]
    base = {"dataset": "phantom", "output_dir": "x"}
    assert checked_config(TrainingConfig(**{**base, **arms[-1].options})) == checked_config(TrainingConfig(**base))
    fast = [arm.name for arm in arms].index("+ 10 DPM-Solver++ steps")
    assert [arm.num_inference_steps for arm in arms] == [200] * fast + [10] * (len(arms) - fast)


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


def test_a_crippled_loss_is_found_and_twins_are_not_told_apart(small_npz, tmp_path):
    dataset = load_dataset(str(small_npz))
    extractors = tuple(make_extractor(name, dataset) for name in ("texture",))
    bench = Bench(tmp_path, dataset, {**TINY, "max_train_steps": 80}, extractors, (), 100)
    crippled = {"learning_rate": 1e-9, "muon_learning_rate": 1e-9}  # it computes the loss, and learns nothing from it
    twin = {"ema_decay": 0.99991}  # trained anew, and never reached in so few steps
    arms = [
        Arm(name="L2"),
        Arm(name="L2 again"),
        Arm(name="twin", options=twin),
        Arm(name="crippled", options=crippled),
    ]
    cells = [run_cell(bench, arm, seed) for seed in range(3) for arm in arms]
    assert len(list((tmp_path / "cells").iterdir())) == 9  # the second name is found to be the first
    part = PartResult(
        name="losses", base=bench.base, num_images=100, arms=[a.name for a in arms], pairs=None, cells=cells
    )
    (texture,) = [line for line in verdicts(part) if line.startswith("Fréchet distance, texture")]
    for arm in ("L2", "L2 again", "twin"):
        assert f"{arm} is better than crippled" in texture
    assert texture.count("better") == 3
    assert "cannot be told from" in texture


def test_a_diverging_arm_does_not_stop_the_others(small_npz, tmp_path):
    dataset = load_dataset(str(small_npz))
    extractors = (make_extractor("texture", dataset),)
    bench = Bench(tmp_path, dataset, {**TINY, "max_train_steps": 30}, extractors, (), 100)
    wild = Arm(
        name="wild", options={"optimizer": "adamw", "learning_rate": 1e6, "max_grad_norm": 1e9, "lr_warmup_steps": 0}
    )
    cells = [run_cell(bench, arm, 0) for arm in (Arm(name="L2"), wild)]
    assert cells[1].failed
    assert "diverged" in cells[1].failed
    part = PartResult(name="losses", base=bench.base, num_images=100, arms=["L2", "wild"], pairs=None, cells=cells)
    write_report(tmp_path, dataset, [part], [], "command")
    assert "Diverged, and so compared with none: wild (in 1 of 1 seeds)" in (tmp_path / "report.md").read_text()


def test_cells_know_all_that_they_depend_on(small_npz, tmp_path):
    dataset = load_dataset(str(small_npz))
    bench = Bench(tmp_path, dataset, {"max_train_steps": 30}, (make_extractor("texture", dataset),), (), 100)
    plain = Arm(name="x")
    different = [
        (bench, plain, 1),
        (bench, Arm(name="x", options={"loss_type": "l1"}), 0),
        (bench, Arm(name="x", num_inference_steps=7), 0),
        (bench, Arm(name="x", corrupted_share=0.1), 0),
        (replace(bench, num_images=99), plain, 0),
        (replace(bench, extractors=()), plain, 0),
        (replace(bench, base={"max_train_steps": 31}), plain, 0),
    ]
    keys = {b.fingerprint(arm, seed) for b, arm, seed in [(bench, plain, 0), *different]}
    assert len(keys) == 8
    same = Arm(name="y", options={"loss_type": TrainingConfig().loss_type})  # the default, written out
    assert bench.fingerprint(same, 0) == bench.fingerprint(plain, 0)
    assert bench.run_folder(different[2][1], 0) == bench.run_folder(plain, 0)  # sampling shares the training


# The command


def study(data: Path, output: Path) -> list[str]:
    return [
        "study", "loss", str(data), "--output", str(output), "--parts", "losses", "--seeds", "2", "--max_train_steps", "12",
        "--num_images", "100", "--features",
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
    return [part["cells"], part["contrasts"], part["verdicts"]]


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
    for name in ("losses_curves.png", "losses.png", "losses_grids.png"):
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
    assert cli.main([*arguments, "--budget", "60s"]) == 0  # the first is finished and costs nothing
    output = capsys.readouterr().out
    assert "losses: 4 arms × 2 seeds, about 0 minutes" in output
    assert "robustness: 12 arms × 0 seeds" in output
    assert "robustness: all of it" in (finished_study / "report.md").read_text()


def test_budget_takes_fewer_seeds_before_it_drops_a_part(small_npz, tmp_path, monkeypatch):
    dataset = load_dataset(str(small_npz))
    bench = Bench(tmp_path, dataset, {"max_train_steps": 10}, (), (), 100)
    parts = [Part(name, bench, (Arm(name="a"), Arm(name="b"))) for name in ("first", "second", "third")]
    monkeypatch.setattr(Clock, "seconds", lambda *_: 10.0)
    seeds_of, dropped = plan_seeds(parts, 4, 140.0)
    assert seeds_of == {"first": 4, "second": 3, "third": 0}  # 80 s, 60 s, nothing left
    assert [line.split(" (")[0] for line in dropped] == ["second: 1 of 4 seeds", "third: all of it"]


def test_spoiled_is_compared_with_clean():
    """A loss that suffers less is found, whatever its level."""

    rng = np.random.default_rng(0)
    levels = {"L2": (2.0, 6.0), "Huber": (5.0, 5.5)}  # clean, spoiled
    cells = []
    for seed in range(3):
        for loss, (clean, spoiled) in levels.items():
            for arm, level in ((loss, clean), (f"{loss}, 20% spoiled", spoiled)):
                cells.append(judged(Arm(name=arm), seed, *(level * np.exp(rng.normal(0, 0.03, 2)))))
    arms = list(dict.fromkeys(c.arm.name for c in cells))
    part = PartResult(name="robustness", base={}, num_images=1, arms=arms, pairs=None, cells=cells)
    said = verdicts(part)
    assert f"{PRIMARY}, 20% spoiled ÷ clean: Huber suffers least." in said
    assert f"{PRIMARY}, 20% spoiled: Huber is best." in said
    assert not any("clean: Huber is best" in line for line in said)


def judged(arm: Arm, seed: int, classifier: float, texture: float) -> CellResult:
    """A cell with these distances, as if the floors were 1."""
    records = [
        MetricRecord(
            name="frechet_distance", extractor=name, dimension=64, class_=None, value=value, interval=None, floor=1.0,
            ratio=value, floor_source="", n_real=1, n_generated=1, reference_split="train", seed=0,
        )
        for name, value in (("classifier", classifier), ("texture", texture))
    ]  # fmt: skip
    return CellResult(arm=arm, seed=seed, fingerprint=f"{arm.name}{seed}", records=records)


def test_proposed_settings_are_better_and_nowhere_much_worse():
    rng = np.random.default_rng(0)
    levels = [
        (Arm(name="default"), (2.0, 2.0)),
        (Arm(name="width: 48", options={"block_out_channels": [48, 64]}), (1.5, 1.6)),
        (Arm(name="width: 64", options={"block_out_channels": [64, 64]}), (1.2, 1.2)),
        (Arm(name="loss: L1", options={"loss_type": "l1"}), (0.5, 3.0)),  # better on average, worse in texture
        (Arm(name="batch: 128", options={"train_batch_size": 128}), (2.0, 2.0)),
        (Arm(name="guidance: 1.5", guidance_scale=1.5), (1.4, 1.5)),
    ]
    cells = [
        judged(arm, seed, *(np.array(level) * np.exp(rng.normal(0, 0.02, 2))))
        for seed in range(3)
        for arm, level in levels
    ]
    names = [arm.name for arm, _ in levels]
    pairs = [(name, "default") for name in names[1:]]
    part = PartResult(name="parameters", base={}, num_images=1, arms=names, pairs=pairs, cells=cells)
    proposal = ({"block_out_channels": [64, 64]}, {"guidance_scale": 1.5})
    assert proposed_settings(part) == proposal

    together = [judged(Arm(name="proposed"), seed, 0.3 + 0.1 * seed, 0.3) for seed in range(3)]
    whole = part.model_copy(
        update={
            "arms": [*names, "proposed"],
            "cells": [*cells, *together],
            "follow_ups": [("proposed", "default")],
        }
    )
    assert proposed_settings(whole) == proposal  # what was chosen by the others does not change the choice
    assert verdicts(whole)[0] == verdicts(part)[0]
    assert any(
        "proposed ÷ default" in line and "chosen and tested on the same seeds" in line for line in verdicts(whole)
    )


def test_an_arm_that_diverged_once_is_not_proposed():
    cells = [judged(Arm(name="default"), seed, 2.0 + 0.01 * seed, 2.0) for seed in range(3)]
    wild = Arm(name="rate: 1", options={"learning_rate": 1.0})
    cells += [judged(wild, seed, 1.0, 1.0) for seed in range(2)]
    cells.append(CellResult(arm=wild, seed=2, fingerprint="w2", failed="diverged"))
    part = PartResult(
        name="parameters",
        base={},
        num_images=1,
        arms=["default", "rate: 1"],
        pairs=[("rate: 1", "default")],
        cells=cells,
    )
    assert proposed_settings(part) == ({}, {})
    assert any("Diverged, and so compared with none: rate: 1 (in 1 of 3 seeds)" in line for line in verdicts(part))
    assert best_arm([Arm(name="default"), wild], cells) == Arm(name="default")


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
    path = tmp_path / "ratings.json"
    rating = Rating(real, generated, path)
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
    again = Rating(real, generated, path)  # a rating goes on, in its order
    assert (again.result()["rated"], again.is_real) == (12, rating.is_real)
    with pytest.raises(UserError, match="no rating of these images"):
        Rating(real[:2], generated[:2], path)


def test_best_arm_is_the_nearest_to_its_floors(finished_study):
    values = json.loads((finished_study / "results.json").read_text())["parts"]["losses"]
    part = PartResult.model_validate({name: values[name] for name in PartResult.model_fields})
    arms = [cell.arm for cell in part.cells if cell.seed == 0]
    ratios = {arm.name: [] for arm in arms}
    for cell in part.cells:
        ratios[cell.arm.name] += [np.log(r.ratio) for r in cell.records if r.name == "frechet_distance"]
    assert all(ratios.values())
    assert best_arm(arms, part.cells).name == min(ratios, key=lambda name: np.mean(ratios[name]))
