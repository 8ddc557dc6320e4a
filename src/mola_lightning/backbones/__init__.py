"""Backbones: timm models without their classifier, for images of any size."""

from mola_lightning.core import lean_timm  # noqa: F401 - before whatever imports timm

# isort: split
from mola_lightning.backbones.recipe import Recipe
from mola_lightning.backbones.stages import Stages, split
from mola_lightning.backbones.timm import create_backbone, create_small_resnet
from mola_lightning.backbones.torchvision import create_torchvision_backbone

__all__ = ["Recipe", "Stages", "create_backbone", "create_small_resnet", "create_torchvision_backbone", "split"]
