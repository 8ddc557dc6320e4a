"""Hard parameter sharing with a backbone widened to a number of parameters."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.models.convnext import ConvNeXt
from timm.models.resnet import ResNet
from torch import nn

from mola_lightning.architectures.base import Architecture, BackboneFactory, backbone_factory, build_backbone
from mola_lightning.architectures.hps import HPS
from mola_lightning.core import ConfigError, Task
from mola_lightning.core.errors import positive_int

BUILDS = 12  # more than the search ever takes to settle


class HPSWide(HPS):
    """HPS that may use as many parameters as its rival: what extra parameters give without any other idea.

    All stages are widened by one factor, found by search, as near to the target as whole channels allow. The
    widened network starts untrained.

    Args:
        tasks: all tasks, in task order.
        backbone: a factory with an argument ``widths``, as :func:`create_small_resnet` (channels of each stage), or one
            of a timm ResNet or ConvNeXt, or its name. A ResNet's stem keeps its width.
        widen_to: parameters that the backbone shall have; None: as many as ``match``.
        match: ``match(tasks=tasks, image_shape=image_shape)``: the rival, built once to be counted.
        image_shape: (C, H, W) of the images; None for 3 channels of any size.

    Attributes:
        widths: channels of each stage.

    Raises:
        ConfigError: for neither or both of ``widen_to`` and ``match``, a target below the backbone as it is, or a
            backbone that cannot be widened.
    """

    method = "hps_wide"

    def __init__(
        self,
        tasks: Sequence[Task],
        backbone: str | BackboneFactory,
        widen_to: int | None = None,
        match: Callable[..., Architecture] | None = None,
        image_shape: Sequence[int] | None = None,
    ) -> None:
        if (widen_to is None) == (match is None):
            raise ConfigError("give either widen_to, a number of parameters, or match, the rival to count")
        with torch.random.fork_rng(devices=[]):  # what is built to be counted leaves no trace
            if match is not None:
                widen_to = count(match(tasks=tasks, image_shape=image_shape))
            positive_int("widen_to", widen_to)
            assert widen_to is not None
            factory, option, self.widths = widen(backbone, widen_to, image_shape)
        super().__init__(tasks, lambda **shape: factory(**{option: self.widths}, **shape), image_shape)


def count(module: nn.Module) -> int:
    """Parameters of a module."""
    return sum(parameter.numel() for parameter in module.parameters())


def widen(
    backbone: str | BackboneFactory, target: int, image_shape: Sequence[int] | None
) -> tuple[BackboneFactory, str, list[int]]:
    """The factory, its argument that takes widths, and the widths that bring it nearest to ``target`` parameters."""
    factory = backbone_factory(backbone)
    if isinstance(backbone, nn.Module):
        raise ConfigError("a backbone that is already built cannot be widened; give its factory, or its name in timm")
    given: Any = getattr(factory, "keywords", {})
    if given.get("pretrained") or given.get("checkpoint_path"):
        raise ConfigError("a widened backbone has no pretrained weights; set pretrained=false and checkpoint_path=null")
    option, start = widths_of(factory, image_shape)

    def size(widths: Sequence[int]) -> int:
        return count(build_backbone(lambda **shape: factory(**{option: list(widths)}, **shape), image_shape))

    sizes = {tuple(start): size(start)}
    base, factor = sizes[tuple(start)], 1.0
    if target < base:
        raise ConfigError(f"widen_to must be at least what the backbone has, {base:,} parameters, got {target:,}")
    for _ in range(BUILDS):
        known = sizes.get(widths := scaled(start, factor))
        if known is None:
            known = sizes[widths] = size(widths)
        factor *= (target / known) ** 0.5  # parameters grow with the square of the width
        if scaled(start, factor) in sizes:
            break
    nearest = min(sizes, key=lambda widths: abs(sizes[widths] - target))
    return factory, option, list(nearest)


def scaled(widths: Sequence[int], factor: float) -> tuple[int, ...]:
    """The widths times ``factor``, in even numbers."""
    return tuple(2 * max(1, round(width * factor / 2)) for width in widths)


def widths_of(factory: BackboneFactory, image_shape: Sequence[int] | None) -> tuple[str, list[int]]:
    """The name of the factory's argument that takes the channels of its stages, and what it is now."""
    widths = inspect.signature(factory).parameters.get("widths")
    if widths is not None and widths.default is not inspect.Parameter.empty:
        return "widths", list(widths.default)
    net: Any = build_backbone(factory, image_shape)
    if isinstance(net, ResNet):
        return "channels", [layer[-1].conv1.out_channels for layer in (net.layer1, net.layer2, net.layer3, net.layer4)]
    if isinstance(net, ConvNeXt):
        return "dims", [info["num_chs"] for info in net.feature_info]
    raise ConfigError(
        f"cannot widen a {type(net).__name__}; choose a timm ResNet or ConvNeXt, or a factory with an argument widths "
        "(backbone=small_resnet, resnet18, resnet50, convnext_atto)"
    )
