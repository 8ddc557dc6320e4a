"""Points of images in a plane, by task and by class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from mola_lightning.analysis.plots.style import FONT, MARKERS, PALETTE, new_figure
from mola_lightning.core import DataError

COLUMNS = 3
MOST = len(PALETTE) * 3  # groups in one panel; more could not be told apart


@dataclass(frozen=True)
class Cloud:
    """One panel.

    Attributes:
        title: of the panel.
        points: (n, 2).
        groups: (n,) which group each point belongs to; negative ones are left out.
        names: of the groups.
        axis_names: what the two axes are.
    """

    title: str
    points: NDArray[np.float64]
    groups: NDArray[np.int64]
    names: Sequence[str]
    axis_names: tuple[str, str]


def scatter_panels(clouds: Sequence[Cloud]) -> Figure:
    """Panels side by side, each with its legend; groups differ by colour and by marker.

    Raises:
        DataError: without a panel, or with more groups than can be told apart.
    """
    if not clouds or any(len(cloud.names) > MOST for cloud in clouds):
        raise DataError(f"a scatter needs panels of 1 to {MOST} groups, got {[len(cloud.names) for cloud in clouds]}")
    across = min(COLUMNS, len(clouds))
    down = -(-len(clouds) // across)
    figure = new_figure(3.6 * across, 3.9 * down)
    grid = figure.subplots(down, across, squeeze=False).ravel()
    for axes in grid[len(clouds) :]:
        axes.set_axis_off()
    for axes, cloud in zip(grid, clouds, strict=False):
        _draw(axes, cloud)
    return figure


def _draw(axes: Axes, cloud: Cloud) -> None:
    size = float(np.clip(6000 / max(1, len(cloud.points)), 9.0, 26.0))
    for g, name in enumerate(cloud.names):
        points = cloud.points[cloud.groups == g]
        if not len(points):
            continue
        turn = g // len(PALETTE)
        axes.scatter(
            points[:, 0],
            points[:, 1],
            s=size,
            color=PALETTE[g % len(PALETTE)],
            marker=MARKERS[(g + turn) % len(MARKERS)],
            alpha=0.65,
            linewidths=0,
            label=name,
        )
    axes.set_title(cloud.title, fontsize=FONT)
    axes.set_xlabel(cloud.axis_names[0], fontsize=FONT)
    axes.set_ylabel(cloud.axis_names[1], fontsize=FONT)
    axes.tick_params(labelsize=FONT - 1)
    axes.spines[["top", "right"]].set_visible(False)
    most = max(1, int(40 / (max(map(len, cloud.names)) + 4)))
    lines = -(-len(cloud.names) // most)
    axes.legend(
        loc="upper center",
        bbox_to_anchor=(0.5, -0.15),
        ncols=-(-len(cloud.names) // lines),
        fontsize=FONT - 1,
        frameon=False,
        handletextpad=0.1,
        columnspacing=0.8,
        markerscale=float(np.sqrt(20.0 / size)),
    )
