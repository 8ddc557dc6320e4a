"""Watching the run folders of a sweep: which runs are at it, how far each is, which failed, how long all will take."""

import contextlib
import json
import threading
import time
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mola_lightning.cli.folders import read_failure
from mola_lightning.core.run_files import CONFIG, ERROR, JOURNAL, LOCK, PRUNED, SUMMARY
from mola_lightning.training.journal import read_journal

ENDED = ("done", "pruned", "failed")  # states of runs that this sweep has nothing more to do with


class RunState:
    """How far one run folder is.

    Args:
        folder: the run folder.
        new: whether it came with this sweep; one from before belongs to the sweep once a job has taken it.
    """

    def __init__(self, folder: Path, new: bool) -> None:
        self.folder, self.name = folder, folder.name
        self.state = "elsewhere"  # then running, and at last done, there (from before), pruned or failed
        self.epochs, self.epoch, self.score = 0, 0, float("nan")
        self.message, self.overrides = "", ""
        self._before = {name: None if new else _stamp(folder / name) for name in (LOCK, SUMMARY, ERROR, PRUNED)}

    def look(self) -> None:
        """Read what is new."""
        if self.state in ENDED or not self._changed(LOCK):
            return
        if self._changed(ERROR):
            self.state = "failed"
            self.message, self.overrides = read_failure(self.folder)
        elif (self.folder / SUMMARY).exists():
            self.state = "done" if self._changed(SUMMARY) else "there"
            summary = json.loads((self.folder / SUMMARY).read_text(encoding="utf-8"))
            self.score = summary.get("score", self.score)  # runs of earlier versions do not say it
        else:
            self._look_at_training()
            self.state = "pruned" if self._changed(PRUNED) else "running"

    def _look_at_training(self) -> None:
        if not self.epochs and (self.folder / CONFIG).exists():
            config: Any = OmegaConf.load(self.folder / CONFIG)
            self.epochs = max(config.trainer.max_epochs or 0, 0)  # it may be unlimited
        rows = [row for row in read_journal(self.folder / JOURNAL) if "val/score" in row]
        if rows:
            self.epoch, self.score = rows[-1]["epoch"] + 1, rows[-1]["val/score"]

    def _changed(self, name: str) -> bool:
        stamp = _stamp(self.folder / name)
        return stamp is not None and stamp != self._before[name]

    @property
    def fraction(self) -> float:
        """Share of the training that this sweep has done; the test and the figures are not counted."""
        if self.state in ("done", "pruned"):
            return 1.0
        return self.epoch / self.epochs if self.state == "running" and self.epochs else 0.0


class SweepWatch(threading.Thread):
    """A live table in a terminal, a line per finished run elsewhere; failures are told at once in both.

    It reads the run folders, so that it works with any launcher that writes to this file system.

    Args:
        folder: of the sweep; the runs' folders lie in it.
        total: number of runs; None where it is not known before.
        varied: the keys in which the runs differ; None where it is not known before.
        every: seconds between looks at the folders.
    """

    def __init__(self, folder: Path, total: int | None, varied: set[str] | None, every: float) -> None:
        super().__init__(name="sweep-watch", daemon=True)
        self.folder, self.total, self.varied, self.every = folder, total, varied, every
        self.console = Console(stderr=True)
        self.started = time.monotonic()
        self.runs: dict[str, RunState] = {}
        self._ended = threading.Event()
        self._told: set[str] = set()
        self._find(new=False)

    def run(self) -> None:
        """Watch until :meth:`finish`."""
        runs = f"{self.total or 'several'} {'run' if self.total == 1 else 'runs'}"
        self.console.print(f"{runs} in {self.folder}", soft_wrap=True)
        if not self.console.is_terminal:
            while not self._ended.wait(self.every):
                self._look()
            self._look()
            if self._count("there"):  # not told one by one
                self.console.print(self._headline(), soft_wrap=True)
            return
        with Live(self._table(), console=self.console, refresh_per_second=2) as live:
            while not self._ended.wait(self.every):
                self._look()
                live.update(self._table())
            self._look()
            live.update(self._table())

    def finish(self) -> None:
        """Look once more and stop."""
        self._ended.set()
        self.join()

    def failures(self) -> str:
        """Which runs failed and why, for a reader; empty if none did."""
        failed = [run for run in self.runs.values() if run.state == "failed"]
        ended = sum(run.state in ("there", *ENDED) for run in self.runs.values())
        total = self.total or ended
        missing = f" ({total - ended} did not run)" if total > ended else ""
        lines = [f"  {run.name} ({self._settings(run)}): {run.message}" for run in failed]
        return "\n".join([f"{len(failed)} of {total} runs failed{missing}:", *lines]) if failed else ""

    def _settings(self, run: RunState) -> str:
        overrides = run.overrides.split()
        return " ".join(o for o in overrides if self.varied is None or o.partition("=")[0] in self.varied)

    def _find(self, new: bool) -> None:
        for folder in self.folder.iterdir() if self.folder.is_dir() else ():
            if folder.name not in self.runs and folder.is_dir():
                self.runs[folder.name] = RunState(folder, new)

    def _look(self) -> None:
        self._find(new=True)
        for key, run in self.runs.items():
            with contextlib.suppress(FileNotFoundError):  # a run that begins again takes its files away
                run.look()
            if run.state in ENDED and key not in self._told:
                self._told.add(key)
                self._tell(run)

    def _tell(self, run: RunState) -> None:
        what = {
            "failed": f"{run.name} failed: {run.message}",
            "pruned": f"{run.name} pruned in epoch {run.epoch}: val score {run.score:.4f}",
        }.get(run.state, f"{run.name}: val score {run.score:.4f}")
        said = what if self.console.is_terminal else f"{what}; {self._headline()}"
        self.console.print(Text(said, style="red" if run.state == "failed" else ""), soft_wrap=True)

    def _count(self, state: str) -> int:
        return sum(run.state == state for run in self.runs.values())

    def _headline(self) -> str:
        there = self._count("there")
        notes = f" ({there} there already)" if there else ""
        notes += "".join(f", {count} {state}" for state in ("pruned", "failed") if (count := self._count(state)))
        done, minutes = self._count("done") + there, (time.monotonic() - self.started) / 60
        return f"{done} of {self.total or '?'} runs done{notes} after {minutes:.1f} min{self._left()}"

    def _left(self) -> str:
        done = sum(run.fraction for run in self.runs.values())
        left = (self.total or 0) - self._count("there") - self._count("failed") - done
        if self.total and left <= 0:
            return ""
        if not self.total or done <= 0:
            return ", time left: not known yet"
        seconds = (time.monotonic() - self.started) / done * left
        return f", about {seconds // 60:.0f} min {seconds % 60:02.0f} s left"

    def _table(self) -> Group:
        table = Table(box=None, show_header=False)
        for run in self.runs.values():
            if run.state == "running" and run.epochs:
                table.add_row(run.name, f"epoch {run.epoch}/{run.epochs}", f"val score {run.score:.4f}")
        return Group(Text(self._headline(), style="italic"), *([table] if table.row_count else []))


def _stamp(path: Path) -> tuple[int, int] | None:
    """Changes whenever the file is written or replaced; None if it is not there."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_mtime_ns, found.st_ino
