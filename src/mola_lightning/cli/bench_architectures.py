"""``make bench-architectures``: what each architecture and balancer costs, as multiples of plain hard sharing."""

import argparse
import gc
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from rich.console import Console
from rich.text import Text

from mola_lightning.benchmarks.costs import Cost, Reference
from mola_lightning.benchmarks.measure import TimedStep, check_clock
from mola_lightning.benchmarks.noise import noise_data, whole_batch
from mola_lightning.benchmarks.tables import cost_data, costs_table
from mola_lightning.cli.build import build_module
from mola_lightning.cli.errors import setup_logging, show_error
from mola_lightning.cli.machine import (
    add_machine_options,
    device_named,
    machine_facts,
    threads,
    wide_console,
    write_report,
)
from mola_lightning.core import ConfigError, MolaError, Regime
from mola_lightning.core.errors import one_of, positive_int

TASKS = 4
# A rate that leaves the weights where they are: cost does not depend on it, and noise cannot make the loss diverge.
RATE = 1e-6
# the same network and step under another name, or nearly so
LEFT_OUT = {"architecture": {"mola_no_twd", "mola_task_ce"}, "balancer": {"ls"}}
FEATURE_LEVEL = "_ub"  # how the names of balancers end that need rows with a target for every task


@dataclass(frozen=True)
class Setting:
    """The network and the batch that all methods share.

    Attributes:
        backbone: an option of ``conf/backbone``.
        size: H = W in pixels.
        rows: B, of all tasks together.
        rounds: how often each method is timed, each time after its reference.
    """

    backbone: str
    size: int
    rows: int
    rounds: int


FULL = Setting("resnet18", size=64, rows=32, rounds=5)
QUICK = Setting("small_resnet", size=16, rows=8, rounds=1)


@dataclass(frozen=True)
class LineUp:
    """One table: methods that differ in one choice of the config.

    Attributes:
        title: what the methods are.
        group: the config group that they are options of; the others stay at hard sharing and equal weights.
        reference: the option that is 1.
        regime: of the data.
        last: the table's last column.
    """

    title: str
    group: str
    reference: str
    regime: Regime
    last: str

    def names(self) -> list[str]:
        """The options that can be compared, the reference among them: how far it is from 1 tells the noise."""
        names = GlobalHydra.instance().config_loader().get_group_options(self.group)
        names = [name for name in names if name not in LEFT_OUT[self.group]]
        if self.regime is not Regime.SINGLE_INPUT:
            return [name for name in names if not name.endswith(FEATURE_LEVEL)]
        of_features = [name for name in names if name.endswith(FEATURE_LEVEL)]
        same_on_parameters = {name.removesuffix(FEATURE_LEVEL) for name in of_features}
        return [name for name in names if name in {self.reference, *of_features, *same_on_parameters}]


LINE_UPS = {
    "architectures": LineUp(
        "architectures, equal weights, domains", "architecture", "hps", Regime.DOMAINS, "parameters"
    ),
    "balancers": LineUp("balancers, hard sharing, domains", "balancer", "equal", Regime.DOMAINS, "passes"),
    "features": LineUp(
        "balancers by features, hard sharing, all tasks on all rows", "balancer", "equal", Regime.SINGLE_INPUT, "passes"
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of ``make bench-architectures``.

    Args:
        argv: arguments without the program's name; those of the process by default.

    Returns:
        Exit code: 0, or 1 after an error that is shown on stderr. argparse exits with 2 on wrong usage.
    """
    arguments = _parser().parse_args(argv)
    setup_logging()
    try:
        with threads(arguments.threads), initialize_config_module("mola_lightning.conf", version_base="1.3"):
            bench(arguments, wide_console())
    except MolaError as error:
        show_error(str(error))
        return 1
    return 0


def bench(arguments: argparse.Namespace, console: Console) -> None:
    """Measure and print table by table, then write the file if one was asked for."""
    device, setting = device_named(arguments.device), QUICK if arguments.quick else FULL
    check_clock(arguments.clock, device)
    if arguments.rounds is not None:
        positive_int("--rounds", arguments.rounds)
        setting = replace(setting, rounds=arguments.rounds)
    line_ups = {key: LINE_UPS[key] for key in arguments.tables}
    for name in arguments.only or ():
        one_of("--only", name, sorted({name for line_up in line_ups.values() for name in line_up.names()}))
    facts = machine_facts(device)
    console.print(
        f"torch {facts['torch']}, {facts['device']}, {facts['threads']} threads. A training step: {setting.backbone}, "
        f"{setting.size} px, batch {setting.rows}, {TASKS} tasks; median over rounds ({setting.rounds}), in which each "
        "method follows the reference."
    )
    report: dict[str, Any] = {"machine": facts, "clock": arguments.clock, "setting": asdict(setting), "tables": {}}
    for key, line_up in line_ups.items():
        names = [name for name in line_up.names() if not arguments.only or name in arguments.only]
        if not names:
            continue
        step = partial(_step, line_up, setting, device, arguments.clock)
        found, refused = _measure(line_up, names, step, setting.rounds, console)
        console.print(costs_table(f"{line_up.title}, {line_up.reference} = 1", found, line_up.last))
        for name, reason in refused.items():
            console.print(Text(f"left out {name}: {reason}", style="yellow"), soft_wrap=True)
        costs = {name: cost_data(cost) for name, cost in found.items()}
        report["tables"][key] = {"reference": line_up.reference, "methods": costs, "left_out": refused}
    write_report(arguments.json, report, console)


def _measure(
    line_up: LineUp, names: Sequence[str], step: Callable[[str], TimedStep], rounds: int, console: Console
) -> tuple[dict[str, Cost], dict[str, str]]:
    """The cost of each method, and why others could not be built."""
    found, refused = {}, {}
    with console.status(f"{line_up.title}: {line_up.reference}") as status:
        reference = Reference(step(line_up.reference))
        for i, name in enumerate(names):
            status.update(f"{line_up.title}, {i + 1} of {len(names)}: {name}")
            try:
                found[name] = reference.cost(step(name), rounds)
            except ConfigError as error:  # for example a solver that is not installed
                refused[name] = str(error)
            gc.collect()  # modules and what they own refer to each other
    return found, refused


def _step(line_up: LineUp, setting: Setting, device: torch.device, clock: str, name: str) -> TimedStep:
    """A step as the configs make it, past the warm-up of methods that have one."""
    choices = {"architecture": "hps", "balancer": "equal", "backbone": setting.backbone, line_up.group: name}
    cfg = compose("train", [f"{group}={option}" for group, option in choices.items()] + [f"optimizer.lr={RATE}"])
    data = noise_data(line_up.regime, TASKS, setting.size, setting.rows)
    module = build_module(cfg, data)
    if hasattr(module.architecture, "set_progress"):
        module.architecture.set_progress(1, 2)
    return TimedStep(module, whole_batch(data), device, clock)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="make bench-architectures ARGS=...", description=__doc__)
    shown = "; ".join(f"{key}: {line_up.title}" for key, line_up in LINE_UPS.items())
    parser.add_argument("--tables", nargs="+", choices=LINE_UPS, default=list(LINE_UPS), help=f"default: all. {shown}")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these architectures and balancers only")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"rounds of timing (default: {FULL.rounds})")
    parser.add_argument("--quick", action="store_true", help="a tiny network and batch, one round: does it run?")
    add_machine_options(parser)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
