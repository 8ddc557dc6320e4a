"""Files that are whole or not there: a reader never meets half of one."""

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from mola_lightning.core.errors import RunFolderError


@contextmanager
def atomic_write(path: Path | str, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside ``path`` and put it in its place when the block ends; leave nothing if it fails.

    The temporary file lies on the same file system, so that the rename is one step; it is flushed to disk before, and
    its folder after. Missing folders are made.

    Args:
        path: the file to write.
        mode: ``w`` or ``wb``.

    Raises:
        RunFolderError: when the folder or the file cannot be written.
    """
    path = Path(path)
    # Not tempfile: its files are readable by their owner alone, and run folders are shared.
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.tmp")
    text: dict[str, Any] = {} if "b" in mode else {"encoding": "utf-8", "newline": ""}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, mode, **text) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise RunFolderError(
            f"cannot write {path}: {error.strerror or error}. Check that its folder is writable and the disk not full."
        ) from error
    finally:
        if temporary.parent.is_dir():
            temporary.unlink(missing_ok=True)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_journal(path: Path) -> list[dict[str, Any]]:
    """The complete rows of a journal; empty when there is none."""
    rows = []
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                rows.append(json.loads(line))
            except json.JSONDecodeError:
                break  # torn by a kill; nothing can follow it
    return rows


def _sync_folder(folder: Path) -> None:
    """Make a rename durable, where the file system lets a folder be synchronised."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError:
        pass  # some network file systems refuse, and are durable by themselves
    finally:
        os.close(descriptor)
