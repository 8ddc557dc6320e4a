"""Runs that can be killed."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROUTER = ("architecture=mola", "router.blocks=1", "router.widths=[4,4,8]", "data.num_workers=2")
GRAD = ("architecture=mola_grad", "sampler=temperature", "trainer.accumulate_grad_batches=2")
# Draws from torch's generator in each step, and a balancer that remembers earlier epochs.
STATEFUL = ("architecture=ltb", "balancer=dwa", "sampler=proportional", "architecture.warmup=0")
# Looked at while it goes on, in each step and each validation.
WATCHED = (
    "architecture=mola", "router.blocks=1", "router.widths=[4,4,8]",
    "callbacks=monitors", "callbacks.conflict.every_n_steps=1",
)  # fmt: skip
METHODS = {"router": ROUTER, "grad": GRAD, "stateful": STATEFUL, "watched": WATCHED}


@pytest.fixture(scope="session")
def methods() -> dict[str, tuple[str, ...]]:
    return METHODS


@pytest.fixture(scope="session")
def killer(killing: Any) -> Iterator[Any]:
    warm = killing.Killer()
    yield warm
    warm.close()


@pytest.fixture(scope="session")
def whole(killer: Any, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``whole("router")``: the folder of that method's undisturbed run."""
    folders: dict[str, Path] = {}

    def undisturbed(method: str) -> Path:
        if method not in folders:
            folders[method] = tmp_path_factory.mktemp(method) / "run"
            code = killer.run(folders[method], METHODS[method])
            assert code == 0, Path(f"{folders[method]}.log").read_text()
        return folders[method]

    return undisturbed
