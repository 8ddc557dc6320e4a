"""The two ideas that get a type, and the plain objects around them. Imports nothing of the rest of the package."""

from mola_lightning.core.batch import Batch, Collate, Sample, TaskRows
from mola_lightning.core.errors import ConfigError, DataError, MolaError, RunFolderError
from mola_lightning.core.outputs import ModelOutput, Routing
from mola_lightning.core.seeding import seed_of
from mola_lightning.core.tasks import Criterion, Regime, Task, check_tasks, cross_entropy

__all__ = [
    "Batch",
    "Collate",
    "ConfigError",
    "Criterion",
    "DataError",
    "ModelOutput",
    "MolaError",
    "Regime",
    "Routing",
    "RunFolderError",
    "Sample",
    "Task",
    "TaskRows",
    "check_tasks",
    "cross_entropy",
    "seed_of",
]
