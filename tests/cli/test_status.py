"""``mola-status``: what the files of a sweep say of its runs."""

import json
import sys
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from mola_lightning.cli.folders import claimed, run_once
from mola_lightning.cli.status import RunStatus, main, sweep_status
from mola_lightning.core import RunFolderError


def begin(folder: Path, epochs: int) -> None:
    folder.mkdir(exist_ok=True)
    OmegaConf.save({"trainer": {"max_epochs": 5}}, folder / "config.yaml")
    rows = [{"epoch": epoch, "step": 3 * epoch, "val/score": 0.1 * epoch} for epoch in range(epochs)]
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """A run that is done, one that failed, one that was killed twice, one before its first epoch."""
    folder = tmp_path / "sweep"
    for name in ("a_done", "b_failed", "c_killed", "d_first"):
        (folder / name).mkdir(parents=True)

    def done() -> float:
        begin(folder / "a_done", 5)
        (folder / "a_done" / "summary.json").write_text(json.dumps({"status": "done", "score": 0.4}))
        return 0.4

    def fail() -> float:
        begin(folder / "b_failed", 1)
        raise RunFolderError("the disk is full")

    def die() -> float:
        begin(folder / "c_killed", 2)
        raise KeyboardInterrupt

    run_once(folder / "a_done", "a", True, [], done)
    with pytest.raises(Exception, match="disk is full"):
        run_once(folder / "b_failed", "b", True, [], fail)
    for _ in range(3):
        with pytest.raises(KeyboardInterrupt):
            run_once(folder / "c_killed", "c", True, [], die)
    begin(folder / "d_first", 0)
    params = {"seed": "0,1,2", "architecture": "hps,mola"}
    hydra = {"sweeper": {"_target_": "x.BasicSweeper", "params": params}, "overrides": {"task": ["optimizer.lr=1"]}}
    OmegaConf.save({"hydra": hydra}, folder / "multirun.yaml")
    return folder


def test_states(sweep: Path) -> None:
    runs, waiting = sweep_status(sweep)
    assert runs == [
        RunStatus("a_done", "done", 1, "val score 0.4000"),
        RunStatus("b_failed", "failed", 1, "the disk is full"),
        RunStatus("c_killed", "stopped", 3, "epoch 2/5, val score 0.1000"),
        RunStatus("d_first", "stopped", 0, "first epoch"),
    ]
    assert waiting == 2
    with claimed(sweep / "c_killed"):
        run = sweep_status(sweep)[0][2]
    assert (run.state, run.starts) == ("running", 3)
    assert run.said.startswith("epoch 2/5, val score 0.1000 (process ")


def test_the_command(sweep: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", ["mola-status", str(sweep)])
    main()
    out = capsys.readouterr().out
    assert "1 done, 1 failed, 2 stopped, 2 waiting" in out
    monkeypatch.setattr(sys, "argv", ["mola-status", str(sweep / "nowhere")])
    with pytest.raises(SystemExit):
        main()
    assert "holds no run of a sweep" in capsys.readouterr().err
