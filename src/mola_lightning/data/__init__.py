"""Heterogeneous data: benchmarks, samplers over their tasks, and one data module for all of them."""

from mola_lightning.data.base import Source, Split, TaskDataset
from mola_lightning.data.datamodule import MultiTaskDataModule
from mola_lightning.data.digits import Digits
from mola_lightning.data.loaders import RankShare, ResumableLoader
from mola_lightning.data.memory import InMemoryDataset
from mola_lightning.data.samplers import BalancedSampler, EpochSampler, ProportionalSampler, TemperatureSampler
from mola_lightning.data.tensors import TensorSource
from mola_lightning.data.transforms import Normalize, RandomShift

__all__ = [
    "BalancedSampler",
    "Digits",
    "EpochSampler",
    "InMemoryDataset",
    "MultiTaskDataModule",
    "Normalize",
    "ProportionalSampler",
    "RandomShift",
    "RankShare",
    "ResumableLoader",
    "Source",
    "Split",
    "TaskDataset",
    "TemperatureSampler",
    "TensorSource",
]
