"""What a training step counts, against what it counted before: arithmetic and memory, which no machine changes.

A change that costs more fails here; one that costs less should write its numbers down in ``tests/data/budget.json``.
"""

import json
from pathlib import Path

import pytest
import torch

from mola_lightning.benchmarks import CASES
from mola_lightning.benchmarks.measure import TimedStep, chosen_plans
from mola_lightning.benchmarks.methods import build_module
from mola_lightning.cli.machine import threads

STORED = json.loads((Path(__file__).parents[1] / "data" / "budget.json").read_text())
SLACK = 1.02  # versions of torch differ a little in what they allocate


def ratios(case: str, method: str) -> dict[str, float]:
    """Multiply-adds and peak bytes of a step, as multiples of the plain backbone's."""
    found = {}
    for name in ("plain", method):
        step = TimedStep(build_module(name, CASES[case]), CASES[case].batch(), torch.device("cpu"))
        found[name] = step.multiply_adds(), step.peak_bytes()
    own, plain = found[method], found["plain"]
    return {"multiply_adds": own[0] / plain[0], "peak_memory": own[1] / plain[1]}


@pytest.mark.slow
@pytest.mark.parametrize(("case", "method"), [tuple(key.split()) for key in STORED])
def test_a_step_costs_no_more_than_before(case: str, method: str) -> None:
    with threads(1):  # each has memory of its own in some kernels
        found = ratios(case, method)
    stored = STORED[f"{case} {method}"]
    for name, value in found.items():
        assert value <= stored[name] * SLACK, f"{name} of {method}: {value:.3f} times the plain backbone's"
        assert value >= stored[name] / 1.1, f"{name} of {method} is {value:.3f} now, lower: store it"


def test_small_maps_run_by_columns_or_unfold() -> None:
    """What was fastest where it was measured (docs/performance.md)."""
    small = TimedStep(build_module("grad", CASES["c"]), CASES["c"].batch(), torch.device("cpu"))
    plans = chosen_plans(small)
    assert [plans[f"layer{stage}.1.conv2"] for stage in (2, 3, 4)] == ["UnfoldedHard", "ByColumns", "ByColumns"]
