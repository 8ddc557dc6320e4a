"""Matrices as pictures: mixing weights, confusions, gradient cosines."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import ArrayLike, NDArray

from mola_lightning.analysis.plots.style import FONT, label_ticks, new_figure
from mola_lightning.core.errors import DataError

MAX_ANNOTATED = 16  # a matrix with more rows or columns is drawn without numbers, which would be too small to read
CELL = 0.55  # inches
MAX_WIDTH = 12.0  # inches of panels side by side; more go below


def mixing_heatmap(mixing: ArrayLike, task_names: Sequence[str]) -> Figure:
    """Mean mixing weights of each task, (T, E), with the numbers written in; a task without samples is grey."""
    return routing_panels([("", mixing)], task_names)


def routing_panels(panels: Sequence[tuple[str, ArrayLike]], task_names: Sequence[str] | None = None) -> Figure:
    """Mean mixing weights of several runs side by side, on one colour scale from 0 to 1.

    Args:
        panels: (title, (T, E) weights) pairs. Experts have no common order across runs of a learned router.
        task_names: the T names, shared by all panels; numbers by default.

    Raises:
        DataError: when there is no panel, or a matrix does not have one row per name.
    """
    matrices = [(title, _matrix(mixing)) for title, mixing in panels]
    if not matrices:
        raise DataError("routing panels need at least one matrix of mixing weights, got none")
    tasks = len(matrices[0][1]) if task_names is None else len(task_names)
    names = list(task_names) if task_names is not None else [f"task {t}" for t in range(tasks)]
    wrong = [matrix.shape for _, matrix in matrices if len(matrix) != tasks]
    if wrong:
        raise DataError(f"mixing weights must have one row for each of {tasks} tasks, got shape {wrong[0]}")
    experts = [[str(e) for e in range(matrix.shape[1])] for _, matrix in matrices]
    return _side_by_side(matrices, names, experts, Scale("mean mixing weight"), "expert")


@dataclass(frozen=True)
class Scale:
    """How numbers of a matrix become colours.

    Attributes:
        label: what the numbers are, with their unit.
        colours: a matplotlib colour map.
        low, high: the numbers at its ends; out of the data when None.
        form: how a number is written into its cell.
    """

    label: str
    colours: str = "viridis"
    low: float | None = 0.0
    high: float | None = 1.0
    form: str = "{:.2f}"


def matrix_panels(
    panels: Sequence[tuple[str, ArrayLike]],
    rows: Sequence[str],
    columns: Sequence[str],
    scale: Scale,
    axis_names: tuple[str, str] = ("", ""),
) -> Figure:
    """Matrices of the same rows and columns side by side, on one colour scale; NaN is grey.

    Args:
        panels: (title, matrix) pairs.
        rows: names of the rows.
        columns: names of the columns.
        scale: colours and numbers.
        axis_names: what columns and rows are.

    Raises:
        DataError: when there is no panel, or a matrix has another shape.
    """
    matrices = [(title, _matrix(values)) for title, values in panels]
    wrong = [matrix.shape for _, matrix in matrices if matrix.shape != (len(rows), len(columns))]
    if wrong or not matrices:
        found = f"a matrix {wrong[0]}" if wrong else "none"
        raise DataError(f"expected matrices of {len(rows)} rows and {len(columns)} columns, got {found}")
    figure = _side_by_side(matrices, list(rows), [list(columns)] * len(matrices), scale, axis_names[0])
    figure.axes[0].set_ylabel(axis_names[1], fontsize=FONT)
    return figure


def _side_by_side(
    matrices: Sequence[tuple[str, NDArray[np.float64]]],
    rows: Sequence[str],
    columns: Sequence[Sequence[str]],
    scale: Scale,
    x_name: str,
) -> Figure:
    """The panels, row names at the left ones only, and one colour bar."""
    finite = np.concatenate([matrix[np.isfinite(matrix)] for _, matrix in matrices])
    low = scale.low if scale.low is not None else float(finite.min(initial=np.inf)) if len(finite) else 0.0
    high = scale.high if scale.high is not None else float(finite.max(initial=-np.inf)) if len(finite) else 1.0
    width = max(1.4, *(CELL * matrix.shape[1] for _, matrix in matrices)) + 0.3
    across = max(1, min(len(matrices), int(MAX_WIDTH / width)))
    down = -(-len(matrices) // across)
    across = -(-len(matrices) // down)  # rows as even as can be
    slant = 0.05 * max((len(name) for names in columns for name in names if len(name) > 7), default=0)
    height = CELL * len(rows) + 0.9 + slant
    figure = new_figure(across * width + 0.09 * max(map(len, rows)) + 1.1, down * height)
    grid = figure.subplots(down, across, squeeze=False).ravel()
    for axes in grid[len(matrices) :]:
        axes.set_axis_off()
    for i, (axes, (title, matrix), names) in enumerate(zip(grid, matrices, columns, strict=False)):
        image = _show(axes, matrix, scale.colours, low, high, scale.form)
        label_ticks(axes, rows if i % across == 0 else [""] * len(rows), names)
        axes.set_xlabel(x_name, fontsize=FONT)
        axes.set_title(title, fontsize=FONT)
    _colour_bar(figure, image, list(grid), scale.label)
    return figure


def confusion_matrix(matrix: ArrayLike, title: str, class_names: Sequence[str] | None = None) -> Figure:
    """Share of each true class (row, in percent) that was predicted as each class (column).

    Args:
        matrix: (classes, classes) counts, rows are true classes.
        title: of the figure, for example the task's name; the accuracy is added.
        class_names: in order; numbers by default.
    """
    counts = _matrix(matrix)
    if counts.shape[0] != counts.shape[1]:
        raise DataError(f"a confusion matrix is square, got shape {counts.shape}")
    totals = counts.sum(axis=1, keepdims=True)
    shares = np.divide(100.0 * counts, totals, out=np.full_like(counts, np.nan), where=totals > 0)
    names = list(class_names) if class_names else [str(c) for c in range(len(counts))]
    side = min(9.0, max(2.2, 0.42 * len(counts))) + 0.6
    figure = new_figure(side + 1.2, side)
    axes = figure.subplots()
    image = _show(axes, shares, "cividis", 0.0, 100.0, "{:.0f}")
    if len(names) <= 40:
        label_ticks(axes, names, names)
    axes.set_xlabel("predicted class", fontsize=FONT)
    axes.set_ylabel("true class", fontsize=FONT)
    total = counts.sum()
    accuracy = f": {100.0 * np.trace(counts) / total:.1f} % of {int(total):,} correct" if total else ": no samples"
    axes.set_title(f"{title}{accuracy}", fontsize=FONT)
    _colour_bar(figure, image, [axes], "share of the true class (%)")
    return figure


def cosine_heatmap(matrix: ArrayLike, names: Sequence[str]) -> Figure:
    """Cosines between task gradients, (T, T): red pulls apart, blue together; grey where a task has no gradient."""
    cosines = _matrix(matrix)
    if cosines.shape != (len(names), len(names)):
        raise DataError(f"cosines of {len(names)} tasks must be a square matrix, got shape {cosines.shape}")
    size = max(1.6, CELL * len(names))
    figure = new_figure(size + 0.09 * max(map(len, names)) + 1.2, size + 0.8)
    axes = figure.subplots()
    image = _show(axes, cosines, "RdBu", -1.0, 1.0, "{:.2f}")
    label_ticks(axes, names, names)
    _colour_bar(figure, image, [axes], "cosine of task gradients")
    return figure


def _matrix(values: ArrayLike) -> NDArray[np.float64]:
    """A 2-D float array; None, as in JSON, becomes NaN."""
    matrix = np.array(values, dtype=np.float64)
    if matrix.ndim != 2 or 0 in matrix.shape:
        raise DataError(f"expected a matrix with rows and columns, got shape {matrix.shape}")
    return matrix


def _show(axes: Axes, matrix: NDArray[np.float64], colours: str, low: float, high: float, form: str) -> AxesImage:
    """The matrix, its numbers written in unless there are too many."""
    axes.set_facecolor("0.85")  # what NaN cells show
    image = axes.imshow(matrix, cmap=colours, vmin=low, vmax=high, aspect="equal")
    axes.spines[:].set_visible(False)
    if max(matrix.shape) <= MAX_ANNOTATED:
        for (i, j), value in np.ndenumerate(matrix):
            axes.text(j, i, _number(value, form), ha="center", va="center", fontsize=FONT - 2, color=_ink(image, value))
    return image


def _number(value: float, form: str) -> str:
    """The number without a sign on a zero, a dash for none."""
    if np.isnan(value):
        return "–"
    text = form.format(value)
    return text.removeprefix("-") if float(text) == 0 else text


def _ink(image: AxesImage, value: float) -> str:
    """Black or white, whichever can be read on the cell's colour."""
    red, green, blue, _ = image.to_rgba(np.array(value)) if not np.isnan(value) else (1.0, 1.0, 1.0, 1.0)
    return "black" if 0.299 * red + 0.587 * green + 0.114 * blue > 0.5 else "white"


def _colour_bar(figure: Figure, image: AxesImage, axes: Sequence[Axes], label: str) -> None:
    bar = figure.colorbar(image, ax=list(axes), fraction=0.05, pad=0.02)
    bar.set_label(label, fontsize=FONT)
    bar.ax.tick_params(labelsize=FONT - 1)
    bar.outline.set_visible(False)
