"""What a file-based benchmark consists of: the paths of its images, and for each task the rows that it labels."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from mola_lightning.core import DataError
from mola_lightning.data.string_table import StringTable

Targets = tuple[np.ndarray, np.ndarray]  # rows (n,) int64 ascending, values (n, ...)


class Manifest:
    """Paths and targets in columns: a million rows take some 100 MB and no Python object each.

    Args:
        paths: of the images, relative to ``root`` or absolute.
        targets: task name -> (rows (n,), values (n, ...)), in task order. Values are class indices (integers, (n,)),
            labels of a multi-label task (float, (n, C), 0 or 1) or numbers to predict (float, (n,) or (n, k)).
        root: folder of the relative paths; None: they are relative to the working directory.

    Raises:
        DataError: for rows that do not exist or come twice in a task, or values that do not fit their rows.
    """

    def __init__(
        self, paths: Sequence[str] | StringTable, targets: Mapping[str, Targets], root: str | Path | None = None
    ) -> None:
        self.paths = paths if isinstance(paths, StringTable) else StringTable(paths)
        self.root = Path(root) if root is not None else None
        self.targets = {name: self._checked(name, *pair) for name, pair in targets.items()}

    def _checked(self, name: str, rows: np.ndarray, values: np.ndarray) -> Targets:
        rows, values = np.asarray(rows, dtype=np.int64), np.asarray(values)
        if rows.ndim != 1 or len(rows) != len(values):
            raise DataError(f"task {name!r}: {len(rows)} rows but {len(values)} targets")
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise DataError(
                f"task {name!r}: rows must lie in 0..{len(self) - 1} ({len(self)} paths), "
                f"found {int(rows.min())}..{int(rows.max())}"
            )
        steps = np.diff(rows)
        if bool((steps < 0).any()):
            order = np.argsort(rows, kind="stable")
            rows, values = rows[order], values[order]
            steps = np.diff(rows)
        if bool((steps == 0).any()):
            row = int(rows[1:][steps == 0][0])
            raise DataError(f"task {name!r}: row {row} ({self.paths[row]}) has two targets")
        if values.dtype.kind in "iub":
            return rows, values.astype(np.int64, copy=False)
        if values.dtype.kind != "f":
            raise DataError(f"task {name!r}: targets must be integers (classes) or floats, got {values.dtype}")
        return rows, values.astype(np.float32, copy=False)

    @classmethod
    def of_domains(
        cls, items: Mapping[str, tuple[Sequence[str], np.ndarray]], root: str | Path | None = None
    ) -> "Manifest":
        """Each image of one task.

        Args:
            items: task name -> (paths, values (n, ...)), in task order.
            root: folder of the relative paths.
        """
        tables, targets, start = [], {}, 0
        for name, (paths, values) in items.items():
            tables.append(paths if isinstance(paths, StringTable) else StringTable(paths))
            targets[name] = (np.arange(start, start + len(tables[-1])), np.asarray(values))
            start += len(tables[-1])
        return cls(StringTable.concat(tables), targets, root)

    @classmethod
    def concat(cls, manifests: Sequence["Manifest"]) -> "Manifest":
        """The rows of all manifests, one after another; a task may have rows in several of them."""
        if not manifests:
            raise DataError("nothing to concatenate: at least one manifest is needed")
        roots = {manifest.root for manifest in manifests}
        tables = [m.paths if len(roots) == 1 else StringTable(str(m.path(i)) for i in range(len(m))) for m in manifests]
        names = dict.fromkeys(name for manifest in manifests for name in manifest.targets)
        starts = np.cumsum([0, *(len(manifest) for manifest in manifests)])
        targets = {}
        for name in names:
            parts = [(s, *m.targets[name]) for s, m in zip(starts, manifests, strict=False) if name in m.targets]
            kinds = {(values.dtype.kind, values.shape[1:]) for _, _, values in parts}
            if len(kinds) > 1:
                raise DataError(f"task {name!r} has targets of several kinds (type, shape): {sorted(kinds)}")
            rows = np.concatenate([start + rows for start, rows, _ in parts])
            targets[name] = (rows, np.concatenate([values for _, _, values in parts]))
        return cls(StringTable.concat(tables), targets, roots.pop() if len(roots) == 1 else None)

    def __len__(self) -> int:
        return len(self.paths)

    def path(self, row: int) -> Path:
        """Where the image of a row lies."""
        return Path(self.paths[row]) if self.root is None else self.root / self.paths[row]

    def hashes(self) -> np.ndarray:
        """(N,) int64, equal for equal paths, whatever the roots; comparable within one process."""
        root = str(self.root) if self.root is not None else "."
        joined = (os.path.normpath(os.path.join(root, path)) for path in self.paths)
        return np.fromiter(map(hash, joined), dtype=np.int64, count=len(self))

    def owners(self) -> np.ndarray:
        """(N,) int64: how many tasks have a target in each row."""
        return sum(
            (np.bincount(rows, minlength=len(self)) for rows, _ in self.targets.values()), np.zeros(len(self), int)
        )

    def task_ids(self) -> np.ndarray | None:
        """(N,) int64, the task of each row as a position among ``targets``; None unless each row has exactly one."""
        if bool((self.owners() != 1).any()):
            return None
        ids = np.empty(len(self), dtype=np.int64)
        for t, (rows, _) in enumerate(self.targets.values()):
            ids[rows] = t
        return ids

    def select(self, rows: np.ndarray) -> "Manifest":
        """The rows ``rows``, in that order, with their targets; a task without any of them keeps an empty entry."""
        rows = np.asarray(rows, dtype=np.int64)
        targets = {}
        for name, (labelled, values) in self.targets.items():
            place = np.full(len(self), -1)
            place[labelled] = np.arange(len(labelled))
            found = place[rows]
            here = np.flatnonzero(found >= 0)
            targets[name] = (here, values[found[here]])
        return Manifest(self.paths.select(rows), targets, self.root)

    def digest(self) -> str:
        """A checksum of paths (as they are listed, without the root) and targets."""
        digest = hashlib.blake2b(self.paths.digest().encode(), digest_size=16)
        for name, (rows, values) in self.targets.items():
            digest.update(repr((name, values.dtype.str, values.shape)).encode())
            digest.update(np.ascontiguousarray(rows).data)
            digest.update(np.ascontiguousarray(values).data)
        return digest.hexdigest()
