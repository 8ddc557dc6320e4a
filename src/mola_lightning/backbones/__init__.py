"""Backbones: timm models without their classifier, for images of any size."""

from mola_lightning.backbones.timm import create_backbone, create_small_resnet

__all__ = ["create_backbone", "create_small_resnet"]
