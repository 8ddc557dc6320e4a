"""A search with real runs: killed and launched again, and a run that it ended early trained to its end after all."""

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
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser

from mola_lightning.cli.search.space import Space
from mola_lightning.cli.search.study import Search, SearchSettings
from mola_lightning.cli.status import sweep_status
from mola_lightning.cli.train import main

TRIALS = 5
NAMES = {"STORAGE": "storage", "STUDY": "study", "TRIAL": "trial"}
TASK = (
    "architecture=mola_grad", "adapter.rank=choice(1,2,4)", "optimizer.lr=tag(log,interval(1e-4,1e-1))",
    "data.source.num_train=24", "data.source.image_size=14", "backbone.widths=[4,4,8]",
    "+trainer.limit_train_batches=2", "+trainer.limit_val_batches=1", "num_threads=1",
)  # fmt: skip
SEARCH = (
    "-m", "hydra/sweeper=mola_optuna", f"hydra.sweeper.n_trials={TRIALS}", "hydra.sweeper.startup_trials=2", *TASK,
    "trainer.max_epochs=2",
)  # fmt: skip


def states(folder: Path) -> list[str]:
    record = folder / "search.yaml"
    return [trial["state"] for trial in yaml.safe_load(record.read_text())["trials"]] if record.exists() else []


def journals(folder: Path) -> dict[str, str]:
    return {path.parent.name: path.read_text() for path in folder.glob("*/metrics.csv")}


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_a_killed_search(command: Callable[..., Any], tmp_path: Path) -> None:
    folder = tmp_path / "killed"
    arguments = [sys.executable, "-m", "mola_lightning.cli.train", *SEARCH, f"hydra.sweep.dir={folder}"]
    with subprocess.Popen(arguments, cwd=tmp_path, env=dict(os.environ), stderr=subprocess.DEVNULL) as job:
        end = time.monotonic() + 400
        # In the midst of the third run.
        while states(folder).count("complete") < 2 or len(list(folder.glob("*/metrics.jsonl"))) < 3:
            assert time.monotonic() < end
            assert job.poll() is None
            time.sleep(0.01)
        job.send_signal(signal.SIGKILL)
    assert states(folder) == ["complete", "complete", "running"]
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/summary.json")}
    assert [run.state for run in sweep_status(folder)[0]].count("stopped") == 1
    assert sweep_status(folder)[1] == TRIALS - 3

    again = command(main, *SEARCH, f"hydra.sweep.dir={folder}")
    assert again.code == 0, again.err
    assert "2 of 5 trials have ended" in " ".join(again.err.split())
    assert "3 of 3 runs done" in again.err
    assert "5 of 5 trials: 5 complete\nbest: trial" in again.err
    assert states(folder) == ["complete"] * TRIALS
    assert before.items() <= {path: path.stat().st_mtime_ns for path in folder.glob("*/summary.json")}.items()
    runs, waiting = sweep_status(folder)
    assert ([run.state for run in runs], waiting) == (["done"] * TRIALS, 0)

    whole = command(main, *SEARCH, f"hydra.sweep.dir={tmp_path / 'whole'}")
    assert whole.code == 0, whole.err
    assert journals(folder) == journals(tmp_path / "whole")


@pytest.mark.soak
def test_a_pruned_run(command: Callable[..., Any], tmp_path: Path) -> None:
    """Pruned by its own job and told as pruned; outside of the search it is trained on, as if it never had been."""
    from optuna.trial import TrialState, create_trial

    # The search begins with a trial that no run can come up to.
    folder, task = tmp_path / "search", (*TASK, "trainer.max_epochs=3")
    folder.mkdir()
    space = Space(OverridesParser.create().parse_overrides(["test=false", "figures=false", *task]))
    begun = Search(
        SearchSettings("search", None, "maximize", 2, 1, "random", 0, 10, 0.5, "median", 1, 1), space, folder
    )
    begun.study.add_trial(
        create_trial(
            state=TrialState.COMPLETE, value=1.0, params=(best := {"adapter.rank": 1, "optimizer.lr": 0.1}),
            distributions=space.distributions, intermediate_values={0: 1.0, 1: 1.0, 2: 1.0},
            user_attrs={"overrides": space.overrides(best), "folder": "best"},
        )
    )  # fmt: skip
    search = (
        "-m", "hydra/sweeper=mola_optuna", "hydra.sweeper.n_trials=2", "hydra.sweeper.sampler=random", *task,
        "hydra.sweeper.pruner=median", "hydra.sweeper.pruner_startup_trials=1",
        "hydra.sweeper.pruner_warmup_epochs=1", f"hydra.sweep.dir={folder}",
    )  # fmt: skip
    refused = command(main, *search, "hydra.sweeper.max_failure_rate=2")
    assert refused.code == 1
    assert "error: max_failure_rate must be between 0 and 1, got 2" in refused.err
    outcome = command(main, *search)
    assert outcome.code == 0, outcome.err
    assert states(folder) == ["complete", "pruned"]
    (run,) = (path.parent for path in folder.glob("*/pruned.json"))
    assert f"{run.name} pruned in epoch 2: val score" in outcome.err
    assert "2 of 2 trials: 1 complete, 1 pruned" in outcome.err
    assert not (run / "error.txt").exists()
    assert not (run / "summary.json").exists()
    (status,) = sweep_status(folder)[0]
    assert status.state == "pruned"
    assert status.said.startswith("epoch 2/3")

    # As if the kill had come between the end of the run and its being told.
    note = json.loads((run / "pruned.json").read_text())
    trial = (f"+hydra.job.env_set.MOLA_SEARCH_{name}={note[key]!r}" for name, key in NAMES.items())
    config = yaml.safe_load((folder / "search.yaml").read_text())["trials"][1]["overrides"]
    fixed = [override for override in (*task, "test=false", "figures=false") if "(" not in override]
    again = command(main, "-m", *fixed, *config, *trial, f"hydra.sweep.dir={folder}")
    assert again.code == 1
    assert "pruned in epoch 2" in again.err
    on = command(main, "-m", *fixed, *config, f"hydra.sweep.dir={folder}")
    assert on.code == 0, on.err
    assert not (run / "pruned.json").exists()
    whole = command(main, "-m", *fixed, *config, f"hydra.sweep.dir={tmp_path / 'whole'}")
    assert whole.code == 0, whole.err
    assert journals(folder) == journals(tmp_path / "whole")
