"""The two ideas that get a type, and the plain objects around them. Imports nothing of the rest of the package."""

from mola_lightning.core.batch import Batch, Collate, Sample, TaskRows
from mola_lightning.core.errors import ConfigError, DataError, MolaError, RunFolderError
from mola_lightning.core.labels import row_targets
from mola_lightning.core.outputs import ModelOutput, Routing
from mola_lightning.core.pixels import pixel_targets, valid_pixels
from mola_lightning.core.seeding import seed_of
from mola_lightning.core.tasks import Criterion, Regime, Task, check_tasks, cross_entropy, full_precision

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
    "full_precision",
    "pixel_targets",
    "row_targets",
    "seed_of",
    "valid_pixels",
]
