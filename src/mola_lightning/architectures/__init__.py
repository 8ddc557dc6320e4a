"""Sharing schemes: which parameters serve which task."""

from mola_lightning.architectures.base import Architecture, BackboneFactory, Features, build_backbone
from mola_lightning.architectures.hps import HPS
from mola_lightning.architectures.mola import MoLA
from mola_lightning.architectures.single_task import SingleTask

__all__ = ["HPS", "Architecture", "BackboneFactory", "Features", "MoLA", "SingleTask", "build_backbone"]
