"""A backbone cut into a sequence of stages, for schemes that share, copy or mix it stage by stage."""

import copy
import itertools
from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from timm.models.convnext import ConvNeXt
from timm.models.efficientnet import EfficientNet
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from mola_lightning.core import ConfigError

VIT_STAGES = 4  # a plain ViT has no resolutions to cut at: its blocks are cut into as many equal groups
EXAMPLE_SIZE = 64  # pixels of the blank image that is run where nobody says the size


class Stages(nn.Module):
    """A network as a sequence: stage 0 is the stem, the last the head (pooling, last norm), between them resolutions.

    The stages hold the network's own modules and parameters, not copies: pretrained weights stay.

    Args:
        stages: the modules; run in order they are the network.
        shapes: shape of each stage's output for one image (1, ...).
        num_features: D of the last stage's output.

    Attributes:
        stages: the modules.
        channels: width of each stage's output: channels of maps (n, C, h, w), last axis of tokens (n, N, D).
        num_features: D.
    """

    def __init__(self, stages: Sequence[nn.Module], shapes: Sequence[Sequence[int]], num_features: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(stages)
        self.channels = [shape[-1] if len(shape) == 3 else shape[1] for shape in shapes]
        self.num_features = num_features

    def __len__(self) -> int:
        return len(self.stages)

    def forward(self, images: Tensor) -> Tensor:
        """What the network gives for images (n, C, H, W)."""
        for stage in self.stages:
            images = stage(images)
        return images


def split(net: nn.Module, image_shape: Sequence[int] | None = None) -> Stages:
    """Cut a network into stages.

    Args:
        net: a timm ResNet (those of :func:`create_small_resnet` too), ConvNeXt, EfficientNet or VisionTransformer, or
            an ``nn.Sequential``, whose children are the stages; with the attribute ``num_features``.
        image_shape: (C, H, W) of one image, run blank to find the widths; None takes a size that the network accepts.

    Raises:
        ConfigError: for another kind of network, or one that recomputes its activations.
    """
    stages = stages_of(net)
    features = getattr(net, "num_features", None)
    shapes = output_shapes(stages, example_image(net, image_shape))
    return Stages(stages, shapes, features if isinstance(features, int) else shapes[-1][1])


def stages_of(net: nn.Module) -> list[nn.Module]:
    """The stages of a network as :func:`split` cuts it, without running any.

    Raises:
        ConfigError: as :func:`split`.
    """
    cut = next((cut for family, cut in FAMILIES.items() if isinstance(net, family)), None)
    if cut is None:
        raise ConfigError(
            f"cannot cut a {type(net).__name__} into stages; supported are timm's "
            f"{', '.join(family.__name__ for family in FAMILIES if family is not nn.Sequential)} and nn.Sequential, "
            "whose children are the stages. Choose another backbone, or put its parts into an nn.Sequential"
        )
    if getattr(net, "grad_checkpointing", False):
        raise ConfigError("a network with its own activation checkpointing cannot be cut into stages; turn it off")
    return cut(net)


def can_be_cut(net: nn.Module) -> bool:
    """Whether :func:`stages_of` cuts ``net``."""
    return isinstance(net, tuple(FAMILIES)) and not getattr(net, "grad_checkpointing", False)


def output_shapes(modules: Sequence[nn.Module], image: Tensor) -> list[torch.Size]:
    """Shapes of what each module gives when they run in a row on ``image``, in eval mode; nothing is changed."""
    shapes, modes = [], [module.training for module in modules]
    with torch.no_grad():
        for module, mode in zip(modules, modes, strict=True):
            try:
                image = module.eval()(image)
            except RuntimeError as error:
                raise ConfigError(
                    f"the stage {type(module).__name__} does not run on a blank input of shape {tuple(image.shape)}: "
                    f"{error}. Give the image_shape (C, H, W) of the data, or fix the backbone"
                ) from error
            finally:
                module.train(mode)
            shapes.append(image.shape)
    return shapes


def example_image(net: nn.Module, image_shape: Sequence[int] | None) -> Tensor:
    """A blank image (1, C, H, W) that ``net`` takes."""
    parameter = next(net.parameters(), torch.zeros(()))
    if image_shape is None:
        first = next((p for p in net.parameters() if p.ndim == 4 and p.shape[-1] > 1), None)
        size = getattr(getattr(net, "patch_embed", None), "img_size", None) or (EXAMPLE_SIZE, EXAMPLE_SIZE)
        image_shape = (3 if first is None else first.shape[1], *size)
    return torch.zeros(1, *image_shape, dtype=parameter.dtype, device=parameter.device)


def _cut_sequential(net: Any) -> list[nn.Module]:
    if not len(net):
        raise ConfigError("cannot cut an empty nn.Sequential into stages")
    return list(net)


def _cut_resnet(net: Any) -> list[nn.Module]:
    layers = [net.layer1, net.layer2, net.layer3, net.layer4]
    stem = nn.Sequential(net.conv1, net.bn1, net.act1, net.maxpool)
    # a stage without blocks (of a small ResNet) is none
    return [stem, *(layer for layer in layers if len(layer)), _head(net.global_pool, net.drop_rate, net.fc)]


def _cut_convnext(net: Any) -> list[nn.Module]:
    return [net.stem, *net.stages, nn.Sequential(net.norm_pre, net.head)]


def _cut_efficientnet(net: Any) -> list[nn.Module]:
    """Groups of blocks up to each change of resolution, as timm's ``feature_info`` tells them."""
    ends = {info["module"] for info in net.feature_info}
    groups: list[list[nn.Module]] = [[]]
    for i, blocks in enumerate(net.blocks):
        groups[-1].append(blocks)
        if f"blocks.{i}" in ends:
            groups.append([])
    groups = [group for group in groups if group]
    middle = [group[0] if len(group) == 1 else nn.Sequential(*group) for group in groups]
    head = _head(net.global_pool, net.drop_rate, net.classifier)
    return [nn.Sequential(net.conv_stem, net.bn1), *middle, nn.Sequential(net.conv_head, net.bn2, *head)]


def _cut_vit(net: Any) -> list[nn.Module]:
    blocks, count = list(net.blocks), min(VIT_STAGES, len(net.blocks))
    bounds = [len(blocks) * i // count for i in range(count + 1)]
    middle = [nn.Sequential(*blocks[a:b]) for a, b in itertools.pairwise(bounds)]
    return [_ViTStem(net), *middle, _ViTHead(net)]


def _head(pool: nn.Module, drop_rate: float, classifier: nn.Module) -> nn.Sequential:
    return nn.Sequential(pool, *([nn.Dropout(float(drop_rate))] if drop_rate else []), classifier)


class _ViTStem(nn.Module):
    """Patches to tokens: timm's own method, which also places the class token and the position embedding."""

    def __init__(self, net: VisionTransformer) -> None:
        super().__init__()
        self.net = _part_of(net, ("patch_embed", "pos_drop", "patch_drop", "norm_pre"), parameters=True)

    def forward(self, images: Tensor) -> Tensor:
        return self.net.forward_features(images)


class _ViTHead(nn.Module):
    """The last norm, and pooling of tokens."""

    def __init__(self, net: VisionTransformer) -> None:
        super().__init__()
        self.net = _part_of(net, ("norm", "attn_pool", "fc_norm", "head_drop", "head"), parameters=False)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.net.forward_head(self.net.norm(tokens))


def _part_of(net: nn.Module, modules: Collection[str], parameters: bool) -> Any:
    """A shallow copy in which all other children do nothing: its methods are the class's, its parameters the net's."""
    part: Any = copy.copy(net)
    part._modules = {
        name: child if child is None or name in modules else nn.Identity() for name, child in net._modules.items()
    }
    part._parameters = {name: value if parameters else None for name, value in net._parameters.items()}
    return part


FAMILIES: dict[type[nn.Module], Callable[[Any], list[nn.Module]]] = {
    ResNet: _cut_resnet,
    ConvNeXt: _cut_convnext,
    EfficientNet: _cut_efficientnet,
    VisionTransformer: _cut_vit,
    nn.Sequential: _cut_sequential,
}
