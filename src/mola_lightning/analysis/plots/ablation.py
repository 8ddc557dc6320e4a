"""Scores over the values of one option."""

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from mola_lightning.analysis.plots.style import FONT, LINE_STYLES, MARKERS, PALETTE, legend_below, new_figure, tidy


def ablation_curves(df: pd.DataFrame) -> Figure:
    """A line for each method, points alone where values are words; evenly spaced, mean over seeds, bars of one
    standard deviation.

    Args:
        df: what :func:`mola_lightning.analysis.ablation.ablation` gives.
    """
    values = list(dict.fromkeys(df["value"]))
    places = {value: i for i, value in enumerate(values)}
    figure = new_figure(max(3.4, 1.4 + 0.75 * len(values)), 2.9)
    axes = figure.subplots()
    methods = list(dict.fromkeys(df["method"]))
    in_order = not any(isinstance(value, str) for value in values)
    for i, (method, rows) in enumerate(df.groupby("method", sort=False)):
        shift = 0.06 * (i - (len(methods) - 1) / 2)  # bars at the same value stay apart
        axes.errorbar(
            [places[value] + shift for value in rows["value"]],
            rows["mean"],
            rows["std"].fillna(0),
            label=method,
            color=PALETTE[i % len(PALETTE)],
            linestyle=LINE_STYLES[i % len(LINE_STYLES)] if in_order else "none",
            marker=MARKERS[i % len(MARKERS)],
            capsize=3,
        )
    axes.set_xticks(range(len(values)), [str(value) for value in values])
    axes.set_xlim(-0.4, len(values) - 0.6)
    axes.set_xlabel(df.attrs["option"], fontsize=FONT)
    headline, metric = df.attrs["headline"], df.attrs["metric"]
    if df.attrs["percent"]:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=""))
    label = "Δm (%)" if headline == "delta_m" else f"test {metric}, mean of tasks"
    axes.set_ylabel(f"{label} (%)" if df.attrs["percent"] else label, fontsize=FONT)
    counts = sorted(set(df["runs"]))
    seeds = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    axes.set_title(f"{df.attrs['data']}, mean ± std of {seeds} seeds", fontsize=FONT)
    tidy(axes)
    legend_below(figure, axes)
    return figure
