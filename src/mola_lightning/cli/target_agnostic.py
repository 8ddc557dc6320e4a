"""``mola-agnostic <folders>``: finished runs side by side when nobody tells them the task of an image."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.text import Text

from mola_lightning.analysis.runs import Run, comparable, load_runs
from mola_lightning.cli.errors import command
from mola_lightning.cli.evaluate import evaluate_without_task_ids
from mola_lightning.core import ConfigError
from mola_lightning.core.files import atomic_write
from mola_lightning.prediction.agnostic_table import Evaluated, agnostic_frame, agnostic_markdown
from mola_lightning.prediction.choices import NoChoice


def evaluate_runs(runs: Sequence[Run], split: str = "test") -> list[Evaluated]:
    """Evaluate the best checkpoint of each run without task ids, by each way to choose that its model allows.

    A run whose tasks cannot be chosen among is left out with a note.

    Raises:
        ConfigError: when there is no finished run of several tasks to choose among, or when they differ in their data:
            the mean of a method is over seeds.
    """
    chosen = [run for run in comparable(runs) if len(run.tasks) > 1]
    if not chosen:
        raise ConfigError("no finished run of several tasks is among these folders; mola-status says what they hold")
    data = sorted({f"{run.data} ({', '.join(run.tasks)})" for run in chosen})
    if len(data) > 1:
        raise ConfigError(f"mola-agnostic takes runs on one data set, found {'; '.join(data)}; name the folders of one")
    found = []
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as progress:
        for run in progress.track(chosen, description="runs"):
            try:
                accuracies = evaluate_without_task_ids(run.folder, split=split)[0]
            except NoChoice as error:
                progress.console.print(Text(f"note: {run.folder} left out: {error}", style="yellow"), soft_wrap=True)
                continue
            found.append(Evaluated(run.method, run.seed, accuracies))
    if not found:
        raise ConfigError("none of these runs has tasks that could be chosen among; name runs of tasks with classes")
    return found


def _job(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="mola-agnostic", description=(__doc__ or "").partition(": ")[2])
    parser.add_argument("folders", nargs="+", type=Path, help="run folders, or folders that hold some")
    parser.add_argument("--split", choices=("test", "val"), default="test", help="default: %(default)s")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the table as Markdown")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="all numbers")
    given = parser.parse_args(arguments)
    frame = agnostic_frame(evaluate_runs(load_runs(given.folders), given.split))
    text = agnostic_markdown(frame)
    Console().print(text, soft_wrap=True, markup=False, highlight=False, end="")
    for path, content in ((given.output, text), (given.csv, frame.to_csv(index=False, float_format="%.4f"))):
        if path is not None:
            with atomic_write(path) as file:
                file.write(content)


main = command(_job)

if __name__ == "__main__":
    main()
