from pathlib import Path

import pytest

from mola_lightning.core import DataError
from mola_lightning.data.manifest_io import read_table


def table(folder: Path, content: str | bytes, name: str = "a.csv") -> Path:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder / name


CELLS = 'file,age,label\na b.jpg,3,"x, y"\n犬.jpg,,NA\n001.jpg,1.50,\n'


@pytest.mark.parametrize("chunk_rows", [1, 2, 100])
def test_cells_come_as_they_are_written(chunk_rows: int, tmp_path: Path) -> None:
    parts = list(read_table(table(tmp_path, CELLS), ["label", "file", "age"], chunk_rows=chunk_rows))
    rows = [row for part in parts for row in part.itertuples(name=None)]
    assert rows == [(2, "x, y", "a b.jpg", "3"), (3, "NA", "犬.jpg", ""), (4, "", "001.jpg", "1.50")]
    assert len(parts) == -(-3 // chunk_rows)


def test_tabs_semicolons_and_byte_order_marks(tmp_path: Path) -> None:
    tabs = read_table(table(tmp_path, CELLS.replace(",", "\t"), "a.tsv"), ["age"])
    assert next(tabs)["age"].tolist() == ["3", "", "1.50"]
    semicolons = read_table(table(tmp_path, "\ufefffile;age\na;3\n"), ["file"], separator=";")
    assert next(semicolons)["file"].tolist() == ["a"]


def test_a_missing_column_lists_those_found(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a.csv has no column 'years'; its columns are 'file', 'age', 'label'.$"):
        read_table(table(tmp_path, CELLS), ["file", "years"])
    with pytest.raises(DataError, match="its columns are 'file;age'. Is the separator right"):
        read_table(table(tmp_path, "file;age\n"), ["file"])


def test_blank_lines_and_separators_at_the_end_of_lines_do_no_harm(tmp_path: Path) -> None:
    (part,) = read_table(table(tmp_path, "file,age\r\na,1,\r\n\r\nb,2\r\n"), ["age", "file"])
    assert list(part.itertuples(name=None)) == [(2, "1", "a"), (4, "2", "b")]


def test_only_a_header(tmp_path: Path) -> None:
    assert sum(len(part) for part in read_table(table(tmp_path, "file,age\n"), ["file"])) == 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "a.csv is empty; its first line must name the columns"),
        (
            "file,age\na,1\nb,c,3\n",
            "row 3 of .*a.csv has 3 cells, but there are 2 columns; put a cell that holds ',' in",
        ),
        ("file,age\na\n", "row 2 of .*a.csv has 1 cells"),
        ('file,age\na,"1\n', "a.csv is malformed: unexpected end of data; is a quote not closed"),
        ("file,age,file\na,1,b\n", "several columns 'file'; rename"),
        ("file,age\nä,1\n".encode("latin-1"), "a.csv is not UTF-8.*save it as UTF-8"),
        ("fileä,age\n".encode("latin-1"), "a.csv is not UTF-8"),
    ],
)
def test_tables_that_are_none(content: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message):
        list(read_table(table(tmp_path, content), ["file"]))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no table .*nowhere.csv"):
        read_table(tmp_path / "nowhere.csv", ["file"])
    with pytest.raises(DataError, match="cannot read the table"):
        read_table(tmp_path, ["file"])
