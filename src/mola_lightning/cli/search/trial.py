"""How a job of a search knows its trial: by the environment that Hydra sets for it, wherever it runs.

The trial is no part of the config, so that a run's key and folder do not depend on it.
"""

import os
from pathlib import Path

from hydra.core.override_parser.types import Quote, QuotedString

from mola_lightning.core.run_files import PRUNED
from mola_lightning.training.callbacks import TrialPruning

STORAGE, STUDY, TRIAL = "MOLA_SEARCH_STORAGE", "MOLA_SEARCH_STUDY", "MOLA_SEARCH_TRIAL"


def trial_overrides(storage: str, study_name: str, number: int) -> list[str]:
    """The overrides that tell a job of its trial."""
    values = {STORAGE: storage, STUDY: study_name, TRIAL: str(number)}
    quoted = {name: QuotedString(value, Quote.single).with_quotes() for name, value in values.items()}
    return [f"+hydra.job.env_set.{name}={value}" for name, value in quoted.items()]


def trial_pruning(folder: Path) -> TrialPruning | None:
    """The callback of a job whose search may end it early; None for any other run, which goes on where it was ended.

    Args:
        folder: the run folder.

    Raises:
        RunPruned: when an earlier start of the same trial was ended here.
    """
    if TRIAL not in os.environ:
        (folder / PRUNED).unlink(missing_ok=True)
        return None
    pruning = TrialPruning(os.environ[STORAGE], os.environ[STUDY], int(os.environ[TRIAL]), folder / PRUNED)
    pruning.look_up_note()
    return pruning
