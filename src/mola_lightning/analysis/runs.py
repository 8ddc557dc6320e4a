"""Run folders: finding them, reading their summaries, saying what is wrong with those that cannot be used."""

import json
import math
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from mola_lightning.core.errors import RunFolderError
from mola_lightning.core.run_files import CONFIG, ERROR, SUMMARY

REQUIRED = {"method": str, "data": str, "seed": int, "tasks": list, "monitor": dict, "test": dict}


@dataclass(frozen=True)
class Run:
    """One run folder.

    Attributes:
        folder: where it lies.
        state: ``done``; ``failed`` (its reason is in error.txt); ``unfinished`` (no summary yet, or one that says so);
            ``broken`` (its summary cannot be read).
        summary: the content of its summary.json, empty unless ``done``.
        problem: why it cannot be compared, empty when ``done``.
    """

    folder: Path
    state: Literal["done", "failed", "unfinished", "broken"]
    summary: dict[str, Any] = field(default_factory=dict)
    problem: str = ""

    @property
    def method(self) -> str:
        """What was trained, for example ``mola_router``."""
        return self.summary["method"]

    @property
    def data(self) -> str:
        """What it was trained on, for example ``digits``."""
        return self.summary["data"]

    @property
    def seed(self) -> int:
        """The training seed."""
        return self.summary["seed"]

    @property
    def tasks(self) -> tuple[str, ...]:
        """Task names, in task order."""
        return tuple(self.summary["tasks"])

    @property
    def routing(self) -> dict[str, Any]:
        """The routing statistics, empty for a method that does not route."""
        return self.summary.get("routing") or {}

    @property
    def debug(self) -> str | None:
        """The debug option that it was made with, for example ``quick``; None for a real run."""
        return self.summary.get("debug")

    def monitor(self, task: str) -> str:
        """The metric that stands for ``task``."""
        return self.summary["monitor"].get(task, {}).get("metric", "accuracy")

    def higher_is_better(self, task: str, metric: str) -> bool | None:
        """The direction of ``metric``; None when the run does not say."""
        if metric == "loss":
            return False
        return self.summary["monitor"].get(task, {}).get("higher_is_better") if metric == self.monitor(task) else None

    def score(self, task: str, metric: str) -> float:
        """The test value of ``metric``; NaN when the run has none."""
        return number((self.summary["test"].get(task) or {}).get(metric))


def load_runs(paths: Iterable[Path | str]) -> list[Run]:
    """All runs in the given folders, at any depth, in the order of the paths and then of their names.

    A folder with a summary.json is a run; one with an error.txt a failed run, one with a config.yaml alone an
    unfinished one. Hidden folders are not
    searched, and a run reached twice counts once.

    Args:
        paths: run folders, or folders that hold some.

    Returns:
        Finished, failed, unfinished and broken runs; see :attr:`Run.state`.

    Raises:
        RunFolderError: when a path is no folder, or there is no run anywhere.
    """
    folders = [Path(path) for path in paths]
    for folder in folders:
        if not folder.is_dir():
            what = "is a file, not a folder" if folder.exists() else "does not exist"
            raise RunFolderError(f"{folder} {what}; give run folders, or folders that hold runs")
    found = {run.resolve(): run for folder in folders for run in _find(folder)}
    if not found:
        where = ", ".join(str(folder.resolve()) for folder in folders) or "no folder at all"
        raise RunFolderError(
            f"no runs found in {where}: looked at any depth for folders with {SUMMARY} (a finished run) "
            f"or {CONFIG} (an unfinished one)"
        )
    return [_read(folder) for folder in found.values()]


def comparable(runs: Sequence[Run]) -> list[Run]:
    """The runs that a comparison is made of: finished ones. Debug runs only where there are no others."""
    done = [run for run in runs if run.state == "done"]
    return [run for run in done if run.debug is None] or done


def problems(runs: Sequence[Run]) -> list[str]:
    """What a reader of a comparison must know: runs left out, debug runs, untested ones, repeated seeds of a method."""
    compared, notes = comparable(runs), []
    for state, verb in (("failed", "failed"), ("unfinished", "unfinished"), ("broken", "unreadable")):
        out = [(run.folder, run.problem) for run in runs if run.state == state]
        if out:
            notes.append(f"{len(out)} {verb} {_runs(out)} left out: {_listed(out)}")
    debug = [(run.folder, f"debug={run.debug}") for run in runs if run.state == "done" and run.debug is not None]
    if debug and compared[0].debug is None:
        notes.append(f"{len(debug)} debug {_runs(debug)} left out: {_listed(debug)}")
    elif debug:
        notes.append(f"all finished runs are debug runs, whose scores mean nothing: {_listed(debug)}")
    untested = [(run.folder, "test=false?") for run in compared if not run.summary["test"]]
    if untested:
        notes.append(f"{len(untested)} {_runs(untested)} without test results: {_listed(untested)}")
    done = pd.DataFrame([(run.data, run.method, run.seed) for run in compared], columns=["data", "method", "seed"])
    for (data, method, seed), count in done.value_counts(sort=False).items():
        if count > 1:
            notes.append(
                f"{method} on {data} has {count} runs with seed {seed}: their mean pools them, "
                "though they may differ in other settings; give the folders apart to compare these"
            )
    return notes


def _runs(found: Sequence[object]) -> str:
    return "run" if len(found) == 1 else "runs"


def _listed(found: Sequence[tuple[Path, str]]) -> str:
    """The first five folders with what there is to say of them."""
    more = f"; and {len(found) - 5} more" if len(found) > 5 else ""
    return "; ".join(f"{folder} ({remark})" for folder, remark in found[:5]) + more


def _find(folder: Path) -> list[Path]:
    """Run folders in ``folder``; one with a config.yaml or error.txt alone counts only if it holds no run itself."""
    if (folder / SUMMARY).is_file():
        return [folder]
    try:
        children = [entry.name for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
    except OSError as error:
        raise RunFolderError(f"cannot look into {folder}: {error.strerror}") from error
    visible = sorted((name for name in children if not name.startswith(".")), key=_natural)
    inside = [run for name in visible for run in _find(folder / name)]
    return inside or ([folder] if any((folder / name).is_file() for name in (CONFIG, ERROR)) else [])


def _natural(name: str) -> list[tuple[int, str]]:
    """A sorting key under which the tenth job of a sweep comes after the second."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", name)]


def _read(folder: Path) -> Run:
    """The run in ``folder``; trouble is a state, so that one bad folder does not hide the others."""
    path = folder / SUMMARY
    if not path.exists():
        reason = _first_line(folder / ERROR)
        return Run(folder, "failed" if reason else "unfinished", problem=reason or f"no {SUMMARY} yet")
    try:
        summary = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        return Run(folder, "broken", problem=f"cannot read {path.name}: {error}")
    if not isinstance(summary, dict):
        return Run(folder, "broken", problem=f"{path.name} holds no object but a {type(summary).__name__}")
    status = summary.get("status", "done")
    if status != "done":
        return Run(folder, "unfinished", problem=f"its status is {status!r}")
    bad = [key for key, kind in REQUIRED.items() if not isinstance(summary.get(key), kind)]
    if bad:
        return Run(folder, "broken", problem=f"{path.name} lacks {', '.join(bad)}")
    return Run(folder, "done", summary)


def _first_line(path: Path) -> str:
    """The first line of an error.txt, which says why; empty where there is none."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").partition("\n")[0].strip() or "no reason is recorded"
    except OSError:
        return ""


def number(value: object) -> float:
    """``value`` as a float; NaN when it is no number."""
    ok = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if ok else math.nan  # type: ignore[arg-type]
