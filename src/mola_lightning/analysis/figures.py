"""All figures of one comparison, as files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from mola_lightning.analysis import plots
from mola_lightning.analysis.plots.bars import MOST
from mola_lightning.analysis.runs import Run


def draw_comparison(df: pd.DataFrame, scores: pd.DataFrame, runs: Sequence[Run], folder: Path | str) -> list[Path]:
    """Write the figures of :func:`comparison_figures` into a folder, which is created if missing.

    Returns:
        The PNG files written; an SVG lies beside each.
    """
    return [plots.save(figure, Path(folder) / name) for name, figure in comparison_figures(df, scores, runs).items()]


def comparison_figures(df: pd.DataFrame, scores: pd.DataFrame, runs: Sequence[Run]) -> dict[str, plots.Figure]:
    """``comparison_<data>``, ``costs_<data>`` of three methods or more, and ``routing_<data>`` if any routes.

    Args:
        df: the comparison; its rows are what is drawn, in their order.
        scores: the table of :func:`mola_lightning.analysis.scores` of the same runs.
        runs: those runs. Mixing weights are of the first seed of each method that routes.
    """
    data = df.attrs["data"]
    bars = plots.comparison_bars if len(df) <= MOST else plots.comparison_dots
    figures = {f"comparison_{data}": bars(df)}
    costs, name = df[["step_time_s", "parameters"]].xs("mean", axis=1, level=1), df.attrs["headline"]
    if len(df) > 2 and name and (df[(name, "mean")].notna() & (costs > 0).any(axis=1)).any():
        figures[f"costs_{data}"] = plots.comparison_costs(df, scores)
    for i, (tasks, panels) in enumerate(_routing(list(df.index), runs).items()):
        figures[f"routing_{data}" + (f"_{i + 1}" if i else "")] = plots.routing_panels(panels, tasks)
    return figures


def _routing(methods: Sequence[str], runs: Sequence[Run]) -> dict[tuple[str, ...], list[tuple[str, Any]]]:
    """Tasks -> (title, mixing weights) of the first seed of each method that routes."""
    first: dict[tuple[str, tuple[str, ...]], Run] = {}
    for run in sorted((run for run in runs if run.routing), key=lambda run: run.seed):
        first.setdefault((run.method, run.tasks), run)
    panels: dict[tuple[str, ...], list[tuple[str, Any]]] = {}
    for method in methods:
        for (name, tasks), run in first.items():
            if name == method:
                panels.setdefault(tasks, []).append((f"{name}, seed {run.seed}", run.routing["mixing"]))
    return panels
