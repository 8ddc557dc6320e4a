"""The sweeper as Hydra meets it. Hydra imports this file in every program, so that all else is imported when needed."""

from collections.abc import Mapping, Sequence
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class MolaOptunaSweeper(Sweeper):
    """Searches hyper-parameters: proposes trials in batches, launches each as a job, learns from their scores.

    ``conf/hydra/sweeper/mola_optuna.yaml`` describes the options.

    Args:
        study_name: name of the study in the storage.
        storage: URL of the storage; None: ``study.db`` in the sweep's folder.
        direction: ``maximize`` or ``minimize``.
        n_trials: number of trials.
        batch_size: trials at a time.
        sampler: ``tpe``, ``random``, ``grid`` or ``qmc``.
        seed: of the sampler.
        startup_trials: of ``tpe``.
        max_failure_rate: share of ``n_trials`` that may fail.
        pruner: ``median`` or None.
        pruner_startup_trials: trials that end before the pruner ends any.
        pruner_warmup_epochs: epochs of each trial in which it is not ended.
        overrides: of every trial, unless the command line says otherwise.
        params: the space, and fixed settings; the command line adds to it and replaces.

    Raises:
        ConfigError: for an option that cannot work.
    """

    def __init__(
        self,
        study_name: str = "search",
        storage: str | None = None,
        direction: str = "maximize",
        n_trials: int = 20,
        batch_size: int = 1,
        sampler: str = "tpe",
        seed: int = 0,
        startup_trials: int = 10,
        max_failure_rate: float = 0.5,
        pruner: str | None = None,
        pruner_startup_trials: int = 5,
        pruner_warmup_epochs: int = 3,
        overrides: Sequence[str] = (),
        params: Mapping[str, Any] | None = None,
    ) -> None:
        from mola_lightning.cli.search.study import SearchSettings

        self.settings = SearchSettings(
            study_name, storage, direction, n_trials, batch_size, sampler, seed, startup_trials, max_failure_rate,
            pruner, pruner_startup_trials, pruner_warmup_epochs, tuple(overrides),
        )  # fmt: skip
        self.params = dict(params or {})
        self.hydra_context: HydraContext | None = None
        self.config: DictConfig | None = None
        self.launcher: Any = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the search.

        Args:
            arguments: overrides of the command line, fixed ones and those of the space.
        """
        from mola_lightning.cli.search.run import run_search
        from mola_lightning.cli.search.space import Space
        from mola_lightning.training.callbacks.pruning import import_optuna

        import_optuna()  # or say how to install it
        assert self.hydra_context is not None
        assert self.config is not None
        loader = self.hydra_context.config_loader
        params = [f"{key}={'null' if value is None else value}" for key, value in self.params.items()]
        parser = OverridesParser.create(config_loader=loader)
        space = Space(parser.parse_overrides([*self.settings.overrides, *params, *arguments]))
        return run_search(self.settings, space, self.config, loader, self.launcher)
