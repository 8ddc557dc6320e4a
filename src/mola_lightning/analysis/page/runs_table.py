"""The runs that a page is about as sortable tables: those compared, and those left out."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from mola_lightning.analysis.cells import MISSING, column_style, score_columns
from mola_lightning.analysis.page.details import best_epoch, duration, run_details
from mola_lightning.analysis.page.markup import Markup
from mola_lightning.analysis.page.sortable import Cell, Column, Row, sortable_table
from mola_lightning.analysis.results import upwards
from mola_lightning.analysis.runs import Run, number


def compared_runs(df: pd.DataFrame, scores: pd.DataFrame, runs: Sequence[Run], names: Mapping[Path, str]) -> Markup:
    """A row for each run that a comparison averages, with the numbers that went into it.

    Args:
        df: the comparison; only its methods are shown, and numbers are written as in it.
        scores: the table of :func:`mola_lightning.analysis.scores` of ``runs``.
        runs: the runs, in the order of ``scores``.
        names: what each is called.
    """
    measured = [*score_columns(df), *(name for name in ("delta_m",) if name in scores)]
    styles = {name: column_style(df, name) for name in [*measured, "step_time_s", "parameters"]}
    columns = [
        Column("run", numeric=False),
        Column("method", numeric=False),
        Column("seed", upwards=False),
        *(Column(styles[name][0], upwards=upwards(df, name)) for name in measured),
        Column("val score"),
        Column("best epoch"),
        Column("duration", upwards=False),
        *(Column(styles[name][0], upwards=False) for name in ("step_time_s", "parameters")),
    ]

    def cell(name: str, value: float) -> Cell:
        _, scale, write = styles[name]
        return Cell(MISSING if math.isnan(value) else write(value * scale, math.nan)[0], value)

    rows = []
    for run, (_, score) in zip(runs, scores.iterrows(), strict=True):
        if run.method not in df.index:
            continue
        epoch, seconds, val = (
            best_epoch(run),
            number(run.summary.get("wall_time_s")),
            number(run.summary.get("score")),
        )
        cells = [
            Cell(names[run.folder]),
            Cell(run.method),
            Cell(str(run.seed), run.seed),
            *(cell(name, score[name]) for name in measured),
            Cell(MISSING if math.isnan(val) else f"{val:.4f}", val),
            Cell(MISSING if math.isnan(epoch) else f"{epoch:.0f}", epoch),
            Cell(duration(seconds), seconds),
            *(cell(name, score[name]) for name in ("step_time_s", "parameters")),
        ]
        rows.append(Row(cells, run_details(run), _words(run)))
    return sortable_table(columns, rows, f"runs on {df.attrs['data']}")


def runs_left_out(runs: Sequence[Run], names: Mapping[Path, str]) -> Markup:
    """A row for each run that no comparison averages: what became of it, and why."""
    columns = [Column(title, numeric=False) for title in ("run", "state", "why")]
    rows = [
        Row(
            [
                Cell(names[run.folder]),
                Cell(run.state),
                Cell(_short(run.problem or (f"debug={run.debug}" if run.debug else "in no comparison"))),
            ],
            run_details(run),
            _words(run),
        )
        for run in runs
    ]
    return sortable_table(columns, rows, "runs left out")


def _words(run: Run) -> str:
    """What a run is found by besides its row."""
    return " ".join([str(run.folder), run.state, *map(str, run.summary.get("overrides") or ())])


def _short(text: str) -> str:
    return text if len(text) <= 120 else f"{text[:117]}..."
