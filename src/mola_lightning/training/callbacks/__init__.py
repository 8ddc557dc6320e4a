"""Callbacks of a training run."""

from mola_lightning.training.callbacks.added_tasks import AddedTasks
from mola_lightning.training.callbacks.conflict import ConflictMonitor
from mola_lightning.training.callbacks.fast import FastNetwork
from mola_lightning.training.callbacks.progress import Progress
from mola_lightning.training.callbacks.pruning import RunPruned, TrialPruning
from mola_lightning.training.callbacks.records import TestRecords
from mola_lightning.training.callbacks.resumable import ResumableCheckpoint
from mola_lightning.training.callbacks.routing import RoutingMonitor
from mola_lightning.training.callbacks.step_timer import StepTimer

__all__ = [
    "AddedTasks",
    "ConflictMonitor",
    "FastNetwork",
    "Progress",
    "ResumableCheckpoint",
    "RoutingMonitor",
    "RunPruned",
    "StepTimer",
    "TestRecords",
    "TrialPruning",
]
