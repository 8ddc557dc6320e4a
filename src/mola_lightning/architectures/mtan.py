"""Multi-task attention network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mola_lightning.architectures.base import Architecture, BackboneLike, Features, build_backbone
from mola_lightning.backbones import split
from mola_lightning.backbones.stages import example_image, output_shapes
from mola_lightning.core import ConfigError, Task, TaskRows


class MTAN(Architecture):
    """One shared backbone, and for each task soft attention masks on its stages (Liu et al., CVPR 2019).

    At stage i with p the output of its first block and u of its last: the task's mask is h(g([p, f(a')])), a' the
    task's attended features of the stage before; its attended features are a = mask * u. g is a 1 x 1 convolution with
    ReLU, h one with sigmoid, f a 3 x 3 convolution with ReLU, each with batch norm. Where a stage has a single block, p
    is the stage's input. Maps of another size are max-pooled to that of u. The backbone's head reads the task's
    attended features of the last stage. (The released code has a residual bottleneck in the place of f.)

    Attention modules run on their task's rows only, and not at all where the task is absent.

    Args:
        tasks: all tasks, in task order.
        backbone: a timm name, a module with ``num_features``, or a factory, of a kind that can be cut into stages of
            feature maps: a convolutional network.
        image_shape: (C, H, W) of the images; None for 3 channels of any size.

    Raises:
        ConfigError: for a backbone whose stages give no maps.
    """

    method = "mtan"

    def __init__(
        self,
        tasks: Sequence[Task],
        backbone: BackboneLike,
        image_shape: Sequence[int] | None = None,
    ) -> None:
        super().__init__(tasks)
        net = build_backbone(backbone, image_shape)
        stages = split(net, image_shape)
        self.num_features = stages.num_features
        self.stem, *middle, self.head = stages.stages
        if not middle:
            raise ConfigError("MTAN puts masks on stages between the stem and the head, and this backbone has none")
        self.stages = nn.ModuleList(_halves(stage) for stage in middle)
        halves = [half for stage in self.stages for half in stage]
        shapes = output_shapes([self.stem, *halves], example_image(net, image_shape))
        if any(len(shape) != 4 for shape in shapes):
            raise ConfigError(
                f"MTAN masks feature maps (n, C, h, w), and this {type(net).__name__} gives others; "
                "choose a convolutional backbone (backbone=resnet18, small_resnet, convnext_atto, efficientnet_lite0)"
            )
        seen, given = [shape[1] for shape in shapes[1::2]], [shape[1] for shape in shapes[2::2]]
        self.attention = nn.ModuleList(
            nn.ModuleList(
                Attention(p, given[i - 1] if i else None, u) for i, (p, u) in enumerate(zip(seen, given, strict=True))
            )
            for _ in self.tasks
        )

    def forward(self, images: Tensor, rows: TaskRows) -> Features:
        """The shared backbone once, then each task's masks on its own rows."""
        hidden = self.stem(images)
        maps = []
        for first, rest in self.stages:
            middle = first(hidden)
            hidden = rest(middle)
            maps.append((middle, hidden))
        found = {}
        for name, attention in zip(rows, self.attention, strict=True):
            if rows.counts[name]:
                index, attended = rows[name], None
                for (p, u), module in zip(maps, attention, strict=True):
                    attended = module(p[index], attended, u[index])
                found[name] = self.head(attended)
        return Features(self.complete(found, rows, images))

    def shared_parameters(self) -> list[nn.Parameter]:
        """The backbone; attention modules are their task's own."""
        return [p for name, p in self.named_parameters() if p.requires_grad and not name.startswith("attention.")]

    def component_of(self, parameter_name: str) -> str:
        """``other`` for attention modules, else backbone."""
        return "other" if parameter_name.startswith("attention.") else "backbone"


def _halves(stage: nn.Module) -> nn.ModuleList:
    """The first block, and the rest; where they are not two, nothing and the stage."""
    if isinstance(stage, nn.Sequential) and len(stage) > 1:
        return nn.ModuleList([stage[0], stage[1:]])
    return nn.ModuleList([nn.Identity(), stage])


class Attention(nn.Module):
    """The masked features of one task at one stage.

    Args:
        seen: channels of p.
        before: channels of the attended features of the stage before; None at the first.
        given: channels of u.
    """

    def __init__(self, seen: int, before: int | None, given: int) -> None:
        super().__init__()
        self.merge = None if before is None else _conv(before, seen, 3, nn.ReLU())  # f
        inner = _conv(seen if before is None else 2 * seen, given, 1, nn.ReLU())  # g
        self.mask = nn.Sequential(inner, _conv(given, given, 1, nn.Sigmoid()))  # h after g

    def forward(self, p: Tensor, before: Tensor | None, u: Tensor) -> Tensor:
        """Mask * u, (n, given, h, w)."""
        size = u.shape[2:]
        inputs = [_pool(p, size)]
        if self.merge is not None:
            assert before is not None
            inputs.append(_pool(self.merge(before), size))
        return self.mask(torch.cat(inputs, 1)) * u


def _conv(inputs: int, outputs: int, size: int, activation: nn.Module) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, size, padding=size // 2, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), activation)


def _pool(maps: Tensor, size: torch.Size) -> Tensor:
    return maps if maps.shape[2:] == size else F.adaptive_max_pool2d(maps, size)
