"""The numbers of a comparison against numbers worked out by hand, and how they are written."""

import io
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console

from mola_lightning.analysis import comparison, load_runs, scores, to_csv, to_latex, to_markdown, to_rich
from mola_lightning.analysis.cells import to_cells
from mola_lightning.analysis.tables import to_rich_blocks
from mola_lightning.core import ConfigError, RunFolderError

Make = Callable[..., Path]


def test_mean_std_and_seeds(make_run: Make, tmp_path: Path) -> None:
    for seed, (a, b) in enumerate([(0.8, 0.6), (0.9, 0.5), (1.0, 0.7)]):
        make_run("hps", seed, a, b)
    make_run("mola_grad", 0, 0.75, 0.25)
    df = comparison(load_runs([tmp_path]))
    assert df.loc["hps", "a"].tolist() == pytest.approx([0.9, 0.1, 3])
    assert df.loc["hps", "mean"].tolist() == pytest.approx([0.75, np.std([0.7, 0.7, 0.85], ddof=1), 3])
    assert df.loc["mola_grad", "mean"]["mean"] == pytest.approx(0.5)
    assert math.isnan(df.loc["mola_grad", ("a", "std")])
    assert df.loc["hps", ("parameters", "mean")] == 1_234_567
    assert df.loc["hps", ("step_time_s", "mean")] == pytest.approx(0.02)
    assert "delta_m" not in df.columns.get_level_values(0)


def test_rows_in_the_order_asked_for(make_run: Make, tmp_path: Path) -> None:
    for method in ("a_method", "b_method", "c_method"):
        make_run(method, 1, 0.5, 0.5)
    runs = load_runs([tmp_path])
    assert list(comparison(runs).index) == ["a_method", "b_method", "c_method"]
    assert list(comparison(runs, methods=["c_method", "a_method"]).index) == ["c_method", "a_method"]
    with pytest.raises(ConfigError, match="d_method"):
        comparison(runs, methods=["d_method"])


def test_missing_cells_stay_missing(make_run: Make, tmp_path: Path) -> None:
    make_run("hps", 1, 0.8, None)
    make_run("hps", 2, 0.6, 0.4)
    make_run("mola_grad", 1, 0.5, None)
    df = comparison(load_runs([tmp_path]))
    assert df.loc["hps", "b"].tolist()[::2] == [0.4, 1]
    assert df.loc["hps", ("mean", "mean")] == pytest.approx(0.5)  # of the one complete run
    assert math.isnan(df.loc["mola_grad", ("b", "mean")])
    assert math.isnan(df.loc["mola_grad", ("mean", "mean")])
    text = to_markdown(df)
    assert "**40.0** (n=1)" in text or "40.0 (n=1)" in text
    assert "–" in text


def test_delta_m_is_relative_signed_and_by_seed(make_run: Make, tmp_path: Path) -> None:
    monitor = {
        "a": {"metric": "accuracy", "higher_is_better": True},
        "b": {"metric": "error", "higher_is_better": False},
    }

    def run(method: str, seed: int, accuracy: float, error: float) -> None:
        test = {"a": {"accuracy": accuracy}, "b": {"error": error}}
        make_run(method, seed, None, None, monitor=monitor, test=test)

    run("single_task", 1, 0.8, 0.4)
    run("single_task", 2, 0.5, 0.2)
    run("hps", 1, 0.6, 0.5)  # -25 % and -25 %
    run("hps", 2, 0.6, 0.1)  # +20 % and +50 %
    run("hps", 3, 0.9, 0.9)  # no baseline
    df = comparison(load_runs([tmp_path]))
    assert df.loc["hps", "delta_m"].tolist() == pytest.approx([5.0, np.std([-25, 35], ddof=1), 2])
    assert df.loc["single_task", "delta_m"].tolist() == [0.0, 0.0, 2]
    assert df["mean"].isna()["mean"].all(), "metrics of different kinds have no mean"
    assert "a accuracy (%)" in to_markdown(df)
    assert "b error" in to_markdown(df)


def test_single_task_runs_may_hold_one_task_each(make_run: Make, tmp_path: Path) -> None:
    make_run("single_task", 1, 0.8, None, folder="s/a", tasks=["a"])
    make_run("single_task", 1, None, 0.5, folder="s/b", tasks=["b"])
    make_run("hps", 1, 0.4, 0.75)
    table = scores(load_runs([tmp_path])).set_index("method")
    assert table.loc["hps", "delta_m"] == pytest.approx(0.0)
    assert table.loc["single_task", "delta_m"].isna().all()


def test_a_metric_may_be_chosen(make_run: Make, tmp_path: Path) -> None:
    make_run("hps", 1, 0.8, 0.6)
    make_run("mola_grad", 1, 0.9, 0.9)
    df = comparison(load_runs([tmp_path]), metric="loss")
    assert df.loc["hps", ("mean", "mean")] == pytest.approx(0.6)
    assert "**0.2000**" in to_markdown(df), "the smaller loss is the better one"
    with pytest.raises(ConfigError, match="accuracy, loss"):
        comparison(load_runs([tmp_path]), metric="f1")


def test_what_cannot_share_a_table(make_run: Make, tmp_path: Path) -> None:
    make_run("hps", 1, 0.8, 0.6)
    make_run("hps", 2, 0.8, 0.6, data="rooms")
    with pytest.raises(ConfigError, match="digits, rooms"):
        comparison(load_runs([tmp_path]))
    (unfinished := tmp_path / "unfinished").mkdir()
    (unfinished / "config.yaml").write_text("")
    with pytest.raises(RunFolderError, match="none of the runs is finished"):
        comparison(load_runs([unfinished]))


@pytest.fixture
def table(make_run: Make, tmp_path: Path) -> pd.DataFrame:
    """Two methods with two seeds and one with one; ``b`` is a tie as printed."""
    for method, a, b in (("hps", 0.8, 0.6), ("mola_router", 0.868, 0.60001)):
        make_run(method, 1, a - 0.005, b)
        make_run(method, 2, a + 0.005, b)
    make_run("single_task", 1, 0.7, 0.5)
    return comparison(load_runs([tmp_path]))


def test_markdown(table: pd.DataFrame) -> None:
    lines = to_markdown(table).splitlines()
    assert len({len(line) for line in lines[:5]}) == 1, "columns line up"
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert cells[0] == ["method", "a", "b", "mean", "rank", "Δm (%)", "parameters", "step (ms)", "seeds"]
    assert cells[3][:4] == ["mola_router", "**86.8 ± 0.7**", "**60.0 ± 0.0**", "**73.4 ± 0.4**"]
    assert cells[2][2] == "**60.0 ± 0.0**", "what reads the same is equally good"
    assert cells[4] == ["single_task", "70.0", "50.0", "60.0", "3.00", "0.0", "1.23 M", "20.0", "1"]
    assert "accuracy (%)" in lines[-1]


def test_latex_escapes(table: pd.DataFrame) -> None:
    text = to_latex(table)
    assert r"mola\_router & \textbf{86.8 $\pm$ 0.7}" in text
    assert r"$\Delta_m$ (\%)" in text
    assert text.count("&") == 4 * 8


def test_csv_holds_the_raw_numbers(table: pd.DataFrame) -> None:
    back = pd.read_csv(io.StringIO(to_csv(table, table))).set_index("method")
    assert len(back) == 6
    assert back.iloc[1]["a/mean"] == table.iloc[1]["a", "mean"]
    assert back["data"].unique().tolist() == ["digits"]


def test_rich_prints_every_cell(table: pd.DataFrame) -> None:
    rich = to_rich(table)
    assert rich.row_count == 3
    assert "[bold]86.8 ± 0.7[/bold]" in list(rich.columns[1].cells)


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_a_narrow_terminal_gets_several_tables_and_every_number(width: int, table: pd.DataFrame) -> None:
    console = Console(width=width, record=True, file=io.StringIO())
    for block in to_rich_blocks(table, width):
        console.print(block)
    text = console.export_text()
    cells = to_cells(table)
    for cell in (*cells.header[1:], *(cell for row in cells.rows for cell in row)):
        assert f"{cell} " in text, "in one piece"
    assert text.count("mola_router") == len(to_rich_blocks(table, width)) - (width < 200)
    assert max(map(len, text.splitlines())) <= width


def test_number_of_seeds_is_in_the_caption_when_they_agree(make_run: Make, tmp_path: Path) -> None:
    for seed in (1, 2):
        make_run("hps", seed, 0.8, 0.6)
    text = to_markdown(comparison(load_runs([tmp_path])))
    assert "2 seeds per row" in text
    assert "**" not in text, "a table of one row has no best"
