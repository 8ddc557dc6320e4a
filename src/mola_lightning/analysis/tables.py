"""A comparison as a table to read: terminal, Markdown, LaTeX; and as CSV with the raw numbers."""

from collections.abc import Iterable, Sequence

import pandas as pd
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from mola_lightning.analysis.cells import MISSING, Cells, to_cells


def to_rich(df: pd.DataFrame) -> Table:
    """The comparison for the terminal; the best mean of each column is bold."""
    cells = to_cells(df)
    return _rich(cells, range(1, len(cells.header)), title=df.attrs["data"], caption=cells.caption)


def to_rich_blocks(df: pd.DataFrame, width: int) -> list[RenderableType]:
    """The comparison in as many tables below each other as a width in characters asks for, so that no number is cut."""
    cells = to_cells(df)
    widths = [3 + max(len(row[j]) for row in [cells.header, *cells.rows]) for j in range(len(cells.header))]
    blocks: list[list[int]] = [[]]
    for j in range(1, len(widths)):
        if blocks[-1] and 1 + widths[0] + sum(widths[k] for k in [*blocks[-1], j]) > width:
            blocks.append([])
        blocks[-1].append(j)
    if len(blocks) == 1:
        return [to_rich(df)]
    parts = [_rich(cells, block, title=None if i else df.attrs["data"]) for i, block in enumerate(blocks)]
    return [*parts, Text(cells.caption, style="table.caption")]


def _rich(cells: Cells, columns: Iterable[int], title: str | None, caption: str | None = None) -> Table:
    table = Table(title=title, caption=caption, title_justify="left", caption_justify="left")
    for j in (0, *columns):
        table.add_column(cells.header[j], justify="right" if j else "left", no_wrap=j == 0, overflow="fold")
    for i, row in enumerate(cells.rows):
        table.add_row(*(f"[bold]{row[j]}[/bold]" if (i, j) in cells.best else row[j] for j in (0, *columns)))
    return table


def to_markdown(df: pd.DataFrame) -> str:
    """The comparison as a GitHub table with its caption below; the best mean of each column is bold."""
    cells = to_cells(df)
    rows = [[f"**{c}**" if (i, j) in cells.best else c for j, c in enumerate(r)] for i, r in enumerate(cells.rows)]
    return f"{markdown_rows([cells.header, *rows])}\n{cells.caption}\n"


def markdown_rows(rows: Sequence[Sequence[str]], words: int = 1) -> str:
    """A GitHub table, padded so that it can be read as text; a line for each row, the header first.

    Args:
        rows: cells of the header and of all rows, equally many.
        words: columns at the left that hold words; the others hold numbers, which stand on the right.
    """
    rows = [[cell.replace("|", r"\|") for cell in row] for row in rows]  # a bare one would begin another cell
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        padded = (c.ljust(w) if j < words else c.rjust(w) for j, (c, w) in enumerate(zip(row, widths, strict=True)))
        return f"| {' | '.join(padded)} |\n"

    rule = ["-" * width if j < words else "-" * (width - 1) + ":" for j, width in enumerate(widths)]
    return "".join([line(rows[0]), line(rule), *map(line, rows[1:])])


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


def _tex(text: str) -> str:
    text = text.replace("\\", r"\textbackslash ")
    for sign in "_%&#":
        text = text.replace(sign, f"\\{sign}")
    for plain, tex in (("±", r"$\pm$"), ("Δm", r"$\Delta_m$"), ("<", "$<$"), (MISSING, "--")):
        text = text.replace(plain, tex)
    return text
