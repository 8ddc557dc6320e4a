"""``mola-report``: tables and figures from run folders."""

import argparse
import io
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.text import Text

from mola_lightning.analysis import plots, tables
from mola_lightning.analysis.mechanism import mechanism_table
from mola_lightning.analysis.results import Run, comparison, load_runs, problems
from mola_lightning.core import ConfigError, MolaError
from mola_lightning.core.errors import one_of
from mola_lightning.core.files import atomic_write

FORMATS = ("rich", "markdown", "csv", "latex")
WIDE = 200  # characters, where output goes to a file or a pipe


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``mola-report``.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        Exit code: 0, or 1 after an error that is shown on stderr. argparse exits with 2 on wrong usage.
    """
    parser = argparse.ArgumentParser(
        prog="mola-report", description="Compare runs: tables and figures from run folders."
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a run, or a folder that holds runs")
    parser.add_argument("--metric", help="a metric of the test results (default: the one that stands for each task)")
    parser.add_argument("--format", choices=FORMATS, default="rich", help="of the table (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table there instead of printing it")
    parser.add_argument("--figures", type=Path, metavar="DIR", help="draw comparison bars and mixing weights there")
    arguments = parser.parse_args(argv)
    console, errors = Console(width=None if sys.stdout.isatty() else WIDE), Console(stderr=True)
    try:
        report(
            arguments.folders,
            console,
            metric=arguments.metric,
            table_format=arguments.format,
            output=arguments.output,
            figures=arguments.figures,
            notes=errors,
        )
    except MolaError as error:
        errors.print(Text(f"error: {error}", style="red"), soft_wrap=True)
        return 1
    return 0


def report(
    folders: Iterable[Path | str],
    console: Console,
    *,
    metric: str | None = None,
    table_format: str = "rich",
    output: Path | None = None,
    figures: Path | None = None,
    notes: Console | None = None,
) -> dict[str, pd.DataFrame]:
    """Print one comparison per data set, and what was left out of it.

    Args:
        folders: runs, or folders that hold some.
        console: where tables go.
        metric: a metric of the test results; None takes each task's own monitor.
        table_format: ``rich``, ``markdown``, ``csv`` or ``latex``.
        output: a file to write the tables to instead.
        figures: a folder to draw comparison bars and mixing weights in.
        notes: where remarks go; ``console`` by default.

    Returns:
        Data set -> comparison.

    Raises:
        MolaError: when there is nothing to compare, or a file cannot be written.
    """
    one_of("format", table_format, FORMATS)
    notes, runs = notes or console, load_runs(folders)
    groups = _by_data(runs)
    comparisons = _comparisons(groups, metric) if groups else {"": comparison(runs, metric)}
    for note in problems(runs):
        notes.print(Text(f"note: {note}", style="yellow"), soft_wrap=True)
    _write(list(comparisons.values()), table_format, console, output)
    for group in groups.values() if table_format == "rich" and output is None else ():
        mechanism = mechanism_table(group)
        if mechanism is not None:
            console.print(mechanism)
    if output is not None:
        notes.print(Text(f"wrote {output}"), soft_wrap=True)
    for path in _draw(groups, comparisons, figures) if figures is not None else ():
        notes.print(Text(f"drew {path}"), soft_wrap=True)
    return comparisons


def _by_data(runs: Sequence[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if run.state == "done":
            groups.setdefault(run.data, []).append(run)
    return groups


def _comparisons(groups: dict[str, list[Run]], metric: str | None) -> dict[str, pd.DataFrame]:
    """The comparison of each data set; a metric may be unknown to some of them, not to all."""
    found, errors = {}, []
    for data, runs in groups.items():
        try:
            found[data] = comparison(runs, metric)
        except ConfigError as error:
            errors.append(error)
    if not found:
        raise errors[0]
    return found


def _write(frames: list[pd.DataFrame], table_format: str, console: Console, output: Path | None) -> None:
    """Tables to the console as they are, or to a file as plain text."""
    if table_format == "rich" and output is None:
        for frame in frames:
            console.print(tables.to_rich(frame))
        return
    text = _as_text(frames, table_format)
    if output is None:
        console.print(text, end="", markup=False, highlight=False, emoji=False, soft_wrap=True)
    else:
        with atomic_write(output) as file:
            file.write(text)


def _as_text(frames: list[pd.DataFrame], table_format: str) -> str:
    if table_format == "csv":
        return tables.to_csv(*frames)
    if table_format == "rich":
        text = io.StringIO()
        plain = Console(file=text, width=WIDE, color_system=None)
        for frame in frames:
            plain.print(tables.to_rich(frame))
        return text.getvalue()
    write = tables.to_markdown if table_format == "markdown" else tables.to_latex
    return "\n".join(write(frame) for frame in frames)


def _draw(groups: dict[str, list[Run]], comparisons: dict[str, pd.DataFrame], folder: Path) -> list[Path]:
    """For each data set: bars of all methods; mixing weights of the first seed of each method that routes."""
    drawn = []
    for data, frame in comparisons.items():
        drawn.append(plots.save(plots.comparison_bars(frame), folder / f"comparison_{data}"))
        first: dict[tuple[str, tuple[str, ...]], Run] = {}
        for run in sorted((run for run in groups[data] if run.routing), key=lambda run: run.seed):
            first.setdefault((run.method, run.tasks), run)
        panels: dict[tuple[str, ...], list[tuple[str, Any]]] = {}
        for method in frame.index:
            for (name, tasks), run in first.items():
                if name == method:
                    panels.setdefault(tasks, []).append((f"{name}, seed {run.seed}", run.routing["mixing"]))
        for i, (tasks, found) in enumerate(panels.items()):
            name = f"routing_{data}" + (f"_{i + 1}" if i else "")
            drawn.append(plots.save(plots.routing_panels(found, tasks), folder / name))
    return drawn


if __name__ == "__main__":
    raise SystemExit(main())
