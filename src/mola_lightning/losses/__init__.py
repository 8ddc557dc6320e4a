"""Losses: task-wise decorrelation, and auxiliary losses over a model's output."""

from mola_lightning.losses.auxiliary import AuxiliaryLoss, TaskCrossEntropy, TwDLoss
from mola_lightning.losses.twd import TaskwiseDecorrelation

__all__ = ["AuxiliaryLoss", "TaskCrossEntropy", "TaskwiseDecorrelation", "TwDLoss"]
