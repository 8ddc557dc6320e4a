"""Train one model on heterogeneous data with a Mixture of Low-rank Adapters (MoLA, Zhou et al., ICML 2024)."""

from mola_lightning.data import MultiTaskDataModule
from mola_lightning.training import MoLAGrad, MoLARouter, MultiTaskModule

__version__ = "0.1.0"
__all__ = ["MoLAGrad", "MoLARouter", "MultiTaskDataModule", "MultiTaskModule"]
