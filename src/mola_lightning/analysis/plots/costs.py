"""What a better score costs: time and parameters."""

from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

from mola_lightning.analysis.cells import in_percent
from mola_lightning.analysis.plots.style import FONT, PALETTE, legend_below, new_figure, tidy
from mola_lightning.core.errors import DataError

MARKERS = "os^Dv*P"
COSTS = {"step_time_s": ("time per training step", "s"), "parameters": ("parameters", "")}  # label, unit
WIDE_RANGE = 5  # times the smallest cost


def comparison_costs(df: pd.DataFrame, scores: pd.DataFrame) -> Figure:
    """The score that stands for a method against its time per training step and its parameters.

    Costs that differ much between methods are on a logarithmic scale. A large mark is a method's mean over seeds, the
    small ones above and below it are its seeds. Up and left is better.

    Args:
        df: a table of :func:`mola_lightning.analysis.comparison`.
        scores: the table of :func:`mola_lightning.analysis.scores` of the same runs.

    Raises:
        DataError: when no method has both a mean over tasks (or Δm) and a cost.
    """
    name = df.attrs["headline"]
    shown = [cost for cost in COSTS if name and (df[(name, "mean")].notna() & (df[(cost, "mean")] > 0)).any()]
    if not shown:
        raise DataError("no method has both a mean over tasks, or Δm, and a step time or a number of parameters")
    percent = name == "mean" and in_percent(df, name)
    figure = new_figure(4.2 * len(shown) + 0.4, 3.3 + 0.05 * len(df))
    panels = figure.subplots(1, len(shown), squeeze=False, sharey=True)[0]
    for axes, cost in zip(panels, shown, strict=True):
        for i, method in enumerate(df.index):
            seeds = scores.loc[scores["method"] == method, name].dropna() * (100.0 if percent else 1.0)
            if len(seeds):
                _draw(axes, seeds, df.loc[method, (cost, "mean")], str(method), i)
        _label(axes, cost, df[(cost, "mean")])
    metric = next(iter(df.attrs["metrics"].values())).replace("_", " ")
    mean = f"mean test {metric}{' (%)' if percent else ''}"
    panels[0].set_ylabel(mean if name == "mean" else "Δm (%)", fontsize=FONT)
    legend_below(figure, panels[0])
    return figure


def _draw(axes: Axes, seeds: pd.Series, cost: float, method: str, i: int) -> None:
    look: dict[str, Any] = {"color": PALETTE[i % len(PALETTE)], "marker": MARKERS[i // len(PALETTE) % len(MARKERS)]}
    axes.scatter([cost] * len(seeds), seeds, s=9, alpha=0.5, linewidth=0, **look)
    axes.scatter([cost], [seeds.mean()], s=48, edgecolor="white", linewidth=0.6, zorder=3, label=method, **look)


def _label(axes: Axes, cost: str, values: pd.Series) -> None:
    """Axis, ticks and unit; in a narrow range a logarithmic scale would have too few round numbers."""
    label, unit = COSTS[cost]
    tidy(axes)
    axes.grid(axis="x", color="0.9", linewidth=0.8)
    axes.margins(x=0.08)
    if values.max() > WIDE_RANGE * values[values > 0].min():
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.xaxis.set_major_formatter(EngFormatter(unit=unit))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(label, fontsize=FONT)
