"""Many strings in two arrays: no Python object a string, so that a million paths are cheap to hold, fork and pickle."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

import numpy as np

_CHUNK = 16384  # strings that exist as Python objects at a time


class StringTable(Sequence[str]):
    """An immutable sequence of strings, kept as one UTF-8 text with the place of each string in it.

    Selections share the text of the table that they come from.

    Args:
        strings: any iterable; a generator is consumed in chunks, so that its strings need never exist all at once.
    """

    def __init__(self, strings: Iterable[str] = ()) -> None:
        text, lengths, source = bytearray(), [np.empty(0, dtype=np.int32)], iter(strings)
        while chunk := list(islice(source, _CHUNK)):
            # File names need not be valid UTF-8; escaped like this they come back as the bytes that they are.
            encoded = [string.encode("utf-8", "surrogateescape") for string in chunk]
            text += b"".join(encoded)  # grows in place: the parts and their whole together would be twice the memory
            lengths.append(np.fromiter(map(len, encoded), dtype=np.int32, count=len(encoded)))
        self._text = np.frombuffer(text, dtype=np.uint8)
        self._lengths = np.concatenate(lengths)
        self._starts = np.zeros(len(self._lengths), dtype=np.int64)
        np.cumsum(self._lengths[:-1], out=self._starts[1:])

    @classmethod
    def _of(cls, text: np.ndarray, starts: np.ndarray, lengths: np.ndarray) -> "StringTable":
        table = cls()
        table._text, table._starts, table._lengths = text, starts, lengths
        return table

    @classmethod
    def concat(cls, tables: Sequence["StringTable"]) -> "StringTable":
        """All strings of the tables, one table after another."""
        if not tables:
            return cls()
        offsets = np.cumsum([0, *(len(table._text) for table in tables[:-1])])
        starts = [table._starts + offset for table, offset in zip(tables, offsets, strict=True)]
        return cls._of(
            np.concatenate([table._text for table in tables]),
            np.concatenate(starts),
            np.concatenate([table._lengths for table in tables]),
        )

    def __len__(self) -> int:
        return len(self._lengths)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]  # slices: see select
        start = self._starts[index]
        return self._text[start : start + self._lengths[index]].tobytes().decode("utf-8", "surrogateescape")

    def __iter__(self) -> Iterator[str]:
        text = self._text.data  # several times as fast as slices of an array
        for first in range(0, len(self), _CHUNK):
            starts = self._starts[first : first + _CHUNK]
            ends = starts + self._lengths[first : first + _CHUNK]
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
                yield str(text[start:end], "utf-8", "surrogateescape")

    def hashes(self) -> np.ndarray:
        """(N,) int64, equal for equal strings; comparable within one process."""
        return np.fromiter(map(hash, self), dtype=np.int64, count=len(self))

    def select(self, rows: np.ndarray) -> "StringTable":
        """The strings ``rows``, in that order."""
        return self._of(self._text, self._starts[rows], self._lengths[rows])

    def digest(self) -> str:
        """A checksum of the strings and their order."""
        digest = hashlib.blake2b(self._lengths.tobytes(), digest_size=16)
        for first in range(0, len(self), _CHUNK):
            starts, lengths = self._starts[first : first + _CHUNK], self._lengths[first : first + _CHUNK]
            # The places of all bytes of the chunk: starts, each repeated and counted up.
            before = np.cumsum(lengths, dtype=np.int64) - lengths
            digest.update(self._text[np.repeat(starts - before, lengths) + np.arange(lengths.sum())].tobytes())
        return digest.hexdigest()
