"""Learning curves of one run."""

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mola_lightning.analysis.plots.style import FONT, LINE_STYLES, PALETTE, legend_below, new_figure, tidy

COLUMNS = 3


def learning_curves(metrics: pd.DataFrame, tasks: Sequence[str]) -> Figure:
    """One panel per quantity (training loss, validation loss, each validation metric), one line per task.

    Args:
        metrics: a run's metrics.csv: columns ``step`` (optimiser steps) or ``epoch``, and ``<split>/<task>/<metric>``;
            sparse.
        tasks: task names; each keeps its colour in all panels. The mean over tasks is drawn in black.

    Returns:
        The figure; panels without data are left out.
    """
    panels = _panels(metrics, tasks)
    columns = max(1, min(COLUMNS, len(panels)))
    rows = max(1, -(-len(panels) // columns))
    figure = new_figure(3.6 * columns, 2.7 * rows + 0.5)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (split, metric) in zip(grid, panels, strict=False):
        _draw(axes, metrics, tasks, split, metric)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    if panels:
        fullest = max(grid[: len(panels)], key=lambda axes: len(axes.lines))
        legend_below(figure, fullest)
    else:
        grid[0].text(0.5, 0.5, "nothing was logged", ha="center", va="center", fontsize=FONT)
    return figure


def _panels(metrics: pd.DataFrame, tasks: Sequence[str]) -> list[tuple[str, str]]:
    """(split, metric) pairs that hold a number, losses first."""
    found: dict[tuple[str, str], None] = {}
    for column in metrics.columns:
        split, _, rest = str(column).partition("/")
        task, _, metric = rest.rpartition("/")
        known = task in tasks or (task == "mean" and split == "val")
        if split in ("train", "val") and known and metrics[column].notna().any():
            found[split, metric] = None
    return sorted(found, key=lambda pair: (pair[1] != "loss", pair[0] != "train"))


def _draw(axes: Axes, metrics: pd.DataFrame, tasks: Sequence[str], split: str, metric: str) -> None:
    clock = "step" if "step" in metrics and metrics["step"].notna().any() else "epoch"
    for i, task in enumerate([*tasks, "mean"]):
        column = f"{split}/{task}/{metric}"
        if column not in metrics:
            continue
        points = metrics[[clock, column]].dropna().sort_values(clock, kind="stable")
        style = LINE_STYLES[i // len(PALETTE) % len(LINE_STYLES)]
        look: dict[str, Any] = (
            {"color": "black", "linewidth": 1.8, "linestyle": (0, (4, 1.5)), "label": "mean over tasks"}
            if task == "mean"
            else {"color": PALETTE[i % len(PALETTE)], "linewidth": 1.3, "linestyle": style, "label": task}
        )
        marker: dict[str, Any] = {"marker": "o", "markersize": 3.0} if len(points) <= 15 else {}
        axes.plot(points[clock].to_numpy(), points[column].to_numpy(), **look, **marker)
    tidy(axes)
    name = {"train": "training", "val": "validation"}[split]
    axes.set_title(f"{name} {metric.replace('_', ' ')}", fontsize=FONT, loc="left")
    axes.set_xlabel("training step" if clock == "step" else "epoch", fontsize=FONT)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True))
