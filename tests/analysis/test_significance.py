"""Paired t tests and Holm's correction against results worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from mola_lightning.analysis import holm, paired_differences


def table(**scores: dict[int, float]) -> pd.DataFrame:
    """``table(hps={0: 0.5, 1: 0.6}, ...)``: the mean of each method and seed."""
    rows = [(method, seed, value) for method, found in scores.items() for seed, value in found.items()]
    return pd.DataFrame(rows, columns=["method", "seed", "mean"])


def seeds(*values: float) -> dict[int, float]:
    return dict(enumerate(values))


def test_a_paired_test_by_hand() -> None:
    found = paired_differences(table(hps=seeds(50, 70, 90), mola=seeds(51, 72, 93)), "hps").loc["mola"]
    t = 2 / (1 / math.sqrt(3))  # differences 1, 2, 3: mean 2, standard deviation 1
    quantile = 0.95 * math.sqrt(2 / (1 - 0.95**2))  # Student's t has closed forms with two degrees of freedom
    assert found[["mean", "std", "n"]].tolist() == pytest.approx([2, 1, 3])
    assert found["p"] == pytest.approx(1 - t / math.sqrt(2 + t**2))
    assert found[["ci_low", "ci_high"]].tolist() == pytest.approx([2 - quantile / 3**0.5, 2 + quantile / 3**0.5])
    assert found["p_holm"] == pytest.approx(found["p"]), "a single test needs no correction"


def test_what_all_methods_share_with_their_seed_cancels() -> None:
    luck = np.random.default_rng(0).normal(0, 100, 5)
    gains = np.array([1.0, 2.0, 1.5, 0.5, 1.0])
    lucky = paired_differences(table(hps=seeds(*luck), mola=seeds(*(luck + gains))), "hps").loc["mola"]
    plain = paired_differences(table(hps=seeds(*[0.0] * 5), mola=seeds(*gains)), "hps").loc["mola"]
    pd.testing.assert_series_equal(lucky, plain)


def test_exchanging_the_methods_turns_the_signs() -> None:
    scores = table(a=seeds(0.5, 0.7, 0.6), b=seeds(0.4, 0.5, 0.55))
    one, other = paired_differences(scores, "b").loc["a"], paired_differences(scores, "a").loc["b"]
    assert other[["mean", "ci_low", "ci_high"]].tolist() == pytest.approx(
        (-one[["mean", "ci_high", "ci_low"]]).tolist()
    )
    assert other[["std", "p"]].tolist() == pytest.approx(one[["std", "p"]].tolist())


def test_only_seeds_that_both_have_are_pairs() -> None:
    scores = table(
        hps={0: 50, 1: 70, 2: 90, 7: math.nan},
        other_order={9: 1, 2: 93, 0: 51, 1: 72, 7: 5},
        one_seed={1: 70, 9: 80},
        none={9: 80},
    )
    found = paired_differences(scores, "hps")
    assert found["n"].to_dict() == {"hps": 0, "other_order": 3, "one_seed": 1, "none": 0}
    assert found.loc["other_order", ["mean", "std"]].tolist() == pytest.approx([2, 1])
    assert found.drop(columns="n").loc[["hps", "one_seed", "none"]].isna().all(axis=None)


def test_several_runs_of_a_seed_are_one_pair() -> None:
    scores = table(hps=seeds(50, 70, 90), mola=seeds(50, 72, 93))
    scores.loc[len(scores)] = ["mola", 0, 52]
    assert paired_differences(scores, "hps").loc["mola", ["mean", "std", "n"]].tolist() == pytest.approx([2, 1, 3])


@pytest.mark.parametrize("gain", [0.0, 0.1])
def test_differences_without_spread_have_no_p_value(gain: float) -> None:
    others = [0.5, 0.7, 0.9]
    scores = table(hps=seeds(*others), mola=seeds(*(float(np.float32(score + gain)) for score in others)))
    found = paired_differences(scores, "hps").loc["mola"]
    assert found[["mean", "std", "n"]].tolist() == pytest.approx([gain, 0, 3], abs=1e-7)
    assert found[["ci_low", "ci_high", "p", "p_holm"]].isna().all()


def test_holm_by_hand() -> None:
    # in order: 4 * 0.005, 3 * 0.01, 2 * 0.03, then 1 * 0.04, which may not fall below the 0.06 before it
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == pytest.approx([1, 1])
    assert holm([0.04, math.nan, 0.01]) == pytest.approx([0.04, math.nan, 0.02], nan_ok=True)
    assert len(holm([])) == 0


def test_p_values_are_corrected_over_the_methods_tested() -> None:
    hps, better = np.array([0.5, 0.6, 0.7]), np.array([0.01, 0.02, 0.03])
    scores = table(hps=seeds(*hps), a=seeds(*(hps + better)), b=seeds(*(hps - better)), few={0: 1.0}, equal=seeds(*hps))
    found = paired_differences(scores, "hps")
    assert found.loc[["a", "b"], "p_holm"].tolist() == pytest.approx((2 * found.loc[["a", "b"], "p"]).tolist())
    assert found.loc[["hps", "few", "equal"], "p_holm"].isna().all()
