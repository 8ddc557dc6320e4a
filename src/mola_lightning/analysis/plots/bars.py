"""Methods side by side, per task."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mola_lightning.analysis.cells import in_percent, score_columns
from mola_lightning.analysis.plots.style import FONT, HATCHES, PALETTE, legend_below, new_figure, tidy

MOST = 8  # methods whose bars can be told apart


def comparison_bars(df: pd.DataFrame) -> Figure:
    """Bars of each method's mean score, one group per task and one for the mean over tasks.

    Whiskers are the sample standard deviation over seeds. Bars start at zero, so that their lengths can be compared;
    tasks measured by different metrics get panels of their own. For more than :data:`MOST` methods see
    :func:`mola_lightning.analysis.comparison_dots`.

    Args:
        df: a table of :func:`mola_lightning.analysis.comparison`.
    """
    metrics = df.attrs.get("metrics", {})
    shared = next(iter(set(metrics.values()))) if len(set(metrics.values())) == 1 else "score"
    panels: dict[str, list[str]] = {}
    for name in score_columns(df):
        panels.setdefault(metrics.get(name, shared), []).append(name)
    widths = [max(2.4, len(names) * (0.5 + 0.17 * len(df))) for names in panels.values()]
    figure = new_figure(min(16.0, sum(widths) + 0.8), 3.6)
    grid = figure.subplots(1, len(panels), squeeze=False, width_ratios=widths)[0]
    for axes, (metric, names) in zip(grid, panels.items(), strict=True):
        _draw(axes, df, names, metric)
    legend_below(figure, grid[0])
    return figure


def _draw(axes: Axes, df: pd.DataFrame, names: list[str], metric: str) -> None:
    percent = all(in_percent(df, name) for name in names)
    scale, width = (100.0 if percent else 1.0), 0.84 / len(df)
    places = np.arange(len(names))
    for i, method in enumerate(df.index):
        means = df.loc[method, [(name, "mean") for name in names]].to_numpy(dtype=float) * scale
        spread = df.loc[method, [(name, "std") for name in names]].to_numpy(dtype=float) * scale
        axes.bar(
            places + (i - (len(df) - 1) / 2) * width,
            means,
            width * 0.94,
            yerr=np.nan_to_num(spread) if np.isfinite(spread).any() else None,
            color=PALETTE[i % len(PALETTE)],
            hatch=HATCHES[i // len(PALETTE) % len(HATCHES)],
            edgecolor="white",
            linewidth=0.0,
            error_kw={"elinewidth": 1.0, "capsize": 2.0, "ecolor": "0.2"},
            label=str(method),
        )
    tidy(axes)
    axes.set_xticks(places, names)
    if "mean" in names and len(names) > 1:
        axes.axvline(len(names) - 1.5, color="0.75", linewidth=0.8)
    axes.tick_params(axis="x", labelsize=FONT, length=0)
    axes.set_ylabel(f"test {metric.replace('_', ' ')}" + (" (%)" if percent else ""), fontsize=FONT)
    if percent:
        axes.set_ylim(0, 100)
