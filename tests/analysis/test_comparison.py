"""Columns of a comparison that set methods against each other: ranks, a baseline, costs; and the order of rows."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mola_lightning.analysis import comparison, load_runs, to_csv, to_latex, to_markdown
from mola_lightning.analysis.cells import to_cells
from mola_lightning.core import ConfigError

Make = Callable[..., Path]
MIXED = {
    "a": {"metric": "miou", "higher_is_better": True},
    "b": {"metric": "abs_err", "higher_is_better": False},
}


@pytest.fixture
def study(make_run: Make, tmp_path: Path) -> list[Any]:
    """Against hps: better gains 1, 2 and 3 points, equal nothing; late shares one seed with it; half lacks a task."""
    for seed, score in ((1, 0.5), (2, 0.7), (3, 0.6)):
        make_run("hps", seed, score, score, multiply_adds=2_000_000)
        make_run("better", seed, score + seed / 100, score + seed / 100, step_time_s={"median": 0.03})
        make_run("equal", seed, score, score)
        make_run("half", seed, score, None)
    make_run("late", 3, 0.5, 0.5)
    make_run("late", 4, 0.5, 0.5)
    return load_runs([tmp_path])


def cells_of(df: Any, row: str) -> dict[str, str]:
    cells = to_cells(df)
    return dict(zip(cells.header, next(found for found in cells.rows if found[0] == row), strict=True))


def test_the_rank_column(study: list[Any]) -> None:
    df = comparison(study, methods=["hps", "better", "late"])
    assert df.loc["better", "rank"].tolist() == [1, 0, 3]
    assert df.loc["hps", "rank"].tolist() == pytest.approx([2, 0, 3])
    assert df.loc["late", "rank"].tolist()[::2] == [3, 1], "of seed 3; nobody else has seed 4"
    assert cells_of(df, "late")["rank"] == "3.00 (n=1)"
    assert "**1.00 ± 0.00**" in to_markdown(df)
    assert "rank" not in comparison(study, methods=["hps"])


def test_ranks_are_among_the_rows_shown(study: list[Any]) -> None:
    assert comparison(study).loc["hps", ("rank", "mean")] != 1
    assert comparison(study, methods=["hps", "late"]).loc["hps", ("rank", "mean")] == 1


def test_a_baseline(study: list[Any]) -> None:
    df = comparison(study, methods=["hps", "better"], baseline="hps")
    assert df.loc["better", "vs hps"][["mean", "std", "n"]].tolist() == pytest.approx([0.02, 0.01, 3])
    found = cells_of(df, "better")
    assert (found["vs hps"], found["95 % CI"], found["p (Holm)"]) == ("+2.0 ± 1.0", "[-0.5, +4.5]", "0.074")
    assert [cells_of(df, "hps")[name] for name in ("vs hps", "95 % CI", "p (Holm)")] == ["–"] * 3
    caption = to_cells(df).caption
    for text in ("vs hps: difference in mean", "3 pairs per row", "over 3 seeds is weak", "a single one"):
        assert text in caption
    assert "vs hps/p_holm" in to_csv(df).splitlines()[0]


def test_what_cannot_be_tested_is_missing_and_the_caption_says_why(study: list[Any]) -> None:
    df = comparison(study, baseline="hps")
    caption = to_cells(df).caption
    assert cells_of(df, "late")["vs hps"] == cells_of(df, "half")["p (Holm)"] == "–"
    assert "fewer than 2 seeds have the mean over tasks of both: half (0), late (1)" in caption
    assert cells_of(df, "equal")["vs hps"] == "0.0"
    assert cells_of(df, "equal")["p (Holm)"] == "–"
    assert "the same for every seed: equal" in caption


def test_a_baseline_need_not_be_a_row_and_other_methods_do_not_count(study: list[Any]) -> None:
    df = comparison(study, methods=["better"], baseline="hps")
    assert list(df.index) == ["better"]
    assert df.loc["better", ("vs hps", "p_holm")] == df.loc["better", ("vs hps", "p")]
    with pytest.raises(ConfigError, match=r"no finished run of nobody on digits; there are runs of better, .*hps"):
        comparison(study, baseline="nobody")


def test_small_p_values(make_run: Make, tmp_path: Path) -> None:
    for seed in range(8):
        make_run("hps", seed, 0.5, 0.5)
        make_run("mola", seed, 0.9, 0.9 + 0.0001 * (seed % 3))
    df = comparison(load_runs([tmp_path]), baseline="hps")
    assert cells_of(df, "mola")["p (Holm)"] == "<0.001"
    assert "$<$0.001" in to_latex(df)
    assert "weak" not in to_cells(df).caption


@pytest.fixture
def mixed(make_run: Make, tmp_path: Path) -> list[Any]:
    """Two tasks of different metrics and directions."""
    for seed, shift in ((1, 0.0), (2, 0.05)):
        for method, miou, error in (("single_task", 0.4, 0.5), ("hps", 0.3, 0.6), ("mola", 0.5, 0.4 - shift)):
            test = {"a": {"miou": miou}, "b": {"abs_err": error}}
            make_run(method, seed, None, None, monitor=MIXED, test=test)
    return load_runs([tmp_path])


def test_different_metrics_and_directions(mixed: list[Any]) -> None:
    df = comparison(mixed, baseline="single_task")
    assert df["rank"]["mean"].to_dict() == {"single_task": 2, "hps": 3, "mola": 1}
    assert df.loc["hps", ("delta_m", "mean")] == pytest.approx((-25 - 20) / 2)
    assert df.loc["mola", ("delta_m", "mean")] == pytest.approx((22.5 + 27.5) / 2)
    assert df.loc["mola", ("vs single_task", "mean")] == pytest.approx(25), "without a mean, Δm is compared"
    assert "difference in Δm" in to_cells(df).caption
    assert "mean" not in to_cells(df).header


def test_nothing_to_compare_says_what_to_do(mixed: list[Any]) -> None:
    runs = [run for run in mixed if run.method != "single_task"]
    with pytest.raises(ConfigError, match="choose one metric, or add runs of single_task"):
        comparison(runs, baseline="hps")


def test_scores_that_are_no_number_are_missing(make_run: Make, tmp_path: Path) -> None:
    make_run("diverged", 1, math.nan, 0.5)
    make_run("empty", 1, None, None)
    for method in ("hps", "mola"):
        make_run(method, 1, 0.5, 0.5)
    df = comparison(load_runs([tmp_path]))
    assert cells_of(df, "hps")["rank"] == "1.75", "a: 1.5 of two, b: 2 of three"
    assert [cells_of(df, "diverged")[name] for name in ("a", "b", "mean", "rank")] == ["–", "50.0", "–", "–"]
    assert [cells_of(df, "empty")[name] for name in ("a", "b", "mean", "rank")] == ["–"] * 4
    assert "nan" not in to_markdown(df) + to_latex(df)


def test_rows_without_any_score(make_run: Make, tmp_path: Path) -> None:
    make_run("untested", 1, None, None, parameters=None, step_time_s=None)
    with pytest.raises(ConfigError, match="no run on digits has a test score"):
        comparison(load_runs([tmp_path]))
    make_run("hps", 1, 0.5, 0.5)
    df = comparison(load_runs([tmp_path]), methods=["untested"], baseline="hps")
    assert to_cells(df).rows == [["untested", "–", "–", "–"]]


@pytest.mark.parametrize(
    ("sort", "order"),
    [
        (None, ["b", "a", "d", "single_task", "c"]),
        ("name", ["a", "b", "c", "d", "single_task"]),
        ("mean", ["d", "a", "single_task", "b", "c"]),
        ("rank", ["d", "a", "single_task", "b", "c"]),
        ("delta_m", ["d", "a", "single_task", "b", "c"]),
    ],
)
def test_the_order_of_rows(sort: str | None, order: list[str], make_run: Make, tmp_path: Path) -> None:
    scores = {"b": 0.5, "a": 0.7, "d": 0.8, "single_task": 0.7, "c": None}
    for i, (method, score) in enumerate(scores.items()):
        make_run(method, 1, score, 0.5, folder=f"{i}")
    assert list(comparison(load_runs([tmp_path]), sort=sort).index) == order


def test_the_smallest_loss_comes_first(study: list[Any]) -> None:
    assert list(comparison(study, "loss", methods=["hps", "better"], sort="mean").index) == ["better", "hps"]


def test_what_rows_cannot_be_sorted_by(mixed: list[Any]) -> None:
    with pytest.raises(ConfigError, match="sorted by mean, which none of them has: it needs one metric"):
        comparison(mixed, sort="mean")
    with pytest.raises(ConfigError, match="sort must be one of"):
        comparison(mixed, sort="parameters")


def test_costs_on_request(study: list[Any]) -> None:
    assert "multiply_adds" not in comparison(study)
    df = comparison(study, methods=["hps", "better", "late"], baseline="hps", cost=True)
    assert df.loc["hps", ("multiply_adds", "mean")] == 2_000_000
    assert df.loc["better", ("step_time_ratio", "mean")] == pytest.approx(1.5)
    found = cells_of(df, "hps")
    assert (found["multiply-adds"], found["step / hps"]) == ("2 M", "1.00")
    assert cells_of(df, "better")["multiply-adds"] == "–", "a run that did not record them"
    assert "step_time_ratio" not in comparison(study, cost=True)
