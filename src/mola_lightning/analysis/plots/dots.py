"""Many methods, per task: a row each instead of bars side by side."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mola_lightning.analysis.cells import in_percent, score_columns
from mola_lightning.analysis.plots.style import FONT, PALETTE, new_figure
from mola_lightning.analysis.results import upwards

COLUMNS = 5  # panels side by side; more go below


def comparison_dots(df: pd.DataFrame) -> Figure:
    """A panel per task and one for the mean over tasks; in each a row per method, in the order of the table.

    Dots are means and whiskers the sample standard deviation over seeds. The best mean of a panel is filled; each
    panel has its own scale, so that close methods can be told apart.

    Args:
        df: a table of :func:`mola_lightning.analysis.comparison`.
    """
    names = score_columns(df)
    columns = min(COLUMNS, len(names))
    rows = -(-len(names) // columns)
    labels = 0.075 * max(len(str(method)) for method in df.index)
    figure = new_figure(labels + 1.9 * columns + 0.3, rows * (0.2 * len(df) + 0.9))
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    for axes, name in zip(grid, names, strict=False):
        _draw(axes, df, name)
    grid[0].set_yticks(range(len(df)), list(map(str, df.index)))
    grid[0].set_ylim(len(df) - 0.5, -0.5)
    return figure


def _draw(axes: Axes, df: pd.DataFrame, name: str) -> None:
    percent, direction = in_percent(df, name), upwards(df, name)
    scale = 100.0 if percent else 1.0
    means = df[(name, "mean")].to_numpy(dtype=float) * scale
    spread = np.nan_to_num(df[(name, "std")].to_numpy(dtype=float)) * scale
    colour = "black" if name == "mean" else PALETTE[0]
    places = np.arange(len(df))
    axes.errorbar(means, places, xerr=spread, fmt="none", ecolor=colour, elinewidth=1.0, capsize=2.0)
    known = np.isfinite(means)
    best = np.nanmax(means) if direction and known.any() else np.nanmin(means) if known.any() else np.nan
    filled = known & (means == best) if direction is not None else known
    axes.scatter(means[~filled], places[~filled], s=22, facecolor="white", edgecolor=colour, zorder=3)
    axes.scatter(means[filled], places[filled], s=26, color=colour, zorder=3)
    metric = df.attrs["metrics"].get(name) or next(iter(df.attrs["metrics"].values()))
    axes.set_title("mean over tasks" if name == "mean" else name, fontsize=FONT)
    axes.set_xlabel(f"test {metric.replace('_', ' ')}" + (" (%)" if percent else ""), fontsize=FONT)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(labelsize=FONT - 1)
    axes.tick_params(axis="y", length=0)
    axes.grid(color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
