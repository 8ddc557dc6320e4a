"""Checkpoints: written whole or not at all, read without running code from them."""

import pickle
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO

from mola_lightning.core import RunFolderError
from mola_lightning.core.files import atomic_write


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to disk, renames.

    Lightning's own writer goes through the temporary directory, often on another file system than the run folder, where
    its move becomes a copy onto the old file: a kill in it leaves neither.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None) -> None:
        """Write ``checkpoint`` to ``path``; an older file there stays readable until the new one is complete."""
        with atomic_write(Path(path), "wb") as file:
            torch.save(checkpoint, file)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Read a checkpoint on the CPU; only tensors and plain containers are accepted.

    Raises:
        RunFolderError: when it is missing, damaged, or holds anything else.
    """
    if not path.is_file():
        there = sorted(p.name for p in path.parent.glob("*.ckpt")) if path.parent.is_dir() else []
        raise RunFolderError(
            f"no checkpoint {path}; " + (f"there are: {', '.join(there)}" if there else "the run has not saved any yet")
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RunFolderError(
            f"cannot read the checkpoint {path}: it is damaged, or not one of ours ({first_line})"
        ) from error
