"""Low-rank adapters (experts) inside any backbone, mixed per sample."""

from mola_lightning.core import lean_timm  # noqa: F401 - before whatever imports timm

# isort: split
from mola_lightning.adapters.backbone import AdaptedBackbone
from mola_lightning.adapters.base import AdaptedLayer
from mola_lightning.adapters.checkpointing import CheckpointBoundary
from mola_lightning.adapters.conv import AdaptedConv2d, AdaptedConv2dSame
from mola_lightning.adapters.explain import PlanLine
from mola_lightning.adapters.inject import InjectionReport, inject
from mola_lightning.adapters.kinds import is_adapter_parameter
from mola_lightning.adapters.linear import AdaptedLinear
from mola_lightning.adapters.plans import PLAN_NAMES
from mola_lightning.adapters.reference import reference_forward
from mola_lightning.adapters.scope import Mixing, MixingScope

__all__ = [
    "PLAN_NAMES",
    "AdaptedBackbone",
    "AdaptedConv2d",
    "AdaptedConv2dSame",
    "AdaptedLayer",
    "AdaptedLinear",
    "CheckpointBoundary",
    "InjectionReport",
    "Mixing",
    "MixingScope",
    "PlanLine",
    "inject",
    "is_adapter_parameter",
    "reference_forward",
]
