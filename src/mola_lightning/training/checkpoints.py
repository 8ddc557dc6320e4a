"""Checkpoints: written whole or not at all, read without running code from them."""

import contextlib
import logging
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from mola_lightning.core import RunFolderError
from mola_lightning.core.errors import first_line
from mola_lightning.core.files import atomic_write
from mola_lightning.core.run_files import LAST, PREVIOUS

log = logging.getLogger(__name__)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to disk, renames. Of ``last.ckpt`` the one before is kept as ``previous.ckpt``.

    Lightning's own writer goes through the temporary directory, often on another file system than the run folder, where
    its move becomes a copy onto the old file: a kill in it leaves neither.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write ``checkpoint`` to ``path``; an older file there stays readable until the new one is complete.

        Raises:
            RunFolderError: when it cannot be written.
        """
        path = Path(path)
        try:
            with atomic_write(path, "wb") as file:
                torch.save(checkpoint, file)
                if path.name == LAST:
                    _keep(path)
        except RuntimeError as error:  # torch's writer, when its file fails it; the file's own error is in the context
            cause = error.__context__.strerror if isinstance(error.__context__, OSError) else error
            raise RunFolderError(
                f"cannot write {path}: {cause}. Check that the disk is not full; the checkpoint before stays."
            ) from error


def _keep(path: Path) -> None:
    """Give the checkpoint at ``path`` the name of the one before, without a moment in which there is none."""
    if not path.exists():
        return
    link, previous = path.with_name(f".{PREVIOUS}.{os.getpid()}.tmp"), path.with_name(PREVIOUS)
    link.unlink(missing_ok=True)
    try:
        os.link(path, link)
    except OSError:  # a file system without hard links: then the new one takes an empty place
        os.replace(path, previous)
    else:
        os.replace(link, previous)


def newest_checkpoint(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint from which a training can go on, and its content; a damaged one is told and passed over.

    Args:
        folder: where ``last.ckpt`` and ``previous.ckpt`` are written.

    Returns:
        None when there is none.
    """
    for name in (LAST, PREVIOUS):
        with contextlib.suppress(FileNotFoundError):
            (folder / name).stat()
            try:
                return folder / name, load_checkpoint(folder / name)
            except RunFolderError as error:
                log.warning("%s; going on from an older one, if there is any", error)
    return None


def _verify(path: Path) -> None:
    """Compare the file with its checksums, which torch writes and does not read."""
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        what = f"cannot read the checkpoint {path}: it is damaged, or not one of ours ({error}){_others(path)}"
        raise RunFolderError(what) from error
    if damaged is not None:
        raise RunFolderError(f"cannot read the checkpoint {path}: it is damaged (checksum of {damaged}){_others(path)}")


def _others(path: Path) -> str:
    """The checkpoints beside one, for a message."""
    names = sorted(other.name for other in path.parent.glob("*.ckpt") if other != path)
    return f"; beside it: {', '.join(names)}" if names else ""


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint on the CPU; only tensors and plain containers are accepted.

    Raises:
        RunFolderError: when it is missing, damaged, or holds anything else.
    """
    if not path.is_file():
        there = sorted(p.name for p in path.parent.glob("*.ckpt")) if path.parent.is_dir() else []
        run = path.parent.parent
        lacking = "the run has not saved any yet" if run.is_dir() else f"there is no folder {run}"
        raise RunFolderError(f"no checkpoint {path}; " + (f"there are: {', '.join(there)}" if there else lacking))
    _verify(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise RunFolderError(
            f"cannot read the checkpoint {path}: it is damaged, or not one of ours ({first_line(error)})"
        ) from error
