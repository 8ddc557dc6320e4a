"""Measurements as tables for the terminal, and as plain data for a file."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from mola_lightning.benchmarks.cases import Case
from mola_lightning.benchmarks.costs import Cost
from mola_lightning.benchmarks.layers import LayerTiming
from mola_lightning.benchmarks.measure import Measurement
from mola_lightning.benchmarks.methods import METHODS

MISSING = "–"


def case_table(case: Case, found: Mapping[str, Measurement]) -> Table:
    """Time, memory and multiply-adds of each method as multiples of the plain backbone's."""
    table = _ratio_table(case.title)
    for values in case_data(case, found)["methods"].values():
        table.add_row(values["label"], *_cells(values))
    return table


def case_data(case: Case, found: Mapping[str, Measurement]) -> dict[str, Any]:
    """Everything measured for a case, as JSON can hold it."""
    methods = {
        name: {"label": METHODS[name].label, **_ratios(own, found["plain"]), "plans": own.plans}
        for name, own in found.items()
    }
    return {"case": asdict(case), "methods": methods}


def costs_table(title: str, found: Mapping[str, Cost], last: str) -> Table:
    """Time, memory and multiply-adds of methods as multiples of their reference's, the quickest first.

    Args:
        title: of the table.
        found: name -> cost.
        last: what the last column holds: ``parameters``, or ``passes`` through the network, forward + backward.
    """
    table = _ratio_table(title, last)
    for name, cost in sorted(found.items(), key=lambda item: item[1].own.time_ratios(item[1].reference)):
        values = cost_data(cost)
        shown = {"parameters": _ratio(cost.parameters), "passes": f"{cost.passes.forward} + {cost.passes.backward}"}
        table.add_row(name, *_cells(values), shown[last])
    return table


def cost_data(cost: Cost) -> dict[str, Any]:
    """Everything measured for a method beside its reference, as JSON can hold it."""
    return {
        **_ratios(cost.own, cost.reference),
        "reference_seconds": cost.reference.seconds,
        "parameters": {"ratio": cost.parameters},
        "passes": cost.passes._asdict(),
    }


def plans_table(case: Case, found: Mapping[str, Measurement]) -> Table:
    """The plan of each layer, for each method that runs layers by plans."""
    planned = {name: own.plans for name, own in found.items() if own.plans}
    table = Table("layer", *(METHODS[name].label for name in planned), title=case.title, title_justify="left")
    for path in next(iter(planned.values()), {}):
        table.add_row(path, *(plans.get(path, MISSING) for plans in planned.values()))
    return table


def layers_table(case: Case, timings: Sequence[LayerTiming]) -> Table:
    """Extra time of every plan as a multiple of the plain layer's time; which is fastest, and which is chosen."""
    table = Table(title=f"{case.title}: extra time of each plan, plain layer = 1", title_justify="left")
    for name in ("layers", "weight", "input", "mixing", "extra time", "fastest", "chosen"):
        table.add_column(name)
    for timing in timings:
        extras = (f"{name} {extra / timing.base_seconds:.2f}" for name, extra in timing.extra_seconds.items())
        table.add_row(
            f"{timing.count} x {timing.layer}",
            "x".join(map(str, timing.weight)),
            "x".join(map(str, timing.input)),
            "hard" if timing.hard else "soft",
            ", ".join(extras),
            timing.fastest,
            timing.chosen,
            style=None if timing.fastest == timing.chosen else "yellow",
        )
    return table


def _ratios(own: Measurement, reference: Measurement) -> dict[str, Any]:
    ratio, least, most = own.time_ratios(reference)
    return {
        "time": {"ratio": ratio, "min": least, "max": most, "seconds": own.seconds},
        "peak_memory": {"ratio": own.peak_bytes / reference.peak_bytes, "bytes": own.peak_bytes},
        "multiply_adds": {"ratio": own.multiply_adds / reference.multiply_adds, "count": own.multiply_adds},
    }


def _ratio_table(title: str, *more: str) -> Table:
    table = Table(title=title, title_justify="left")
    for j, name in enumerate(("one training step", "time", "min-max", "peak memory", "multiply-adds", *more)):
        table.add_column(name, justify="right" if j else "left", no_wrap=True)
    return table


def _cells(values: Mapping[str, Any]) -> list[str]:
    time = values["time"]
    return [
        _ratio(time["ratio"]),
        f"{_ratio(time['min'])}-{_ratio(time['max'])}",
        _ratio(values["peak_memory"]["ratio"]),
        _ratio(values["multiply_adds"]["ratio"]),
    ]


def _ratio(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"
