"""Decoded images in one file or in memory, for data whose decoding takes longer than its training step."""

import fcntl
import hashlib
import io
import logging
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor

from mola_lightning.core import ConfigError, DataError, RunFolderError
from mola_lightning.core.errors import one_of
from mola_lightning.core.files import atomic_write
from mola_lightning.data.cache import cache_folder, read_arrays, write_arrays
from mola_lightning.data.decode import REASONS, ImageError, decode, image_error, spread
from mola_lightning.data.manifest import Manifest
from mola_lightning.data.parallel import WINDOW, in_parallel

log = logging.getLogger(__name__)
FORMAT = 1  # raised when the same image files give other bytes


class _Index(NamedTuple):
    """Of each image, (N,) or (N, 3)."""

    starts: np.ndarray  # int64, its first byte
    shapes: np.ndarray  # int32, (height, width, channels)
    checksums: np.ndarray  # uint32
    reasons: np.ndarray  # uint8, why it could not be read, as a place in REASONS; 0: it could


class ImageCache:
    """Decoded uint8 images of any size, one after another in one array of bytes.

    Made by :meth:`build`. It takes height * width * channels bytes an image (grey ones one channel).

    Args:
        manifest: names the images.
        channels: of the images that are read.
        data: all bytes.
        index: where each image lies in them.
        place: file that the bytes come from, for messages; None: memory.
    """

    def __init__(
        self, manifest: Manifest, channels: int, data: np.ndarray, index: _Index, place: Path | None = None
    ) -> None:
        self.manifest, self.channels, self.data, self.index, self.place = manifest, channels, data, index, place
        self._checked = np.zeros(len(manifest), dtype=bool)

    @classmethod
    def build(
        cls,
        manifest: Manifest,
        channels: int,
        kind: str = "disk",
        root: str | Path | None = None,
        on_bad_image: str = "error",
    ) -> "ImageCache":
        """The cache of a manifest's images: the file where it is there and up to date, else decoded now, in parallel.

        Args:
            manifest: names the images.
            channels: 3 or 1.
            kind: ``disk``: a file, memory-mapped, whose name changes with the paths, sizes and times of the images, and
                which is left when they change; ``ram``: in memory, decoded in each run.
            root: folder of the file; the user's cache folder by default.
            on_bad_image: ``error`` stops at an image that cannot be read, ``skip`` notes it.

        Raises:
            ImageError: for an image that cannot be read.
            DataError: for a damaged cache file.
            ConfigError: when the file will not fit on the disk.
            RunFolderError: when it cannot be written.
        """
        one_of("cache", kind, ("disk", "ram"))
        if kind == "ram":
            memory = io.BytesIO()
            index = _decode_all(manifest, channels, memory, on_bad_image)
            return cls(manifest, channels, np.frombuffer(memory.getbuffer(), dtype=np.uint8), index)
        folder = cache_folder(root)
        data, entries = (folder / f"images-{_key(manifest, channels)}{suffix}" for suffix in (".bin", ".npz"))
        with _one_at_a_time(data.with_suffix(".lock")):  # of several processes the others wait, and find it made
            if not entries.exists():
                with atomic_write(data, "wb") as file:
                    index = _decode_all(manifest, channels, file, on_bad_image, folder)
                write_arrays(entries, index._asdict())
        return cls._opened(manifest, channels, data, entries)

    @classmethod
    def _opened(cls, manifest: Manifest, channels: int, data: Path, entries: Path) -> "ImageCache":
        index = _Index(**read_arrays(entries))
        expected = int(np.prod(index.shapes, axis=1, dtype=np.int64).sum())
        found = data.stat().st_size if data.exists() else 0
        if found != expected:
            raise DataError(
                f"the data cache {data} is damaged: it has {found} bytes instead of {expected}. "
                f"Delete it and {entries.name} beside it; they are built again."
            )
        return cls(manifest, channels, _bytes_of(data), index, data)

    def __len__(self) -> int:
        return len(self.manifest)

    def __getstate__(self) -> dict[str, Any]:
        """For workers that are not forked: the name of the file instead of its bytes."""
        return {**self.__dict__, "data": None if self.place is not None else self.data}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        if self.place is not None:
            self.data = _bytes_of(self.place)

    def select(self, rows: np.ndarray) -> "ImageCache":
        """The cache of ``manifest.select(rows)``; the bytes are shared."""
        index = _Index(*(array[rows] for array in self.index))
        return ImageCache(self.manifest.select(rows), self.channels, self.data, index, self.place)

    def read(self, row: int) -> Tensor:
        """(C, H, W) uint8, a copy.

        Raises:
            ImageError: when the image could not be read as the cache was made.
            DataError: when its bytes have changed since.
        """
        if reason := self.index.reasons[row]:
            raise image_error(self.manifest.path(row), REASONS[reason])
        start, shape = int(self.index.starts[row]), tuple(self.index.shapes[row].tolist())
        pixels = np.array(self.data[start : start + int(np.prod(shape))])
        if not self._checked[row]:  # the first time in each process
            if zlib.crc32(pixels.data) != self.index.checksums[row]:
                raise DataError(
                    f"the data cache {self.place or 'in memory'} is damaged: the bytes of "
                    f"{self.manifest.path(row)} have changed. Delete the file; it is built again."
                )
            self._checked[row] = True
        return spread(torch.from_numpy(pixels.reshape(shape)).permute(2, 0, 1), self.channels)


def _bytes_of(place: Path) -> np.ndarray:
    """The bytes of a file, read as they are needed."""
    return np.memmap(place, dtype=np.uint8, mode="r") if place.stat().st_size else np.empty(0, dtype=np.uint8)


@contextmanager
def _one_at_a_time(lock: Path) -> Iterator[None]:
    """Hold a lock that ends with the process, however it ends."""
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        lock.touch()
    except OSError as error:
        raise RunFolderError(
            f"cannot write the image cache's folder {lock.parent}: {error.strerror or error}; "
            "choose another (cache_root)"
        ) from error
    with open(lock) as file:
        with suppress(OSError):  # some network file systems have no locks: then the work is done twice
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _key(manifest: Manifest, channels: int) -> str:
    """Changes with whatever the bytes depend on, as far as the file system tells."""
    sizes, times = np.zeros(len(manifest), dtype=np.int64), np.zeros(len(manifest), dtype=np.int64)
    for row in range(len(manifest)):
        try:
            status = os.stat(manifest.path(row))
        except (OSError, ValueError):
            continue  # said when it is decoded
        sizes[row], times[row] = status.st_size, status.st_mtime_ns
    root = str(manifest.root.resolve()) if manifest.root is not None else os.getcwd()
    digest = hashlib.blake2b(repr((FORMAT, channels, root, manifest.paths.digest())).encode(), digest_size=8)
    digest.update(sizes.tobytes())
    digest.update(times.tobytes())
    return digest.hexdigest()


def _decode_all(
    manifest: Manifest, channels: int, file: IO[bytes], on_bad_image: str, folder: Path | None = None
) -> _Index:
    """Write the pixels of all images to ``file``, one after another, and say where they are."""
    count, total = len(manifest), 0
    index = _Index(
        np.zeros(count, np.int64), np.zeros((count, 3), np.int32), np.zeros(count, np.uint32), np.zeros(count, np.uint8)
    )
    for row, found in enumerate(_decoded(manifest, channels)):
        if isinstance(found, ImageError):
            if on_bad_image == "error":
                raise found
            index.reasons[row] = REASONS.index(found.reason)
            continue
        index.starts[row], index.shapes[row], index.checksums[row] = total, found.shape, zlib.crc32(found.data)
        total += found.nbytes
        file.write(found.data)
        if folder is not None and row == min(WINDOW, count) - 1:
            _check_space(folder, total // (row + 1) * count)
    return index


def _decoded(manifest: Manifest, channels: int) -> Iterator[np.ndarray | ImageError]:
    """(H, W, C) uint8 of each image in order, by threads: decoders let go of the interpreter."""

    def one(row: int) -> np.ndarray | ImageError:
        try:
            return np.ascontiguousarray(decode(manifest.path(row), channels).permute(1, 2, 0).numpy())
        except ImageError as error:
            return error

    console = Console(stderr=True)
    log.info("decoding %d images into the cache", len(manifest))
    with Progress(console=console, disable=not console.is_terminal, transient=True) as progress:
        yield from progress.track(in_parallel(one, len(manifest)), len(manifest), description="decoding images")


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise ConfigError(
            f"the image cache will need about {needed / 1e9:.1f} GB, but {folder} has {free / 1e9:.1f} GB free; choose "
            "another folder (cache_root), or cache=null"
        )
