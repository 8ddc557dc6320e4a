"""What the benchmarks have in common: options about the machine, its facts, numbers in a file."""

import argparse
import json
import os
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mola_lightning.benchmarks.measure import CLOCKS
from mola_lightning.core import ConfigError
from mola_lightning.core.errors import positive_int
from mola_lightning.core.files import atomic_write

WIDE = 200  # characters; rich would cut tables where output goes to a file or a pipe


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """``--threads``, ``--clock``, ``--device``, ``--json``."""
    parser.add_argument("--threads", type=int, default=2, help="CPU threads of torch (default: %(default)s)")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: processor time, for a busy machine; needs --threads 1"
    )
    parser.add_argument("--device", default="cpu", help="cpu or cuda (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")


def wide_console() -> Console:
    """As wide as the terminal, or as any table where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=WIDE)


def device_named(name: str, option: str = "--device ") -> torch.device:
    """The device of an option.

    Raises:
        ConfigError: for another than cpu or cuda, or for cuda where there is none.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"{option.rstrip(' =')} must be cpu or cuda, got {name!r}") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"{option}{name}, but torch sees no CUDA device here; use {option}cpu")
    return device


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Run with that many threads of torch."""
    positive_int("threads", count)
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def machine_facts(device: torch.device) -> dict[str, Any]:
    """What the numbers depend on besides the code."""
    return {
        "torch": torch.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
    }


def write_report(path: Path | None, report: Mapping[str, Any], console: Console) -> None:
    """The numbers as JSON, where ``--json`` was given."""
    if path is None:
        return
    with atomic_write(path) as file:
        json.dump(report, file, indent=1)
    console.print(f"wrote {path}", soft_wrap=True)
