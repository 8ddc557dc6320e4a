"""How results depend on one option, on made-up scores."""

from pathlib import Path
from typing import Any

import pytest

from mola_lightning.analysis.ablation import ablation
from mola_lightning.analysis.plots import ablation_curves
from mola_lightning.analysis.runs import Run
from mola_lightning.analysis.tables import markdown_rows
from mola_lightning.core import ConfigError


def make(method: str, seed: int, score: float) -> Run:
    summary = {
        "method": method,
        "data": "made_up",
        "seed": seed,
        "tasks": ["a", "b"],
        "monitor": {task: {"metric": "accuracy", "higher_is_better": True} for task in "ab"},
        "test": {"a": {"accuracy": score}, "b": {"accuracy": score + 0.2}},
    }
    return Run(Path(f"{method}_{seed}"), "done", summary)


def runs_of(scores: dict[tuple[str, Any], list[float]]) -> tuple[list[Run], list[Any]]:
    found = [(make(m, s, x), value) for (m, value), xs in scores.items() for s, x in enumerate(xs)]
    return [run for run, _ in found], [value for _, value in found]


def test_mean_and_spread_over_seeds_in_the_order_of_the_values() -> None:
    runs, values = runs_of({("m_rank_16", 16): [0.5, 0.7], ("m_rank_2", 2): [0.3, 0.3], ("m_rank_4", 4): [0.4]})
    table = ablation(runs, "adapter.rank", values)
    assert table["value"].tolist() == [2, 4, 16]
    assert set(table["method"]) == {"m_rank"}
    assert table["mean"].tolist() == pytest.approx([0.4, 0.5, 0.7])
    assert table["std"].tolist() == pytest.approx([0, float("nan"), 0.1 * 2**0.5], nan_ok=True)
    assert table["runs"].tolist() == [2, 1, 2]


def test_methods_have_lines_of_their_own_and_words_keep_the_axis() -> None:
    runs, values = runs_of(
        {("hps_1", 1): [0.1], ("hps_all", "all"): [0.2], ("mola_1", 1): [0.3], ("mola_all", "all"): [0.4]}
    )
    axes = ablation_curves(ablation(runs, "data.num", values)).axes[0]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "all"]
    assert set(axes.get_legend_handles_labels()[1]) == {"hps", "mola"}
    assert axes.get_xlabel() == "data.num"
    assert "(%)" in axes.get_ylabel()


def test_an_option_that_no_run_has_or_that_is_the_same_in_all() -> None:
    runs, _ = runs_of({("m_1", 1): [0.1], ("m_2", 2): [0.2]})
    with pytest.raises(ConfigError, match=r"no run's config has the option adapter\.rnk"):
        ablation(runs, "adapter.rnk", [None, None])
    with pytest.raises(ConfigError, match="is 3 in all runs"):
        ablation(runs, "adapter.rank", [3, 3])


def test_only_a_value_that_stands_apart_is_cut_off_and_runs_without_the_option_are_left_out() -> None:
    runs, values = runs_of(
        {("hps_wide10", 0): [0.1], ("twd_0.5", 0.5): [0.2], ("twd_1", 1): [0.3], ("other", None): [0.4]}
    )
    table = ablation(runs, "weight", values)
    assert table["method"].tolist() == ["hps_wide10", "twd", "twd"]
    assert [str(value) for value in table["value"]] == ["0", "0.5", "1"]


def test_a_bar_in_a_value_begins_no_cell() -> None:
    assert markdown_rows([["stages =", "a|b"], ["x", "1"]]).splitlines() == [
        r"| stages = | a\|b |",
        "| -------- | ---: |",
        r"| x        |    1 |",
    ]
