"""``mola-report``: tables and figures from run folders."""

import argparse
import io
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path

import pandas as pd
from rich.console import Console
from rich.text import Text

from mola_lightning.analysis import tables
from mola_lightning.analysis.figures import draw_comparison
from mola_lightning.analysis.mechanism import mechanism_table
from mola_lightning.analysis.page import report_page
from mola_lightning.analysis.results import SORTS, Run, comparison, load_runs, problems, scores
from mola_lightning.analysis.runs import comparable
from mola_lightning.cli.report_over import report_over
from mola_lightning.core import ConfigError, MolaError
from mola_lightning.core.errors import one_of, require
from mola_lightning.core.files import atomic_write

FORMATS = ("rich", "markdown", "csv", "latex")
WIDE = 300  # characters, where output goes to a file or a pipe


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``mola-report``.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        Exit code: 0, or 1 after an error that is shown on stderr. argparse exits with 2 on wrong usage.
    """
    arguments = _parser().parse_args(argv)
    console, errors = Console(width=None if sys.stdout.isatty() else WIDE), Console(stderr=True)
    try:
        if arguments.over:
            _check_over(arguments)
            report_over(
                load_runs(arguments.folders),
                arguments.over,
                console,
                metric=arguments.metric,
                markdown=arguments.format == "markdown",
                csv=arguments.csv,
                figures=arguments.figures,
                notes=errors,
            )
            return 0
        report(
            arguments.folders,
            console,
            metric=arguments.metric,
            methods=arguments.methods,
            baseline=arguments.baseline,
            sort=arguments.sort,
            cost=arguments.cost,
            table_format=arguments.format,
            output=arguments.output,
            csv=arguments.csv,
            figures=arguments.figures,
            html=arguments.html,
            made_by=shlex.join(["mola-report", *(sys.argv[1:] if argv is None else argv)]),
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
    methods: Sequence[str] | None = None,
    baseline: str | None = None,
    sort: str | None = None,
    cost: bool = False,
    table_format: str = "rich",
    output: Path | None = None,
    csv: Path | None = None,
    figures: Path | None = None,
    html: Path | None = None,
    made_by: str = "",
    notes: Console | None = None,
) -> dict[str, pd.DataFrame]:
    """Print one comparison per data set, and what was left out of it.

    Args:
        folders: runs, or folders that hold some.
        console: where tables go.
        metric: a metric of the test results; None takes each task's own monitor.
        methods: the rows wanted, in order; all by default.
        baseline: a method that the others are compared with, seed by seed.
        sort: ``mean``, ``rank``, ``delta_m`` or ``name``; as found by default.
        cost: with multiply-adds and, if there is a baseline, the ratio of step times.
        table_format: ``rich``, ``markdown``, ``csv`` or ``latex``.
        output: a file to write the tables to instead of printing them.
        csv: a file to write the raw numbers to besides.
        figures: a folder to draw figures in; see :func:`mola_lightning.analysis.draw_comparison`.
        html: a file to write the page of :func:`mola_lightning.analysis.page.report_page` to.
        made_by: the command that makes that page, which says so.
        notes: where remarks go; ``console`` by default.

    Returns:
        Data set -> comparison.

    Raises:
        MolaError: when there is nothing to compare, or a file cannot be written.
    """
    one_of("format", table_format, FORMATS)
    require(output is None or output != csv, f"the table and the raw numbers cannot both be written to {output}")
    require(html is None or html not in (output, csv), f"the page and a table cannot both be written to {html}")
    notes, runs = notes or console, load_runs(folders)
    groups = _by_data(runs)
    compare = partial(comparison, metric=metric, methods=methods, baseline=baseline, sort=sort, cost=cost)
    frames, remarks = _compare(groups or {"": runs}, compare)
    remarks = problems(runs) + remarks
    for remark in remarks:
        notes.print(Text(f"note: {remark}", style="yellow"), soft_wrap=True)
    _write(list(frames.values()), table_format, console, output)
    for data, df in frames.items() if table_format == "rich" and output is None else ():
        mechanism = mechanism_table([run for method in df.index for run in groups[data] if run.method == method])
        if mechanism is not None:
            console.print(mechanism)
    if csv is not None:
        _write(list(frames.values()), "csv", console, csv)
    if html is not None:
        with atomic_write(html) as file:
            file.write(report_page(frames, runs, remarks, metric, made_by))
    for path in (output, csv, html):
        if path is not None:
            notes.print(Text(f"wrote {path}"), soft_wrap=True)
    if figures is not None:
        for data, df in frames.items():
            for path in draw_comparison(df, scores(groups[data], metric), groups[data], figures):
                notes.print(Text(f"drew {path}"), soft_wrap=True)
    return frames


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mola-report", description="Compare runs: tables and figures from run folders."
    )
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="a run, or a folder that holds runs")
    parser.add_argument("--metric", help="a metric of the test results (default: the one that stands for each task)")
    parser.add_argument("--methods", type=_names, metavar="A,B,...", help="the rows, in order (default: all)")
    parser.add_argument("--baseline", metavar="METHOD", help="compare the others with it: paired t tests over seeds")
    parser.add_argument("--over", metavar="OPTION", help="instead: scores over the values of one option: adapter.rank")
    parser.add_argument("--sort", choices=SORTS, help="order of the rows, the best first (default: as found)")
    parser.add_argument("--cost", action="store_true", help="with multiply-adds, and step time relative to --baseline")
    parser.add_argument("--format", choices=FORMATS, default="rich", help="of the table (default: %(default)s)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the table there instead of printing it")
    parser.add_argument("--csv", type=Path, metavar="FILE", help="write the raw numbers there, besides the table")
    parser.add_argument("--figures", type=Path, metavar="DIR", help="draw scores, costs and mixing weights there")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one page with all of it, and every run, there")
    return parser


def _check_over(arguments: argparse.Namespace) -> None:
    """Nothing that was asked for is left out without a word."""
    others = ("html", "output", "methods", "baseline", "sort", "cost")
    given = [f"--{name}" for name in others if getattr(arguments, name)]
    if arguments.format not in ("rich", "markdown"):
        given.append(f"--format {arguments.format}")
    require(
        not given,
        f"--over shows one option's values, and not {', '.join(given)}, which belong to the comparison of "
        "methods; leave out one or the other. It takes --metric, --csv, --figures and --format rich or markdown.",
    )


def _names(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise argparse.ArgumentTypeError(f"expected names of methods with commas between them, got {text!r}")
    return names


def _by_data(runs: Sequence[Run]) -> dict[str, list[Run]]:
    groups: dict[str, list[Run]] = {}
    for run in comparable(runs):
        groups.setdefault(run.data, []).append(run)
    return groups


def _compare(
    groups: Mapping[str, list[Run]], compare: Callable[[list[Run]], pd.DataFrame]
) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The comparison of each data set, and what was left out: options may not fit all of them, but must fit one."""
    found, errors = {}, {}
    for data, runs in groups.items():
        try:
            found[data] = compare(runs)
        except ConfigError as error:
            errors[data] = error
    if not found:
        raise next(iter(errors.values()))
    return found, [f"{data} left out: {error}" for data, error in errors.items()]


def _write(frames: list[pd.DataFrame], table_format: str, console: Console, output: Path | None) -> None:
    """Tables to the console as they are, or to a file as plain text."""
    if table_format == "rich" and output is None:
        for block in (block for frame in frames for block in tables.to_rich_blocks(frame, console.width)):
            console.print(block)
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
        for block in (block for frame in frames for block in tables.to_rich_blocks(frame, WIDE)):
            plain.print(block)
        return text.getvalue()
    write = tables.to_markdown if table_format == "markdown" else tables.to_latex
    return "\n".join(write(frame) for frame in frames)


if __name__ == "__main__":
    raise SystemExit(main())
