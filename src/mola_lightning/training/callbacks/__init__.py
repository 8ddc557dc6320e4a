"""Callbacks of a training run."""

from mola_lightning.training.callbacks.progress import Progress
from mola_lightning.training.callbacks.records import TestRecords
from mola_lightning.training.callbacks.resumable import ResumableCheckpoint
from mola_lightning.training.callbacks.step_timer import StepTimer

__all__ = ["Progress", "ResumableCheckpoint", "StepTimer", "TestRecords"]
