"""Whole runs of mola-train on two processes: one folder, one of each row; stopped by a signal to one, they go on."""

import json
import os
import signal
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from lightning.pytorch import Callback
from omegaconf import DictConfig

from mola_lightning.cli import train as command
from mola_lightning.training.signals import RunInterrupted

EPOCHS = 2
STOPPED = "stopped"


def config(*overrides: str) -> DictConfig:
    with initialize_config_module("mola_lightning.conf", version_base="1.3"):
        return compose(
            "train",
            [
                "data=digits", "data.source.num_train=20", "data.source.image_size=12", "data.batch_size=16",
                "backbone.widths=[4,4,8]", "architecture=mola_grad", "trainer=ddp", "trainer.accelerator=cpu",
                "trainer.devices=2", f"trainer.max_epochs={EPOCHS}", "trainer.deterministic=true",
                "callbacks.records.num_conflict_batches=0", "figures=false", *overrides,
            ],
        )  # fmt: skip


class Signal(Callback):
    """Signals its own process as a batch ends."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.batch:
            os.kill(os.getpid(), signal.SIGTERM)


def run(rank: int, cfg: DictConfig, folder: Path, at: int | None) -> None:
    """One process of a run; the last one is signalled after step ``at``, the first is not."""
    warnings.filterwarnings("ignore")
    cfg.paths.run = str(folder)
    build = command.build_run

    def built(*arguments: Any) -> Any:
        parts = build(*arguments)
        if rank == 1 and at is not None:
            parts.trainer.callbacks.append(Signal(at))
        return parts

    command.build_run = built  # type: ignore[assignment]
    try:
        command.train(cfg, folder, sweep=True)
    except RunInterrupted as interruption:
        (folder.parent / f"{STOPPED}{rank}").write_text(str(interruption.step))


@pytest.fixture(scope="module")
def whole(two_processes: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "run"
    two_processes(run, config(), folder, None)
    return folder


def test_one_folder_and_one_of_each_row(whole: Path) -> None:
    summary = json.loads((whole / "summary.json").read_text())
    assert summary["status"] == "done"
    rows = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if "val/score" in row] == list(range(EPOCHS))
    assert [row["epoch"] for row in rows if "train/loss" in row] == list(range(EPOCHS))
    records = json.loads((whole / "summary.json").read_text())["routing"]
    assert records is not None


@pytest.mark.parametrize("at", [3, 5], ids=["in an epoch", "at its end"])
def test_a_signal_to_one_process_stops_both_and_they_go_on(
    two_processes: Callable[..., None], whole: Path, killing: ModuleType, tmp_path: Path, at: int
) -> None:
    """It is noted when they next agree: after eight steps, or as an epoch begins. An epoch has five."""
    folder = tmp_path / "run"
    two_processes(run, config(), folder, at)
    steps = [int((tmp_path / f"{STOPPED}{rank}").read_text()) for rank in range(2)]
    assert steps[0] == steps[1] < 5 * EPOCHS
    assert not (folder / "summary.json").exists()
    two_processes(run, config(), folder, None)
    assert killing.differences(whole, folder) == []


def test_a_sweep_does_not_start_processes_by_its_own_command_line(tmp_path: Path) -> None:
    cfg = config()
    cfg.paths.run = str(tmp_path / "run")
    with pytest.raises(Exception, match="a sweep cannot start the 2 processes"):
        command.train(cfg, tmp_path / "run", sweep=True)
