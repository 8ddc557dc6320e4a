"""A comparison as text, cell by cell: number formats, units, which cell is the best of its column."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import pandas as pd

from mola_lightning.analysis.captions import caption
from mola_lightning.analysis.results import SINGLE_TASK, upwards

MISSING = "–"

Writer: TypeAlias = Callable[[float, float], tuple[str, str]]  # (mean, std), scaled -> their texts


@dataclass(frozen=True)
class Cells:
    """A comparison as text: ``rows[i][j]`` under ``header[j]``.

    Attributes:
        header: titles of the columns; the first is the method's.
        rows: the texts.
        best: the (i, j) to print in bold.
        caption: how the numbers were made.
        values: ``values[i][j]``, unscaled, is what ``rows[i][j + 1]`` says.
        upwards: for each column of ``values`` whether larger is better; None when nobody said.
    """

    header: list[str]
    rows: list[list[str]]
    best: set[tuple[int, int]]
    caption: str
    values: list[list[float]]
    upwards: list[bool | None]


def to_cells(df: pd.DataFrame) -> Cells:
    """The text of each cell, from a comparison of :func:`mola_lightning.analysis.comparison`.

    Scores whose direction is known to be upwards and that lie in 0..1 are shown in percent. A cell that averages fewer
    seeds than its row says so. Columns in which nothing is known are left out.
    """
    versus = f"vs {df.attrs.get('baseline')}"
    known = [name for name in dict.fromkeys(df.columns.get_level_values(0)) if not df[(name, "mean")].isna().all()]
    names = [name for name in dict.fromkeys(df.columns.get_level_values(0)) if name in {*known, versus}]
    seeds = df.drop(columns=versus, level=0, errors="ignore").xs("n", axis=1, level=1).max(axis=1)
    header, columns, best = ["method"], [list(map(str, df.index))], set()
    values: list[pd.Series] = []
    for name in names:
        title, scale, write = column_style(df, name)
        values.append(df[(name, "mean")])
        header.append(title)
        cells = zip(df[(name, "mean")] * scale, df[(name, "std")] * scale, df[(name, "n")], seeds, strict=True)
        columns.append([_cell(*cell, write) for cell in cells])
        best |= {(i, len(header) - 1) for i in _best(df, name, scale, write)}
        if name == versus:
            header += ["95 % CI", "p (Holm)"]
            ends = zip(df[(name, "ci_low")] * scale, df[(name, "ci_high")] * scale, strict=True)
            columns.append([MISSING if math.isnan(low) else _interval(low, high, write) for low, high in ends])
            columns.append([_p_value(p) for p in df[(name, "p_holm")]])
            values += [df[(name, "ci_low")], df[(name, "p_holm")]]
    if len(set(seeds)) > 1:
        header.append("seeds")
        columns.append([str(int(n)) for n in seeds])
        values.append(seeds)
    rows = [list(row) for row in zip(*columns, strict=True)]
    percent = any(in_percent(df, name) for name in score_columns(df))
    numbers = [list(map(float, row)) for row in zip(*values, strict=True)]
    directions = [upwards(df, str(column.name[0])) if isinstance(column.name, tuple) else None for column in values]
    return Cells(header, rows, best, caption(df, names, seeds, percent), numbers, directions)


def score_columns(df: pd.DataFrame) -> list[str]:
    """The names of a comparison's columns that hold scores: the tasks, and ``mean`` unless it is missing."""
    tasks = list(df.attrs["tasks"])
    return tasks if df[("mean", "mean")].isna().all() else [*tasks, "mean"]


def in_percent(df: pd.DataFrame, name: str) -> bool:
    """Whether a score is shown in percent: larger is better, and every value lies in 0..1."""
    values = df[(name, "mean")].dropna()
    return upwards(df, name) is True and bool(((values >= 0) & (values <= 1)).all())


def column_style(df: pd.DataFrame, name: str) -> tuple[str, float, Writer]:
    """Title, factor and number format of a comparison's column."""
    baseline, metrics = df.attrs.get("baseline"), df.attrs["metrics"]
    fixed: dict[str, tuple[str, float, Writer]] = {
        "rank": ("rank", 1.0, partial(_decimals, digits=2)),
        "delta_m": ("Δm (%)", 1.0, _signed),
        "parameters": ("parameters", 1.0, _count),
        "multiply_adds": ("multiply-adds", 1.0, _count),
        "step_time_s": ("step (ms)", 1e3, partial(_significant, digits=3)),
        "step_time_ratio": (f"step / {baseline}", 1.0, partial(_decimals, digits=2)),
    }
    if name in fixed:
        return fixed[name]
    if name == f"vs {baseline}":
        percent = df.attrs["headline"] == "mean" and in_percent(df, "mean")
        points = percent or df.attrs["headline"] == "delta_m"
        return name, 100.0 if percent else 1.0, _signed if points else partial(_significant, digits=3, sign="+")
    percent, mixed = in_percent(df, name), len(set(metrics.values())) > 1
    title = f"{name} {metrics.get(name, '')}{' (%)' if percent else ''}" if mixed else name
    return (
        title,
        100.0 if percent else 1.0,
        partial(_decimals, digits=1) if percent else partial(_significant, digits=4),
    )


def _cell(mean: float, std: float, n: int, seeds: int, write: Writer) -> str:
    """One cell; a spread is written with the mean's number of decimals."""
    if math.isnan(mean):
        return MISSING
    text, spread = write(mean, std)
    if not math.isnan(std) and spread:
        text += f" ± {spread}"
    return text if n == seeds else f"{text} (n={int(n)})"


def _interval(low: float, high: float, write: Writer) -> str:
    return f"[{write(low, 0.0)[0]}, {write(high, 0.0)[0]}]"


def _p_value(p: float) -> str:
    if math.isnan(p):
        return MISSING
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def _best(df: pd.DataFrame, name: str, scale: float, write: Writer) -> Iterable[int]:
    """Rows with the best mean, as printed: what reads the same is equally good. None in a table of one row."""
    direction, means = upwards(df, name), df[(name, "mean")]
    if name == "delta_m":
        means = means.mask(means.index == SINGLE_TASK)  # zero against itself: no achievement
    if direction is None or len(df) == 1 or means.isna().all():
        return []
    winner = write((means.max() if direction else means.min()) * scale, 0.0)
    return [i for i, mean in enumerate(means) if not math.isnan(mean) and write(mean * scale, 0.0) == winner]


def _decimals(mean: float, std: float, digits: int) -> tuple[str, str]:
    return f"{mean:.{digits}f}", f"{std:.{digits}f}"


def _signed(mean: float, std: float) -> tuple[str, str]:
    return ("0.0", "") if mean == 0 and not std > 0 else (f"{mean:+z.1f}", f"{std:.1f}")


def _significant(mean: float, std: float, digits: int, sign: str = "-") -> tuple[str, str]:
    size = math.floor(math.log10(abs(mean))) if mean and math.isfinite(mean) else 0
    decimals = max(0, digits - 1 - size)
    return f"{mean:{sign}z.{decimals}f}", f"{std:.{decimals}f}"


def _count(mean: float, std: float) -> tuple[str, str]:
    """A number of things, without a spread: it is the same for all seeds."""
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(mean) >= factor:
            return f"{mean / factor:.3g}{unit}", ""
    return f"{mean:.0f}", ""
