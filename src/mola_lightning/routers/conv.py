"""Target-agnostic routing: a small residual network reads the image and scores the experts (MoLA-Router)."""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from mola_lightning.core import ConfigError, Routing, TaskRows
from mola_lightning.core.errors import positive_int
from mola_lightning.routers.base import Router


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters (option A of He et al., arXiv 1512.03385).

    Where the shape changes the shortcut takes every second pixel and pads the new channels with zeros, half before and
    half after the old ones.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output, at least ``in_channels``.
        stride: 1 or 2, of the first convolution.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride = stride
        self.new_channels = out_channels - in_channels

    def shortcut(self, x: Tensor) -> Tensor:
        """The input, brought to the output's shape."""
        if self.stride > 1:
            x = x[:, :, :: self.stride, :: self.stride]
        if self.new_channels:
            before = self.new_channels // 2
            x = F.pad(x, (0, 0, 0, 0, before, self.new_channels - before))
        return x

    def forward(self, x: Tensor) -> Tensor:
        """(B, Cin, H, W) -> (B, Cout, ceil(H / stride), ceil(W / stride))."""
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)) + self.shortcut(x), inplace=True)


class ConvRouter(Router):
    """Mixing weights = softmax(logits / temperature) of a small CIFAR-style ResNet over the image.

    With the defaults this is the router of the paper (Zhou et al., ICML 2024, arXiv 2406.09679): a ResNet-20 with
    269,332 parameters at E = 4, on the full-resolution image. There it costs about 2.0 G multiply-adds at 224 x 224
    pixels, half of a ResNet-50; ``input_size=32`` brings that down to 41 M.

    Args:
        num_experts: E, number of logits.
        in_channels: channels of the images.
        widths: channels of each stage, non-decreasing; every stage but the first halves the resolution.
        blocks: residual blocks per stage, two convolutions each.
        temperature: divides the logits before softmax; below 1 sharpens, above 1 flattens.
        input_size: side in pixels of the square that images are resized to before routing (bilinear, antialiased);
            None routes at full resolution.

    Raises:
        ConfigError: for a value that cannot work.
    """

    label = "router"
    learned_logits = True

    def __init__(
        self,
        num_experts: int,
        in_channels: int = 3,
        widths: Sequence[int] = (16, 32, 64),
        blocks: int = 3,
        temperature: float = 1.0,
        input_size: int | None = None,
    ) -> None:
        super().__init__(num_experts)
        widths = _check(in_channels, widths, blocks, temperature, input_size)
        self.temperature = float(temperature)
        self.input_size = input_size
        self.conv1 = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.stages: tuple[str, ...] = tuple(f"layer{i}" for i in range(1, len(widths) + 1))
        entering = (widths[0], *widths)
        for i, name in enumerate(self.stages):
            first = ResidualBlock(entering[i], widths[i], stride=1 if i == 0 else 2)
            rest = [ResidualBlock(widths[i], widths[i], stride=1) for _ in range(blocks - 1)]
            self.add_module(name, nn.Sequential(first, *rest))
        self.fc = nn.Linear(widths[-1], num_experts)

    def forward(self, images: Tensor, rows: TaskRows | None = None) -> Routing:
        """Route each image by what it shows; ``rows`` is not looked at."""
        return self.decide(self.score(images))

    def score(self, images: Tensor) -> Tensor:
        """Raw logits (B, E) of images (B, C, H, W)."""
        if self.input_size is not None:
            size = (self.input_size, self.input_size)
            images = F.interpolate(images, size=size, mode="bilinear", align_corners=False, antialias=True)
        x = F.relu(self.bn1(self.conv1(images)), inplace=True)
        for name in self.stages:
            x = self.get_submodule(name)(x)
        return self.fc(x.mean(dim=(2, 3)))

    def decide(self, logits: Tensor) -> Routing:
        """The routing that follows from logits (B, E); what the routers built on this network replace."""
        return Routing(mixing=(logits / self.temperature).softmax(dim=1), logits=logits)


def _check(
    in_channels: int, widths: Sequence[int], blocks: int, temperature: float, input_size: int | None
) -> tuple[int, ...]:
    """The widths as a tuple, after all values were found to be usable."""
    positive_int("in_channels", in_channels)
    positive_int("blocks", blocks)
    widths = tuple(widths)
    for width in widths:
        positive_int("each entry of widths", width)
    if not widths or list(widths) != sorted(widths):
        raise ConfigError(f"widths must be non-decreasing, one per stage, for example (16, 32, 64), got {widths}")
    if not temperature > 0:
        raise ConfigError(f"temperature must be > 0, got {temperature!r}")
    if input_size is not None:
        positive_int("input_size (or null for full resolution)", input_size)
    return widths
