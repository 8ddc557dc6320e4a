"""The progress of a sweep, and what is said of it at its end."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from mola_lightning.cli.folders import RunFailed
from mola_lightning.cli.watch import SweepWatch
from mola_lightning.core.run_files import ERROR


class SweepProgress(Callback):
    """Hydra callback that watches a sweep from the launching process.

    Args:
        every: seconds between looks at the run folders.
    """

    def __init__(self, every: float = 1.0) -> None:
        self.every = every

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Begin to watch the sweep's folder."""
        total, varied = grid(config)
        SweepWatch(Path(config.hydra.sweep.dir), total, varied, self.every).start()


def watching() -> list[SweepWatch]:
    """The watches of this process."""
    return [thread for thread in threading.enumerate() if isinstance(thread, SweepWatch)]


def expect_runs(total: int, varied: set[str]) -> None:
    """Tell the watch what a search knows only when it has seen its study: how many runs come, and what differs."""
    for watch in watching():
        watch.total, watch.varied = total, varied


def finish_watching() -> None:
    """Say the last of the runs, before something is said of all of them."""
    for watch in watching():
        watch.finish()


@contextmanager
def sweep_report() -> Iterator[None]:
    """Ends the watching whatever ends the sweep, and says which runs failed.

    Raises:
        RunFailed: with all failures, when one ended the sweep.
    """
    watches: list[SweepWatch] = []
    try:
        try:
            yield
        finally:
            # Hydra tells callbacks of the end of a sweep only if it ends well.
            watches += watching()
            for watch in watches:
                watch.finish()
    except RunFailed as error:
        for watch in watches:
            if failures := watch.failures():
                raise RunFailed(
                    f"{failures}\nEach one's folder in {watch.folder} holds its traceback ({ERROR}). To run what is "
                    f"missing, repeat the command with hydra.sweep.dir={watch.folder}"
                ) from error
        raise


def grid(config: DictConfig) -> tuple[int | None, set[str] | None]:
    """The number of runs of a grid sweep, and the keys that differ among them; both None where another sweeper decides
    as it goes.
    """
    sweeper = config.hydra.sweeper
    if not str(sweeper["_target_"]).endswith("BasicSweeper"):
        return None, None
    given = list(config.hydra.overrides.task)
    named = {override.split("=", 1)[0] for override in given}
    params = [f"{key}={value}" for key, value in (sweeper.params or {}).items() if key not in named]
    overrides = OverridesParser.create().parse_overrides([*params, *given])
    jobs = (tuple(job) for batch in BasicSweeper.split_arguments(overrides, None) for job in batch)
    # The same job twice (seed=0,0) is one run.
    return len(set(jobs)), {override.get_key_element() for override in overrides if override.is_sweep_override()}
