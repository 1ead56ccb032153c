"""Situations: what generated images are held against in each, and verdicts on known truths."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medmnist_diffusion import choices
from medmnist_diffusion.artifacts import TrainingSummary
from medmnist_diffusion.data import ImageDataset, Split, phantom
from medmnist_diffusion.data.npz import write_npz
from medmnist_diffusion.data.regimes import Regime, draw_regime, rarest_class
from medmnist_diffusion.errors import UserError
from medmnist_diffusion.metrics.pseudo_labels import surest
from medmnist_diffusion.studies.augmentation.arms import BY_NAME, CLASSICAL, OTHER_ARMS
from medmnist_diffusion.studies.augmentation.draws import measure_draw, train_draw
from medmnist_diffusion.studies.augmentation.generators import DiffusionSource
from medmnist_diffusion.studies.augmentation.mixtures import _half_and_half
from medmnist_diffusion.studies.augmentation.protocol import AugmentationProtocol
from medmnist_diffusion.studies.augmentation.report import rare_rows, write_report
from medmnist_diffusion.studies.augmentation.situations import SITUATIONS, Situation, situation_named
from medmnist_diffusion.studies.augmentation.study import check_left_out, distinct_regimes, looks_at
from medmnist_diffusion.studies.augmentation.verdicts import ADVICE, RARE_PRECISION, judge_in, judge_regime
from medmnist_diffusion.studies.statistics import ArmFigures, Verdict, effect
from tests.conftest import ROOT
from tests.studies.planting import QUICK, Copier, Knower, Oracle, result_on, verdict_on
from tests.studies.test_effects import simulated

COUNTS = ("train", "val", "test")
COMPARED = [one for one in SITUATIONS.values() if not one.sharing and one.name != "few-images"]  # see test_effects.py


def test_the_command_line_names_them_all() -> None:
    assert tuple(SITUATIONS) == choices.SITUATIONS


@pytest.mark.parametrize("situation", SITUATIONS.values(), ids=SITUATIONS)
def test_each_is_whole(situation: Situation) -> None:
    """Its arms are there, those that may be recommended have generated images, and what they must beat has none."""
    names = {arm.name for arm in situation.arms}
    assert {CLASSICAL.name, *situation.candidates, *situation.easier} <= names
    assert all(BY_NAME[arm].generated for arm in situation.candidates)
    for arm, controls in situation.controls(sorted(names)).items():
        assert CLASSICAL.name in controls
        assert set(controls) <= names, arm
        assert not any(BY_NAME[control].generated for control in controls)
    if situation.name != "few-images":
        assert set(situation.plain(sorted(names))) - {CLASSICAL.name} <= set(ADVICE)


def test_the_documentation_says_what_every_arm_is() -> None:
    page = (ROOT / "docs" / "augmentation.md").read_text(encoding="utf-8")
    for arm in OTHER_ARMS:
        used = ", ".join(name for name, situation in SITUATIONS.items() if arm in situation.arms)
        assert f"| `{arm.name}` | {used} | {arm.description} |" in page


def figures(rng: np.random.Generator, situation: Situation, **gains: float) -> ArmFigures:
    return simulated(rng, {arm.name: gains.get(arm.name.replace("-", "_"), 0.0) for arm in situation.arms})


@pytest.mark.parametrize("situation", COMPARED, ids=lambda one: one.name)
def test_equal_arms_are_no_evidence_in_at_least_95_percent(situation: Situation) -> None:
    rng = np.random.default_rng(0)
    found = [judge_in(situation, figures(rng, situation)).verdict for _ in range(200)]
    assert found.count("no evidence") >= 0.95 * 200


@pytest.mark.parametrize("situation", COMPARED, ids=lambda one: one.name)
def test_what_was_planted_is_found(situation: Situation) -> None:
    rng = np.random.default_rng(1)
    primary, easy = situation.primary.replace("-", "_"), [one.replace("-", "_") for one in situation.easier]
    helping = [judge_in(situation, figures(rng, situation, **{primary: 0.06})) for _ in range(20)]
    assert sum(one.verdict == "helps" and one.recommended == situation.primary for one in helping) >= 19
    harming = [judge_in(situation, figures(rng, situation, **{primary: -0.06})) for _ in range(20)]
    assert sum(one.verdict == "harms" for one in harming) >= 18
    if easy:
        both = {primary: 0.06, easy[0]: 0.06}
        as_good = [judge_in(situation, figures(rng, situation, **both)) for _ in range(20)]
        assert sum(one.verdict == "an easier thing is as good" for one in as_good) >= 17
        assert sum(one.recommended == situation.easier[0] for one in as_good) >= 17


def test_an_easier_thing_that_was_not_shown_to_be_as_good_is_not_called_so() -> None:
    """Generated images better than classical; what is easier in between, near to neither."""
    situation = SITUATIONS["synthetic-first"]
    values = {
        "classical": [0.700, 0.701, 0.699, 0.702, 0.698, 0.700, 0.701, 0.699],
        "real-first": [0.70, 0.75, 0.68, 0.74, 0.69, 0.76, 0.67, 0.75],
        "synthetic-first": [0.740, 0.742, 0.738, 0.741, 0.739, 0.743, 0.737, 0.740],
    }
    by_seed = {name: dict(enumerate(of)) for name, of in values.items()}
    still = {name: {seed: np.full(50, value) for seed, value in of.items()} for name, of in by_seed.items()}
    judgement = judge_in(situation, ArmFigures(by_seed, still))
    assert judgement.verdict == "no evidence"
    assert judgement.effect is not None
    assert (judgement.effect.arm, judgement.effect.control) == ("synthetic-first", "real-first")
    still["real-first"] = {
        seed: values - 0.002 + 0.004 * (seed % 2) for seed, values in still["synthetic-first"].items()
    }
    by_seed["real-first"] = {seed: float(values[0]) for seed, values in still["real-first"].items()}
    assert judge_in(situation, ArmFigures(by_seed, still)).verdict == "an easier thing is as good"


def test_pseudo_labels_are_as_frequent_as_labels() -> None:
    scores = np.random.default_rng(0).normal(-5, 1, (200, 3))  # a threshold of 0 would find no label at all
    found = surest(scores, np.array([0.5, 0.03, 0.0]))
    assert found.sum(0).tolist() == [100, 6, 0]
    assert scores[found[:, 0], 0].min() > scores[~found[:, 0], 0].max()


def test_looks_on_the_way_do_not_make_wrong_verdicts_more_likely() -> None:
    """Equal arms, looked at after 8, 16 and 32 draws: at most one study of twenty ever says anything but "no evidence"."""
    rng, situation, wrong = np.random.default_rng(3), SITUATIONS["synthetic-first"], 0
    for _ in range(200):
        whole = simulated(rng, {arm.name: 0.0 for arm in situation.arms}, draws=32)
        for draws in (8, 16, 32):
            first = {name: {d: v for d, v in of.items() if d < draws} for name, of in whole.values.items()}
            if judge_in(situation, ArmFigures(first, whole.resampled), looks=3).verdict != "no evidence":
                wrong += 1
                break
    assert wrong <= 0.05 * 200


def test_a_study_that_may_end_early_looks_on_the_way() -> None:
    assert looks_at(64, 0.005) == [8, 16, 32, 64]
    assert looks_at(20, 0.005) == [8, 16, 20]
    assert looks_at(20, None) == [20]


def test_pools_of_two_kinds_are_drawn_as_often() -> None:
    rng = np.random.default_rng(0)
    many = Split("many", rng.integers(0, 256, (90, 4, 4, 1), np.uint8), np.repeat([0, 1], [60, 30]))
    few = Split("few", rng.integers(0, 256, (8, 4, 4, 1), np.uint8), np.repeat([0, 1], 4))
    both = _half_and_half(many, few)
    known = {image.tobytes() for image in few.images[:]}
    assert np.mean([image.tobytes() in known for image in both.images[:]]) == pytest.approx(0.5)
    again = np.bincount(both.labels[len(many) :])
    assert np.abs(again - len(many) / 2).max() <= 1  # of the fewer ones each label as often
    lonely = Split("few", few.images[:], np.arange(len(few)) % 2 + 5)  # labels that the others do not have
    assert set(_half_and_half(many, lonely).labels) == {0, 1, 5, 6}


def test_standing_in_is_a_matter_of_the_interval_and_of_what_leaks() -> None:
    rng, situation = np.random.default_rng(2), SITUATIONS["sharing"]
    primary = situation.primary.replace("-", "_")
    expected: list[tuple[float, Verdict]] = [
        (-0.05, "can stand in"),
        (0.02, "can partly stand in"),
        (0.1, "cannot stand in"),
    ]
    for lost, words in expected:
        found = [judge_in(situation, figures(rng, situation, **{primary: -lost})).verdict for _ in range(10)]
        assert found.count(words) >= 8, words
    between = [judge_in(situation, figures(rng, situation, **{primary: -0.03})) for _ in range(10)]
    assert {one.verdict for one in between} <= {"no evidence", "can partly stand in"}
    assert all((one.recommended == CLASSICAL.name) == (one.verdict == "no evidence") for one in between)
    good = figures(rng, situation, **{primary: 0.05})
    leaking = judge_in(situation, good, ["half of them are copies"])
    assert leaking.verdict == "cannot stand in"
    assert leaking.recommended == CLASSICAL.name
    assert judge_in(situation, good).verdict == "can stand in"
    assert judge_in(situation, good, unsure=["nobody knows"]).verdict == "no evidence"
    nothing = ArmFigures(
        {arm: {draw: value - 0.4 for draw, value in of.items()} for arm, of in good.values.items()}, good.resampled
    )
    assert judge_in(situation, nothing).verdict == "no evidence"  # real images teach nothing that could be lost


def test_looks_make_intervals_wider() -> None:
    rng, situation = np.random.default_rng(4), SITUATIONS["sharing"]
    judged = figures(rng, situation)
    once, often = (judge_in(situation, judged, looks=looks).effect for looks in (1, 4))
    assert once is not None
    assert often is not None
    assert once.interval[0] - often.interval[0] == pytest.approx(once.reach(4) - once.reach())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "regime"),
    [
        ("few-labels", Regime(0.08)),
        ("rare-class", Regime(1.0, 0.05)),
        ("synthetic-first", Regime(0.08)),
    ],
)
def test_an_oracle_is_not_harmful_and_beats_real_images_alone(name: str, regime: Regime, tmp_path: Path) -> None:
    """Fresh images of the true distribution: better than real images alone. Six draws need not tell whether they are also better
    than all that is easier."""
    result = result_on(tmp_path, Oracle(), SITUATIONS[name], regime)
    assert result.judgement.verdict != "harms"
    assert result.judgement.effect is not None
    one = effect(result.judged, result.judgement.effect.arm, CLASSICAL.name)
    assert one is not None
    assert one.difference > 0, one
    assert one.p_value < 0.05, one


@pytest.mark.slow
@pytest.mark.parametrize("name", ["few-labels", "rare-class", "synthetic-first"])
def test_shuffled_labels_never_help(name: str, tmp_path: Path) -> None:
    regime = Regime(1.0, 0.3) if name == "rare-class" else Regime(0.5)
    judgement = verdict_on(tmp_path, Oracle(shuffled=True), SITUATIONS[name], regime)
    assert judgement.verdict in ("harms", "no evidence"), judgement


@pytest.mark.slow
def test_soft_labels_of_a_poor_teacher_hide_what_an_oracle_knows(tmp_path: Path) -> None:
    """The classifier of so few images says what it knows already: neither help nor harm."""
    assert verdict_on(tmp_path, Oracle(), SITUATIONS["soft-labels"], Regime(0.08)).verdict == "no evidence"


@pytest.mark.slow
def test_copies_cannot_stand_in_and_fresh_images_can(tmp_path: Path) -> None:
    situation, regime = SITUATIONS["sharing"], Regime(0.25)
    fresh = verdict_on(tmp_path / "fresh", Oracle(), situation, regime)
    assert fresh.verdict in ("can stand in", "can partly stand in")  # 400 test images tell no more
    assert fresh.effect.difference > 0
    for name, source in (("copies", Copier()), ("known", Knower())):  # each is found by itself
        assert verdict_on(tmp_path / name, source, situation, regime, 3).verdict == "cannot stand in", name


# What the arms are made of


def protocol(folder: Path, dataset: ImageDataset, name: str) -> AugmentationProtocol:
    return AugmentationProtocol(folder, dataset, Oracle(), replace(QUICK, steps=4), SITUATIONS[name])


@pytest.mark.parametrize("name", ["few-labels", "rare-class", "sharing", "soft-labels", "synthetic-first"])
def test_every_arm_trains(name: str, small: ImageDataset, tmp_path: Path) -> None:
    regime = Regime(1.0, 0.3) if name == "rare-class" else Regime(0.3)
    draw = train_draw(protocol(tmp_path, small, name), regime, 0)
    assert draw is not None
    assert {cell.arm for cell in draw.cells} == {arm.name for arm in SITUATIONS[name].arms}
    for cell in draw.cells:
        assert len(cell.average_precision or []) == small.num_classes
    if name == "rare-class":
        twice = [draw, draw.model_copy(update={"seed": 1})]
        result, rarest = judge_regime(small, regime, twice, SITUATIONS[name]), rarest_class(small)
        precise = [cell.average_precision[rarest] for cell in draw.cells if cell.average_precision]
        assert [result.of(cell.arm, RARE_PRECISION)[0] for cell in draw.cells] == precise
        assert [row[0] for row in rare_rows(result, rarest)] == result.arms
    if name == "sharing":
        assert set(draw.attacks) == {arm.name for arm in SITUATIONS[name].arms}
        counts = {cell.arm: cell.n_synthetic for cell in draw.cells}
        assert counts["synthetic-only-3x"] == 3 * draw.n_real
        assert {cell.arm for cell in draw.cells if cell.n_real == 0} == set(SITUATIONS[name].candidates)


def test_left_out_images_are_apart_from_drawn_ones(small: ImageDataset) -> None:
    data = draw_regime(small, Regime(0.3), 0)
    for name, rows in (("train", data.train_rows), ("val", data.val_rows)):
        left = data.left_out(name)
        assert len(left) + len(rows) == len(small.splits[name])
        drawn = {image.tobytes() for image in small.splits[name].images[:][rows]}
        assert not drawn & {image.tobytes() for image in left.images[:]}
    assert len(data.fresh_val) <= len(data.left_out("val"))
    assert len(data.fresh) > len(data.fresh_val)
    assert {image.tobytes() for image in data.unlabelled.images[:]} <= {
        image.tobytes() for image in data.left_out("train").images[:]
    }
    everything = draw_regime(small, Regime(1.0), 0)
    assert len(everything.fresh) == 0


def test_shares_that_take_the_same_images_are_one(small: ImageDataset, caplog: pytest.LogCaptureFixture) -> None:
    """Of a small class five images are taken, whether 1 % or 2 % of them are asked for."""
    kept = distinct_regimes(small, [Regime(1.0, 0.01), Regime(1.0, 0.02), Regime(1.0, 0.5)])
    assert [regime.rare_share for regime in kept] == [0.01, 0.5]
    assert "takes the same images as" in caplog.text


@pytest.mark.parametrize("name", ["few-labels", "sharing"])
def test_a_share_must_leave_images_out_where_they_are_needed(small: ImageDataset, name: str) -> None:
    check_left_out(small, [Regime(0.5)], SITUATIONS[name])
    with pytest.raises(UserError, match=r"leaves \d images out .* Give smaller --shares"):
        check_left_out(small, [Regime(0.99)], SITUATIONS[name])
    check_left_out(small, [Regime(0.99)], SITUATIONS["soft-labels"])


def test_generators_see_the_images_without_labels(small: ImageDataset, tmp_path: Path) -> None:
    """`semi` as of unknown class, `conditioned` with the labels that they are given; each is a generator of its own."""
    options = {"max_train_steps": 6, "mixed_precision": "no", "block_out_channels": [16, 32], "train_batch_size": 16}
    source, regime = DiffusionSource(tmp_path, small, options, 8), draw_regime(small, Regime(0.3), 0)
    others = regime.unlabelled
    given = Split("given", others.images, np.zeros(len(others), np.int64))
    semi, conditioned = (source.draw(name, regime, given) for name in ("semi", "conditioned"))
    assert semi.index_hash == conditioned.index_hash == regime.index_hash
    assert not np.array_equal(semi.split.images[:], conditioned.split.images[:])
    summaries = [path.read_text() for path in tmp_path.glob("generators/*/pipeline_best/training_summary.json")]
    assert len(summaries) == 2
    assert sum('"the images without labels"' in one for one in summaries) == 1
    members, fresh = source.familiarity("plain", regime, [regime.dataset.train, regime.fresh])
    assert len(members) == len(regime.dataset.train)
    assert np.isfinite(members).all()
    assert np.isfinite(fresh).all()


def test_private_generators_have_a_place_in_the_trade_off(small: ImageDataset, tmp_path: Path) -> None:
    """A generator of its own for each ε, attacked by itself; the verdict stays that of the arm named in advance."""
    situation = situation_named("sharing", epsilons=[8.0, 2.0])
    assert [arm.name for arm in situation.arms[-2:]] == ["private-2-only-3x", "private-8-only-3x"]
    assert situation.primary == "synthetic-only-3x"
    options = {"max_train_steps": 4, "mixed_precision": "no", "block_out_channels": [16, 32], "train_batch_size": 32}
    source = DiffusionSource(tmp_path, small, options, 8, situation.times)
    study = AugmentationProtocol(tmp_path, small, source, replace(QUICK, steps=4), situation)
    regime, draws = Regime(0.3), []
    for seed in range(2):
        train_draw(study, regime, seed)
        draws.append(measure_draw(study, regime, seed))
        assert study.finished(regime, seed)
    summaries = [TrainingSummary.of(path.parent) for path in tmp_path.glob("generators/*/pipeline_best/unet")]
    assert sorted(one.privacy.epsilon if one.privacy else 0 for one in summaries) == [0, 0, 2, 2, 8, 8]
    generators = {"the generator", "the generator of private-2", "the generator of private-8"}
    assert generators <= set(draws[0].attacks)
    (sentence,) = write_report(study, [regime], draws, [], "command")
    assert "synthetic-only-3x" in sentence
    report = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "Usefulness against what is given away" in report
    rows = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))["regimes"][0]["trade_off"]
    assert {row["arm"] for row in rows} == {arm.name for arm in situation.arms if arm.times}
    for row in rows:
        who = f"the generator of {row['arm'].removesuffix('-only-3x')}" if "private" in row["arm"] else "the generator"
        assert row["attack"]["auc"] == pytest.approx(np.mean([draw.attacks[who] for draw in draws]))
    assert (tmp_path / "trade_off.png").is_file()


def test_mistakes_are_named(small_npz: Path, cli_error: Callable[..., str], tmp_path: Path) -> None:
    start = ("study", "augmentation", str(small_npz), "--output", str(tmp_path))
    assert "--situation few-labels has its own arms" in cli_error(
        *start, "--situation", "few-labels", "--arms", "real"
    )
    assert "--imbalance belongs to few images" in cli_error(*start, "--situation", "sharing", "--imbalance", "0.1")
    assert "give --shares below 1" in cli_error(*start, "--situation", "sharing", "--shares", "1")
    assert "belongs to another --situation" in cli_error(*start, "--arms", "pseudo-labels")
    assert "belongs to --situation sharing" in cli_error(*start, "--target_epsilon", "8")
    private = cli_error(*start, "--situation", "sharing", "--target_epsilon", "8")
    assert "private training needs more than the 64 of a batch" in private
    assert "takes numbers above 0" in cli_error(*start, "--situation", "sharing", "--target_epsilon", "0")
    assert "--effect looks after 8 draws" in cli_error(*start, "--effect", "0.005", "--seeds", "8")
    write_npz(tmp_path / "several.npz", phantom.make_phantom(form="multi-label", counts=dict.fromkeys(COUNTS, 90)))
    several = ("study", "augmentation", str(tmp_path / "several.npz"), "--output", str(tmp_path))
    assert "is made for one class each" in cli_error(*several, "--situation", "rare-class")
    (tmp_path / "results.json").write_text('{"situation": "sharing"}')
    assert "holds a study of --situation sharing" in cli_error(*start)
