"""LightningModules, and everything around a training run."""

from mola_lightning.training.module import MultiTaskModule
from mola_lightning.training.mola import MoLAGrad, MoLARouter

__all__ = ["MoLAGrad", "MoLARouter", "MultiTaskModule"]
