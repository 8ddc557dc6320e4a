"""Heterogeneous data: benchmarks, samplers over their tasks, and one data module for all of them."""

from mola_lightning.data.base import SPLITS, MissingSplit, Source, Split, TaskDataset
from mola_lightning.data.composition import OneTaskPerBatch, QuotaSampler
from mola_lightning.data.datamodule import MultiTaskDataModule
from mola_lightning.data.dense import DenseDataset, depth_task, normals_task, segmentation_task
from mola_lightning.data.dense_transforms import DenseTransforms
from mola_lightning.data.digits import Digits
from mola_lightning.data.domainnet import DomainNet
from mola_lightning.data.glyphs import Glyphs
from mola_lightning.data.image_folders import ImageFolders
from mola_lightning.data.images import ManifestDataset
from mola_lightning.data.kinds import make_task, with_balanced_classes, with_class_weights
from mola_lightning.data.loaders import RankShare, ResumableLoader
from mola_lightning.data.manifest import Manifest
from mola_lightning.data.manifest_source import ManifestSource
from mola_lightning.data.medmnist import MedMNIST
from mola_lightning.data.memory import InMemoryDataset
from mola_lightning.data.nyuv2 import NYUv2
from mola_lightning.data.office_home import OfficeHome
from mola_lightning.data.pacs import PACS
from mola_lightning.data.radimagenet import RadImageNet
from mola_lightning.data.rooms import Rooms
from mola_lightning.data.samplers import (
    BalancedSampler,
    EpochSampler,
    ProportionalSampler,
    SqrtSampler,
    TemperatureSampler,
    auto_sampler,
)
from mola_lightning.data.tensors import TensorSource
from mola_lightning.data.transforms import ImageTransforms, Normalize, RandomShift
from mola_lightning.data.vlcs import VLCS

__all__ = [
    "BalancedSampler",
    "DenseDataset",
    "DenseTransforms",
    "Digits",
    "DomainNet",
    "EpochSampler",
    "Glyphs",
    "ImageFolders",
    "ImageTransforms",
    "InMemoryDataset",
    "Manifest",
    "ManifestDataset",
    "ManifestSource",
    "MedMNIST",
    "MissingSplit",
    "MultiTaskDataModule",
    "NYUv2",
    "Normalize",
    "OfficeHome",
    "OneTaskPerBatch",
    "PACS",
    "ProportionalSampler",
    "QuotaSampler",
    "RadImageNet",
    "RandomShift",
    "RankShare",
    "ResumableLoader",
    "Rooms",
    "SPLITS",
    "Source",
    "Split",
    "SqrtSampler",
    "TaskDataset",
    "TemperatureSampler",
    "TensorSource",
    "VLCS",
    "auto_sampler",
    "depth_task",
    "make_task",
    "normals_task",
    "segmentation_task",
    "with_balanced_classes",
    "with_class_weights",
]
