"""Heads of tasks with a target per pixel: from a feature map to a map of the image's size."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mola_lightning.core import ConfigError, Task
from mola_lightning.core.errors import positive_int, require


class DenseHead(nn.Module, ABC):
    """Base of the dense heads: (n, D, h, w) features -> (n, ``task.num_outputs``, H, W); n may be 0.

    Args:
        in_features: D, channels of the feature map.
        task: whose outputs these are.
        width: channels inside the head.
    """

    def __init__(self, in_features: int, task: Task, width: int) -> None:
        super().__init__()
        positive_int("width", width)
        self.in_features, self.num_outputs, self.width = in_features, task.num_outputs, width

    def forward(self, features: Tensor, image_size: Sequence[int]) -> Tensor:
        """A map of outputs as large as the images.

        Args:
            features: (n, D, h, w).
            image_size: (H, W) of the images that the features are of.

        Raises:
            ConfigError: for features that are no map.
        """
        if features.ndim == 2 and not len(features):
            features = features[:, :, None, None]  # no row of any task: nobody knows how large a map would be
        if features.ndim != 4:
            raise ConfigError(
                f"{type(self).__name__} takes a feature map (n, {self.in_features}, h, w), got shape "
                f"{tuple(features.shape)}; use a convolutional backbone with pooled=false"
            )
        height, width = image_size
        return self.decode(features, (height, width))

    @abstractmethod
    def decode(self, features: Tensor, image_size: tuple[int, int]) -> Tensor:
        """(n, D, h, w) -> (n, num_outputs, H, W)."""


class PSPDecoder(DenseHead):
    """Pyramid pooling (Zhao et al., CVPR 2017) with the settings that the MoLA paper has for NYUv2.

    The map is averaged over coarse grids, each average goes through a 1 x 1 convolution and back to the map's size, and
    map and averages together through a 3 x 3 and a 1 x 1 convolution. Outputs are enlarged to the image by nearest
    neighbours, 8 times on the backbone of the paper (``output_stride=8``): blocks of equal outputs, which is the
    paper's. Parameters are named as in the released code. Unlike there, outputs are bare: log-softmax belongs to the
    loss, unit length to the task's activation.

    Args:
        in_features: D, channels of the feature map.
        task: whose outputs these are.
        width: channels of each pyramid level and of the 3 x 3 convolution.
        grids: side of the grid of each pyramid level.
    """

    def __init__(self, in_features: int, task: Task, width: int = 512, grids: Sequence[int] = (1, 2, 3, 6)) -> None:
        super().__init__(in_features, task, width)
        require(len(grids) > 0, "grids must name one level or more, got none; use head=light for a head without them")
        for grid in grids:
            positive_int("each of grids", grid)
        self.ppm = nn.ModuleList(
            nn.Sequential(
                nn.AdaptiveAvgPool2d(grid), nn.Conv2d(in_features, width, 1, bias=False), MapNorm(width), nn.ReLU()
            )
            for grid in grids
        )
        self.conv_last = nn.Sequential(
            nn.Conv2d(in_features + len(grids) * width, width, 3, padding=1, bias=False),
            MapNorm(width),
            nn.ReLU(),
            nn.Conv2d(width, self.num_outputs, 1),
        )

    def decode(self, features: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Outputs in blocks, one for each pixel of the map."""
        levels = [F.interpolate(level(features), features.shape[2:], mode="bilinear") for level in self.ppm]
        return F.interpolate(self.conv_last(torch.cat([features, *levels], 1)), image_size, mode="nearest")


class LightDecoder(DenseHead):
    """A 1 x 1 convolution with batch norm, bilinear enlargement, ReLU and a 3 x 3 convolution.

    The ReLU comes after the enlargement: it makes edges sharper than the feature map's pixels at no cost.

    Args:
        in_features: D, channels of the feature map.
        task: whose outputs these are.
        width: channels at the size of the image, which decide what the head costs.
    """

    def __init__(self, in_features: int, task: Task, width: int = 32) -> None:
        super().__init__(in_features, task, width)
        self.project = nn.Sequential(nn.Conv2d(in_features, width, 1, bias=False), MapNorm(width))
        self.output = nn.Conv2d(width, self.num_outputs, 3, padding=1)

    def decode(self, features: Tensor, image_size: tuple[int, int]) -> Tensor:
        """Smooth outputs of the image's size."""
        return self.output(F.interpolate(self.project(features), image_size, mode="bilinear").relu())


class MapNorm(nn.BatchNorm2d):
    """Batch norm that falls back on its running statistics, and leaves them alone, where a batch has none: it has no
    row, or a single row of one pixel, as the coarsest level of a pyramid has.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Normalised (n, C, h, w); n may be 0."""
        if not self.training or inputs.numel() > inputs.shape[1]:
            return super().forward(inputs)
        return F.batch_norm(inputs, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
