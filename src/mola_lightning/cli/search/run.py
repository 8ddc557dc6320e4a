"""A search from its first trial to its last, through any launcher of Hydra."""

import json
import logging
import os
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from mola_lightning.cli.errors import causes
from mola_lightning.cli.folders import claimed
from mola_lightning.cli.progress import expect_runs, finish_watching
from mola_lightning.cli.search.record import closing_lines, write_record
from mola_lightning.cli.search.space import Space
from mola_lightning.cli.search.study import OVERRIDES, Search, SearchSettings
from mola_lightning.cli.search.trial import trial_overrides
from mola_lightning.core import ConfigError
from mola_lightning.core.files import atomic_write
from mola_lightning.training.callbacks import RunPruned

log = logging.getLogger(__name__)


def run_search(
    settings: SearchSettings, space: Space, config: DictConfig, loader: ConfigLoader, launcher: Launcher
) -> Search:
    """Run what is missing of a search.

    Args:
        settings: of the search.
        space: that it looks in.
        config: of the sweep, with its ``hydra`` node.
        loader: composes the config of a trial, to find its folder and what is wrong with it before it is launched.
        launcher: runs a batch.

    Raises:
        ConfigError: when too many trials failed, or none gave a score.
    """
    folder = Path(config.hydra.sweep.dir)
    folder.mkdir(parents=True, exist_ok=True)
    with claimed(folder) as lock:  # two processes would run each other's trials
        lock.truncate(0)
        json.dump({"process": f"process {os.getpid()} on {socket.gethostname()}"}, lock)
        lock.flush()
        search = Search(settings, space, folder)
        with atomic_write(folder / "multirun.yaml") as file:
            file.write(OmegaConf.to_yaml(config))
        ended = len(search.trials()) - len(search.trials("running"))
        if search.trials():
            log.info("going on with the search in %s: %d of %d trials have ended", folder, ended, search.planned)
        expect_runs(max(search.planned - ended, len(search.trials("running"))), {axis.key for axis in space.axes})
        search.check_failures()
        while batch := _next_batch(search, config, loader):
            write_record(search)
            for trial, job in zip(batch, launcher.launch(_jobs(search, batch), batch[0].number), strict=True):
                search.tell(trial, _outcome(job))
            write_record(search)
            search.check_failures()
        write_record(search)
    finish_watching()
    Console(stderr=True).print("\n".join(closing_lines(search)), soft_wrap=True, markup=False, highlight=False)
    if search.best is None:
        raise ConfigError(f"no trial of the search in {folder} gave a score; the reasons are above")
    return search


def _next_batch(search: Search, config: DictConfig, loader: ConfigLoader) -> list[Any]:
    """The running trials: those that a killed search has left, and new ones to fill the batch."""
    while (point := search.propose()) is not None:
        overrides = [*search.space.fixed, *search.space.overrides(point)]
        composed = loader.load_sweep_config(config, overrides)
        search.add(point, str(composed.hydra.sweep.subdir))
    return search.trials("running")


def _jobs(search: Search, batch: Sequence[Any]) -> list[list[str]]:
    """The overrides of each job of a batch."""
    s = search.settings
    return [
        [
            *search.space.fixed,
            *trial.user_attrs[OVERRIDES],
            *(trial_overrides(search.url, s.study_name, trial.number) if s.pruner is not None else []),
        ]
        for trial in batch
    ]


def _outcome(job: JobReturn) -> Any:
    """The score of a job, or the exception that ended it."""
    # Hydra's own property would write to stderr, and raise.
    found = job._return_value
    if job.status == JobStatus.COMPLETED or not isinstance(found, BaseException):
        return found
    return next((cause for cause in causes(found) if isinstance(cause, RunPruned)), found)
