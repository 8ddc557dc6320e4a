"""A run killed at any moment and started again ends bit for bit as the undisturbed one; each ingredient is needed."""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mola_lightning.core.files import read_journal

# Some of the moments of tests/soak, twenty runs with those below. An epoch has 5 batches; a checkpoint is due every 2
# steps and as an epoch begins.
KILLS = [
    ("router", ("hook", "on_train_batch_end", 4)),
    ("router", ("hook", "on_train_epoch_end", 2)),
    ("router", ("io", "row", 4)),
    ("grad", ("hook", "on_validation_end", 2)),
    ("grad", ("hook", "on_train_end", 1)),
    ("grad", ("io", "half", 2)),
    ("stateful", ("hook", "on_train_epoch_start", 3)),
    ("stateful", ("hook", "on_validation_batch_end", 3)),
    ("stateful", ("hook", "on_test_batch_end", 1)),
    ("stateful", ("io", "after_replace", 5)),
    ("router", ("hook", "on_validation_start", 1)),
    ("router", ("io", "half", 4)),
    ("grad", ("hook", "on_train_batch_start", 8)),
    ("grad", ("io", "before_replace", 6)),
    ("stateful", ("hook", "on_train_batch_end", 5)),
    ("stateful", ("io", "after_replace", 6)),
    ("stateful", ("io", "row", 5)),
    ("watched", ("hook", "on_train_batch_start", 8)),
    ("watched", ("hook", "on_validation_batch_end", 3)),
    ("watched", ("io", "row", 7)),
]
CONTROLS = [
    ("seeds", ("hook", "on_train_batch_end", 8)),
    ("meters", ("hook", "on_train_batch_end", 8)),
    ("loader", ("hook", "on_train_batch_end", 8)),
    ("loops", ("hook", "on_train_batch_end", 8)),
    ("journal", ("hook", "on_validation_end", 2)),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "kill"),
    KILLS,
    ids=lambda v: v if isinstance(v, str) else f"{v[1]}-{v[2]}",
)
def test_killed_at_a_moment(
    killer: Any, whole: Callable[[str], Path], methods: Any, tmp_path: Path, method: str, kill: tuple[str, str, int]
) -> None:
    assert killer.trial(whole(method), tmp_path / "run", methods[method], [kill]) == []


@pytest.mark.slow
@pytest.mark.parametrize("method", ["router", "grad", "stateful"])
def test_killed_several_times_at_random(
    killer: Any, whole: Callable[[str], Path], methods: Any, tmp_path: Path, method: str
) -> None:
    draws = random.Random(method)
    kills = [("hook", "on_train_batch_end", draws.randint(1, 5)) for _ in range(2)]
    assert killer.trial(whole(method), tmp_path / "run", methods[method], [*kills, draws.uniform(0.3, 1.5)]) == []


@pytest.mark.soak
@pytest.mark.parametrize(("ingredient", "kill"), CONTROLS, ids=lambda v: v if isinstance(v, str) else None)
def test_without_an_ingredient_it_differs(
    killer: Any, whole: Callable[[str], Path], methods: Any, tmp_path: Path, ingredient: str, kill: tuple[str, str, int]
) -> None:
    found = killer.trial(whole("stateful"), tmp_path / "run", methods["stateful"], [kill], without=ingredient)
    assert found != []


@pytest.mark.slow
def test_what_monitors_say_is_in_the_journal_once(whole: Callable[[str], Path]) -> None:
    """So that the kills of a watched run put it to the test: the journal of a killed run is that of the whole one."""
    found = read_journal(whole("watched") / "metrics.jsonl")
    assert [row["step"] for row in found if "conflict/mean_cosine" in row] == list(range(15))
    assert [row["epoch"] for row in found if "routing/effective_experts" in row] == [0, 1, 2]


def test_same_run_twice(killer: Any, whole: Callable[[str], Path], methods: Any, tmp_path: Path, killing: Any) -> None:
    assert killer.run(tmp_path / "run", methods["grad"]) == 0
    assert killing.differences(whole("grad"), tmp_path / "run") == []
