"""A table that is written part by part, so that a prediction that is killed goes on where it was."""

import csv
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mola_lightning.core import ConfigError, RunFolderError
from mola_lightning.core.files import atomic_write

PART_SIZE = 2048  # images: what is lost at most when a prediction is killed
ENDINGS = (".csv", ".parquet")


class PartedTable:
    """The output of a prediction: parts of equal numbers of inputs, each written whole, put together at the end.

    Beside ``<output>`` lie ``<output>.parts/`` while it is made, and ``<output>.json`` once it is done: what it was
    made of, and the images that could not be read.

    Args:
        output: a .csv or .parquet file.
        columns: of the table; the first is ``image``.
        numbers: those of them that hold numbers.
        key: what the table is made of, plain values; parts of another key are refused.
        num_rows: inputs.
        overwrite: whether an output of another key may be replaced, and parts of another key dropped. The old output
            stays until :meth:`finish` puts the new one in its place.

    Raises:
        ConfigError: for another ending, or a .parquet file without pyarrow.
        RunFolderError: when the output, or its parts, are of another prediction.
    """

    def __init__(
        self,
        output: Path,
        columns: Sequence[str],
        numbers: Sequence[str],
        key: Mapping[str, Any],
        num_rows: int,
        overwrite: bool = False,
    ) -> None:
        check_output(output)
        self.output, self.columns, self.numbers = output, list(columns), set(numbers)
        self.key = json.loads(json.dumps(key))  # as it comes back from a file
        self.num_rows = num_rows
        self.folder, self.record = Path(f"{output}.parts"), Path(f"{output}.json")
        own = self.folder / "key.json"
        self.done = output.exists() and not self._difference(self.record)
        if self.done:
            if not own.exists() or not self._difference(own):  # it was killed while it cleaned up
                shutil.rmtree(self.folder, ignore_errors=True)
            return
        if output.exists() and not overwrite:
            self._refuse(f"{output} is there already, and is not this prediction", self.record)
        if (own.exists() or any(self.folder.glob("*.csv"))) and self._difference(own):
            if not overwrite:
                self._refuse(f"{self.folder} holds parts of another prediction", own)
            shutil.rmtree(self.folder)
        if not own.exists():
            with atomic_write(own) as file:
                json.dump({"key": self.key}, file, indent=1)

    def _difference(self, path: Path) -> str:
        """How the key in a file differs from this one; empty where it does not."""
        try:
            found = dict(json.loads(path.read_text(encoding="utf-8"))["key"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            return f"{path.name} cannot be read: {error}"
        names = [name for name in sorted({*found, *self.key}) if found.get(name) != self.key.get(name)]
        return "; ".join(f"{n}: {found.get(n)!r} there, {self.key.get(n)!r} here" for n in names[:5])

    def _refuse(self, problem: str, path: Path) -> None:
        raise RunFolderError(
            f"{problem} ({self._difference(path)}). Choose another output, delete it, or say overwrite=true."
        )

    def missing(self) -> list[range]:
        """The inputs of each part that is not written yet."""
        if self.done:
            return []
        ranges = [range(at, min(at + PART_SIZE, self.num_rows)) for at in range(0, self.num_rows, PART_SIZE)]
        return [part for part in ranges if not self._path(part).exists()]

    def _path(self, part: range) -> Path:
        return self.folder / f"{part.start:012d}.csv"

    def write(self, part: range, rows: Sequence[Sequence[str]], bad: Sequence[tuple[str, str]]) -> None:
        """Write a part: its rows of the table, and (image, reason) of those without one."""
        with atomic_write(self._path(part)) as file:
            writer = csv.writer(file)
            writer.writerow(["", *self.columns])  # the first cell: why an image could not be read
            writer.writerows(["", *row] for row in rows)
            writer.writerows([reason, image, *[""] * (len(self.columns) - 1)] for image, reason in bad)

    def finish(self) -> list[tuple[str, str]]:
        """Put the parts together, and remove them.

        Returns:
            (image, reason) of those that could not be read.
        """
        if self.done:
            return [tuple(pair) for pair in json.loads(self.record.read_text(encoding="utf-8"))["bad"]]
        bad = [(row[1], row[0]) for part in self._parts() for row in part if row[0]]
        # A kill in between must leave no record beside another output, nor a first output without a record, which would
        # be taken for somebody else's.
        replaced = self.output.exists()
        if replaced:
            self.record.unlink(missing_ok=True)
            self._write_output()
        with atomic_write(self.record) as file:
            content = {"key": self.key, "images": self.num_rows, "predicted": self.num_rows - len(bad), "bad": bad}
            json.dump(content, file, indent=1)
        if not replaced:
            self._write_output()
        shutil.rmtree(self.folder)
        return bad

    def _parts(self) -> Iterator[list[list[str]]]:
        for path in sorted(self.folder.glob("*.csv")):
            with open(path, encoding="utf-8", newline="") as file:
                yield list(csv.reader(file))[1:]

    def _write_output(self) -> None:
        write = self._write_csv if self.output.suffix == ".csv" else self._write_parquet
        with atomic_write(self.output, "w" if self.output.suffix == ".csv" else "wb") as file:
            write(file)

    def _write_csv(self, file: Any) -> None:
        writer = csv.writer(file)
        writer.writerow(self.columns)
        for part in self._parts():
            writer.writerows(row[1:] for row in part if not row[0])

    def _write_parquet(self, file: Any) -> None:
        import pyarrow as pa
        from pyarrow import parquet

        types = {name: pa.float64() if name in self.numbers else pa.string() for name in self.columns}
        schema = pa.schema(list(types.items()))
        with parquet.ParquetWriter(file, schema) as writer:
            for part in self._parts():
                rows = [row[1:] for row in part if not row[0]]
                columns = list(zip(*rows, strict=True)) or [()] * len(self.columns)
                arrays = [
                    pa.array([_cell(cell, name in self.numbers) for cell in column], types[name])
                    for name, column in zip(self.columns, columns, strict=True)
                ]
                writer.write_table(pa.table(arrays, schema=schema))


def _cell(cell: str, number: bool) -> str | float | None:
    """An empty cell is no value: a task may have fewer classes than are asked for."""
    if not cell:
        return None
    return float(cell) if number else cell


def check_output(output: Path) -> None:
    """Raise :class:`ConfigError` for a file that cannot be written, before hours are spent on its content."""
    if output.suffix not in ENDINGS:
        raise ConfigError(f"output must end in {' or '.join(ENDINGS)}, got {output}")
    if output.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise ConfigError(
            f"writing {output} needs pyarrow: pip install 'mola-lightning[predict]'; a .csv output needs nothing"
        )
