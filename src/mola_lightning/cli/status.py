"""``mola-status <folder>``: what has become of the runs of a sweep."""

import argparse
import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mola_lightning.cli.errors import command
from mola_lightning.cli.folders import finished, owner, read_failure
from mola_lightning.cli.progress import grid
from mola_lightning.cli.search.record import planned_runs
from mola_lightning.core import RunFolderError
from mola_lightning.core.run_files import CONFIG, ERROR, JOURNAL, PRUNED, SUMMARY
from mola_lightning.training.journal import read_journal

STYLES = {"pruned": "magenta", "running": "cyan", "failed": "red", "stopped": "yellow"}


class RunStatus(NamedTuple):
    """Where a run stands.

    Attributes:
        name: of its folder.
        state: ``done``, ``failed``, ``running``, ``pruned``: ended early by its search; or ``stopped``: killed or
            interrupted, and goes on when it is started again.
        starts: how often it was started.
        said: the score of a run that is done, the reason of one that failed, else how far it is.
    """

    name: str
    state: str
    starts: int
    said: str


def run_status(folder: Path) -> RunStatus:
    """Where the run in ``folder`` stands, from its files alone."""
    process, starts = owner(folder)
    if finished(folder):
        score = json.loads((folder / SUMMARY).read_text(encoding="utf-8")).get("score")
        return RunStatus(folder.name, "done", starts, "" if score is None else f"val score {score:.4f}")
    if process is None and (folder / ERROR).exists():
        return RunStatus(folder.name, "failed", starts, read_failure(folder)[0])
    rows = [row for row in read_journal(folder / JOURNAL) if "val/score" in row]
    epochs = OmegaConf.load(folder / CONFIG).trainer.max_epochs if (folder / CONFIG).exists() else "?"
    said = f"epoch {rows[-1]['epoch'] + 1}/{epochs}, val score {rows[-1]['val/score']:.4f}" if rows else "first epoch"
    ended = "pruned" if (folder / PRUNED).exists() else "stopped"
    state = ended if process is None else "running"
    return RunStatus(folder.name, state, starts, f"{said} ({process})" if process else said)


def sweep_status(folder: Path) -> tuple[list[RunStatus], int | None]:
    """All runs of a sweep that were started, by name; and how many wait to be, None where that is not known.

    Raises:
        RunFolderError: when there is no run.
    """
    found = [path for path in sorted(folder.iterdir()) if path.is_dir()] if folder.is_dir() else []
    runs = [run_status(path) for path in found if owner(path)[1] or (path / CONFIG).exists()]
    if not runs:
        raise RunFolderError(f"{folder} holds no run of a sweep; give the folder that mola-train -m has named")
    launched = folder / "multirun.yaml"
    total = planned_runs(folder)  # of a search
    if total is None and launched.exists():
        config: Any = OmegaConf.load(launched)
        total = grid(config)[0]
    return runs, None if total is None else max(0, total - len(runs))


@command
def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="mola-status", description="Where the runs of a sweep stand.")
    parser.add_argument("folder", type=Path, help="the sweep's folder")
    runs, waiting = sweep_status(parser.parse_args().folder)
    table = Table("run", "state", "starts", "", box=None, header_style="bold")
    for run in runs:
        table.add_row(run.name, Text(run.state, style=STYLES.get(run.state, "")), str(run.starts), Text(run.said))
    console = Console()
    console.print(table)
    counts = Counter(run.state for run in runs)
    if waiting is not None:
        counts["waiting"] = waiting
    console.print(", ".join(f"{count} {state}" for state, count in counts.items()))


if __name__ == "__main__":
    main()
