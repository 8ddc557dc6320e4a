"""Sharing schemes: which parameters serve which task."""

from mola_lightning.architectures.base import Architecture, BackboneFactory, BackboneLike, Features, build_backbone
from mola_lightning.architectures.cgc import CGC
from mola_lightning.architectures.cross_stitch import CrossStitch
from mola_lightning.architectures.dselect_k import DSelectK
from mola_lightning.architectures.hps import HPS
from mola_lightning.architectures.hps_dsbn import HPSDomainNorm
from mola_lightning.architectures.hps_wide import HPSWide
from mola_lightning.architectures.ltb import LTB
from mola_lightning.architectures.mmoe import MMoE
from mola_lightning.architectures.mola import MoLA
from mola_lightning.architectures.mtan import MTAN
from mola_lightning.architectures.ple import PLE
from mola_lightning.architectures.single_task import SingleTask

__all__ = [
    "CGC",
    "HPS",
    "LTB",
    "MTAN",
    "PLE",
    "Architecture",
    "BackboneFactory",
    "BackboneLike",
    "CrossStitch",
    "DSelectK",
    "Features",
    "HPSDomainNorm",
    "HPSWide",
    "MMoE",
    "MoLA",
    "SingleTask",
    "build_backbone",
]
