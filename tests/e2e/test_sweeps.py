"""Sweeps: every run of the grid, whatever happens to the others; and launched again, only what is missing."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.fabric.utilities.rank_zero import rank_zero_only

from mola_lightning.analysis import load_runs
from mola_lightning.cli.train import main

Command = Callable[..., Any]
TINY = (
    "data.source.domains=[optdigits,printed]",
    "data.source.num_train=32",
    "data.source.image_size=8",
    "trainer.max_epochs=1",
    "+trainer.limit_train_batches=1",
    "figures=false",
    "callbacks.records.num_conflict_batches=0",
)


def found(folder: Path) -> dict[str, Path]:
    """Finished runs: folder name without its key -> folder."""
    return {run.folder.name.rpartition("_")[0]: run.folder for run in load_runs([folder]) if run.state == "done"}


def test_a_sweep(command: Command, tmp_path: Path) -> None:
    outcome = command(main, "-m", "architecture=hps,mola", "seed=0,1", *TINY)
    assert outcome.code == 0, outcome.err
    runs = load_runs([tmp_path / "working" / "runs" / "sweeps"])
    assert sorted((run.method, run.seed) for run in runs) == [
        ("hps", 0), ("hps", 1), ("mola_router", 0), ("mola_router", 1),
    ]  # fmt: skip
    for run in runs:
        name = f"{run.method}_seed{run.seed}_{run.summary['config_key'][:8]}"
        assert run.folder.name == name
        assert f"seed={run.seed}" in run.summary["overrides"]
    assert "4 runs in" in outcome.err
    assert "4 of 4 runs done" in outcome.err
    assert len({json.dumps(run.summary["val"]) for run in runs}) == 4


def test_a_failure_stops_no_other_run(command: Command, tmp_path: Path) -> None:
    sweep = ("-m", "architecture=mola_grad", "adapter.rank=0,1", "hydra.sweep.dir=sweep", "test=false", *TINY)
    outcome = command(main, *sweep)
    folder = tmp_path / "working" / "sweep"
    (failed,) = (path.parent for path in folder.glob("*/error.txt"))
    assert outcome.code == 1
    assert "Traceback" not in outcome.err
    message = "rank must be an integer >= 1, got 0 (config key: adapter.rank)"
    assert f"{failed.name} failed: {message}" in outcome.err
    assert f"error: 1 of 2 runs failed:\n  {failed.name} (adapter.rank=0): {message}\n" in outcome.err
    assert {path.name for path in failed.iterdir()} == {".lock", "error.txt"}
    assert list(found(folder)) == ["mola_grad_seed0"]

    before = (found(folder)["mola_grad_seed0"] / "summary.json").stat().st_mtime_ns
    (failed / "notes.txt").write_text("why?")
    again = command(main, *sweep[:2], "adapter.rank=1,1", *sweep[3:])
    assert again.code == 0, again.err
    assert "1 run in" in again.err
    assert "1 of 1 runs done (1 there already)" in again.err
    assert (found(folder)["mola_grad_seed0"] / "summary.json").stat().st_mtime_ns == before
    refused = command(main, *sweep[:2], "adapter.rank=1,2", *sweep[3:], "skip_done=false")
    assert refused.code == 1
    assert "1 of 2 runs failed" in refused.err
    assert "skip_done=false" in refused.err
    assert [run.state for run in load_runs([folder])].count("done") == 2


def test_one_process_of_a_run_looks_after_its_folder(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second of two would wait for ever for the first, which waits for it to train."""
    monkeypatch.setattr(rank_zero_only, "rank", 1)
    called = []
    monkeypatch.setattr("mola_lightning.cli.train.train", lambda *_: called.append(1) or 0.5)
    assert command(main, "-m", "architecture=hps", "hydra.sweep.dir=sweep").code == 0
    assert called == [1]
    assert not list((tmp_path / "working" / "sweep").glob("*/.lock"))


@pytest.mark.soak  # three processes import everything
def test_several_runs_at_a_time(command: Command, tmp_path: Path) -> None:
    """With joblib, each job has a process of its own: names, errors and scores come back from there."""
    sweep = ("-m", "architecture=hps", "optimizer.lr=-1,1e-3", "num_threads=1", "test=false", *TINY)
    launcher = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    done = subprocess.run(
        [sys.executable, "-m", "mola_lightning.cli.train", *sweep, *launcher],
        cwd=tmp_path, env=dict(os.environ), capture_output=True, text=True, check=False,
    )  # fmt: skip
    again = command(main, *sweep, launcher[-1])  # one at a time: it is the same sweep all the same
    for code, err, counts in (
        (done.returncode, done.stderr, "1 of 2 runs done, 1 failed"),
        (again.code, again.err, "1 of 2 runs done (1 there already), 1 failed"),
    ):
        assert code == 1
        assert "Traceback" not in err
        assert "error: 1 of 2 runs failed:\n" in err
        assert err.count("(optimizer.lr=-1): ValueError: Invalid learning rate: -1") == 1
        assert counts in err
    assert list(found(tmp_path / "sweep")) == ["hps_seed0"]
