"""A sweep of fifty tiny runs on two processes: a folder each, nothing left running, and a parent that does not grow."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

JOBS = 50
SWEEP = (
    "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"seed=range({JOBS})", "architecture=hps",
    "data.source.num_train=24", "data.source.image_size=12", "data.batch_size=16", "backbone.widths=[4,4,8]",
    "trainer.max_epochs=1", "+trainer.limit_train_batches=1", "+trainer.limit_val_batches=1",
    "+trainer.limit_test_batches=1", "callbacks.records.num_conflict_batches=0", "num_threads=1", "figures=false",
)  # fmt: skip


def megabytes(pid: int) -> float | None:
    """None of a process that has just ended."""
    found = re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1024 if found else None


def of_session(session: int) -> list[int]:
    """Processes that belong to a session, without those that only wait to be collected."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, its = path.read_text().rpartition(")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        if int(its) == session and state != "Z":
            found.append(int(path.parent.name))
    return found


@pytest.mark.soak
def test_fifty_runs(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    command = [sys.executable, "-m", "mola_lightning.cli.train", *SWEEP, f"hydra.sweep.dir={sweep}"]
    log = tmp_path / "log"
    with log.open("w") as said:
        job = subprocess.Popen(
            command,
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
        memory: dict[int, float] = {}  # finished runs -> of the parent
        end = time.monotonic() + 550
        while job.poll() is None:
            assert time.monotonic() < end
            if (now := megabytes(job.pid)) is not None:
                memory[len(list(sweep.glob("*/summary.json")))] = now
            time.sleep(0.2)
    assert job.returncode == 0, log.read_text()
    summaries = [json.loads(path.read_text()) for path in sweep.glob("*/summary.json")]
    assert sorted(summary["seed"] for summary in summaries) == list(range(JOBS))
    assert len({path.parent.name for path in sweep.glob("*/summary.json")}) == JOBS
    assert f"{JOBS} of {JOBS} runs done" in log.read_text()
    assert of_session(job.pid) == []
    early, late = (memory[min(memory, key=lambda n, m=mark: abs(n - m))] for mark in (5, JOBS - 2))
    assert late - early < 10, memory
