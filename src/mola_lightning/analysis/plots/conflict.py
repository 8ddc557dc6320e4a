"""Conflict between task gradients: by stage of the backbone, and over a training."""

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mola_lightning.analysis.gradients import SPREADS
from mola_lightning.analysis.plots.style import FONT, LINE_STYLES, MARKERS, PALETTE, legend_below, new_figure, tidy

PANELS = {
    "mean_cosine": ("cosine of task gradients (mean ± std)", (-1.0, 1.0)),
    "share_negative": ("opposed pairs (%)", (0.0, 100.0)),
    "mean_magnitude_similarity": ("magnitude similarity", (0.0, 1.0)),
}


def conflict_by_stage(runs: Mapping[str, pd.DataFrame]) -> Figure:
    """Three panels, a line for each run: mean cosine, share of opposed pairs, magnitude similarity of each group.

    Args:
        runs: label -> table with a row for each group of parameters, as :func:`conflict_summary` gives it of a run, and
            :func:`conflict_over_seeds` of several.
    """
    groups = list(dict.fromkeys(group for table in runs.values() for group in table.index))
    figure = new_figure(max(7.5, 3 * (0.36 * len(groups) + 1.0)), 3.0 + 0.25 * (len(runs) > 1))
    figure.get_layout_engine().set(wspace=0.06)  # type: ignore[union-attr,call-arg]
    grid = figure.subplots(1, 3)
    for axes, (column, (label, limits)) in zip(grid, PANELS.items(), strict=True):
        for i, (name, table) in enumerate(runs.items()):
            _line(axes, name, table.reindex(groups), column, i, shift=0.12 * (i - (len(runs) - 1) / 2))
        axes.set_xticks(range(len(groups)), groups, rotation=40.0, ha="right", rotation_mode="anchor")
        axes.set_ylabel(label, fontsize=FONT)
        pad = 0.04 * (limits[1] - limits[0])
        axes.set_ylim(limits[0] - pad, limits[1] + pad)
        tidy(axes)
        if column == "mean_cosine":
            axes.axhline(0.0, color="0.4", linewidth=0.8)
    if len(runs) > 1:
        legend_below(figure, grid[0])
    return figure


def _line(axes: Axes, name: str, table: pd.DataFrame, column: str, i: int, shift: float) -> None:
    scale = 100.0 if column == "share_negative" else 1.0
    values = scale * table[column].to_numpy(dtype=float)
    known = SPREADS[column] in table
    spread = scale * np.nan_to_num(table[SPREADS[column]].to_numpy(dtype=float)) if known else None
    axes.errorbar(
        np.arange(len(table)) + shift,
        values,
        yerr=spread,
        label=name,
        color=PALETTE[i % len(PALETTE)],
        linestyle="none" if len(table) == 1 else LINE_STYLES[i % len(LINE_STYLES)],
        marker=MARKERS[i % len(MARKERS)],
        markersize=5.0,
        linewidth=1.2,
        elinewidth=0.8,
        capsize=2.0,
    )


def conflict_curves(metrics: pd.DataFrame) -> Figure:
    """Mean cosine, share of opposed pairs and magnitude similarity over the steps of a training.

    Args:
        metrics: a run's metrics.csv with the columns that a ConflictMonitor logs; pairs of tasks are thin grey lines
            behind the mean cosine.
    """
    figure = new_figure(10.0, 2.7)
    columns = {f"conflict/{name}": shown for name, shown in PANELS.items()}
    for axes, (column, (label, limits)) in zip(figure.subplots(1, 3), columns.items(), strict=True):
        if column.endswith("mean_cosine"):
            for pair in (name for name in metrics.columns if _is_pair(name)):
                _curve(axes, metrics, pair, 1.0, {"color": "0.75", "linewidth": 0.7})
            axes.axhline(0.0, color="0.4", linewidth=0.8)
            label = "cosine (pairs grey, mean blue)"
        scale = 100.0 if column.endswith("share_negative") else 1.0
        _curve(axes, metrics, column, scale, {"color": PALETTE[0], "linewidth": 1.4, "marker": "o", "markersize": 2.5})
        axes.set_ylabel(label, fontsize=FONT)
        axes.set_ylim(*limits)
        axes.set_xlabel("training step", fontsize=FONT)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
        tidy(axes)
    return figure


def _is_pair(column: str) -> bool:
    return column.startswith("conflict/") and column.endswith("/cosine")


def _curve(axes: Axes, metrics: pd.DataFrame, column: str, scale: float, look: dict[str, Any]) -> None:
    points = metrics[["step", column]].dropna().sort_values("step", kind="stable")
    axes.plot(points["step"].to_numpy(), scale * points[column].to_numpy(), **look)


def has_conflict(columns: Collection[str]) -> bool:
    """Whether a ConflictMonitor logged into a metrics table."""
    return all(f"conflict/{name}" in columns for name in PANELS)
