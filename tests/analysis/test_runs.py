"""Finding run folders, and what happens to those that cannot be used."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mola_lightning.analysis import comparison, load_runs, problems
from mola_lightning.core import RunFolderError


def test_finds_runs_at_any_depth_in_order(make_run: Callable[..., Path], tmp_path: Path) -> None:
    make_run("hps", 2, 0.5, 0.5, folder="multirun/day/2")
    make_run("hps", 1, 0.5, 0.5, folder="multirun/day/1")
    single = make_run("mola_grad", 1, 0.5, 0.5)
    runs = load_runs([tmp_path / "runs"])
    assert [(run.method, run.seed, run.state) for run in runs] == [
        ("mola_grad", 1, "done"),
        ("hps", 1, "done"),
        ("hps", 2, "done"),
    ]
    assert [run.folder for run in load_runs([single])] == [single]


def test_a_run_reached_twice_counts_once(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run("hps", 1, 0.5, 0.5)
    assert len(load_runs([run, tmp_path / "runs", run / ".." / "1"])) == 1


def test_unfinished_runs_are_counted_and_hidden_folders_are_not(make_run: Callable[..., Path], tmp_path: Path) -> None:
    run = make_run("hps", 1, 0.5, 0.5)
    (run / ".hydra").mkdir()
    (run / ".hydra" / "config.yaml").write_text("")
    started = tmp_path / "runs" / "started"
    (started / ".hydra").mkdir(parents=True)
    (started / "config.yaml").write_text("")
    (started / ".hydra" / "config.yaml").write_text("")
    make_run("hps", 2, 0.5, 0.5, status="interrupted")
    runs = load_runs([tmp_path / "runs"])
    assert [run.state for run in runs] == ["done", "unfinished", "unfinished"]
    (note,) = problems(runs)
    assert note.startswith("2 unfinished runs left out")
    assert str(started) in note
    assert "'interrupted'" in note


def test_a_folder_of_runs_with_a_config_is_no_run(make_run: Callable[..., Path], tmp_path: Path) -> None:
    make_run("hps", 1, 0.5, 0.5)
    (tmp_path / "runs" / "config.yaml").write_text("")
    assert [run.state for run in load_runs([tmp_path])] == ["done"]


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"method": 3}', "\x00", '{"status": "done", "test": null}'])
def test_a_broken_summary_is_shown_and_hides_no_other_run(
    content: str, make_run: Callable[..., Path], tmp_path: Path
) -> None:
    make_run("hps", 1, 0.5, 0.5)
    broken = make_run("hps", 2, 0.5, 0.5)
    (broken / "summary.json").write_text(content)
    runs = load_runs([tmp_path])
    assert [run.state for run in runs] == ["done", "broken"]
    (note,) = problems(runs)
    assert "summary.json" in note
    assert str(broken) in note


def test_a_summary_that_is_no_text_is_broken(make_run: Callable[..., Path]) -> None:
    run = make_run("hps", 1, 0.5, 0.5)
    (run / "summary.json").write_bytes(os.urandom(64) + b"\xff\xfe")
    assert load_runs([run])[0].state == "broken"


def test_repeated_seeds_are_pointed_out(make_run: Callable[..., Path], tmp_path: Path) -> None:
    make_run("hps", 1, 0.5, 0.5, folder="first")
    make_run("hps", 1, 0.7, 0.7, folder="second")
    (note,) = problems(load_runs([tmp_path]))
    assert "hps" in note
    assert "2 runs with seed 1" in note


def test_debug_runs_are_left_out_where_there_are_others(make_run: Callable[..., Path], tmp_path: Path) -> None:
    make_run("hps", 1, 0.1, 0.1, folder="debug", debug="quick")
    (alone,) = problems(load_runs([tmp_path]))
    assert "all finished runs are debug runs" in alone
    assert comparison(load_runs([tmp_path])).loc["hps", ("a", "mean")] == 0.1
    make_run("hps", 1, 0.9, 0.9, debug=None)
    runs = load_runs([tmp_path])
    (note,) = problems(runs)
    assert note.startswith("1 debug run left out")
    assert "debug=quick" in note
    assert comparison(runs).loc["hps", "a"].tolist()[::2] == [0.9, 1]


def test_runs_without_a_test_are_pointed_out(make_run: Callable[..., Path], tmp_path: Path) -> None:
    make_run("hps", 1, None, None)
    make_run("hps", 2, 0.5, 0.5)
    (note,) = problems(load_runs([tmp_path]))
    assert note.startswith("1 run without test results")


def test_nothing_to_find_says_where_it_looked(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match="nowhere does not exist"):
        load_runs([tmp_path / "nowhere"])
    with pytest.raises(RunFolderError, match=rf"no runs found in {tmp_path}"):
        load_runs([tmp_path])
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match="file, not a folder"):
        load_runs([tmp_path / "file"])
    with pytest.raises(RunFolderError, match="no folder at all"):
        load_runs([])
