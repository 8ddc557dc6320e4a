"""Backbones made by timm: pooled features or a feature map, no classifier."""

import difflib
from collections.abc import Sequence
from typing import Any

import timm
import torch
from timm.models.resnet import BasicBlock, ResNet
from torch import Tensor, nn

from mola_lightning.backbones.recipe import recipe_of
from mola_lightning.backbones.weights import load_weights
from mola_lightning.core import ConfigError
from mola_lightning.core.errors import positive_int


def create_backbone(
    name: str,
    pretrained: bool = False,
    in_channels: int = 3,
    image_size: int | Sequence[int] | None = None,
    small_images: bool = False,
    pooled: bool = True,
    zero_init_last: bool = False,
    checkpoint_path: str | None = None,
    **timm_kwargs: Any,
) -> nn.Module:
    """A timm model without classifier: (B, C, H, W) -> pooled features (B, D), D = its attribute ``num_features``.

    Args:
        name: name of the model in timm, with or without the tag of its weights.
        pretrained: download timm's weights, or take them from its cache.
        in_channels: C; timm adapts pretrained stems to it.
        image_size: H and W in pixels, or one side of a square; told to models with a fixed input size (ViTs),
            others take any size.
        small_images: for images of 28 to 64 pixels: the stem keeps the resolution (3x3 convolution of stride 1, no
            pooling) instead of quartering it. Only for timm's ResNets; the new stem of a pretrained ResNet starts
            untrained.
        pooled: False gives the feature map (B, D, h, w), for dense tasks.
        zero_init_last: keep timm's zero initialisation of the last normalisation of each residual branch, in the models
            that have it. Off, because under it the branch's adapters get no gradient in the first step. Pretrained
            weights replace both.
        checkpoint_path: a local file of weights, loaded strictly after everything else but the classifier.
        **timm_kwargs: anything else that the model's constructor takes, for example ``output_stride=8``.

    Raises:
        ConfigError: for an unknown name, options that the model does not have, weights that cannot be had or do not
            fit, a size that patches do not tile, or no feature map where one was asked for.
    """
    positive_int("in_channels", in_channels)
    size = _height_and_width(image_size)
    fixed_size = _has_fixed_size(name)
    options = {"in_chans": in_channels, "num_classes": 0, **timm_kwargs}
    if size is not None and fixed_size:
        options.setdefault("img_size", size)
    if not pooled:
        options["global_pool"] = ""
    net = _create(name, pretrained, options)
    _check_patches(net, name, size)
    if not zero_init_last and not pretrained:
        _undo_zero_init(net)
    if small_images:
        keep_resolution(net, name)
    net.recipe = recipe_of(name, options, _stem_edits(net) if small_images else {})
    if checkpoint_path is not None:
        load_weights(net, checkpoint_path)
    if pooled:
        # Where they differ (MobileNetV3), num_features is what enters the pooling and this is what leaves the model.
        net.num_features = getattr(net, "head_hidden_size", net.num_features)
    else:
        _check_feature_map(net, name, in_channels, size)
    return net


def create_small_resnet(
    widths: Sequence[int] = (8, 16, 32),
    blocks: Sequence[int] = (1, 1, 1),
    in_channels: int = 3,
    image_size: int | Sequence[int] | None = None,
    pooled: bool = True,
    zero_init_last: bool = False,
    checkpoint_path: str | None = None,
) -> nn.Module:
    """A narrow ResNet for small images, made of timm's own class: 20 thousand parameters with the defaults.

    Its stem is one 3x3 convolution of stride 1 without pooling; module names are those of a ResNet-18 (``conv1``,
    ``layer1.0.conv1``, ...), ``layer4`` is empty when there are three stages.

    Args:
        widths: channels of each stage, one to four; each stage but the first halves the resolution. The first is even.
        blocks: residual blocks of each stage, two or more in all.
        in_channels: C.
        image_size: unused; every backbone takes it.
        pooled: False gives the feature map (B, D, h, w), for dense tasks.
        zero_init_last: start each residual branch at zero; see :func:`create_backbone`.
        checkpoint_path: a local file of weights, loaded strictly.

    Raises:
        ConfigError: for a value that cannot work.
    """
    widths, blocks = tuple(widths), tuple(blocks)
    if not 1 <= len(widths) <= 4 or len(blocks) != len(widths):
        raise ConfigError(f"widths and blocks must have one entry per stage, 1 to 4 stages, got {widths} and {blocks}")
    for value in (*widths, *blocks, in_channels):
        positive_int("each of widths, blocks and in_channels", value)
    if sum(blocks) < 2:  # timm divides by one less
        raise ConfigError(f"a small ResNet has 2 blocks or more in all, got blocks={blocks}; add a block")
    if widths[0] % 2:
        raise ConfigError(f"the first of widths must be even, got {widths}")
    block: Any = BasicBlock  # timm's annotation asks for an instance where it takes a class
    # Only timm's deep stem lets its width be chosen (twice stem_width); it is then replaced by a single convolution.
    options = {
        "layers": blocks,
        "in_chans": in_channels,
        "global_pool": "avg" if pooled else "",
        "stem_type": "deep",
        "stem_width": widths[0] // 2,
        "channels": widths,
    }
    net: Any = ResNet(block, num_classes=0, zero_init_last=zero_init_last, **options)
    net.conv1 = _stem_conv(in_channels, widths[0])
    _skip_stem_pool(net)
    missing = [f"layer{i}" for i in range(len(widths) + 1, 5)]
    for stage in missing:  # ResNet.forward runs four stages, whatever it was built with
        setattr(net, stage, nn.Sequential())
    net.recipe = recipe_of("resnet18", options, {**_stem_edits(net), **dict.fromkeys(missing)})
    if checkpoint_path is not None:
        load_weights(net, checkpoint_path)
    return net


def keep_resolution(net: nn.Module, name: str) -> None:
    """Turn the stem of a timm ResNet into one that keeps the resolution of small images, in place.

    Args:
        net: a model of timm's ResNet class.
        name: said in the message.

    Raises:
        ConfigError: for a model of another family.
    """
    if not isinstance(net, ResNet):
        raise ConfigError(
            f"small_images=true knows only the stems of timm's ResNet class (resnet*, resnext*, wide_resnet*, "
            f"seresnet*), got {name!r}, a {type(net).__name__}; use one of these, or larger images"
        )
    resnet: Any = net
    stem = resnet.conv1
    if isinstance(stem, nn.Sequential):  # the deep stem of the -c, -d, -s and -t variants: three 3x3, one strided
        strided: Any = stem[0]
        strided.stride = (1, 1)
    else:
        resnet.conv1 = _stem_conv(stem.in_channels, stem.out_channels)
    _skip_stem_pool(resnet)


def _stem_conv(in_channels: int, out_channels: int) -> nn.Conv2d:
    """A 3x3 convolution of stride 1 without bias, initialised as timm's ResNets are."""
    conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    return conv


def _stem_edits(net: Any) -> dict[str, nn.Module | None]:
    """What :func:`keep_resolution` and :func:`create_small_resnet` replaced in a stem."""
    deep = isinstance(net.conv1, nn.Sequential)
    return {"conv1.0" if deep else "conv1": net.conv1[0] if deep else net.conv1, "maxpool": None}


def _skip_stem_pool(net: Any) -> None:
    """Remove the pooling of a stem whose convolution no longer strides; tell ``feature_info``, which decoders read."""
    net.maxpool = nn.Identity()
    for i, info in enumerate(net.feature_info):
        info["reduction"] //= 2 if i == 0 else 4


def _has_fixed_size(name: str) -> bool:
    """Whether the model ``name`` must be told the size of its images; an error that helps if there is no such model."""
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=5, cutoff=0.5)
        raise ConfigError(
            f"timm knows no model {name!r}; close names: {', '.join(near) or 'none (timm.list_models())'}"
        )
    try:
        return bool(timm.models.get_pretrained_cfg_value(name, "fixed_input_size"))
    except RuntimeError as error:
        known = timm.list_pretrained(f"{name.partition('.')[0]}.*")
        raise ConfigError(f"timm knows no weights {name!r}; known: {', '.join(known)}") from error


def _create(name: str, pretrained: bool, options: dict[str, Any]) -> nn.Module:
    """``timm.create_model`` with its errors translated."""
    try:
        return timm.create_model(name, pretrained=pretrained, **options)
    except (TypeError, AssertionError) as error:
        raise ConfigError(f"timm cannot build {name!r} with {options}: {error!r}") from error
    except (OSError, RuntimeError) as error:
        if not pretrained:
            raise
        raise ConfigError(
            f"the pretrained weights of {name!r} cannot be had: {error}. Set pretrained=false, with "
            "checkpoint_path=FILE if you have the weights in a local file"
        ) from error


def _undo_zero_init(net: nn.Module) -> None:
    """Set normalisation weights that timm initialised to zero to one."""
    for module in net.modules():
        weight = module.weight if isinstance(module, (nn.BatchNorm2d, nn.GroupNorm)) else None
        if isinstance(weight, Tensor) and not weight.any():
            nn.init.ones_(weight)


def _height_and_width(image_size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """(H, W) of an image size given as a pair or as the side of a square."""
    if image_size is None:
        return None
    sides = (image_size, image_size) if isinstance(image_size, int) else tuple(image_size)
    if len(sides) != 2:
        raise ConfigError(f"image_size must be one side or (height, width) in pixels, got {image_size!r}")
    for side in sides:
        positive_int("each side of image_size", side)
    return sides


def _check_patches(net: nn.Module, name: str, size: tuple[int, int] | None) -> None:
    """Refuse images that patches do not tile: timm would leave out what is over at the right and lower edges."""
    patch = getattr(getattr(net, "patch_embed", None), "patch_size", None)
    if size is None or patch is None or all(side % p == 0 for side, p in zip(size, patch, strict=True)):
        return
    raise ConfigError(
        f"{name!r} cuts images into patches of {patch[0]} x {patch[1]} pixels, which do not tile images of "
        f"{size[0]} x {size[1]}; resize the images to a multiple, or set another patch_size"
    )


def _check_feature_map(net: Any, name: str, in_channels: int, size: tuple[int, int] | None) -> None:
    """Run one blank image: the only way to know that a timm model without pooling answers with a map (B, D, h, w)."""
    size = size or tuple(net.default_cfg["input_size"][1:])
    training = net.training
    with torch.no_grad():
        found = net.eval()(torch.zeros(1, in_channels, *size))
    net.train(training)
    widths = (net.num_features, getattr(net, "head_hidden_size", net.num_features))
    if found.ndim != 4 or found.shape[1] not in widths:
        raise ConfigError(
            f"pooled=false needs a backbone that gives a feature map (B, {net.num_features}, h, w); {name!r} gives "
            f"{tuple(found.shape)}. Convolutional backbones do (resnet*, convnext*, efficientnet*)"
        )
    net.num_features = found.shape[1]
