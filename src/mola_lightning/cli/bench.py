"""``make bench``: what experts cost in time and memory on this machine, as multiples of the plain backbone."""

import argparse
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from rich.console import Console

from mola_lightning.adapters import PLAN_NAMES
from mola_lightning.benchmarks.cases import CASES, OURS, SCALES, Case, scaled
from mola_lightning.benchmarks.layers import time_layers
from mola_lightning.benchmarks.measure import Speed, measure_case
from mola_lightning.benchmarks.tables import case_data, case_table, layers_table, plans_table
from mola_lightning.cli.errors import show_error
from mola_lightning.cli.machine import (
    add_machine_options,
    device_named,
    machine_facts,
    threads,
    wide_console,
    write_report,
)
from mola_lightning.core import MolaError

QUICK_CASE, QUICK_ROUNDS = "c", 3
LAYER_ROUNDS = 9


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``make bench``.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        Exit code: 0, or 1 after an error that is shown on stderr. argparse exits with 2 on wrong usage.
    """
    arguments = _parser().parse_args(argv)
    try:
        with threads(arguments.threads):
            bench(arguments, wide_console())
    except MolaError as error:
        show_error(str(error))
        return 1
    return 0


def bench(arguments: argparse.Namespace, console: Console) -> None:
    """Measure and print case by case, then write the file if one was asked for."""
    device = device_named(arguments.device)
    facts = machine_facts(device)
    console.print(
        f"torch {facts['torch']}, {facts['device']}, {facts['threads']} threads. "
        f"{'Inference' if arguments.inference else 'A training step'}, plain backbone = 1; "
        "median over rounds in which the methods take turns."
    )
    report: dict[str, Any] = {"machine": facts, "plan": arguments.plan, "clock": arguments.clock, "cases": {}}
    shared: dict[str, Any] = {"device": device, "clock": arguments.clock}
    shared["speed"] = _speed(arguments)
    report["speed"] = asdict(shared["speed"])
    for case in _cases(arguments):
        with console.status(case.title):
            if arguments.layers:
                timings = time_layers(case, rounds=arguments.repeats or LAYER_ROUNDS, **shared)
            else:
                found = measure_case(case, rounds=arguments.repeats, plan=arguments.plan, **shared)
        if arguments.layers:
            console.print(layers_table(case, timings))
            report["cases"][case.name] = {"case": asdict(case), "layers": [asdict(timing) for timing in timings]}
            continue
        console.print(case_table(case, found))
        if arguments.plans:
            console.print(plans_table(case, found))
        report["cases"][_key(case, arguments)] = case_data(case, found)
    write_report(arguments.json, report, console)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench ARGS=...", description=__doc__)
    shown = "; ".join(case.title for case in CASES.values())
    usual = [name for name, case in CASES.items() if case.by_default]
    parser.add_argument("--cases", nargs="+", choices=CASES, default=usual, help=f"default: all but g. {shown}")
    parser.add_argument("--scale", choices=SCALES, help="each case with other numbers of experts, ranks, or rows")
    parser.add_argument("--present", type=int, metavar="N", help="rows of N tasks in a batch (default: of all)")
    parser.add_argument("--repeats", type=int, metavar="N", help="rounds of timing (default: as many as a case needs)")
    parser.add_argument("--plan", choices=PLAN_NAMES, default="auto", help="run layers by this family of plans")
    parser.add_argument("--plans", action="store_true", help="also show the plan of each layer")
    parser.add_argument("--layers", action="store_true", help="time every plan of each kind of layer instead")
    parser.add_argument("--quick", action="store_true", help=f"case {QUICK_CASE}, {QUICK_ROUNDS} rounds: does it run?")
    parser.add_argument("--precision", choices=("32", "bf16"), default="32", help="bf16: mixed precision")
    parser.add_argument("--channels-last", action="store_true", help="convolutions laid out with channels last (CUDA)")
    parser.add_argument("--inference", action="store_true", help="forward passes of a mixed batch, in evaluation")
    parser.add_argument("--compile", action="store_true", help="backbones and routers by torch.compile")
    add_machine_options(parser)
    return parser


def _cases(arguments: argparse.Namespace) -> list[Case]:
    if arguments.quick:
        rounds = QUICK_ROUNDS if arguments.repeats is None else arguments.repeats
        cases = [replace(CASES[QUICK_CASE], methods=OURS, rounds=rounds)]
    else:
        cases = [CASES[name] for name in arguments.cases]
    cases = [replace(case, present=arguments.present) for case in cases]
    if arguments.scale is None:
        return cases
    return [replace(other, methods=OURS) for case in cases for other in scaled(case, arguments.scale)]


def _speed(arguments: argparse.Namespace) -> Speed:
    return Speed(arguments.precision == "bf16", arguments.channels_last, arguments.compile, arguments.inference)


def _key(case: Case, arguments: argparse.Namespace) -> str:
    return case.name if arguments.scale is None else f"{case.name} {arguments.scale}={getattr(case, arguments.scale)}"


if __name__ == "__main__":
    raise SystemExit(main())
