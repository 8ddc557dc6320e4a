"""The page: one HTML file that holds its style, its script, its figures and all it says, and loads nothing."""

import base64
import io
import os
from collections.abc import Mapping, Sequence
from importlib.resources import files
from pathlib import Path

import pandas as pd

from mola_lightning.analysis import plots
from mola_lightning.analysis.cells import to_cells
from mola_lightning.analysis.figures import comparison_figures
from mola_lightning.analysis.mechanism import CAPTION, MEASURES, mechanism_rows
from mola_lightning.analysis.page.markup import Markup, element
from mola_lightning.analysis.page.runs_table import compared_runs, runs_left_out
from mola_lightning.analysis.page.sortable import Cell, Column, Row, sortable_table
from mola_lightning.analysis.results import scores
from mola_lightning.analysis.runs import Run, comparable

# The browser refuses what is not in the file, whatever a run may be called.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
LARGEST_SVG = 400_000  # bytes; larger figures are embedded as PNG
WHAT = {
    "comparison": "Test scores by method: mean and standard deviation over seeds.",
    "costs": "Score against what it costs.",
    "routing": "Mean mixing weight of each expert on the test images of each task. The order of experts means nothing.",
}


def report_page(
    frames: Mapping[str, pd.DataFrame],
    runs: Sequence[Run],
    remarks: Sequence[str] = (),
    metric: str | None = None,
    command: str = "",
) -> str:
    """The page as text.

    Args:
        frames: data set -> its comparison, as :func:`mola_lightning.analysis.comparison` makes it.
        runs: all runs that were found, also those that no comparison averages.
        remarks: what a reader must know, for example of runs left out.
        metric: that of the comparisons.
        command: what makes this page again.
    """
    done, names = comparable(runs), _names(runs)
    title = f"Comparison of runs on {', '.join(frames)}"
    parts, shown = [], set()
    for data, df in frames.items():
        here = [run for run in done if run.data == data]
        shown |= {run.folder for run in here if run.method in df.index}
        parts.append(_data_set(df, here, names, metric))
    if left := [run for run in runs if run.folder not in shown]:
        parts.append(element("section", element("h2", "Runs left out"), runs_left_out(left, names), class_="runs"))
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=POLICY),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", _own("page.css")),
    )
    body = element(
        "body", _header(title, remarks, command), _tools(), element("main", *parts), element("script", _own("page.js"))
    )
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _header(title: str, remarks: Sequence[str], command: str) -> Markup:
    parts = [element("h1", title)]
    if command:
        parts.append(element("p", "Made by ", element("code", command), class_="command quiet"))
    if remarks:
        parts.append(element("ul", *(element("li", remark) for remark in remarks), class_="notes"))
    return element("header", *parts)


def _tools() -> Markup:
    """What acts on the whole page."""
    choices = [element("option", "as the system" if c == "system" else c, value=c) for c in ("system", "light", "dark")]
    return element(
        "div",
        element("label", "Search runs ", element("input", type="search", id="search", autocomplete="off")),
        element("span", "", id="shown", role="status", class_="quiet"),
        element("label", "Colours ", element("select", *choices, id="colours")),
        class_="tools",
    )


def _data_set(df: pd.DataFrame, runs: Sequence[Run], names: Mapping[Path, str], metric: str | None) -> Markup:
    """A comparison, its figures, and the runs it was made of."""
    data, table = df.attrs["data"], scores(runs, metric)
    mechanism = mechanism_rows([run for method in df.index for run in runs if run.method == method])
    figures = comparison_figures(df, table, runs)
    seeds = sorted({run.seed for run in runs if run.method in df.index})
    return element(
        "section",
        element("h2", f"{data}: methods"),
        _comparison(df, seeds),
        *([element("h3", "Mechanism"), _mechanism(mechanism, data)] if mechanism else []),
        *(_figure(figure, name, data) for name, figure in figures.items()),
        element("h2", f"{data}: runs"),
        element("div", compared_runs(df, table, runs, names), class_="runs"),
    )


def _comparison(df: pd.DataFrame, seeds: Sequence[int]) -> Markup:
    cells = to_cells(df)
    columns = [Column("method", numeric=False)]
    columns += [Column(title, upwards=up) for title, up in zip(cells.header[1:], cells.upwards, strict=True)]
    rows = [
        Row(
            [
                Cell(text[0]),
                *(Cell(t, v, (i, j + 1) in cells.best) for j, (t, v) in enumerate(zip(text[1:], values, strict=True))),
            ]
        )
        for i, (text, values) in enumerate(zip(cells.rows, cells.values, strict=True))
    ]
    said = f"{cells.caption} Bold: the best of a column. Seeds: {', '.join(map(str, seeds))}."
    return sortable_table(columns, rows, f"methods on {df.attrs['data']}", said)


def _mechanism(rows: Mapping[str, Sequence[str]], data: str) -> Markup:
    columns = [Column("method", numeric=False), *(Column(title) for title in MEASURES)]
    body = [Row([Cell(method), *(Cell(text, _number(text)) for text in texts)]) for method, texts in rows.items()]
    return sortable_table(columns, body, f"mechanism on {data}", CAPTION)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _figure(figure: plots.Figure, name: str, data: str) -> Markup:
    """A figure as an image: its element ids stay its own, and its white ground can be read in the dark, too."""
    said = WHAT.get(name.partition("_")[0], "")
    kind, content = "svg+xml", _bytes(figure, "svg", name)
    if len(content) > LARGEST_SVG:
        kind, content = "png", _bytes(figure, "png", name)
    source = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return element(
        "figure", element("img", src=source, alt=f"{data}: {said}"), element("figcaption", said), class_="drawn"
    )


def _bytes(figure: plots.Figure, kind: str, name: str) -> bytes:
    file = io.BytesIO()
    plots.write(figure, file, kind, name)
    return file.getvalue()


def _names(runs: Sequence[Run]) -> dict[Path, str]:
    """What each run is called: its folder, from where all of them lie."""
    top = os.path.commonpath([run.folder.resolve().parent for run in runs])
    return {run.folder: os.path.relpath(run.folder.resolve(), top) for run in runs}


def _own(name: str) -> Markup:
    return Markup(files(__package__).joinpath(name).read_text(encoding="utf-8"))
