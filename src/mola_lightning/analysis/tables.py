"""A comparison as a table to read: terminal, Markdown, LaTeX; and as CSV with the raw numbers."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import pandas as pd
from rich.table import Table

from mola_lightning.analysis.results import BASELINE

MISSING = "–"
RESERVED = ("mean", "delta_m", "parameters", "step_time_s")

Writer: TypeAlias = Callable[[float, float], tuple[str, str]]  # (mean, std), scaled -> their texts


@dataclass(frozen=True)
class Cells:
    """A comparison as text: ``rows[i][j]`` under ``header[j]``; ``best`` holds the (i, j) to print in bold."""

    header: list[str]
    rows: list[list[str]]
    best: set[tuple[int, int]]
    caption: str


def to_rich(df: pd.DataFrame) -> Table:
    """The comparison for the terminal; the best mean of each column is bold."""
    cells = to_cells(df)
    table = Table(title=df.attrs.get("data"), caption=cells.caption, title_justify="left", caption_justify="left")
    for j, name in enumerate(cells.header):
        table.add_column(name, justify="right" if j else "left", no_wrap=j == 0)
    for i, row in enumerate(cells.rows):
        table.add_row(*(f"[bold]{cell}[/bold]" if (i, j) in cells.best else cell for j, cell in enumerate(row)))
    return table


def to_markdown(df: pd.DataFrame) -> str:
    """The comparison as a GitHub table with its caption below; the best mean of each column is bold."""
    cells = to_cells(df)
    rows = [[f"**{c}**" if (i, j) in cells.best else c for j, c in enumerate(r)] for i, r in enumerate(cells.rows)]
    widths = [max(len(row[j]) for row in [cells.header, *rows]) for j in range(len(cells.header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(row: list[str]) -> str:
        padded = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        return f"| {' | '.join(padded)} |"

    return "\n".join([line(cells.header), line(rule), *map(line, rows), "", cells.caption, ""])


def to_latex(df: pd.DataFrame) -> str:
    """The comparison as a LaTeX tabular (package booktabs); the best mean of each column is bold."""
    cells = to_cells(df)

    def line(i: int, row: list[str]) -> str:
        return (
            " & ".join(f"\\textbf{{{_tex(c)}}}" if (i, j) in cells.best else _tex(c) for j, c in enumerate(row))
            + r" \\"
        )

    body = [line(i, row) for i, row in enumerate(cells.rows)]
    columns = "l" + "r" * (len(cells.header) - 1)
    head = [f"% {cells.caption}", f"\\begin{{tabular}}{{{columns}}}", r"\toprule", line(-1, cells.header), r"\midrule"]
    return "\n".join([*head, *body, r"\bottomrule", r"\end{tabular}", ""])


def to_csv(*comparisons: pd.DataFrame) -> str:
    """Raw numbers, unscaled: columns data, method, then ``name/statistic``; several comparisons go below each other."""
    flat = []
    for df in comparisons:
        columns = [f"{name}/{statistic}" for name, statistic in df.columns]
        frame = df.set_axis(columns, axis=1).reset_index()
        frame.insert(0, "data", df.attrs.get("data"))
        flat.append(frame)
    return pd.concat(flat, ignore_index=True).to_csv(index=False)


def to_cells(df: pd.DataFrame) -> Cells:
    """The text of each cell, from a comparison of :func:`mola_lightning.analysis.comparison`.

    Scores whose direction is known to be upwards and that lie in 0..1 are shown in percent. A cell that averages fewer
    seeds than its row says so.
    """
    names = [name for name in dict.fromkeys(df.columns.get_level_values(0)) if not df[(name, "mean")].isna().all()]
    seeds = df[[(name, "n") for name in names]].max(axis=1)
    header, columns, best = ["method"], [list(map(str, df.index))], set()
    for name in names:
        title, scale, write = _style(df, name)
        header.append(title)
        cells = zip(df[(name, "mean")] * scale, df[(name, "std")] * scale, df[(name, "n")], seeds, strict=True)
        columns.append([_cell(*cell, write) for cell in cells])
        best |= {(i, len(header) - 1) for i in _best(df, name, scale, write)}
    same = len(set(seeds)) == 1
    if not same:
        header.append("seeds")
        columns.append([str(int(n)) for n in seeds])
    count = int(seeds.iloc[0])
    spread = "mean ± standard deviation over seeds" if seeds.max() > 1 else "one seed, no spread known"
    caption = f"{_measures(df)}: {spread}" + (f"; {count} seeds per row." if same and count > 1 else ".")
    return Cells(header, [list(row) for row in zip(*columns, strict=True)], best, caption)


def score_columns(df: pd.DataFrame) -> list[str]:
    """The names of a comparison's columns that hold scores: the tasks, and ``mean`` unless it is missing."""
    tasks = df.attrs.get("tasks") or [n for n in dict.fromkeys(df.columns.get_level_values(0)) if n not in RESERVED]
    return [*tasks, "mean"] if ("mean", "mean") in df and not df[("mean", "mean")].isna().all() else list(tasks)


def in_percent(df: pd.DataFrame, name: str) -> bool:
    """Whether a score is shown in percent: larger is better, and every value lies in 0..1."""
    values = df[(name, "mean")].dropna()
    return _upwards(df, name) is True and bool(((values >= 0) & (values <= 1)).all())


def _upwards(df: pd.DataFrame, name: str) -> bool | None:
    """Whether larger is better in this column; None when nothing is better, or nobody said."""
    directions = df.attrs.get("higher_is_better", {})
    if name == "mean":
        all_tasks = set(directions.values())
        return all_tasks.pop() if len(all_tasks) == 1 else None
    return True if name == "delta_m" else directions.get(name)


def _style(df: pd.DataFrame, name: str) -> tuple[str, float, Writer]:
    """Title, factor and number format of a column."""
    if name == "parameters":
        return "parameters", 1.0, _count
    if name == "step_time_s":
        return "step (ms)", 1e3, partial(_significant, digits=3)
    if name == "delta_m":
        return "Δm (%)", 1.0, _signed
    metrics = df.attrs.get("metrics", {})
    percent, mixed = in_percent(df, name), len(set(metrics.values())) > 1
    title = f"{name} {metrics.get(name, '')}{' (%)' if percent else ''}" if mixed else name
    return (title, 100.0, _one_decimal) if percent else (title, 1.0, partial(_significant, digits=4))


def _cell(mean: float, std: float, n: int, seeds: int, write: Writer) -> str:
    """One cell; a spread is written with the mean's number of decimals."""
    if math.isnan(mean):
        return MISSING
    text, spread = write(mean, std)
    if not math.isnan(std) and spread:
        text += f" ± {spread}"
    return text if n == seeds else f"{text} (n={int(n)})"


def _best(df: pd.DataFrame, name: str, scale: float, write: Writer) -> list[int]:
    """Rows with the best mean, as printed: what reads the same is equally good. None in a table of one row."""
    upwards, means = _upwards(df, name), df[(name, "mean")]
    if name == "delta_m":
        means = means.mask(means.index == BASELINE)  # zero against itself: no achievement
    if upwards is None or len(df) == 1 or means.isna().all():
        return []
    winner = write((means.max() if upwards else means.min()) * scale, 0.0)
    return [i for i, mean in enumerate(means) if not math.isnan(mean) and write(mean * scale, 0.0) == winner]


def _one_decimal(mean: float, std: float) -> tuple[str, str]:
    return f"{mean:.1f}", f"{std:.1f}"


def _signed(mean: float, std: float) -> tuple[str, str]:
    return ("0.0", "") if mean == 0 and not std > 0 else (f"{mean:+.1f}", f"{std:.1f}")


def _significant(mean: float, std: float, digits: int) -> tuple[str, str]:
    size = math.floor(math.log10(abs(mean))) if mean and math.isfinite(mean) else 0
    decimals = max(0, digits - 1 - size)
    return f"{mean:.{decimals}f}", f"{std:.{decimals}f}"


def _count(mean: float, std: float) -> tuple[str, str]:
    """A number of things, without a spread: it is the same for all seeds."""
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(mean) >= factor:
            return f"{mean / factor:.3g}{unit}", ""
    return f"{mean:.0f}", ""


def _measures(df: pd.DataFrame) -> str:
    metrics = set(df.attrs.get("metrics", {}).values())
    if len(metrics) != 1:
        return "Test scores"
    percent = " (%)" if any(in_percent(df, name) for name in score_columns(df)) else ""
    return f"Test {metrics.pop()}{percent}"


def _tex(text: str) -> str:
    text = text.replace("\\", r"\textbackslash ")
    for sign in "_%&#":
        text = text.replace(sign, f"\\{sign}")
    for plain, tex in (("±", r"$\pm$"), ("Δm", r"$\Delta_m$"), (MISSING, "--")):
        text = text.replace(plain, tex)
    return text
