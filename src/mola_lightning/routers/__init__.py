"""Routers: who decides how each image mixes the experts. One file each.

All are built with the keywords ``num_experts`` and ``in_channels``.
"""

from mola_lightning.routers.base import Router
from mola_lightning.routers.conv import ConvRouter
from mola_lightning.routers.hard import HardRouter
from mola_lightning.routers.task_id import TaskIdRouter
from mola_lightning.routers.top_k import TopKRouter
from mola_lightning.routers.uniform import UniformRouter

__all__ = ["ConvRouter", "HardRouter", "Router", "TaskIdRouter", "TopKRouter", "UniformRouter"]
