"""What a user says of one of her domains or tasks, and the rows that it has in her folders and tables."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from mola_lightning.core import ConfigError, DataError
from mola_lightning.core.errors import one_of, require
from mola_lightning.data.base import SPLITS, Split
from mola_lightning.data.entry_labels import label_reader, natural_order
from mola_lightning.data.kinds import KINDS
from mola_lightning.data.listing import scan_classes, split_folders, split_of, subfolders
from mola_lightning.data.manifest_io import read_table
from mola_lightning.data.string_table import StringTable


@dataclass(frozen=True)
class Entry:
    """One domain or task of :class:`ImageFolders`.

    Attributes:
        name: of the task.
        folder: of its images, below root: ``<folder>/<class>/...`` or ``<folder>/<split>/<class>/...``.
        table: instead, a CSV or TSV file below root, a row an image.
        image: the table's column of paths, relative to ``images``.
        label: its column of labels, or several: one for each label of ``multi_label`` (0 or 1) or number of
            ``regression``. A row with an empty cell has no target of this task.
        split: its column of splits: train, val, test and other names of these.
        group: its column of whatever must not be parted when a split is cut, such as a patient.
        images: folder of the table's paths, below root; by default the table's own.
        separator: between cells; by default a tab in .tsv files, else a comma.
        kind: see :func:`make_task`, as for the following.
        class_names: in the order of the labels; by default those that are found, sorted.
        metrics: names of metrics, the monitored one first.
        class_weights: a number for each class.
    """

    name: str
    folder: str | None = None
    table: str | None = None
    image: str = "image"
    label: str | tuple[str, ...] = "label"
    split: str | None = None
    group: str | None = None
    images: str | None = None
    separator: str | None = None
    kind: str = "single_label"
    class_names: tuple[str, ...] = ()
    metrics: tuple[str, ...] | None = None
    class_weights: tuple[float, ...] | None = None

    @classmethod
    def parse(cls, name: str, given: Mapping[str, Any]) -> "Entry":
        """An entry of a config.

        Raises:
            ConfigError: for an unknown key, or keys that do not go together.
        """
        known = [field.name for field in fields(cls) if field.name != "name"]
        require(
            isinstance(given, Mapping), f"entry {name!r} must be a mapping such as {{folder: {name}}}, got {given!r}"
        )
        for key in given:
            one_of(f"each key of entry {name!r}", key, known)
        lists = {key: tuple(value) for key, value in given.items() if isinstance(value, list | tuple)}
        if "class_names" in lists:  # in yaml, names may be numbers
            lists["class_names"] = tuple(str(value) for value in lists["class_names"])
        entry = cls(name, **{**given, **lists})
        one_of(f"the kind of entry {name!r}", entry.kind, KINDS)
        require(
            (entry.folder is None) != (entry.table is None),
            f"entry {name!r} must have either a folder of images or a table of them, got "
            f"folder={entry.folder!r} and table={entry.table!r}",
        )
        if entry.folder is not None:
            of_tables = [key for key in ("image", "label", "split", "group", "images", "separator") if key in given]
            require(not of_tables, f"entry {name!r} is a folder; {', '.join(of_tables)} are for tables")
            require(
                entry.kind in ("single_label", "ordinal"),
                f"entry {name!r}: a folder gives each image one class, so its kind cannot be {entry.kind!r}; "
                "use a table",
            )
        if isinstance(entry.label, tuple) and entry.kind not in ("multi_label", "regression"):
            raise ConfigError(f"entry {name!r} of kind {entry.kind} has one column of labels, got {list(entry.label)}")
        return entry


@dataclass(frozen=True)
class EntryRows:
    """The rows that an entry labels.

    Attributes:
        paths: relative to root, or absolute.
        values: targets (n, ...).
        class_names: in the order of the labels; empty for a regression.
        splits: (n,) int8, places in SPLITS; None: the data say nothing of splits.
        groups: (n,) strings; None: none are given.
    """

    paths: StringTable
    values: np.ndarray
    class_names: tuple[str, ...]
    splits: np.ndarray | None = None
    groups: np.ndarray | None = None


def read_entry(entry: Entry, root: Path) -> EntryRows:
    """Find an entry's images and labels.

    Raises:
        DataError: for what is missing, or cannot be understood; it names the place.
    """
    return _from_folder(entry, root) if entry.folder is not None else _from_table(entry, root)


def _need_images(entry: Entry, paths: StringTable, place: Path) -> None:
    if not len(paths):
        raise DataError(f"entry {entry.name!r}: no image with a label in {place}")


def _from_folder(entry: Entry, root: Path) -> EntryRows:
    folder = root / str(entry.folder)
    parts: dict[Split, Path] = split_folders(folder)
    places = list(parts.values()) or [folder]
    names = entry.class_names or natural_order({name for place in places for name in subfolders(place)})
    found = [scan_classes(place, names, root) for place in places]
    _need_images(entry, StringTable.concat([paths for paths, _ in found]), folder)
    splits = [
        np.full(len(labels), SPLITS.index(split), np.int8) for split, (_, labels) in zip(parts, found, strict=False)
    ]
    return EntryRows(
        StringTable.concat([paths for paths, _ in found]),
        np.concatenate([labels for _, labels in found]),
        tuple(names),
        np.concatenate(splits) if parts else None,
    )


def _from_table(entry: Entry, root: Path) -> EntryRows:
    table = root / str(entry.table)
    folder = root / entry.images if entry.images is not None else table.parent
    prefix = "" if folder == root else str(folder.relative_to(root) if folder.is_relative_to(root) else folder)
    columns = entry.label if isinstance(entry.label, tuple) else (entry.label,)
    labels = label_reader(entry.kind, entry.name, table, columns, entry.class_names)
    wanted = [entry.image, *columns, *(column for column in (entry.split, entry.group) if column is not None)]
    splits: list[np.ndarray] = []
    groups: list[np.ndarray] = []

    def paths() -> Iterator[str]:
        for part in read_table(table, wanted, entry.separator):
            kept = part[labels.read(part)]
            if (unnamed := kept.index[kept[entry.image] == ""]).size:
                raise DataError(f"row {unnamed[0]} of {table} names no image in its column {entry.image!r}")
            if entry.split is not None:
                splits.append(_split_codes(kept[entry.split], table, entry.split))
            if entry.group is not None:
                groups.append(kept[entry.group].to_numpy(dtype=object))
            yield from (_below(prefix, path) for path in kept[entry.image])

    found = StringTable(paths())
    _need_images(entry, found, table)
    values, names = labels.finish()
    return EntryRows(
        found,
        values,
        names,
        np.concatenate(splits) if splits else None,
        np.unique(np.concatenate(groups), return_inverse=True)[1] if groups else None,
    )


def _below(prefix: str, path: str) -> str:
    """A path of a table, relative to root."""
    if prefix and not path.startswith("/"):
        path = f"{prefix}/{path}"
    return os.path.normpath(path) if "./" in path or "//" in path else path  # one name for one image


def _split_codes(column: Any, table: Path, name: str) -> np.ndarray:
    """(n,) int8 of a column of splits' names."""
    codes = {value: split_of(value) for value in column.unique()}
    if unknown := [value for value, split in codes.items() if split is None]:
        row = column.index[(column == unknown[0]).to_numpy()][0]
        raise DataError(
            f"row {row} of {table}: {unknown[0]!r} in the column {name!r} is no split; expected train, val or test"
        )
    places = {value: SPLITS.index(split) for value, split in codes.items() if split is not None}
    return column.map(places).to_numpy(dtype=np.int8)
