"""The losses of the first training steps are those that were stored when they were last meant to change.

They are computed in double precision from weights and images that no random generator made, so that other machines
give the same numbers to far more than the 1e-6 asked for here. Bit for bit they cannot: libraries of linear algebra sum
in an order that depends on the processor.
"""

import importlib.util
import json
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

DATA = Path(__file__).parents[1] / "data"


def _regression() -> ModuleType:
    spec = importlib.util.spec_from_file_location("regression", DATA / "regression.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


regression = _regression()
losses = cache(regression.losses)


@pytest.mark.parametrize("method", regression.METHODS)
def test_the_first_losses_are_those_stored(method: str) -> None:
    """After a change that is meant to change them: ``.venv/bin/python tests/data/regression.py``."""
    stored = json.loads(regression.STORED.read_text())
    assert losses(method) == pytest.approx(stored[method], rel=1e-6)


def test_every_scheme_has_stored_losses() -> None:
    experiments = Path(__file__).parents[2] / "conf" / "experiment" / "digits"
    assert set(regression.METHODS) == {file.stem for file in experiments.glob("*.yaml")} - {"base", "add_task"}


def test_the_stored_losses_tell_methods_and_steps_apart() -> None:
    stored = json.loads(regression.STORED.read_text())
    assert set(stored) == set(regression.METHODS)
    everything = [round(loss, 3) for values in stored.values() for loss in values]
    assert len(everything) == len(regression.METHODS) * regression.STEPS
    assert len(set(everything)) > 0.9 * len(everything)


@pytest.mark.parametrize("method", regression.METHODS)
def test_two_runs_are_equal_to_the_bit(method: str) -> None:
    assert losses(method) == regression.losses(method)
