"""The report command, run as a user runs it but in this process."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console

from mola_lightning.cli.report import main, report

Make = Callable[..., Path]
ROUTING = {"mixing": [[0.1, 0.9], [0.5, 0.5]]}


@pytest.fixture
def runs(make_run: Make, tmp_path: Path) -> Path:
    """Two methods, and one unfinished run."""
    make_run("hps", 1, 0.8, 0.6)
    make_run("mola_router", 1, 0.9, 0.7, routing=ROUTING)
    make_run("mola_router", 2, 0.9, 0.7, routing=ROUTING)
    (tmp_path / "runs" / "started").mkdir()
    (tmp_path / "runs" / "started" / "config.yaml").write_text("")
    return tmp_path / "runs"


def test_the_table_goes_to_stdout_and_remarks_to_stderr(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(runs)]) == 0
    out, err = capsys.readouterr()
    assert "mola_router" in out
    assert "90.0 ± 0.0" in out
    assert "note" not in out
    assert "1 unfinished run left out" in err
    assert "started" in err


@pytest.mark.parametrize("table_format", ["markdown", "latex", "csv"])
def test_formats(runs: Path, table_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(runs), "--format", table_format]) == 0
    start = {"markdown": "| method", "latex": "% Test accuracy", "csv": "data,method"}[table_format]
    assert capsys.readouterr().out.startswith(start)


def test_output_and_figures(runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [str(runs), "--format", "csv", "--output", str(tmp_path / "t.csv"), "--figures", str(tmp_path / "f")]
    assert main(arguments) == 0
    assert capsys.readouterr().out == ""
    assert len(pd.read_csv(tmp_path / "t.csv")) == 2
    names = {path.name for path in (tmp_path / "f").iterdir()}
    assert names == {f"{stem}_digits.{kind}" for stem in ("comparison", "routing") for kind in ("png", "svg")}
    assert main([str(runs), "--output", str(tmp_path / "t.txt")]) == 0
    assert "\x1b" not in (tmp_path / "t.txt").read_text(), "a file gets no colours"


def test_a_study_is_remade_by_one_command(runs: Path, make_run: Make, tmp_path: Path) -> None:
    make_run("single_task", 1, 0.7, 0.7)
    make_run("single_task", 2, 0.7, 0.8)
    made = []
    for folder in (tmp_path / "one", tmp_path / "two"):
        files = ["--output", str(folder / "T.md"), "--csv", str(folder / "T.csv"), "--figures", str(folder)]
        options = ["--format", "markdown", "--baseline", "single_task", "--sort", "rank", "--cost"]
        assert main([str(runs), *options, *files]) == 0
        made.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert made[0] == made[1], "same runs, same bytes"
    names = {f"{name}_digits.{kind}" for name in ("comparison", "costs", "routing") for kind in ("png", "svg")}
    assert set(made[0]) == {"T.md", "T.csv", *names}
    assert made[0]["T.md"].startswith(b"| method")
    assert list(pd.read_csv(tmp_path / "one" / "T.csv")["method"]) == ["mola_router", "single_task", "hps"]


def test_rows_may_be_chosen(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(runs), "--methods", "mola_router, hps", "--format", "csv"]) == 0
    assert [line.split(",")[1] for line in capsys.readouterr().out.splitlines()] == ["method", "mola_router", "hps"]
    with pytest.raises(SystemExit):
        main([str(runs), "--methods", ","])
    assert "names of methods with commas" in capsys.readouterr().err


def test_an_option_that_fits_one_data_set_only(runs: Path, make_run: Make, capsys: pytest.CaptureFixture[str]) -> None:
    make_run("other", 1, 0.4, 0.5, folder="rooms", data="rooms")
    assert main([str(runs), "--baseline", "hps", "--format", "markdown"]) == 0
    out, err = capsys.readouterr()
    assert "on digits" in out
    assert "on rooms" not in out
    assert "note: rooms left out: no finished run of hps on rooms; there are runs of other" in err


def test_one_table_per_data_set(runs: Path, make_run: Make, tmp_path: Path) -> None:
    make_run("hps", 1, 0.4, 0.5, folder="rooms", data="rooms", tasks=["a"])
    console = Console(record=True, width=150)
    tables = report([runs], console)
    assert list(tables) == ["digits", "rooms"]
    assert "1 unfinished run" in console.export_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "does not exist"),
        (["runs", "--metric", "f1"], "no run has the metric 'f1'"),
        (["runs", "--baseline", "mtan"], "there are runs of hps, mola_router"),
        (["runs", "--sort", "delta_m"], "needs runs of single_task"),
        (["runs", "--output", "t", "--csv", "t"], "cannot both be written to t"),
        (["runs/started"], "none of the runs is finished"),
        (["runs", "--output", "runs/started/config.yaml/x"], "cannot write"),
    ],
)
def test_errors_are_one_message_and_exit_code_1(
    runs: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(runs.parent)
    assert main(arguments) == 1
    err = capsys.readouterr().err
    assert message in err
    assert "Traceback" not in err


def test_over_an_option_of_the_configs(make_run: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for rank, score in ((16, 0.9), (2, 0.5)):
        for seed in (0, 1):
            folder = make_run(f"mola_grad_rank_{rank}", seed, score, score - 0.1 * seed)
            (folder / "config.yaml").write_text(f"adapter: {{rank: {rank}}}\n")
    where = [str(tmp_path / "runs"), "--over", "adapter.rank"]
    files = ["--format", "markdown", "--csv", str(tmp_path / "t.csv"), "--figures", str(tmp_path / "f")]
    assert main([*where, *files]) == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if line.strip()]
    assert [cell.strip() for cell in shown[0].strip("|").split("|")] == ["adapter.rank =", "2", "16"]
    assert "47.5 ± 3.5" in shown[2]
    assert pd.read_csv(tmp_path / "t.csv")["value"].tolist() == [2, 16]
    assert {path.name for path in (tmp_path / "f").iterdir()} == {"ablation_rank.png", "ablation_rank.svg"}
    assert main([*where[:-1], "adapter.rnk"]) == 1
    assert "no run's config has the option adapter.rnk" in capsys.readouterr().err
    for other in (["--html", "x.html"], ["--format", "latex"], ["--baseline", "hps"], ["--output", "x.md"], ["--cost"]):
        assert main([*where, *other]) == 1
        assert f"and not {' '.join(other[: 1 + (other[0] == '--format')])}" in capsys.readouterr().err
