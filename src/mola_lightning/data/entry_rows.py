"""The rows that a user's domains and tasks have in her folders and tables."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mola_lightning.core import DataError
from mola_lightning.data.base import SPLITS, Split
from mola_lightning.data.entries import Entry
from mola_lightning.data.entry_labels import label_reader, natural_order
from mola_lightning.data.listing import scan_classes, split_folders, split_of, subfolders
from mola_lightning.data.manifest_io import read_table
from mola_lightning.data.string_table import StringTable


@dataclass(frozen=True)
class EntryRows:
    """The rows that an entry labels.

    Attributes:
        paths: relative to root, or absolute; entries that name one table share them, and some may be of others.
        places: (n,) int64, ascending, of the entry's rows among ``paths``.
        values: targets (n, ...).
        class_names: in the order of the labels; empty for a regression.
        splits: (n,) int8, places in SPLITS; None: the data say nothing of splits.
        groups: (n,) int64; None: none are given.
    """

    paths: StringTable
    places: np.ndarray
    values: np.ndarray
    class_names: tuple[str, ...]
    splits: np.ndarray | None = None
    groups: np.ndarray | None = None


def read_entries(entries: Sequence[Entry], root: Path) -> dict[str, EntryRows]:
    """Find the images and labels of all entries. A table that several of them name is read once.

    Raises:
        DataError: for what is missing, or cannot be understood; it names the place.
    """
    found = {entry.name: _from_folder(entry, root) for entry in entries if entry.folder is not None}
    of_table: dict[tuple[str | None, ...], list[Entry]] = {}
    for entry in entries:
        if entry.table is not None:
            of_table.setdefault((entry.table, entry.images, entry.image, entry.separator), []).append(entry)
    for alike in of_table.values():
        found |= _from_table(alike, root)
    return {entry.name: found[entry.name] for entry in entries}


def _need_images(entry: Entry, count: int, place: Path) -> None:
    if not count:
        columns = [entry.label] if isinstance(entry.label, str) else entry.label
        wanted = "in a folder named after its class" if entry.table is None else f"with a cell in {', '.join(columns)}"
        raise DataError(
            f"entry {entry.name!r}: no image with a label in {place}; one at least is needed, {wanted}. "
            "Add images, or leave the entry out."
        )


def _from_folder(entry: Entry, root: Path) -> EntryRows:
    folder = root / str(entry.folder)
    parts: dict[Split, Path] = split_folders(folder)
    places = list(parts.values()) or [folder]
    names = entry.class_names or natural_order({name for place in places for name in subfolders(place)})
    found = [scan_classes(place, names, root) for place in places]
    paths = StringTable.concat([paths for paths, _ in found])
    _need_images(entry, len(paths), folder)
    splits = [
        np.full(len(labels), SPLITS.index(split), np.int8) for split, (_, labels) in zip(parts, found, strict=False)
    ]
    return EntryRows(
        paths,
        np.arange(len(paths)),
        np.concatenate([labels for _, labels in found]),
        tuple(names),
        np.concatenate(splits) if parts else None,
    )


def _from_table(entries: Sequence[Entry], root: Path) -> dict[str, EntryRows]:
    """The rows of entries that name one table and take their paths from the same column."""
    first = entries[0]
    table = root / str(first.table)
    folder = root / first.images if first.images is not None else table.parent
    prefix = "" if folder == root else str(folder.relative_to(root) if folder.is_relative_to(root) else folder)
    collected = [_Columns(entry, table) for entry in entries]
    wanted = [first.image, *(column for each in collected for column in each.wanted)]

    def paths() -> Iterator[str]:
        for part in read_table(table, wanted, first.separator):
            labelled = [each.labels.read(part) for each in collected]
            used = np.logical_or.reduce(labelled)
            kept = part[first.image][used]
            if (unnamed := kept.index[kept == ""]).size:
                raise DataError(f"row {unnamed[0]} of {table} names no image in its column {first.image!r}")
            for each, mine in zip(collected, labelled, strict=True):
                each.take(part[mine], mine[used])
            yield from (_below(prefix, path) for path in kept)

    found = StringTable(paths())
    every = np.arange(len(found))  # one array for all entries that label each row
    return {each.entry.name: each.finish(found, every) for each in collected}


class _Columns:
    """What an entry takes from its table, a part of the rows at a time."""

    def __init__(self, entry: Entry, table: Path) -> None:
        columns = entry.label if isinstance(entry.label, tuple) else (entry.label,)
        self.entry, self.table = entry, table
        self.labels = label_reader(entry.kind, entry.name, table, columns, entry.class_names)
        self.wanted = [*columns, *(column for column in (entry.split, entry.group) if column is not None)]
        self._labelled = [np.empty(0, dtype=bool)]
        self._splits: list[np.ndarray] = []
        self._groups: list[np.ndarray] = []

    def take(self, rows: pd.DataFrame, labelled: np.ndarray) -> None:
        """Rows with a label, and for each of the next paths whether it has one."""
        self._labelled.append(labelled)
        if self.entry.split is not None:
            self._splits.append(_split_codes(rows[self.entry.split], self.table, self.entry.split))
        if self.entry.group is not None:
            self._groups.append(rows[self.entry.group].to_numpy(dtype=object))

    def finish(self, paths: StringTable, every: np.ndarray) -> EntryRows:
        """The rows, ``every`` being the places of all paths."""
        labelled = np.concatenate(self._labelled)
        places = every if labelled.all() else every[labelled]
        _need_images(self.entry, len(places), self.table)
        values, names = self.labels.finish()
        return EntryRows(
            paths,
            places,
            values,
            names,
            np.concatenate(self._splits) if self._splits else None,
            np.unique(np.concatenate(self._groups), return_inverse=True)[1] if self._groups else None,
        )


def _below(prefix: str, path: str) -> str:
    """A path of a table, relative to root."""
    if prefix and not path.startswith("/"):
        path = f"{prefix}/{path}"
    return os.path.normpath(path) if "./" in path or "//" in path else path  # one name for one image


def _split_codes(column: pd.Series, table: Path, name: str) -> np.ndarray:
    """(n,) int8 of a column of splits' names."""
    codes = {value: split_of(value) for value in column.unique()}
    if unknown := [value for value, split in codes.items() if split is None]:
        row = column.index[(column == unknown[0]).to_numpy()][0]
        raise DataError(
            f"row {row} of {table}: {unknown[0]!r} in the column {name!r} is no split; expected train, val or test"
        )
    places = {value: SPLITS.index(split) for value, split in codes.items() if split is not None}
    return column.map(places).to_numpy(dtype=np.int8)
