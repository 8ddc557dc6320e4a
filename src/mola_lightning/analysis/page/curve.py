"""The validation scores of a training as a small inline SVG, whose colours follow those of the page."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from mola_lightning.analysis.page.markup import Markup, element
from mola_lightning.core.files import read_journal
from mola_lightning.core.run_files import JOURNAL

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 560, 190, 52, 12, 10, 34  # units of the picture
POINTS = 80  # of a line, at most: a page may hold hundreds of curves
COLOURS = 6  # of lines, in page.css
SCORE = "val/score"

Line = Sequence[tuple[int, float]]  # epoch, counted from 1, and value


def validation_lines(folder: Path, metrics: Mapping[str, str]) -> dict[str, Line]:
    """What the journal of a run says of its validation, epoch by epoch.

    Args:
        folder: the run folder.
        metrics: task -> the metric that stands for it.

    Returns:
        Name -> line: the score that the best epoch was chosen by; before it, where all tasks have the same
        metric, each task's own. Empty when nothing was validated.
    """
    rows = [row for row in read_journal(folder / JOURNAL) if isinstance(row.get("epoch"), int)]
    keys = {task: f"val/{task}/{metric}" for task, metric in metrics.items()} if len(set(metrics.values())) == 1 else {}
    lines = {name: _line(rows, key) for name, key in (keys | {"score": SCORE}).items()}
    return {name: line for name, line in lines.items() if line}


def _line(rows: Sequence[Mapping[str, object]], key: str) -> Line:
    found: dict[int, float] = {}
    for row in rows:
        value, epoch = row.get(key), row["epoch"]
        if isinstance(value, int | float) and isinstance(epoch, int) and math.isfinite(value):
            found[epoch + 1] = float(value)
    line = sorted(found.items())
    step = -(-len(line) // POINTS)
    return [point for i, point in enumerate(line) if i % step == 0 or i == len(line) - 1] if line else []


def validation_curve(lines: Mapping[str, Line], best_epoch: int | None = None) -> Markup:
    """The lines, the score's thick, with a mark at the best epoch and the numbers at the ends of both axes.

    Args:
        lines: of :func:`validation_lines`; one at least.
        best_epoch: counted from 1; no mark when None.
    """
    epochs = [epoch for line in lines.values() for epoch, _ in line]
    values = [value for line in lines.values() for _, value in line]
    first, last, (low, high) = min(epochs), max(epochs), _limits(min(values), max(values))
    right, floor = WIDTH - RIGHT, HEIGHT - BOTTOM

    def x(epoch: float) -> float:
        return LEFT + (right - LEFT) * (epoch - first) / max(1, last - first)

    def y(value: float) -> float:
        return floor - (floor - TOP) * (value - low) / (high - low)

    parts = []
    for value in (low, (low + high) / 2, high):
        parts.append(element("path", d=f"M{LEFT} {y(value):.1f}H{right}", class_="grid"))
        parts.append(element("text", f"{value:.3g}", x=LEFT - 6, y=f"{y(value) + 4:.1f}", class_="end"))
    for epoch in dict.fromkeys((first, last)):
        parts.append(element("text", str(epoch), x=f"{x(epoch):.1f}", y=floor + 15, class_="middle"))
    parts.append(element("text", "epoch", x=(LEFT + right) / 2, y=HEIGHT - 5, class_="middle"))
    if best_epoch is not None and first <= best_epoch <= last:
        parts.append(
            element("path", element("title", "best epoch"), d=f"M{x(best_epoch):.1f} {TOP}V{floor}", class_="best")
        )
    for i, (name, line) in enumerate(lines.items()):
        kind = line_class(name, i)
        if len(line) == 1:
            (epoch, value) = line[0]
            parts.append(
                element("circle", element("title", name), cx=f"{x(epoch):.1f}", cy=f"{y(value):.1f}", r=3, class_=kind)
            )
        else:
            points = " ".join(f"{x(epoch):.1f},{y(value):.1f}" for epoch, value in line)
            parts.append(element("polyline", element("title", name), points=points, class_=kind))
    label = f"validation scores of epochs {first} to {last}, from {min(values):.3g} to {max(values):.3g}"
    return element("svg", *parts, viewBox=f"0 0 {WIDTH} {HEIGHT}", role="img", aria_label=label, class_="curve")


def line_class(name: str, i: int) -> str:
    """How the i-th line looks, and its key: six colours, then the same again, dashed."""
    return "score" if name == "score" else f"c{i % COLOURS}{' dashed' if i // COLOURS % 2 else ''}"


def _limits(low: float, high: float) -> tuple[float, float]:
    """Round numbers around a range, which may be empty."""
    size = high - low if high > low else abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(size)) / 2
    down, up = math.floor(low / step) * step, math.ceil(high / step) * step
    return (down, up) if up > down else (down - step, up + step)
