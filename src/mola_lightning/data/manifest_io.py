"""Reading tables of images and labels."""

import csv
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import pandas as pd

from mola_lightning.core import DataError


def read_table(
    path: str | Path, columns: Sequence[str], separator: str | None = None, chunk_rows: int = 10_000
) -> Iterator[pd.DataFrame]:
    """The columns of a CSV file, a part of its rows at a time.

    Not by ``pandas.read_csv``: where a row has too many cells, as with an unquoted comma in a file name, that may take
    the wrong ones without a word.

    Args:
        path: of the file: UTF-8, with the names of the columns in its first line.
        columns: which to read.
        separator: between cells; None: a tab in .tsv files, else a comma.
        chunk_rows: rows of a part.

    Returns:
        Data frames of strings, where an empty cell is an empty string. Their index is the row's number as a spreadsheet
        shows it: the names of the columns are row 1.

    Raises:
        DataError: when the file is missing, empty or malformed, or lacks a column; what only a later row can show, when
            its part is asked for.
    """
    path, columns = Path(path), list(dict.fromkeys(columns))
    separator = separator or ("\t" if path.suffix.lower() == ".tsv" else ",")
    header = next(_rows(path, separator), (1, []))[1]
    if not header:
        raise DataError(f"the table {path} is empty; its first line must name the columns")
    if missing := [column for column in columns if column not in header]:
        hint = " Is the separator right?" if len(header) == 1 else ""
        raise DataError(
            f"{path} has no column {', '.join(map(repr, missing))}; "
            f"its columns are {', '.join(map(repr, header))}.{hint}"
        )
    if twice := [column for column in columns if header.count(column) > 1]:
        raise DataError(f"{path} has several columns {', '.join(map(repr, twice))}; rename all but one")
    return _parts(path, separator, header, columns, chunk_rows)


def _parts(
    path: Path, separator: str, header: list[str], columns: list[str], chunk_rows: int
) -> Iterator[pd.DataFrame]:
    places = [header.index(column) for column in columns]
    # Column by column: a list of rows, kept, has the garbage collector look at all objects again and again.
    numbers: list[int] = []
    cells: list[list[str]] = [[] for _ in columns]

    def part() -> pd.DataFrame:
        made = pd.DataFrame(dict(zip(columns, cells, strict=True)), index=list(numbers), dtype=str)
        numbers.clear()
        for column in cells:
            column.clear()
        return made

    for number, row in islice(_rows(path, separator), 1, None):
        if len(row) < len(header) or any(row[len(header) :]):
            raise DataError(
                f"row {number} of {path} has {len(row)} cells, but there are {len(header)} columns; "
                f"put a cell that holds {separator!r} in quotes"
            )
        numbers.append(number)
        for column, place in zip(cells, places, strict=True):
            column.append(row[place])
        if len(numbers) == chunk_rows:
            yield part()
    if numbers:
        yield part()


def _rows(path: Path, separator: str) -> Iterator[tuple[int, list[str]]]:
    """Number and cells of each row that is not blank."""
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            for number, row in enumerate(csv.reader(file, delimiter=separator, strict=True), 1):
                if row:
                    yield number, row
    except FileNotFoundError as error:
        raise DataError(f"there is no table {path}") from error
    except OSError as error:
        raise DataError(f"cannot read the table {path}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"the table {path} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except csv.Error as error:
        raise DataError(f"the table {path} is malformed: {error}; is a quote not closed?") from error
