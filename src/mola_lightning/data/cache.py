"""Cache files of arrays: written whole or not at all, and verified when read."""

import hashlib
import io
import os
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mola_lightning.core import DataError, RunFolderError
from mola_lightning.core.files import atomic_write

_DIGEST = "blake2b"  # name of the checksum among the arrays


def cache_folder(root: str | Path | None = None) -> Path:
    """``root``, or the user's cache folder: under ``$XDG_CACHE_HOME``, or ``~/.cache`` where that is not set."""
    if root is not None:
        return Path(root).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "mola_lightning"


def digest_of(arrays: Mapping[str, np.ndarray]) -> str:
    """A checksum of names, types, shapes and contents."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        digest.update(repr((name, array.dtype.str, array.shape)).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an npz file with a checksum inside.

    A temporary file beside the target takes its place when it is complete, so several processes may build the same file
    at a time, and a killed one leaves no half file under the final name.

    Raises:
        RunFolderError: when the folder cannot be written.
    """
    try:
        with atomic_write(path, "wb") as file:
            # The type checker takes the arrays for savez's own option `allow_pickle`.
            np.savez(file, **arrays, **{_DIGEST: np.array(digest_of(arrays))})  # type: ignore[arg-type]
    except RunFolderError as error:
        raise RunFolderError(
            f"the data cache: {error} Or choose another folder (option root, or the "
            "environment variable XDG_CACHE_HOME)."
        ) from error


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Read a file of :func:`write_arrays`.

    Raises:
        DataError: when it is damaged.
        RunFolderError: when it cannot be opened.
    """
    try:
        content = io.BytesIO(path.read_bytes())
    except OSError as error:
        raise RunFolderError(f"cannot read the data cache {path}: {error.strerror or error}") from error
    arrays: dict[str, np.ndarray] = {}
    try:
        # The archive's own checksums first: the parser of arrays trusts a damaged header, whatever size it asks for.
        with zipfile.ZipFile(content) as archive:
            sound = archive.testzip() is None
        if sound:
            content.seek(0)
            with np.load(content, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            sound = str(arrays.pop(_DIGEST, "")) == digest_of(arrays)
    except (
        zipfile.BadZipFile,
        ValueError,
        EOFError,
        KeyError,
        NotImplementedError,
        OSError,
        RuntimeError,
        struct.error,
    ):
        sound = False
    if not sound:
        raise DataError(
            f"the data cache {path} is damaged (its checksum is wrong). Delete the file; it is built again."
        )
    return arrays
