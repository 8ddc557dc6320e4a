"""Heads: from a task's features to its predictions."""

from mola_lightning.heads.base import HeadFactory, factories_per_task
from mola_lightning.heads.dense import DenseHead, LightDecoder, PSPDecoder
from mola_lightning.heads.linear import LinearHead

__all__ = ["DenseHead", "HeadFactory", "LightDecoder", "LinearHead", "PSPDecoder", "factories_per_task"]
