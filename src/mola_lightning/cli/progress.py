"""The progress of a sweep: which runs are at it, how far each is, and how long all of them will take.

Reads the run folders from the launching process, so that it works with any launcher that writes to this file system.
"""

import json
import threading
import time
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.live import Live
from rich.table import Table

from mola_lightning.training.journal import read_journal


class RunState:
    """How far one run folder is.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.name, self.epochs, self.epoch, self.score, self.done = folder.name, 0, 0, float("nan"), False

    def look(self) -> None:
        """Read what is new."""
        if self.done or not (self.folder / "config.yaml").exists():
            return
        if not self.epochs:
            config: Any = OmegaConf.load(self.folder / "config.yaml")
            self.epochs = int(config.trainer.max_epochs)
            choice = config.method or config.architecture["_target_"].rpartition(".")[2]
            self.name = f"{choice}, seed {config.seed}"
        rows = [row for row in read_journal(self.folder / "metrics.jsonl") if "val/score" in row]
        if rows:
            self.epoch, self.score = rows[-1]["epoch"] + 1, rows[-1]["val/score"]
        summary = self.folder / "summary.json"
        if summary.exists():
            self.done, self.epoch = True, self.epochs
            found = json.loads(summary.read_text(encoding="utf-8"))
            self.name = f"{found['method']}, seed {found['seed']}"

    @property
    def fraction(self) -> float:
        """Share of the training that is done; the test and the figures are not counted."""
        return self.epoch / self.epochs if self.epochs else 0.0


class SweepProgress(Callback):
    """Hydra callback: a live table in a terminal, a line per finished run elsewhere.

    Args:
        every: seconds between looks at the run folders.
    """

    def __init__(self, every: float = 1.0) -> None:
        self.every = every
        self._stop: threading.Event | None = None
        self._thread: threading.Thread | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Launchers send callbacks to their workers, which have nothing to watch."""
        return {"every": self.every, "_stop": None, "_thread": None}

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Begin to watch the sweep's folder."""
        self.console = Console(stderr=True)
        self.folder = Path(config.hydra.sweep.dir)
        self.total = _count_jobs(config)
        self.started = time.monotonic()
        self.runs: dict[str, RunState] = {}
        self._told: set[str] = set()
        self.console.print(f"{self.total or 'several'} runs in {self.folder}")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, args=(self._stop,), daemon=True)
        self._thread.start()

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Stop watching."""
        if self._stop is not None and self._thread is not None:
            self._stop.set()
            self._thread.join()

    def _watch(self, stop: threading.Event) -> None:
        if not self.console.is_terminal:
            while not stop.wait(self.every):
                self._look()
                self._tell()
            self._look()
            self._tell()
            return
        with Live(self._table(), console=self.console, refresh_per_second=2) as live:
            while not stop.wait(self.every):
                self._look()
                live.update(self._table())
            self._look()
            live.update(self._table())

    def _look(self) -> None:
        if not self.folder.is_dir():
            return
        for folder in self.folder.iterdir():
            if folder.is_dir():
                self.runs.setdefault(folder.name, RunState(folder)).look()

    def _remaining(self) -> str:
        done = sum(run.fraction for run in self.runs.values())
        spent = time.monotonic() - self.started
        if not self.total or done <= 0:
            return "time left: not known yet"
        left = spent / done * (self.total - done)
        return f"about {left / 60:.0f} min {left % 60:02.0f} s left" if left >= 1 else "done"

    def _headline(self) -> str:
        done = sum(run.done for run in self.runs.values())
        spent = time.monotonic() - self.started
        return f"{done} of {self.total or '?'} runs done after {spent / 60:.1f} min, {self._remaining()}"

    def _table(self) -> Table:
        table = Table(title=self._headline(), title_justify="left", box=None, show_header=False)
        for run in self.runs.values():
            if run.epochs and not run.done:
                table.add_row(run.name, f"epoch {run.epoch}/{run.epochs}", f"val score {run.score:.4f}")
        return table

    def _tell(self) -> None:
        for key, run in self.runs.items():
            if run.done and key not in self._told:
                self._told.add(key)
                self.console.print(f"{run.name}: val score {run.score:.4f}; {self._headline()}", soft_wrap=True)


def _count_jobs(config: DictConfig) -> int | None:
    """The number of jobs of a grid sweep; None where another sweeper decides it as it goes."""
    sweeper = config.hydra.sweeper
    if not str(sweeper["_target_"]).endswith("BasicSweeper"):
        return None
    given = list(config.hydra.overrides.task)
    named = {override.split("=", 1)[0] for override in given}
    params = [f"{key}={value}" for key, value in (sweeper.params or {}).items() if key not in named]
    overrides = OverridesParser.create().parse_overrides([*params, *given])
    return sum(len(batch) for batch in BasicSweeper.split_arguments(overrides, None))
