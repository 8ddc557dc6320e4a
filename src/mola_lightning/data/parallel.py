"""Work on many files by threads: decoders let go of the interpreter."""

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")
WINDOW = 256  # items that are worked on ahead


def in_parallel(function: Callable[[int], Result], count: int) -> Iterator[Result]:
    """``function(0)``, ..., ``function(count - 1)``, in this order, with as many threads as the machine has cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, count, WINDOW):
            yield from pool.map(function, range(first, min(first + WINDOW, count)))
