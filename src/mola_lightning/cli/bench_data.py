"""``make bench-data``: images a second of our loader and of a bare torchvision one, over the same JPEG files."""

import argparse
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console

from mola_lightning.benchmarks.data import (
    SIZES,
    Throughput,
    check_workers,
    measure_loaders,
    throughput_data,
    throughput_table,
    write_images,
)
from mola_lightning.benchmarks.measure import CLOCKS
from mola_lightning.cli.errors import show_error
from mola_lightning.cli.machine import machine_facts, threads, wide_console, write_report
from mola_lightning.core import MolaError
from mola_lightning.core.errors import positive_int, require


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``make bench-data``.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        Exit code: 0, or 1 after an error that is shown on stderr. argparse exits with 2 on wrong usage.
    """
    arguments = _parser().parse_args(argv)
    try:
        with threads(arguments.threads), tempfile.TemporaryDirectory(prefix="mola-bench-") as folder:
            bench(arguments, Path(folder), wide_console())
    except MolaError as error:
        show_error(str(error))
        return 1
    return 0


def bench(arguments: argparse.Namespace, folder: Path, console: Console) -> None:
    """Write the images, measure and print, then write the file if one was asked for."""
    positive_int("images", arguments.images)
    positive_int("batch_size", arguments.batch_size)
    positive_int("rounds", arguments.rounds)
    enough = arguments.images >= arguments.batch_size
    require(enough, f"--images must be at least as many as a batch has, {arguments.batch_size}, got {arguments.images}")
    check_workers(arguments.workers, arguments.clock)
    facts = machine_facts(torch.device("cpu"))
    console.print(
        f"torch {facts['torch']}, {facts['cpus']} CPUs, {facts['threads']} threads, {arguments.images} images"
    )
    measured: list[Throughput] = []
    for width, height in SIZES:
        root = folder / f"{width}x{height}"
        with console.status(f"{width} x {height}"):
            write_images(root, arguments.images, width, height)
            options = {"batch_size": arguments.batch_size, "rounds": arguments.rounds, "clock": arguments.clock}
            measured += [measure_loaders(root, width, height, workers, **options) for workers in arguments.workers]
    console.print(throughput_table(measured))
    report = {"machine": facts, "clock": arguments.clock, "cases": throughput_data(measured)}
    write_report(arguments.json, report, console)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench-data ARGS=...", description=__doc__)
    parser.add_argument("--images", type=int, default=400, help="files of each size (default: %(default)s)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 2], help="of a loader (default: 0 2)")
    parser.add_argument("--batch-size", type=int, default=32, help="(default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="epochs that are timed (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch (default: %(default)s)")
    parser.add_argument(
        "--clock", choices=CLOCKS, default="wall", help="cpu: processor time, for a busy machine; needs --workers 0"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers there")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
