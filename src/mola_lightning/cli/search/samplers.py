"""Which point of the space a search tries next: a function of the seed, the trial's number and the trials before.

So a search that was killed proposes, started again, what the undisturbed one would have.
"""

import warnings
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import qmc

from mola_lightning.cli.search.space import Space
from mola_lightning.core import seed_of
from mola_lightning.training.callbacks.pruning import import_optuna

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial

SAMPLERS = ("tpe", "random", "grid", "qmc")
ATTEMPTS = 20  # draws until a point is new, where points can repeat


def next_point(
    space: Space,
    trials: Sequence["FrozenTrial"],
    seen: Collection[tuple[str, ...]],
    sampler: str,
    seed: int,
    direction: str,
    startup_trials: int,
) -> dict[str, Any] | None:
    """A point that no trial had; None when all of a finite space were tried. A run is a function of its settings, so
    that the same point again would say nothing new.

    Args:
        space: of the search.
        trials: all before.
        seen: their overrides; a storage gives floats back with another last digit.
        sampler: one of :data:`SAMPLERS`.
        seed: of the search.
        direction: ``maximize`` or ``minimize``.
        startup_trials: of ``tpe``: random ones before it learns.
    """
    if sampler != "grid":
        for attempt in range(ATTEMPTS):
            point = _draw(space, trials, sampler, seed, attempt, direction, startup_trials)
            if tuple(space.overrides(point)) not in seen:
                return point
        if space.size is None:
            return point
    return next((point for point in space.points() if tuple(space.overrides(point)) not in seen), None)


def _draw(
    space: Space,
    trials: Sequence["FrozenTrial"],
    sampler: str,
    seed: int,
    attempt: int,
    direction: str,
    startup_trials: int,
) -> dict[str, Any]:
    number = len(trials)
    if sampler == "tpe":
        return _tpe(space, trials, seed_of(seed, "tpe", number, attempt) % 2**32, direction, startup_trials)
    if sampler == "qmc" and attempt == 0:
        sequence = qmc.Sobol(len(space.axes), scramble=True, seed=seed)
        if number:  # SciPy cannot go forward by nothing
            sequence.fast_forward(number)
        return space.at([float(share) for share in sequence.random(1)[0]])
    random = np.random.default_rng(seed_of(seed, "random", number, attempt))
    return space.at([float(share) for share in random.random(len(space.axes))])


def _tpe(
    space: Space, trials: Sequence["FrozenTrial"], seed: int, direction: str, startup_trials: int
) -> dict[str, Any]:
    """Asked in a copy of the study: in the real one a kill could leave a trial with half of its parameters."""
    optuna = import_optuna()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        # Trials that run beside this one count as bad ones, so that it keeps away from them.
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=startup_trials, constant_liar=True)
    copy = optuna.create_study(direction=direction, sampler=sampler)
    copy.add_trials(trials)
    return space.snap(copy.ask(space.distributions).params)
