"""The study of a search: its trials, kept in a storage from which a search that was killed goes on."""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mola_lightning.cli.naming import LEFT_OUT
from mola_lightning.cli.search.samplers import SAMPLERS, next_point
from mola_lightning.cli.search.space import Space
from mola_lightning.core import ConfigError
from mola_lightning.core.errors import one_of, positive_int, require
from mola_lightning.training.callbacks.pruning import PRUNER, PRUNERS, RunPruned, import_optuna, open_storage

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial, TrialState

DEFINITION, OVERRIDES, FOLDER, REASON = "definition", "overrides", "folder", "reason"  # attributes of study and trials
DIRECTIONS = ("maximize", "minimize")


@dataclass(frozen=True)
class SearchSettings:
    """What a search is; ``conf/hydra/sweeper/mola_optuna.yaml`` describes each option.

    Raises:
        ConfigError: for a value that cannot work.
    """

    study_name: str
    storage: str | None
    direction: str
    n_trials: int
    batch_size: int
    sampler: str
    seed: int
    startup_trials: int
    max_failure_rate: float
    pruner: str | None
    pruner_startup_trials: int
    pruner_warmup_epochs: int
    overrides: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        one_of("direction", self.direction, DIRECTIONS)
        one_of("sampler", self.sampler, SAMPLERS)
        one_of("pruner", self.pruner, (None, *PRUNERS))
        positive_int("n_trials", self.n_trials)
        positive_int("batch_size", self.batch_size)
        rate = self.max_failure_rate
        require(0 <= rate <= 1, f"max_failure_rate must be between 0 and 1, got {rate!r}")
        for name in ("startup_trials", "pruner_startup_trials", "pruner_warmup_epochs"):
            value = getattr(self, name)
            require(isinstance(value, int) and value >= 0, f"{name} must be an integer >= 0, got {value!r}")


class Search:
    """A study, opened or begun.

    A trial is added to the storage whole, in one transaction, and stays ``RUNNING`` until its score is told. Those
    that a killed search left running are its first batch when it is started again.

    Args:
        settings: of the search.
        space: that it looks in.
        folder: of the sweep; holds ``study.db`` unless the settings name another storage.

    Attributes:
        url: of the storage.
        study: of Optuna.

    Raises:
        ConfigError: when the storage cannot be opened, or holds another search under this name.
    """

    def __init__(self, settings: SearchSettings, space: Space, folder: Path) -> None:
        self.url = settings.storage or f"sqlite:///{folder.resolve() / 'study.db'}"
        optuna, self._storage = import_optuna(), open_storage(self.url)
        self.settings, self.space, self.folder = settings, space, folder
        self.study = optuna.create_study(
            study_name=settings.study_name, storage=self._storage, direction=settings.direction, load_if_exists=True
        )
        self._check_same()
        self.study.set_user_attr(
            PRUNER,
            {
                "name": settings.pruner,
                "startup_trials": settings.pruner_startup_trials,
                "warmup_epochs": settings.pruner_warmup_epochs,
            },
        )

    def _check_same(self) -> None:
        """Scores of other settings cannot be compared, and would mislead the sampler. More trials are welcome."""
        s = self.settings
        now = {
            "direction": s.direction, "sampler": s.sampler, "seed": s.seed, "startup_trials": s.startup_trials,
            "space": self.space.texts,
            "fixed": sorted(o for o in self.space.fixed if re.split(r"[./@=]", o.lstrip("+~"))[0] not in LEFT_OUT),
        }  # fmt: skip
        before = self.study.user_attrs.get(DEFINITION)
        if before is None:
            self.study.set_user_attr(DEFINITION, now)
            return
        differing = [key for key in now if before.get(key) != now[key]]
        if differing:
            said = "; ".join(f"{key}: {before.get(key)} there, {now[key]} here" for key in differing)
            raise ConfigError(
                f"{self.url} holds another search under the name {s.study_name!r} ({said}). Give the same settings to "
                "go on, or choose another folder with hydra.sweep.dir=... or another name with "
                "hydra.sweeper.study_name=..."
            )

    @property
    def planned(self) -> int:
        """The number of trials at the end, unless too many fail: no point of a finite space is tried twice."""
        size = self.space.size
        return self.settings.n_trials if size is None else min(self.settings.n_trials, size)

    def trials(self, *states: str) -> list["FrozenTrial"]:
        """All trials by number, or those in some states (``complete``, ``pruned``, ``fail``, ``running``)."""
        return [t for t in self.study.get_trials(deepcopy=False) if not states or t.state.name.lower() in states]

    def propose(self) -> dict[str, Any] | None:
        """The next point to be tried; None at the end of the search, or of a batch.

        Batches end at multiples of ``batch_size``, so that a sampler sees the same scores whether the search was
        killed or not.
        """
        trials, s = self.trials(), self.settings
        running = any(trial.state.name == "RUNNING" for trial in trials)
        if len(trials) >= s.n_trials or (running and len(trials) % s.batch_size == 0):
            return None
        seen = {tuple(trial.user_attrs[OVERRIDES]) for trial in trials}
        return next_point(self.space, trials, seen, s.sampler, s.seed, s.direction, s.startup_trials)

    def add(self, point: dict[str, Any], folder: str) -> None:
        """Add a running trial.

        Args:
            point: that it tries.
            folder: name of its run folder.
        """
        from optuna.trial import TrialState, create_trial

        self.study.add_trial(
            create_trial(
                state=TrialState.RUNNING,
                params=point,
                distributions=self.space.distributions,
                user_attrs={OVERRIDES: self.space.overrides(point), FOLDER: folder},
            )
        )

    def tell(self, trial: "FrozenTrial", outcome: Any) -> None:
        """End a trial.

        Args:
            trial: that is running.
            outcome: of its run: the score, or the exception that ended it.
        """
        from optuna.trial import TrialState

        if isinstance(outcome, RunPruned):
            self.study.tell(trial.number, state=TrialState.PRUNED)
        elif isinstance(outcome, int | float) and math.isfinite(outcome):
            self.study.tell(trial.number, float(outcome))
        else:
            reason = str(outcome) if isinstance(outcome, Exception) else f"the score is {outcome!r}"
            self._storage.set_trial_user_attr(trial._trial_id, REASON, " ".join(reason.split()))
            self.study.tell(trial.number, state=TrialState.FAIL)

    def states(self) -> dict[str, int]:
        """Number of trials by state, of those states that occur."""
        found: list[TrialState] = [trial.state for trial in self.trials()]
        return {state.name.lower(): found.count(state) for state in sorted(set(found))}

    @property
    def best(self) -> "FrozenTrial | None":
        """The best complete trial, the first of equals; None before there is one."""
        pick = max if self.settings.direction == "maximize" else min
        return pick(self.trials("complete"), key=lambda trial: float(trial.value or 0), default=None)

    def check_failures(self) -> None:
        """Give up when too many trials failed.

        Raises:
            ConfigError: if so, with the last one's reason.
        """
        failed, s = self.trials("fail"), self.settings
        if len(failed) > s.max_failure_rate * s.n_trials:
            raise ConfigError(
                f"{len(failed)} of {len(self.trials())} trials failed, more than max_failure_rate={s.max_failure_rate} "
                f"of n_trials={s.n_trials} allows; the last, {failed[-1].user_attrs[FOLDER]}: "
                f"{failed[-1].user_attrs.get(REASON)}. Each one's folder in {self.folder} holds its traceback "
                "(error.txt). Mend the cause and search anew in another folder, or raise max_failure_rate."
            )
