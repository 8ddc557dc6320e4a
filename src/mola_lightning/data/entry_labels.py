"""Cells of tables become targets: class indices, labels of 0 and 1, numbers."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from mola_lightning.core import DataError


def natural_order(names: Iterable[str]) -> list[str]:
    """Sorted; as numbers where all are whole numbers."""
    names = list(names)
    return sorted(names, key=int if all(name.lstrip("-").isdecimal() for name in names) else str)


class LabelReader(ABC):
    """Collects the targets of a table, a part of its rows at a time.

    Args:
        task: for messages.
        table: for messages.
        columns: of the labels.
        class_names: that may occur, in order; empty: whatever is found.
    """

    def __init__(self, task: str, table: Path, columns: Sequence[str], class_names: Sequence[str]) -> None:
        self.task, self.table, self.columns = task, table, list(columns)
        self.class_names = tuple(str(name) for name in class_names)
        self._found: list[np.ndarray] = []

    def read(self, part: pd.DataFrame) -> np.ndarray:
        """Take the targets of a part of the table; (n,) bool, which of its rows have one.

        Raises:
            DataError: for a cell that is no target; it names the row.
        """
        cells = part[self.columns]
        empty = cells == ""
        labelled = ~empty.all(axis=1)
        if (half := labelled & empty.any(axis=1)).any():
            row = half.idxmax()
            missing = [column for column in self.columns if part.at[row, column] == ""]
            raise DataError(
                f"row {row} of {self.table} has some of the labels of task {self.task!r} but not {', '.join(missing)}; "
                "fill in all, or none"
            )
        self._found.append(self.parse(cells[labelled]))
        return labelled.to_numpy()

    @abstractmethod
    def parse(self, cells: pd.DataFrame) -> np.ndarray:
        """(n, ...) of rows without an empty cell."""

    def finish(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """The targets of all rows, and the names of the classes."""
        return np.concatenate(self._found), self.class_names

    def fail(self, cells: pd.DataFrame, bad: np.ndarray, expected: str) -> None:
        """Raise for the first row that ``bad`` marks, if any."""
        if bad.any():
            row = cells.index[int(np.argmax(bad))]
            found = ", ".join(repr(cells.at[row, column]) for column in self.columns)
            raise DataError(f"row {row} of {self.table}: {expected}, found {found} for task {self.task!r}")


class ClassReader(LabelReader):
    """One class an image: its name in one column."""

    def __init__(self, task: str, table: Path, columns: Sequence[str], class_names: Sequence[str]) -> None:
        super().__init__(task, table, columns, class_names)
        self._codes = {name: code for code, name in enumerate(self.class_names)}

    def parse(self, cells: pd.DataFrame) -> np.ndarray:
        column = cells[self.columns[0]]
        codes, names = pd.factorize(column)
        if self.class_names:
            unknown = [place for place, name in enumerate(names) if name not in self._codes]
            self.fail(cells, np.isin(codes, unknown), f"a class must be one of {', '.join(self.class_names[:10])}")
        else:
            for name in names:
                self._codes.setdefault(name, len(self._codes))
        return np.array([self._codes[name] for name in names], dtype=np.int64)[codes]

    def finish(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """Class indices (n,) int64; names that were found are sorted, as numbers where all are whole numbers."""
        values, _ = super().finish()
        if self.class_names:
            return values, self.class_names
        names = natural_order(self._codes)
        places = {name: place for place, name in enumerate(names)}
        return np.array([places[name] for name in self._codes], dtype=np.int64)[values], tuple(names)


class FlagReader(LabelReader):
    """Several labels an image, each 0 or 1 in a column of its own."""

    def parse(self, cells: pd.DataFrame) -> np.ndarray:
        numbers = cells.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float32)
        self.fail(cells, np.logical_not(np.isin(numbers, (0, 1)).all(axis=1)), "labels must be 0 or 1")
        return numbers

    def finish(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """(n, labels) float32; the labels are named after their columns unless ``class_names`` does."""
        return super().finish()[0], self.class_names or tuple(self.columns)


class SetReader(ClassReader):
    """Several labels an image, in one column as ``mass|nodule``; ``-`` says that an image has none."""

    def parse(self, cells: pd.DataFrame) -> np.ndarray:
        sets, names = pd.factorize(cells[self.columns[0]])
        found = [[part.strip() for part in name.split("|")] if name.strip() != "-" else [] for name in names]
        if self.class_names:
            unknown = [i for i, parts in enumerate(found) if set(parts) - set(self._codes)]
            self.fail(cells, np.isin(sets, unknown), f"labels must be among {', '.join(self.class_names[:10])}")
        for parts in found:
            for part in parts:
                self._codes.setdefault(part, len(self._codes))
        flags = np.zeros((len(found), len(self._codes)), dtype=np.float32)
        for i, parts in enumerate(found):
            flags[i, [self._codes[part] for part in parts]] = 1
        return flags[sets]

    def finish(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """(n, labels) float32."""
        width = len(self._codes)
        values = np.concatenate([np.pad(part, ((0, 0), (0, width - part.shape[1]))) for part in self._found])
        if self.class_names:
            return values, self.class_names
        names = sorted(self._codes)
        return values[:, [self._codes[name] for name in names]], tuple(names)


class NumberReader(LabelReader):
    """Numbers to predict, one a column."""

    def parse(self, cells: pd.DataFrame) -> np.ndarray:
        numbers = cells.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float32)
        self.fail(cells, ~np.isfinite(numbers).all(axis=1), "a finite number is needed, or an empty cell for no target")
        return numbers[:, 0] if len(self.columns) == 1 else numbers

    def finish(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """(n,) or (n, columns) float32; the names of several numbers are those of their columns."""
        return super().finish()[0], self.class_names or (tuple(self.columns) if len(self.columns) > 1 else ())


def label_reader(kind: str, task: str, table: Path, columns: Sequence[str], class_names: Sequence[str]) -> LabelReader:
    """The reader of a kind of task."""
    if kind == "regression":
        return NumberReader(task, table, columns, class_names)
    if kind == "multi_label":
        return (FlagReader if len(columns) > 1 else SetReader)(task, table, columns, class_names)
    return ClassReader(task, table, columns, class_names)
