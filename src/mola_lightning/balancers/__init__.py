"""Balancers: how the tasks' losses become one gradient."""

from mola_lightning.balancers.base import Balancer
from mola_lightning.balancers.scalarization import EqualWeights

__all__ = ["Balancer", "EqualWeights"]
