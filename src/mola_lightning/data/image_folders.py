"""A user's own images: any mixture of folders and tables, each a domain or a task."""

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from mola_lightning.core import DataError, Regime, Task
from mola_lightning.core.errors import one_of, require
from mola_lightning.data.base import SPLITS, Split
from mola_lightning.data.domains import same_splits
from mola_lightning.data.entries import Entry
from mola_lightning.data.entry_rows import EntryRows, read_entries
from mola_lightning.data.kinds import make_task
from mola_lightning.data.manifest import Manifest
from mola_lightning.data.manifest_source import ManifestSource
from mola_lightning.data.string_table import StringTable
from mola_lightning.data.transforms import ImageTransforms

_ODD = 0x1E3779B97F4A7C15  # spreads small numbers over 64 bits


class ImageFolders(ManifestSource):
    """Domains and tasks from folders of images and from tables, in any mixture.

    An entry with ``folder`` reads ``<folder>/<class>/...`` or ``<folder>/<split>/<class>/...``; one with ``table`` a
    CSV file with a row an image, whose columns say path, label and, if there are such, split and group. An image that
    several entries name is one sample with several targets; a row whose label cell is empty has none of that task.

    Example:
        >>> ImageFolders(
        ...     "photos",
        ...     {"phone": {"folder": "phone"}, "age": {"table": "faces.csv", "label": "age", "kind": "regression"}},
        ...     ImageTransforms(64),
        ... )

    Args:
        root: folder of all paths.
        entries: task -> its :class:`Entry` as a mapping, in task order.
        transforms: of all images, or task -> transforms where each image has one task.
        regime: ``domains``, ``multi_input``, ``single_input``, or ``auto``: the last where an image has several
            targets, the first where all entries tell the same classes apart, else the second.
        options: see :class:`ManifestSource`.

    Raises:
        ConfigError: for settings that cannot work.
        DataError: where class names are not given and cannot be found.
    """

    expects = "Set root to the folder that the folders and tables of the entries lie in."

    def __init__(
        self,
        root: str | Path,
        entries: Mapping[str, Mapping[str, Any]],
        transforms: ImageTransforms | Mapping[str, ImageTransforms],
        regime: str = "auto",
        **options: Any,
    ) -> None:
        require(isinstance(entries, Mapping) and len(entries) > 0, "entries must name one domain or task at least")
        one_of("regime", regime, ("auto", *(each.value for each in Regime)))
        alike = {name.casefold() for name in entries}
        require(
            len(alike) == len(entries), f"names of entries must differ by more than their case, got {list(entries)}"
        )
        self.entries = [Entry.parse(name, given) for name, given in entries.items()]
        self._root = Path(root).expanduser()
        self._asked = regime
        tasks = [self._task(entry) for entry in self.entries]
        super().__init__(tasks, Regime.MULTI_INPUT, root, transforms, **options)

    def _task(self, entry: Entry) -> Task:
        """The task of an entry; its files are read if they must tell the classes."""
        several = len(entry.label) if isinstance(entry.label, tuple) else 1
        known = entry.class_names or entry.kind == "regression" or several > 1
        names = entry.class_names if known else self._rows[entry.name].class_names
        if not names and several > 1:
            names = tuple(entry.label)
        weights = None if entry.class_weights is None else [float(weight) for weight in entry.class_weights]
        outputs = several if entry.kind == "regression" else None
        return make_task(entry.name, entry.kind, outputs, [str(n) for n in names], entry.metrics, weights)

    @property
    def regime(self) -> Regime:
        """How samples and tasks relate; to find out, the lists of images are read."""
        if self._asked != "auto":
            return Regime(self._asked)
        if any((manifest.owners() > 1).any() for manifest in self._published.values()):
            return Regime.SINGLE_INPUT
        kinds = {entry.kind for entry in self.entries}
        spaces = {self._rows[entry.name].class_names for entry in self.entries}
        return Regime.DOMAINS if kinds == {"single_label"} and len(spaces) == 1 else Regime.MULTI_INPUT

    @regime.setter
    def regime(self, value: Regime) -> None:
        """Set by the base class; the data know better."""

    @cached_property
    def _rows(self) -> dict[str, EntryRows]:
        if not self._root.is_dir():
            place = "" if self._root.is_absolute() else f" in {Path.cwd()}"
            raise DataError(f"there is no folder {self._root}{place}. {self.expects}")
        return read_entries(self.entries, self._root)

    @cached_property
    def _merged(self) -> dict[Split, tuple[Manifest, np.ndarray | None]]:
        """Split -> its manifest, and the groups of its rows."""
        parts: dict[Split, dict[str, np.ndarray]] = {}
        for name, rows in self._rows.items():
            for s, split in enumerate(SPLITS):
                here = np.flatnonzero(rows.splits == s) if rows.splits is not None else np.arange(len(rows.places))
                if len(here) and (rows.splits is not None or split == "train"):
                    parts.setdefault(split, {})[name] = here
        same_splits("entries", parts, list(self._rows))
        return {split: _merge(self._rows, chosen, self._root) for split, chosen in parts.items()}

    def manifests(self) -> dict[Split, Manifest]:
        """The rows of all entries, where an image that several name is one row."""
        found = {split: manifest for split, (manifest, _) in self._merged.items()}
        for entry in self.entries:
            self._check_classes(entry, found)
        return found

    def groups(self) -> np.ndarray | None:
        """The tables' groups of the training rows."""
        return self._merged["train"][1]

    def _check_classes(self, entry: Entry, found: Mapping[Split, Manifest]) -> None:
        """A class that was found, and not only announced, must be in the training split to be learned."""
        if entry.class_names or entry.kind not in ("single_label", "ordinal") or "train" not in found:
            return
        names = self._rows[entry.name].class_names
        counts = np.bincount(found["train"].targets[entry.name][1], minlength=len(names))
        if missing := [name for name, count in zip(names, counts, strict=True) if not count]:
            raise DataError(
                f"entry {entry.name!r}: no training image of {', '.join(map(repr, missing[:5]))}, which other splits "
                "have; move some to train, or remove them from the others"
            )


def _merge(
    rows: Mapping[str, EntryRows], chosen: Mapping[str, np.ndarray], root: Path
) -> tuple[Manifest, np.ndarray | None]:
    """One manifest of the chosen rows of each entry.

    An image that an entry names several times stays that many rows, of which each is one with as many of the others.
    """
    paths, places = _images(rows, chosen)
    used = np.zeros(len(paths), dtype=bool)
    for place in places.values():
        used[place] = True
    row_of = np.cumsum(used) - 1
    mine = {name: _taken(row_of, place) for name, place in places.items()}
    targets = {name: (mine[name], _taken(rows[name].values, here)) for name, here in chosen.items()}
    kept = paths if used.all() else paths.select(np.flatnonzero(used))
    return Manifest(kept, targets, root), _groups(rows, chosen, mine, len(kept))


def _images(
    rows: Mapping[str, EntryRows], chosen: Mapping[str, np.ndarray]
) -> tuple[StringTable, dict[str, np.ndarray]]:
    """Paths, and the places of each entry's chosen rows among them: the same place for the same image."""
    tables = {id(rows[name].paths): rows[name].paths for name in chosen}
    starts = dict(zip(tables, np.cumsum([0, *map(len, tables.values())]).tolist(), strict=False))
    paths = StringTable.concat(list(tables.values())) if len(tables) > 1 else next(iter(tables.values()))
    places = {}
    for name, here in chosen.items():
        place, start = _taken(rows[name].places, here), starts[id(rows[name].paths)]
        places[name] = place + start if start else place
    if len(chosen) == 1 or _all_different(paths):
        return paths, places
    hashes = paths.hashes()
    keys = np.concatenate([hashes[place] ^ (_times(hashes[place]) * _ODD) for place in places.values()])
    _, first, same = np.unique(keys, return_index=True, return_inverse=True)
    ends = np.cumsum([len(place) for place in places.values()])[:-1]
    whole = paths.select(np.concatenate(list(places.values())))
    return whole, dict(zip(places, np.split(first[same.ravel()], ends), strict=True))


def _all_different(paths: StringTable) -> bool:
    hashes = paths.hashes()
    hashes.sort()
    return bool((hashes[1:] != hashes[:-1]).all())


def _taken(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """``values[rows]`` of ascending rows; without a copy where these are all, which would be dear for a million."""
    return values if len(rows) == len(values) else values[rows]


def _times(hashes: np.ndarray) -> np.ndarray:
    """(n,): how often each value came before."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    begins = np.flatnonzero(np.diff(ordered, prepend=ordered[0] - 1 if len(ordered) else 0))
    lengths = np.diff(np.append(begins, len(ordered)))
    times = np.empty(len(hashes), dtype=np.int64)
    times[order] = np.arange(len(ordered)) - np.repeat(begins, lengths)
    return times


def _groups(
    rows: Mapping[str, EntryRows], chosen: Mapping[str, np.ndarray], row_of: Mapping[str, np.ndarray], count: int
) -> np.ndarray | None:
    """(count,) int64: the group that the first entry with groups gives a row; a row without one is its own group."""
    if all(rows[name].groups is None for name in chosen):
        return None
    found, offset = np.full(count, -1), 0
    for name, here in chosen.items():
        given = rows[name].groups
        if given is not None:
            free = found[row_of[name]] < 0
            found[row_of[name][free]] = given[here][free] + offset
            offset += int(given.max()) + 1
    alone = found < 0
    found[alone] = offset + np.arange(int(alone.sum()))
    return found
