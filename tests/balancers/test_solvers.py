"""Optional solvers: a missing one is named, with the line that installs it."""

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mola_lightning.balancers import torchjd
from mola_lightning.core import ConfigError


@pytest.mark.parametrize(("name", "package"), [("cagrad", "clarabel"), ("nash_mtl", "ecos"), ("upgrad", "quadprog")])
def test_a_missing_solver_is_named(
    name: str, package: str, make_balancer: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.import_module

    def without(module: str, *args: Any) -> Any:
        if module == package:
            raise ModuleNotFoundError(f"No module named {module!r}")
        return real(module, *args)

    monkeypatch.setattr(torchjd, "import_module", without)
    with pytest.raises(Exception, match=r'pip install "mola-lightning\[solvers\]"') as caught:
        make_balancer(name)
    causes = [caught.value, caught.value.__cause__, caught.value.__context__]
    assert any(isinstance(cause, ConfigError) and package in str(cause) for cause in causes)


@pytest.mark.parametrize(
    ("name", "setting", "said"),
    [
        ("stch", {"mu": 0.0}, "mu"),
        ("gradvac", {"beta": 2.0}, "beta"),
        ("graddrop", {"leak": 1.5}, "leak"),
        ("si", {"eps": 0}, "eps"),
        ("gradnorm", {"lr": -1.0}, "lr"),
        ("nash_mtl", {"update_every": 0}, "update_every"),
        ("dwa", {"temperature": 0.0}, "temperature"),
        ("cagrad", {"c": -1.0}, "c must be"),
    ],
)
def test_impossible_settings(name: str, setting: dict[str, Any], said: str, make_balancer: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match=said):
        make_balancer(name, **setting)


def test_the_number_of_tasks_is_checked(make_balancer: Callable[..., Any]) -> None:
    with pytest.raises(ConfigError, match="num_tasks"):
        make_balancer("uw", num_tasks=0)


def test_importing_balancers_does_not_import_solvers() -> None:
    """With the solvers installed, TorchJD's import takes a second; a run that sums its losses must not pay it."""
    lines = [line for path in Path(torchjd.__file__).parent.glob("*.py") for line in path.read_text().splitlines()]
    assert not [line for line in lines if re.match(r"(import|from) (torchjd|cvxpy|qpsolvers|scipy)", line)]
