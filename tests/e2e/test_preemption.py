"""Jobs of a sweep, each a process of submitit: one is preempted twice, and ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mola_lightning.cli.status import sweep_status
from mola_lightning.cli.train import main

SWEEP = (
    "-m", "architecture=mola_grad", "seed=0,1", "data.source.num_train=20", "data.source.image_size=12",
    "data.batch_size=16", "backbone.widths=[4,4,8]", "trainer.max_epochs=14", "+trainer.limit_val_batches=1",
    "+trainer.limit_test_batches=1", "callbacks.records.num_conflict_batches=0", "num_threads=1", "figures=false",
)  # fmt: skip
SUBMITIT = ("hydra/launcher=submitit_local", "hydra.launcher.timeout_min=60")


def launch(folder: Path) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-m", "mola_lightning.cli.train", *SWEEP, *SUBMITIT, f"hydra.sweep.dir={folder}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(arguments, cwd=folder.parent, env=environment, stderr=subprocess.PIPE, text=True)


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def run_of(folder: Path, seed: int) -> Path | None:
    return next(iter(folder.glob(f"*_seed{seed}_*")), None)


def epochs(run: Path | None) -> int:
    journal = run / "metrics.jsonl" if run is not None else None
    return journal.read_text().count("val/score") if journal is not None and journal.exists() else 0


def starts(run: Path) -> int:
    try:
        return int(json.loads((run / ".lock").read_text())["starts"])
    except (OSError, ValueError):  # it is being written
        return 0


def states(folder: Path) -> dict[str, str]:
    return {run.name.split("_")[2]: run.state for run in sweep_status(folder)[0]}


@pytest.mark.soak
def test_a_job_that_is_preempted_twice(tmp_path: Path, command: Callable[..., Any]) -> None:
    sweep = tmp_path / "sweep"
    job = launch(sweep)
    for time_preempted in (1, 2):
        until(lambda n=time_preempted: epochs(run_of(sweep, 0)) >= 3 * n and starts(run_of(sweep, 0)) == n)
        run = run_of(sweep, 0)
        assert states(sweep)["seed0"] == "running"
        process = json.loads((run / ".lock").read_text())["process"].split()[1]
        os.kill(int(process), signal.SIGUSR2)
        until(lambda: states(sweep)["seed0"] == "stopped")
        until(lambda n=time_preempted: starts(run_of(sweep, 0)) == n + 1)
    _, said = job.communicate(timeout=200)
    assert job.returncode == 0, said
    assert states(sweep) == {"seed0": "done", "seed1": "done"}
    assert [run.starts for run in sweep_status(sweep)[0]] == [3, 1]

    assert command(main, *SWEEP, f"hydra.sweep.dir={tmp_path / 'undisturbed'}").code == 0
    for seed in (0, 1):
        a, b = run_of(sweep, seed), run_of(tmp_path / "undisturbed", seed)
        assert (a / "metrics.csv").read_text() == (b / "metrics.csv").read_text()
        ours, theirs = (json.loads((run / "summary.json").read_text()) for run in (a, b))
        assert ours["test"] == theirs["test"]
        assert ours["resumes"] == (2 if seed == 0 else 0)

    before = {path: path.stat().st_mtime_ns for path in sweep.rglob("summary.json")}
    again = command(main, *SWEEP, f"hydra.sweep.dir={sweep}")
    assert "2 of 2 runs done (2 there already)" in again.err
    assert before == {path: path.stat().st_mtime_ns for path in sweep.rglob("summary.json")}
