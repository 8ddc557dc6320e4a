"""Arrays of large .npz archives, read from disk as they are needed: an archive itself can only be read as a whole."""

import hashlib
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from mola_lightning.core import ConfigError, DataError, MolaError
from mola_lightning.core.files import atomic_write

_CHUNK = 1 << 20  # bytes copied at a time


class NpzFile:
    """An archive of arrays, nothing of which is executed.

    Args:
        path: of the .npz file.
        cache: folder in which large arrays are unpacked, once.
        missing: what to do when there is no such file, as a sentence.
    """

    def __init__(self, path: Path, cache: Path, missing: str = "") -> None:
        self.path, self.cache, self.missing = path, cache, missing

    def require(self, names: list[str]) -> None:
        """Raise :class:`DataError` unless the archive holds these arrays."""
        with self._opened() as archive:
            inside = sorted(name.removesuffix(".npy") for name in archive.namelist())
        if lacking := [name for name in names if name not in inside]:
            raise DataError(
                f"{self.path} has no array {', '.join(map(repr, lacking))}; "
                f"it has {', '.join(map(repr, inside)) or 'none'}. Replace the file. {self.missing}".rstrip()
            )

    def read(self, name: str) -> np.ndarray:
        """A whole array."""
        with self._opened() as archive, archive.open(f"{name}.npy") as file:
            return self._numbers(np.lib.format.read_array(file, allow_pickle=False), name)

    def mapped(self, name: str) -> np.ndarray:
        """An array whose parts are read from disk when they are used; the first time it is unpacked to the cache."""
        place = self.unpacked(name)
        if not place.exists():
            with self._opened() as archive:
                needed, free = archive.getinfo(f"{name}.npy").file_size, _free(self.cache)
                if needed > free:
                    raise ConfigError(
                        f"{self.path} needs {needed / 1e9:.1f} GB of cache, but {self.cache} has {free / 1e9:.1f} GB "
                        "free; choose another folder (cache_root)"
                    )
                with archive.open(f"{name}.npy") as file, atomic_write(place, "wb") as copy:
                    shutil.copyfileobj(file, copy, _CHUNK)
        try:
            return self._numbers(np.load(place, mmap_mode="r", allow_pickle=False), name)
        except (ValueError, EOFError, OSError) as error:
            raise DataError(f"the array {name!r} of {self.path} cannot be read: {error}") from error

    def unpacked(self, name: str) -> Path:
        """Where :meth:`mapped` puts an array; the name changes with the archive."""
        status = self.path.stat()
        key = (str(self.path.resolve()), status.st_size, status.st_mtime_ns)
        return (
            self.cache / f"{self.path.stem}-{hashlib.blake2b(repr(key).encode(), digest_size=8).hexdigest()}-{name}.npy"
        )

    def md5(self) -> str:
        """The checksum that archives are published with."""
        with open(self.path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()

    def _numbers(self, array: np.ndarray, name: str) -> np.ndarray:
        if array.dtype.kind not in "biuf":
            raise DataError(f"the array {name!r} of {self.path} holds no numbers but {array.dtype}")
        return array

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        if not self.path.is_file():
            raise DataError(f"there is no file {self.path}. {self.missing}".rstrip())
        try:
            with zipfile.ZipFile(self.path) as archive:
                yield archive
        except MolaError:
            raise
        except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, NotImplementedError, OSError) as error:
            raise DataError(f"{self.path} is damaged or no archive of arrays ({error}); fetch it again") from error


def _free(folder: Path) -> int:
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free
