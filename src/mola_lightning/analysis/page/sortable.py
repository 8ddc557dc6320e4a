"""Tables that a reader can sort: each cell carries the number that it shows, each header a button."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from mola_lightning.analysis.page.markup import NOTHING, Markup, element, joined


@dataclass(frozen=True)
class Column:
    """A column.

    Attributes:
        title: of its header.
        numeric: whether cells are sorted by their value, not by their text.
        upwards: whether larger is better, which comes first when a numeric column is sorted; None as True.
    """

    title: str
    numeric: bool = True
    upwards: bool | None = None


@dataclass(frozen=True)
class Cell:
    """A cell.

    Attributes:
        text: what is shown.
        value: what it is sorted by; NaN, which is sorted last in either order, also for text.
        best: whether it is printed in bold.
    """

    text: str
    value: float = math.nan
    best: bool = False


@dataclass(frozen=True)
class Row:
    """A row.

    Attributes:
        cells: one for each column.
        details: what a click on the first cell shows below the row; nothing when empty.
        search: words that the row is found by, besides those of its cells.
    """

    cells: Sequence[Cell]
    details: Markup = NOTHING
    search: str = ""


def sortable_table(columns: Sequence[Column], rows: Sequence[Row], name: str, caption: str = "") -> Markup:
    """A table whose headers are buttons; the first column is the rows' name.

    Args:
        columns: the columns.
        rows: the rows, in their first order.
        name: of the table, for those who do not see it; unique in a page, as ids are made of it.
        caption: below the table.
    """
    headers = [element("th", element("button", c.title, type="button"), **_header(c)) for c in columns]
    bodies = [_body(columns, row, f"{_identifier(name)}-{i}") for i, row in enumerate(rows)]
    table = element("table", element("thead", element("tr", *headers)), *bodies, class_="sortable", aria_label=name)
    scroll = element("div", table, class_="scroll", role="region", aria_label=f"{name}, table", tabindex=0)
    return joined([scroll, element("p", caption, class_="caption")] if caption else [scroll])


def _header(column: Column) -> dict[str, str]:
    first = "ascending" if not column.numeric or column.upwards is False else "descending"
    kind = {"class_": "number", "data_kind": "number"} if column.numeric else {"data_kind": "text"}
    return {"scope": "col", "aria_sort": "none", "data_first": first} | kind


def _body(columns: Sequence[Column], row: Row, identifier: str) -> Markup:
    """A body for each row: with its details it moves as one."""
    cells = [_cell(c, cell) for c, cell in zip(columns[1:], row.cells[1:], strict=True)]
    name = row.cells[0].text
    if not row.details:
        return element("tbody", element("tr", element("th", name, scope="row"), *cells), data_search=row.search)
    button = element("button", name, type="button", class_="opens", aria_expanded="false", aria_controls=identifier)
    details = element("td", element("div", row.details, class_="details"), colspan=len(columns))
    return element(
        "tbody",
        element("tr", element("th", button, scope="row"), *cells),
        element("tr", details, id=identifier, hidden=True),
        data_search=row.search,
    )


def _cell(column: Column, cell: Cell) -> Markup:
    text = element("b", cell.text) if cell.best else cell.text
    if not column.numeric:
        return element("td", text, class_="text")
    return element("td", text, data_v=repr(float(cell.value)) if math.isfinite(cell.value) else None)


def _identifier(name: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in name)
