"""Heads: from a task's features to its predictions."""

from mola_lightning.heads.base import HeadFactory
from mola_lightning.heads.linear import LinearHead

__all__ = ["HeadFactory", "LinearHead"]
