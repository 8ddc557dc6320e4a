"""``mola-report --over OPTION``: how the runs of a sweep depend on one option."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mola_lightning.analysis import plots
from mola_lightning.analysis.ablation import ablation
from mola_lightning.analysis.cells import MISSING
from mola_lightning.analysis.results import Run, problems
from mola_lightning.analysis.runs import comparable
from mola_lightning.analysis.tables import markdown_rows
from mola_lightning.core import ConfigError
from mola_lightning.core.files import atomic_write
from mola_lightning.core.run_files import CONFIG


def report_over(
    runs: Sequence[Run],
    option: str,
    console: Console,
    *,
    metric: str | None = None,
    markdown: bool = False,
    csv: Path | None = None,
    figures: Path | None = None,
    notes: Console,
) -> pd.DataFrame:
    """Print a row for each method and a column for each value of the option; draw the curve.

    Args:
        runs: runs on one data set.
        option: dotted path in their configs.
        console: where the table goes.
        metric: a metric of the test results; None takes each task's own monitor.
        markdown: whether the table is written as Markdown.
        csv: a file for the numbers.
        figures: a folder for ``ablation_<option>``.
        notes: where remarks go.

    Raises:
        MolaError: when there is nothing to compare, or a file cannot be written.
    """
    for remark in problems(runs):
        notes.print(Text(f"note: {remark}", style="yellow"), soft_wrap=True)
    done = comparable(runs)
    data = sorted({run.data for run in done})
    if len(data) > 1:
        raise ConfigError(f"--over takes runs on one data set, found {', '.join(data)}; name the folders of one")
    found = ablation(done, option, [_value(run, option) for run in done], metric)
    console.print(_table(found, markdown), soft_wrap=markdown)
    if csv is not None:
        with atomic_write(csv) as file:
            file.write(found.to_csv(index=False, lineterminator="\n"))
        notes.print(Text(f"wrote {csv}"), soft_wrap=True)
    if figures is not None:
        path = plots.save(plots.ablation_curves(found), figures / f"ablation_{option.rpartition('.')[2]}")
        notes.print(Text(f"drew {path}"), soft_wrap=True)
    return found


def _value(run: Run, option: str) -> Any:
    if not (run.folder / CONFIG).exists():
        return None
    value = OmegaConf.select(OmegaConf.load(run.folder / CONFIG), option, throw_on_resolution_failure=False)
    return str(value) if OmegaConf.is_config(value) else value


def _table(found: pd.DataFrame, markdown: bool) -> Table | Text:
    """Mean ± standard deviation, and the number of runs where it differs."""
    scale = 100 if found.attrs["percent"] else 1
    counts = sorted(set(found["runs"]))
    values = list(dict.fromkeys(found["value"]))
    rows = [[f"{found.attrs['option']} =", *map(str, values)]]
    for method, group in found.groupby("method", sort=False):
        cells = {row.value: _cell(row, scale, len(counts) > 1) for row in group.itertuples()}
        rows.append([str(method), *(cells.get(value, MISSING) for value in values)])
    if markdown:
        return Text(markdown_rows(rows), end="")
    of = f"{counts[0]} seeds" if len(counts) == 1 else "seeds"
    what = f"{found.attrs['metric']}{' (%)' if scale == 100 else ''} on {found.attrs['data']}"
    table = Table(title=f"Test {what}: mean ± standard deviation over {of}", title_justify="left")
    for j, name in enumerate(rows[0]):
        table.add_column(Text(name), justify="right" if j else "left", no_wrap=True)
    for row in rows[1:]:
        table.add_row(*map(Text, row))
    return table


def _cell(row: Any, scale: float, counted: bool) -> str:
    spread = "" if row.runs < 2 else f" ± {row.std * scale:.1f}"
    return f"{row.mean * scale:.1f}{spread}" + (f" ({row.runs})" if counted else "")
