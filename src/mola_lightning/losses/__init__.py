"""Losses: criteria of tasks, task-wise decorrelation, and auxiliary losses over a model's output."""

from mola_lightning.losses.auxiliary import AuxiliaryLoss, TaskCrossEntropy, TwDLoss
from mola_lightning.losses.depth import depth_loss
from mola_lightning.losses.labels import (
    WeightedBinaryCrossEntropy,
    WeightedCrossEntropy,
    absolute_error,
    binary_cross_entropy,
    squared_error,
)
from mola_lightning.losses.normals import normal_loss, unit_length
from mola_lightning.losses.segmentation import segmentation_loss
from mola_lightning.losses.twd import TaskwiseDecorrelation

__all__ = [
    "AuxiliaryLoss",
    "TaskCrossEntropy",
    "TaskwiseDecorrelation",
    "TwDLoss",
    "WeightedBinaryCrossEntropy",
    "WeightedCrossEntropy",
    "absolute_error",
    "binary_cross_entropy",
    "depth_loss",
    "normal_loss",
    "segmentation_loss",
    "squared_error",
    "unit_length",
]
