"""Cut splits: each row once, classes and groups kept as promised, nothing left to chance."""

import numpy as np
import pytest

from mola_lightning.core import ConfigError, DataError
from mola_lightning.data.splits import stratified_split

THREE = {"train": 0.8, "val": 0.1, "test": 0.1}


def labels_of(sizes: list[int]) -> np.ndarray:
    return np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))


@pytest.mark.parametrize("fractions", [THREE, {"train": 0.5, "val": 0.5}, {"train": 1.0}, {"a": 0.01, "b": 0.99}])
def test_each_row_is_in_one_split(fractions: dict[str, float]) -> None:
    labels = labels_of([100, 7, 3, 2, 1, 0, 50])
    splits = stratified_split(labels, fractions, seed=0)
    assert list(splits) == list(fractions)
    assert np.array_equal(np.sort(np.concatenate(list(splits.values()))), np.arange(len(labels)))
    assert all((np.diff(rows) > 0).all() for rows in splits.values())
    for split, rows in splits.items():
        assert abs((labels[rows] == 0).sum() - 100 * fractions[split]) <= 1


def test_a_class_with_rows_enough_is_everywhere() -> None:
    labels = labels_of([100, 7, 3, 2, 1, 50])
    for rows in stratified_split(labels, THREE, seed=1).values():
        assert {0, 1, 2, 5} <= set(labels[rows].tolist())
    few = stratified_split(labels, THREE, seed=1)["train"]
    assert {3, 4} <= set(labels[few].tolist())


def test_the_seed_alone_decides() -> None:
    labels = labels_of([40, 30, 20])
    cuts = [stratified_split(labels, THREE, seed=seed)["val"].tolist() for seed in (0, 0, 1)]
    assert cuts[0] == cuts[1] != cuts[2]


@pytest.mark.parametrize("sizes", [[15] * 65, [14] * 65, [3, 4, 5, 6] * 20, [1] * 30 + [40] * 5])
def test_roundings_do_not_add_up(sizes: list[int]) -> None:
    """Fifteen rows are one and a half for validation: one in some classes, two in others."""
    labels = labels_of(sizes)
    splits = stratified_split(labels, {"train": 0.9, "val": 0.1}, seed=0)
    least = sum(size >= 2 for size in sizes)
    assert abs(len(splits["val"]) - max(0.1 * len(labels), least)) <= 3
    assert set(labels[splits["train"]].tolist()) == set(labels.tolist())


def test_no_rows() -> None:
    empty = np.empty(0, dtype=np.int64)
    for groups in (None, empty):
        assert [len(rows) for rows in stratified_split(empty, THREE, 0, groups).values()] == [0, 0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_groups_stay_together(seed: int) -> None:
    rng = np.random.default_rng(seed)
    groups = np.array([f"patient {p}" for p in rng.integers(0, 80, 1000)])
    labels = rng.integers(0, 4, 1000)
    splits = stratified_split(labels, THREE, seed, groups)
    assert np.array_equal(np.sort(np.concatenate(list(splits.values()))), np.arange(1000))
    owners = [set(groups[rows].tolist()) for rows in splits.values()]
    assert not owners[0] & owners[1]
    assert not owners[0] & owners[2]
    assert not owners[1] & owners[2]
    for split, rows in splits.items():
        shares = np.bincount(labels[rows], minlength=4) / np.bincount(labels)
        assert np.abs(shares - THREE[split]).max() < 0.08


def test_a_class_of_few_groups_is_everywhere() -> None:
    groups = np.repeat(np.arange(40), 5)
    labels = np.where(groups < 3, 1, 0)  # class 1: three groups
    for seed in range(5):
        for rows in stratified_split(labels, THREE, seed, groups).values():
            assert set(labels[rows].tolist()) == {0, 1}


def test_groups_of_one_row_are_cut_like_rows() -> None:
    labels = labels_of([100, 50])
    splits = stratified_split(labels, THREE, 0, np.arange(150))
    assert {split: np.bincount(labels[rows]).tolist() for split, rows in splits.items()} == {
        "train": [80, 40], "val": [10, 5], "test": [10, 5],
    }  # fmt: skip


@pytest.mark.parametrize("fractions", [{"train": 0.5}, {"train": 1.1, "val": -0.1}, {"train": 1.0, "val": 0.0}, {}])
def test_fractions_that_are_none(fractions: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="positive and sum to 1"):
        stratified_split(np.zeros(4, dtype=int), fractions, 0)


def test_a_group_for_each_row() -> None:
    with pytest.raises(DataError, match="4 rows but 3 groups"):
        stratified_split(np.zeros(4, dtype=int), THREE, 0, np.zeros(3))
