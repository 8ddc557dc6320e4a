"""The look that all figures share, and how they are saved."""

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, Literal

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mola_lightning.core.files import atomic_write

# Okabe and Ito: distinct for the common kinds of colour blindness; their yellow is left out, it fades on white paper.
PALETTE = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#7F7F7F")
LINE_STYLES: tuple[str | tuple[int, tuple[int, ...]], ...] = ("-", (0, (5, 2)), (0, (1, 1)), (0, (5, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
HATCHES = ("", "///", "...", "xxx")
FONT = 9
DPI = 160


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches, that lays itself out so that no label is cut."""
    return Figure(figsize=(width, height), layout="constrained")


def tidy(axes: Axes) -> None:
    """Small type, no box, a quiet grid below the data."""
    axes.tick_params(labelsize=FONT - 1)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="0.9", linewidth=0.8)
    axes.set_axisbelow(True)


def legend_below(figure: Figure, axes: Axes) -> None:
    """One legend for the whole figure, below it, from the entries of ``axes``; as many columns as fit the width."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        entry = 0.55 + 0.075 * max(map(len, labels))  # inches: the line or box, and the text
        columns = max(1, min(len(labels), int(figure.get_figwidth() / entry)))
        place: Literal["outside lower center"] = "outside lower center"
        figure.legend(handles, labels, loc=place, ncols=columns, fontsize=FONT, frameon=False, columnspacing=1.2)


def label_ticks(axes: Axes, rows: Sequence[str], columns: Sequence[str]) -> None:
    """Name the rows and columns of a matrix; long column names are slanted."""
    axes.set_yticks(range(len(rows)), rows)
    slanted = sum(map(len, columns)) > 7 * len(columns) or max(map(len, columns), default=0) > 7
    turn: dict[str, Any] = {"rotation": 35.0, "ha": "right", "rotation_mode": "anchor"} if slanted else {}
    axes.set_xticks(range(len(columns)), columns, **turn)
    axes.tick_params(labelsize=FONT - 1, length=0)


def save(figure: Figure, path: Path | str) -> Path:
    """Write ``<path>.png`` and ``<path>.svg``, each whole or not at all; returns the PNG's path.

    Args:
        figure: what to write.
        path: without suffix; its folder is created.

    Raises:
        RunFolderError: when they cannot be written.
    """
    target = Path(path)
    for kind in ("svg", "png"):
        with atomic_write(target.with_name(f"{target.name}.{kind}"), "wb") as file:
            write(figure, file, kind, target.name)
    return target.with_name(f"{target.name}.png")


def write(figure: Figure, file: IO[bytes], kind: str, name: str) -> None:
    """The figure as ``png`` or ``svg`` into a binary file; under one name always the same bytes."""
    with rc_context({"svg.hashsalt": name}):  # which element ids are made of
        figure.savefig(
            file,
            format=kind,
            dpi=DPI,
            facecolor="white",
            bbox_inches="tight",
            pad_inches=0.06,
            metadata={"Date": None} if kind == "svg" else None,
        )
