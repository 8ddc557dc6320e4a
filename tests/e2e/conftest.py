"""Runs on a small part of Digits, and the commands called without a process of their own."""

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra

from mola_lightning.cli.train import train

# One cache for all tests: what it depends on, the number of images, is the same everywhere.
SMALL_DATA = ("data.source.num_train=24", "data.source.image_size=14")
SMALL = (*SMALL_DATA, "data.batch_size=24", "data.eval_batch_size=1000", "trainer.max_epochs=2")
ROUTED = ("architecture=mola", "router.widths=[4,4,8]", "router.blocks=1")  # the paper's router would take most time


def composed(folder: Path, *overrides: str) -> Any:
    GlobalHydra.instance().clear()
    with initialize_config_module("mola_lightning.conf", version_base="1.3"):
        return compose("train", [*SMALL, f"paths.run={folder}", *overrides])


@pytest.fixture(scope="session")
def train_small() -> Callable[..., float]:
    """``train_small(folder, "architecture=hps", ...)``: a run in ``folder``; its score."""
    return lambda folder, *overrides: train(composed(folder, *overrides), folder, sweep=True)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, train_small: Callable[..., float]) -> Path:
    """A folder with a run of MoLA-Router and one of HPS, which draws no figures: that takes most of a run's time."""
    folder = tmp_path_factory.mktemp("runs")
    train_small(folder / "mola", *ROUTED)
    train_small(folder / "hps", "architecture=hps", "figures=false")
    return folder


class Outcome(NamedTuple):
    """What a command left: its exit code, and what it wrote."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Callable[..., Outcome]]:
    """``command(main, "seed=1", ...)``: as in an empty folder of its own, which is the working directory."""
    root, working = logging.getLogger(), tmp_path / "working"
    working.mkdir()
    monkeypatch.chdir(working)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    handlers, level = root.handlers[:], root.level

    def run(main: Callable[[], Any], *arguments: str) -> Outcome:
        GlobalHydra.instance().clear()
        monkeypatch.setattr(sys, "argv", ["command", *arguments])
        capsys.readouterr()
        code: Any = 0
        try:
            code = main() or 0
        except SystemExit as end:
            code = end.code
        return Outcome(int(code or 0), *capsys.readouterr())

    with warnings.catch_warnings():
        yield run
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(False)
    GlobalHydra.instance().clear()
