"""Conditions: every method against the lines of NumPy and torch that it stands for, random streams included."""

import numpy as np
import pytest
import torch
from diffusers import UNet2DModel
from hypothesis import given
from hypothesis import strategies as st

from medmnist_diffusion.data.conditioning import (
    Conditioning,
    class_order,
    conditions_of,
    occurrences,
    random_rows,
    rows_of,
    stratified_parts,
)

CONDITIONING = Conditioning({0: "normal", 1: "pneumonia", 2: "3"})
LABELS = st.lists(st.integers(0, 2), min_size=1, max_size=60).map(lambda labels: np.array(labels, np.int64))


@given(LABELS)
def test_counts_shares_and_members(labels: np.ndarray) -> None:
    np.testing.assert_array_equal(CONDITIONING.counts(labels), [(labels == k).sum() for k in range(3)])
    assert CONDITIONING.stratum_shares(labels).sum() == pytest.approx(1)
    rows = CONDITIONING.members(labels)
    assert sorted(np.concatenate(rows).tolist()) == list(range(len(labels)))
    for label, members in enumerate(rows):
        assert (labels[members] == label).all()
        np.testing.assert_array_equal(members, rows_of(labels, label))


@given(LABELS, st.integers(0, 2**31))
def test_draws_are_the_random_streams_that_they_always_were(labels: np.ndarray, seed: int) -> None:
    counts, rng = [3, 0, 2], np.random.default_rng(seed)
    drawn = [rng.permutation(np.flatnonzero(labels == label))[:count] for label, count in enumerate(counts)]
    rows = CONDITIONING.draw(labels, counts, np.random.default_rng(seed))
    np.testing.assert_array_equal(rows, np.sort(np.concatenate(drawn)))
    rng = np.random.default_rng(seed)
    wanted = np.unique(labels)
    one_each = np.array([rng.choice(np.flatnonzero(labels == label)) for label in wanted])
    np.testing.assert_array_equal(random_rows(labels, wanted, np.random.default_rng(seed)), one_each)


@given(LABELS)
def test_parts_are_disjoint_whole_and_stratified(labels: np.ndarray) -> None:
    first, second, rest = stratified_parts(labels, 0.1, 2, np.random.default_rng(0))
    assert sorted([*first, *second, *rest]) == list(range(len(labels)))
    for label in range(3):
        members = (labels == label).sum()
        assert (labels[first] == label).sum() == (max(1, round(0.1 * members)) if members else 0)


@given(LABELS)
def test_occurrences_count_each_label_from_zero(labels: np.ndarray) -> None:
    rows = occurrences(labels)
    assert [label for label, _ in rows] == labels.tolist()
    for label in range(3):
        assert [index for other, index in rows if other == label] == list(range((labels == label).sum()))


def test_labels_to_be_generated() -> None:
    assert CONDITIONING.each(2).tolist() == [0, 0, 1, 1, 2, 2]
    assert CONDITIONING.balanced(4).tolist() == [0, 0, 1, 1, 2, 2]
    assert CONDITIONING.as_in(np.repeat([0, 1, 2], [5, 3, 2]), 4).tolist() == [0, 0, 1, 1, 2]


def test_a_dropped_label_is_one_that_the_network_knows() -> None:
    labels, mask = torch.tensor([0, 1, 2, 1]), torch.tensor([False, True, False, True])
    dropped = CONDITIONING.dropped(labels, mask)
    assert dropped.tolist() == [0, 3, 2, 3]
    assert torch.equal(dropped, torch.where(mask, CONDITIONING.null_label, labels))
    unet = UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,), norm_num_groups=8, layers_per_block=1,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), add_attention=False, **CONDITIONING.unet_options(),
    )  # fmt: skip
    assert unet(torch.zeros(4, 1, 8, 8), 0, class_labels=dropped).sample.shape == (4, 1, 8, 8)


def test_names_and_folders() -> None:
    assert CONDITIONING.names == ["normal", "pneumonia", "3"]
    folders = {
        "pneumonia": 1,
        "01_pneumonia": 1,
        "1_normal": None,
        "3": 2,
        "2_3": 2,
        "7": None,
        "x": None,
        "7_x": None,
    }
    assert {folder: CONDITIONING.label_of_folder(folder) for folder in folders} == folders
    assert CONDITIONING.label_of_folder("1") is None  # one class is called 3: is this an id or a name?
    assert Conditioning({0: "a", 1: "b c"}).label_of_folder("1") == 1
    assert [Conditioning({0: "a", 1: "b c"}).folder_of(label) for label in (0, 1)] == ["0_a", "1_b_c"]


def test_the_order_of_classes() -> None:
    assert class_order(["10", "2", "0", "2"]) == ["0", "2", "10"]
    assert class_order(["-1", "+1"]) == ["-1", "+1"]
    assert class_order(["10", "2", "x"]) == ["10", "2", "x"]
    assert CONDITIONING.outside(np.array([0, 3, -1, 2])).tolist() == [3, -1]


FINDINGS = Conditioning(
    {0: "effusion", 1: "mass", 2: "nodule"}, "multi-label", np.repeat([0, 1, 3, 4, 6], [40, 25, 30, 5, 2])
)
SEVERAL = st.lists(st.integers(0, 7), min_size=1, max_size=60).map(lambda labels: np.array(labels, np.int64))


@given(SEVERAL)
def test_several_labels_as_rows_and_back(conditions: np.ndarray) -> None:
    matrix = FINDINGS.matrix(conditions)
    np.testing.assert_array_equal(conditions_of(matrix), conditions)
    np.testing.assert_array_equal(FINDINGS.counts(conditions), matrix.sum(0))
    for label, rows in enumerate(FINDINGS.members(conditions)):
        np.testing.assert_array_equal(rows, np.flatnonzero(matrix[:, label]))
    assert sum(FINDINGS.combinations(conditions).values()) == len(conditions)


@given(SEVERAL)
def test_strata_are_common_combinations_and_rare_ones_by_their_rarest_label(conditions: np.ndarray) -> None:
    """Common: none (40), effusion (25), effusion + mass (30). Rarest label first: nodule (7), mass (32), effusion (55)."""
    expected = {0: 0, 1: 1, 3: 2, 2: 4, 4: 3, 5: 3, 6: 3, 7: 3}
    assert FINDINGS.strata(conditions).tolist() == [expected[one] for one in conditions.tolist()]
    assert [FINDINGS.stratum_name(stratum) for stratum in (0, 2, 3)] == [
        "no label", "effusion + mass", "rare combinations with nodule",
    ]  # fmt: skip
    assert FINDINGS.stratum_counts(conditions).sum() == len(conditions)


@given(SEVERAL, st.integers(1, 50))
def test_combinations_are_asked_for_as_they_occur(conditions: np.ndarray, count: int) -> None:
    wanted = FINDINGS.as_in(conditions, count)
    assert len(wanted) == count
    assert set(wanted) <= set(conditions)
    for condition in np.unique(conditions):
        assert abs((wanted == condition).sum() - count * (conditions == condition).mean()) <= 1
    enough = FINDINGS.with_enough_of_each(wanted, 5)
    fewest = min(5, count // 3)
    assert (FINDINGS.counts(enough) >= fewest).all()


def test_several_labels_in_words_and_folders() -> None:
    assert [FINDINGS.name_of(one) for one in (0, 2, 5)] == ["no label", "mass", "effusion + nodule"]
    for condition in range(8):
        assert FINDINGS.label_of_folder(FINDINGS.folder_of(condition)) == condition
    assert FINDINGS.label_of_folder("effusion+cat") is None
    assert FINDINGS.ids.tolist() == [0, 1, 2, 4]
    assert FINDINGS.null_label == 8
    assert FINDINGS.outside(np.array([0, 7, 8, -1])).tolist() == [8, -1]
