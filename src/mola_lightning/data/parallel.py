"""Work on many items at a time: by threads on files, as decoders let go of the interpreter, else by processes."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

from rich.console import Console
from rich.progress import Progress

Result = TypeVar("Result")
WINDOW = 256  # items that are worked on ahead
FEW = 32  # items that are not worth a process


def in_parallel(function: Callable[[int], Result], count: int) -> Iterator[Result]:
    """``function(0)``, ..., ``function(count - 1)``, in this order, with as many threads as the machine has cores."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for first in range(0, count, WINDOW):
            yield from pool.map(function, range(first, min(first + WINDOW, count)))


def in_processes(function: Callable[[int], Result], count: int, description: str) -> Iterator[Result]:
    """``function(0)``, ..., ``function(count - 1)``, in this order, with as many processes as the machine has cores.

    A terminal shows how far it is. This process works alone on a few items, and where it cannot have others: a data
    loader's worker may start none.

    Args:
        function: can be pickled, as its results can.
        count: of items.
        description: of the work, for the terminal.
    """
    workers = min(os.cpu_count() or 1, count // FEW)
    # Forked, for others would import everything first, and run a script without a main guard again. Elsewhere than on
    # Linux a fork may not be safe.
    alone = workers < 2 or sys.platform != "linux" or multiprocessing.current_process().daemon
    console = Console(stderr=True)
    with ExitStack() as stack:
        results: Iterator[Result]
        if alone:
            results = map(function, range(count))
        else:
            pool = stack.enter_context(ProcessPoolExecutor(workers, multiprocessing.get_context("fork")))
            results = pool.map(function, range(count), chunksize=16)  # forks now, before the display has its thread
        progress = stack.enter_context(Progress(console=console, disable=not console.is_terminal, transient=True))
        yield from progress.track(results, count, description=description)
