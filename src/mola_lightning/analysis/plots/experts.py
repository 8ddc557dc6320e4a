"""What experts learned, layer by layer."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from mola_lightning.analysis.plots.style import (
    FONT,
    HATCHES,
    LINE_STYLES,
    MARKERS,
    PALETTE,
    legend_below,
    new_figure,
    tidy,
)

COLUMNS = 4
NAMED_LAYERS = 30  # more are numbered


def expert_layers(table: pd.DataFrame) -> Figure:
    """Effective rank and relative size of each expert's Delta, a line for each expert over the layers in their order.

    Args:
        table: that of :class:`Spectra`.
    """
    layers = list(dict.fromkeys(table["layer"]))
    figure = new_figure(max(6.2, 0.26 * len(layers) + 1.5), 5.4)
    upper, lower = figure.subplots(2, 1, sharex=True)
    bound = table.drop_duplicates("layer")["largest_rank"].to_numpy()
    upper.plot(range(len(layers)), bound, color="0.4", linestyle=(0, (1, 1)), linewidth=1.2, label="bound")
    for axes, column in ((upper, "effective_rank"), (lower, "relative_norm")):
        for e, own in table.groupby("expert"):
            axes.plot(range(len(layers)), own[column].to_numpy(), **_look(int(e)), label=f"expert {e}")
        tidy(axes)
    upper.set_ylabel("effective rank of Δ", fontsize=FONT)
    upper.set_ylim(bottom=0)
    lower.set_ylabel("|Δ| / |W|", fontsize=FONT)
    lower.set_ylim(bottom=0)
    if len(layers) <= NAMED_LAYERS:
        lower.set_xticks(range(len(layers)), layers, rotation=45.0, ha="right", rotation_mode="anchor")
    lower.set_xlabel("adapted layer", fontsize=FONT)
    legend_below(figure, upper)
    return figure


def spectra_by_stage(singular_values: Mapping[str, NDArray[np.float64]], stages: Mapping[str, str]) -> Figure:
    """Singular values of each expert's Delta as shares of the largest, averaged over the layers of a stage.

    Args:
        singular_values: layer -> (E, K), descending.
        stages: layer -> stage; a panel each.
    """
    names = list(dict.fromkeys(stages[layer] for layer in singular_values))
    across = min(COLUMNS, len(names))
    down = -(-len(names) // across)
    figure = new_figure(2.5 * across + 0.6, 2.5 * down + 0.4)
    grid = figure.subplots(down, across, squeeze=False, sharey=True).ravel()
    for axes in grid[len(names) :]:
        axes.set_axis_off()
    for axes, stage in zip(grid, names, strict=False):
        _spectra(axes, [values for layer, values in singular_values.items() if stages[layer] == stage])
        axes.set_title(stage, fontsize=FONT)
        axes.set_xlabel("index of the singular value", fontsize=FONT)
        tidy(axes)
    for axes in grid[::across]:
        axes.set_ylabel("share of the largest", fontsize=FONT)
    legend_below(figure, grid[0])
    return figure


def _spectra(axes: Axes, layers: list[NDArray[np.float64]]) -> None:
    # Values that are zero by the rank's bound are left out.
    kept = max(int((values > 1e-6 * values.max(initial=0.0)).any(axis=0).sum()) for values in layers)
    for e in range(len(layers[0])):
        shares = [values[e] / values[e, 0] for values in layers if values[e, 0] > 0]
        if not shares:
            continue
        padded = np.full((len(shares), kept), np.nan)
        for row, share in zip(padded, shares, strict=True):
            row[: min(kept, len(share))] = share[:kept]
        axes.plot(range(1, kept + 1), np.nanmean(padded, axis=0), **_look(e), label=f"expert {e}")
    axes.set_ylim(0.0, 1.05)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))


def stage_bars(shares: pd.DataFrame) -> Figure:
    """Where the change of each expert lies: a bar for each, stacked by stage.

    Args:
        shares: experts x stages, rows sum to one.
    """
    figure = new_figure(5.6, 0.42 * len(shares) + 1.5)
    axes = figure.subplots()
    left = np.zeros(len(shares))
    for i, stage in enumerate(shares.columns):
        part = 100.0 * np.nan_to_num(shares[stage].to_numpy(dtype=float))
        axes.barh(
            [f"expert {e}" for e in shares.index],
            part,
            left=left,
            height=0.65,
            color=PALETTE[i % len(PALETTE)],
            hatch=HATCHES[i % len(HATCHES)],
            edgecolor="white",
            linewidth=0.6,
            label=stage,
        )
        left += part
    axes.invert_yaxis()
    axes.set_xlim(0.0, 100.0)
    axes.set_xlabel("share of |Δ|² (%)", fontsize=FONT)
    axes.tick_params(labelsize=FONT - 1)
    axes.spines[["top", "right"]].set_visible(False)
    legend_below(figure, axes)
    return figure


def _look(expert: int) -> dict[str, Any]:
    return {
        "color": PALETTE[expert % len(PALETTE)],
        "linestyle": LINE_STYLES[expert % len(LINE_STYLES)],
        "marker": MARKERS[expert % len(MARKERS)],
        "markersize": 3.5,
        "linewidth": 1.2,
    }
