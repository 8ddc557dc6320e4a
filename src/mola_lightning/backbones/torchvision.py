"""Backbones that timm does not have, from torchvision."""

from collections.abc import Sequence
from typing import Any

from torch import nn
from torchvision import models

from mola_lightning.backbones.weights import load_weights
from mola_lightning.core import ConfigError
from mola_lightning.core.errors import positive_int


def create_torchvision_backbone(
    name: str,
    pretrained: bool = False,
    in_channels: int = 3,
    image_size: int | Sequence[int] | None = None,
    checkpoint_path: str | None = None,
    **options: Any,
) -> nn.Module:
    """A torchvision classifier without its last layer: (B, 3, H, W) -> pooled features (B, D), D = ``num_features``.

    For networks whose last layer is called ``fc``, such as ``shufflenet_v2_x1_0``, the backbone that the MoLA paper has
    for RadImageNet. Prefer :func:`create_backbone` where timm has the network.

    Args:
        name: of the model in torchvision.
        pretrained: download torchvision's newest weights, or take them from its cache.
        in_channels: C; for another number than 3 the first convolution is a fresh one, untrained.
        image_size: unused; every backbone takes it.
        checkpoint_path: a local file of weights, loaded strictly after everything else but the classifier.
        **options: anything else that the model's constructor takes.

    Raises:
        ConfigError: for an unknown name, a network without ``fc``, or weights that are missing.
    """
    if name not in models.list_models(module=models):
        raise ConfigError(
            f"torchvision has no classifier {name!r}; torchvision.models.list_models() names those that there are"
        )
    positive_int("in_channels", in_channels)
    try:
        net: Any = models.get_model(name, weights="DEFAULT" if pretrained else None, **options)
    except OSError as error:
        raise ConfigError(
            f"torchvision's weights of {name} cannot be downloaded ({error}); use pretrained=false, or checkpoint_path="
        ) from error
    if not isinstance(getattr(net, "fc", None), nn.Linear):
        raise ConfigError(f"{name} has no last layer 'fc' to take off; choose another network, or one of timm")
    net.num_features, net.fc = net.fc.in_features, nn.Identity()
    if in_channels != 3:
        _replace_stem(net, in_channels)
    if checkpoint_path is not None:
        load_weights(net, checkpoint_path)
    return net


def _replace_stem(net: nn.Module, in_channels: int) -> None:
    name, old = next((name, module) for name, module in net.named_modules() if isinstance(module, nn.Conv2d))
    options = {key: getattr(old, key) for key in ("kernel_size", "stride", "padding", "dilation", "groups")}
    stem = nn.Conv2d(in_channels, old.out_channels, bias=old.bias is not None, **options)
    parent, _, leaf = name.rpartition(".")
    setattr(net.get_submodule(parent), leaf, stem)
