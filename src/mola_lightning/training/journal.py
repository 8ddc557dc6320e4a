"""The logger that every run has: an append-only journal, and metrics.csv made of it."""

import csv
import json
import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only
from lightning.pytorch.loggers.logger import Logger

from mola_lightning.core import RunFolderError
from mola_lightning.core.files import atomic_write, read_journal
from mola_lightning.core.run_files import JOURNAL, METRICS


class MetricsJournal(Logger):
    """Writes ``metrics.jsonl``, one JSON object a line, only ever appended to; and ``metrics.csv`` from it at the end.

    Unlike a CSV file that is rewritten when a new column comes, a journal loses nothing to a kill, and can be cut back
    to its length at a checkpoint.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path | str) -> None:
        super().__init__()
        self.folder = Path(folder)
        self.path = self.folder / JOURNAL
        self._file: Any = None

    @property
    def name(self) -> str:
        """No sub-folder."""
        return ""

    @property
    def version(self) -> str:
        """No sub-folder."""
        return ""

    @property
    def save_dir(self) -> str:
        """The run folder."""
        return str(self.folder)

    def _open(self) -> Any:
        if self._file is None:
            try:
                self.folder.mkdir(parents=True, exist_ok=True)
                self._file = open(self.path, "a", encoding="utf-8")  # noqa: SIM115 - open for the whole run
            except OSError as error:
                raise RunFolderError(f"cannot write {self.path}: {error.strerror}. Check paths.runs.") from error
        return self._file

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Append a row; ``epoch`` and ``step`` come first."""
        row = {"epoch": metrics.get("epoch"), "step": step} | {k: v for k, v in metrics.items() if k != "epoch"}
        try:
            self._open().write(json.dumps({k: _plain(v) for k, v in row.items()}) + "\n")
            self._file.flush()
        except OSError as error:
            raise RunFolderError(f"cannot write {self.path}: {error.strerror or error}. Is the disk full?") from error

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Nothing: the run folder holds config.yaml."""

    @rank_zero_only
    def save(self) -> None:
        """Make what was logged durable."""
        if self._file is not None:
            self._file.flush()
            os.fsync(self._file.fileno())

    def length(self) -> int:
        """Bytes of the journal, durable: what a checkpoint says belongs to it. 0 on ranks that do not write."""
        self.save()
        if rank_zero_only.rank:
            return 0
        return self.path.stat().st_size if self.path.exists() else 0  # also when this process wrote no row yet

    @rank_zero_only
    def rewind(self, length: int) -> None:
        """Cut the journal back to its length at a checkpoint.

        Raises:
            RunFolderError: when it is shorter.
        """
        self.save()
        found = self.path.stat().st_size if self.path.exists() else 0
        if found < length:
            raise RunFolderError(
                f"{self.path} has {found} bytes, and had {length} when the checkpoint was written: it was changed or "
                "is incomplete. Put it back, or begin anew with resume=never."
            )
        if found > length:
            os.truncate(self.path, length)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Write metrics.csv."""
        self.save()
        if self.path.exists():
            self.write_csv()

    def epoch_row(self, epoch: int) -> dict[str, Any]:
        """All that was logged in an epoch, merged."""
        rows = (row for row in read_journal(self.path) if row.get("epoch") == epoch)
        return {key: value for row in rows for key, value in row.items()}

    def write_csv(self) -> Path:
        """Rewrite metrics.csv from the journal; a torn last line, left by a kill, is passed over."""
        rows = list(read_journal(self.path))
        target = self.folder / METRICS
        first = ["epoch", "step"]
        columns = first + sorted({key for row in rows for key in row} - set(first))
        with atomic_write(target) as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)
        return target


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
