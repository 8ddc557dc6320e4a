"""Balancers: how the tasks' losses become one gradient."""

from mola_lightning.balancers.base import Balancer, Step
from mola_lightning.balancers.dynamic import DWA, FAMO
from mola_lightning.balancers.elementwise import ConFIG, ExcessMTL, GradDrop
from mola_lightning.balancers.feature_level import MGDAUB, AlignedMTLUB, FeatureLevel
from mola_lightning.balancers.gradient import GradientBalancer
from mola_lightning.balancers.gradnorm import GradNorm
from mola_lightning.balancers.gramian import (
    IMTLG,
    MGDA,
    AlignedMTL,
    CAGrad,
    FairGrad,
    GramianBalancer,
    PCGrad,
    UPGrad,
)
from mola_lightning.balancers.scalarization import (
    IMTLL,
    RLW,
    SI,
    STCH,
    UW,
    EqualWeights,
    LossBalancer,
    Scalarized,
)
from mola_lightning.balancers.stateful import GradVac, NashMTL, SDMGrad

__all__ = [
    # the contract, and bases for new balancers
    "Balancer",
    "Step",
    "LossBalancer",
    "Scalarized",
    "GradientBalancer",
    "GramianBalancer",
    "FeatureLevel",
    # of the losses
    "EqualWeights",
    "SI",
    "RLW",
    "DWA",
    "UW",
    "IMTLL",
    "STCH",
    "FAMO",
    # of the gradients
    "GradNorm",
    "MGDA",
    "PCGrad",
    "GradVac",
    "CAGrad",
    "NashMTL",
    "IMTLG",
    "AlignedMTL",
    "UPGrad",
    "FairGrad",
    "SDMGrad",
    "ExcessMTL",
    "GradDrop",
    "ConFIG",
    # of the features
    "MGDAUB",
    "AlignedMTLUB",
]
