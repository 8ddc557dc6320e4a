"""Ranks of methods, worked out by hand."""

import math

import pandas as pd
import pytest

from mola_lightning.analysis import mean_rank

UP = {"a": True, "b": True}


def table(*rows: tuple[str, int, float, float]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["method", "seed", "a", "b"])


def test_directions_and_ties() -> None:
    scores = table(("one", 1, 0.9, 0.3), ("two", 1, 0.8, 0.1), ("three", 1, 0.8, 0.2))
    ranks = mean_rank(scores, {"a": True, "b": False})  # a: 1, 2.5, 2.5; b: 3, 1, 2
    assert ranks.to_dict() == {("one", 1): 2.0, ("two", 1): 1.75, ("three", 1): 2.25}


def test_each_seed_ranks_by_itself() -> None:
    scores = table(("one", 1, 0.9, 0.9), ("one", 2, 0.1, 0.1), ("two", 1, 0.8, 0.8), ("two", 2, 0.2, 0.0))
    assert mean_rank(scores, UP).to_dict() == {("one", 1): 1, ("one", 2): 1.5, ("two", 1): 2, ("two", 2): 1.5}


def test_the_ranks_of_a_complete_table_have_a_fixed_sum() -> None:
    scores = table(*((f"m{i}", 1, (7 * i) % 5, (3 * i) % 4) for i in range(5)))
    assert mean_rank(scores, UP).sum() == pytest.approx(1 + 2 + 3 + 4 + 5)


def test_a_method_without_a_task_has_no_rank_and_takes_no_place() -> None:
    scores = table(("one", 1, 0.9, math.nan), ("two", 1, 0.8, 0.8), ("three", 1, 0.7, 0.9))
    ranks = mean_rank(scores, UP)
    assert math.isnan(ranks["one", 1])
    assert ranks["two", 1] == pytest.approx((2 + 2) / 2)
    assert ranks["three", 1] == pytest.approx((3 + 1) / 2)


def test_a_method_alone_in_its_seed_has_no_rank() -> None:
    ranks = mean_rank(table(("one", 1, 0.9, 0.9), ("two", 1, 0.8, 0.8), ("one", 2, 0.1, 0.1)), UP)
    assert math.isnan(ranks["one", 2])
    assert ranks["one", 1] == 1


def test_an_unknown_direction_leaves_no_rank() -> None:
    scores = table(("one", 1, 0.9, 0.9), ("two", 1, 0.8, 0.8))
    assert mean_rank(scores, {"a": True, "b": None}).isna().all()


def test_runs_of_one_seed_that_hold_a_task_each_are_one_method() -> None:
    scores = table(("single", 1, 0.9, math.nan), ("single", 1, math.nan, 0.1), ("hps", 1, 0.5, 0.5))
    assert mean_rank(scores, UP).to_dict() == {("single", 1): 1.5, ("hps", 1): 1.5}
