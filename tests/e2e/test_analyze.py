"""mola-analyze from the command line, on a copy of a small run."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from mola_lightning.analysis import load_runs
from mola_lightning.cli.analyze import main
from mola_lightning.cli.mechanism import draw_mechanism

pytestmark = pytest.mark.soak
SMALL = ("num_batches=1", "batch_size=16", "num_images=16")
FIGURES = {
    "conflict": {"conflict_cosine", "conflict_magnitude", "conflict_opposed", "conflict_by_stage"},
    "routing": {"routing_mixing", "routing_scatter", "features_scatter"},
    "experts": {"experts_layers", "experts_spectra", "experts_stages", "experts_angles", "task_distance"},
    "swap": {"swap"},
    "similarity": {"similarity"},
}


@pytest.fixture
def copies(runs: Path, tmp_path: Path) -> Path:
    """Other tests say which files a run has."""
    return Path(shutil.copytree(runs, tmp_path / "copies"))


def names(folder: Path, suffix: str) -> set[str]:
    return {path.stem for path in folder.glob(f"*{suffix}")}


def test_all_looks_into_a_run(copies: Path, command: Callable[..., Any]) -> None:
    outcome = command(main, f"run={copies / 'mola'}", *SMALL)
    assert outcome.code == 0, outcome.err
    folder = copies / "mola" / "analysis"
    expected = set().union(*FIGURES.values())
    assert names(folder, ".png") == names(folder, ".svg") == expected
    assert names(folder, ".csv") == {
        "conflict", "conflict_by_stage", "routing", "experts", "experts_stages", "swap", "similarity",
    }  # fmt: skip
    assert names(folder, ".npz") == {"records", "routing", "experts"}
    assert "mean cosine of task gradients" in outcome.out
    assert str(folder / "swap.csv") in outcome.out
    swap = pd.read_csv(folder / "swap.csv", index_col="routing")
    (run,) = load_runs([copies / "mola"])
    for task in run.tasks:  # all test images, so that it is the test result
        assert swap.loc["own routing", task] == pytest.approx(run.score(task, "accuracy"), abs=1e-6)
    with np.load(folder / "routing.npz") as stored:
        assert stored["mixing_weights"].shape == (64, 4)


def test_the_mechanism_in_figures(copies: Path, tmp_path: Path) -> None:
    shutil.copytree(copies / "hps", copies / "hps_again")
    drawn = draw_mechanism(load_runs([copies]), tmp_path / "figures")
    names_drawn = ["conflict_runs", "routing_mixing", "routing_scatter"]  # no run of mola_grad: no exchanged experts
    assert [path.stem for path in drawn] == names_drawn
    assert all(path.stat().st_size for path in drawn)
    assert names(tmp_path / "figures", ".png") == names(tmp_path / "figures", ".svg") == set(names_drawn)
    table = pd.read_csv(tmp_path / "figures" / "conflict_runs.csv", index_col=["run", "group"])
    whole = table.xs("all shared", level="group")
    assert list(whole.index) == ["hps, 2 seeds", "mola, seed 0"]
    assert whole["std_cosine"].iloc[0] == 0  # the same run twice
    assert draw_mechanism([], tmp_path / "none") == []


def test_runs_side_by_side(copies: Path, command: Callable[..., Any], tmp_path: Path) -> None:
    both = tmp_path / "both"
    outcome = command(
        main, f"run=[{copies / 'mola'},{copies / 'hps'}]", "looks=[conflict,similarity]", f"output={both}", *SMALL
    )
    assert outcome.code == 0, outcome.err
    assert names(both, ".png") == {"conflict_runs", "similarity_runs"}
    assert names(copies / "hps" / "analysis", ".png") == FIGURES["conflict"]
    assert "all tasks share the same features" in outcome.out


def test_what_it_refuses(copies: Path, command: Callable[..., Any], tmp_path: Path) -> None:
    refusals = {
        "mola-analyze run=<folder>": (),
        "no run folder": (f"run={tmp_path}",),
        "looks must be one of": (f"run={copies / 'hps'}", "looks=[all]"),
        "split must be one of": (f"run={copies / 'hps'}", "split=train"),
        "num_images must be an integer >= 1, got 0": (f"run={copies / 'hps'}", "num_images=0"),
        "embedding must be one of": (f"run={copies / 'hps'}", "embedding=umap"),
    }
    for message, arguments in refusals.items():
        outcome = command(main, *arguments)
        assert outcome.code == 1
        assert message in outcome.err
        assert "Traceback" not in outcome.err
