"""Ends the trials of a hyper-parameter search that do worse than others did at the same epoch."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer

from mola_lightning.core import ConfigError, MolaError
from mola_lightning.core.errors import one_of
from mola_lightning.core.files import atomic_write

if TYPE_CHECKING:
    import optuna

PRUNERS = ("median",)
PRUNER = "pruner"  # attribute of a study: the pruner that its trials ask, with its options
BUSY_S = 60.0  # seconds that a process waits for another's write to an SQLite file


class RunPruned(MolaError):
    """The pruner of a search gave a run up. The only argument is a message: it crosses processes."""


class TrialPruning(Callback):
    """Reports the score of each epoch to the study of a search, and ends the run when the study's pruner gives it up.

    It works in any process that reaches the study's storage. The run that it ends is an unfinished one, which a start
    outside of the search would train to its end; a file in its folder says that, and why, it was ended, for a start
    that belongs to the same trial.

    Args:
        storage: URL of the study's storage.
        study_name: name of the study in it.
        number: of the trial.
        note: the file that says that the run was ended.
        monitor: the logged metric that is reported.
    """

    def __init__(
        self, storage: str, study_name: str, number: int, note: Path | str, monitor: str = "val/score"
    ) -> None:
        self.storage, self.study_name, self.number = storage, study_name, number
        self.note, self.monitor = Path(note), monitor
        self._opened: optuna.storages.RDBStorage | None = None

    @property
    def trial(self) -> dict[str, Any]:
        """What tells the trial from any other."""
        return {"storage": self.storage, "study": self.study_name, "trial": self.number}

    def look_up_note(self) -> None:
        """Take away what an earlier start left that was of no or another trial.

        Raises:
            RunPruned: when this trial was ended before; a kill may have come between that and its being told.
        """
        try:
            found = json.loads(self.note.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return
        if {key: found.get(key) for key in self.trial} == self.trial:
            raise RunPruned(found["message"])
        self.note.unlink(missing_ok=True)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report, and end the run if the pruner says so.

        Raises:
            RunPruned: when it does; on all processes of the run.
        """
        if trainer.state.fn != "fit" or trainer.sanity_checking or self.monitor not in trainer.callback_metrics:
            return
        epoch, score = trainer.current_epoch, float(trainer.callback_metrics[self.monitor])
        given_up = self._report(epoch, score) if trainer.is_global_zero else False
        if not trainer.strategy.broadcast(given_up):
            return
        message = f"pruned in epoch {epoch + 1}, {self.monitor} {score:.4f}"
        if trainer.is_global_zero:
            with atomic_write(self.note) as file:
                json.dump({**self.trial, "epoch": epoch, "score": score, "message": message}, file, indent=1)
        raise RunPruned(message)

    def _report(self, epoch: int, score: float) -> bool:
        """Report the score of an epoch; whether the pruner gives the trial up.

        The storage itself is written to: an epoch that a resumed run repeats is reported a second time, and
        ``optuna.Trial`` would warn of that.
        """
        import optuna

        self._opened = storage = self._opened or open_storage(self.storage)
        study = optuna.load_study(study_name=self.study_name, storage=storage)
        trial = storage.get_trial_id_from_study_id_trial_number(
            storage.get_study_id_from_name(self.study_name), self.number
        )
        storage.set_trial_intermediate_value(trial, epoch, score)
        return make_pruner(study.user_attrs[PRUNER]).prune(study, storage.get_trial(trial))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Close the storage."""
        if self._opened is not None:
            self._opened.remove_session()
            self._opened = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the storage: no other hook comes after an error."""
        self.teardown(trainer, pl_module, "fit")


def make_pruner(settings: dict[str, Any]) -> "optuna.pruners.BasePruner":
    """The pruner that a study names.

    Args:
        settings: ``name`` (``median``: ends what is below the median of the others at the same epoch),
            ``startup_trials`` that are not ended, ``warmup_epochs`` of each trial in which it is not ended.
    """
    import optuna

    one_of("pruner", settings["name"], PRUNERS)
    return optuna.pruners.MedianPruner(settings["startup_trials"], settings["warmup_epochs"])


def import_optuna() -> Any:
    """Optuna, which takes a second to import and which most runs do without.

    Raises:
        ConfigError: when it is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            'a search needs the package optuna; install it with: pip install "mola-lightning[search]"'
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def open_storage(url: str) -> "optuna.storages.RDBStorage":
    """A storage of studies.

    Raises:
        ConfigError: when it cannot be opened, or Optuna is not installed.
    """
    optuna = import_optuna()
    from sqlalchemy.exc import SQLAlchemyError

    options = {"connect_args": {"timeout": BUSY_S}} if url.startswith("sqlite:") else None
    try:
        return optuna.storages.RDBStorage(url, engine_kwargs=options)
    except (SQLAlchemyError, ImportError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"cannot open the storage {url}: {reason}. Give an SQLAlchemy URL, as sqlite:////folder/study.db"
        ) from error
