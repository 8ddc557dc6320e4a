"""Convolutions with experts."""

import torch
from timm.layers import Conv2dSame, pad_same
from torch import Tensor, nn
from torch.nn import functional as F

from mola_lightning.adapters.base import AdaptedLayer
from mola_lightning.adapters.columns import Columns, KernelReads
from mola_lightning.adapters.grouped import grouped_conv2d, grouped_linear, in_one_precision, layout
from mola_lightning.adapters.scope import MixingScope


class AdaptedConv2d(AdaptedLayer, nn.Conv2d):
    """A Conv2d with E experts: bias, stride, dilation, rectangular kernels, groups and every padding mode.

    Args:
        base: the convolution to replace; its parameters are taken over, not copied.
        num_experts: E.
        rank: r of the factors.
        alpha: the experts' output is scaled by alpha / rank.
        kind: ``reshaped`` (the paper's), ``factorised`` or ``full``.
        scope: gives the mixing weights of the running forward pass.
        plan: ``auto``, or the family of exact plans to run.
    """

    channel_dim = 1

    def __init__(
        self,
        base: nn.Conv2d,
        *,
        num_experts: int,
        rank: int,
        alpha: float,
        kind: str = "reshaped",
        scope: MixingScope,
        plan: str = "auto",
    ) -> None:
        nn.Conv2d.__init__(self, **_settings(base), device="meta")
        self._attach(base, num_experts=num_experts, rank=rank, alpha=alpha, kind=kind, scope=scope, plan=plan)
        self._run_padding = base.padding if base.padding_mode == "zeros" else 0

    def prepare(self, x: Tensor) -> Tensor:
        """Pad here when the padding is not of zeros."""
        if self.padding_mode == "zeros":
            return x
        return F.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode)

    def run(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """conv2d with this layer's stride, padding, dilation and groups."""
        return F.conv2d(x, weight, bias, self.stride, self._run_padding, self.dilation, self.groups)

    def run_rows(self, x: Tensor, weights: Tensor, bias: Tensor | None) -> Tensor:
        """One convolution with a group (or several) for each row."""
        rows = x.shape[0]
        y = F.conv2d(
            x.reshape(1, -1, *x.shape[2:]),
            weights.flatten(0, 1),
            None,
            self.stride,
            self._run_padding,
            self.dilation,
            rows * self.groups,
        )
        y = y.reshape(rows, self.out_channels, *y.shape[2:])
        return y if bias is None else y + bias.to(y.dtype)[:, None, None]

    def run_groups(self, x: Tensor, weights: Tensor, sizes: Tensor, bias: Tensor | None) -> Tensor:
        """A convolution for each group; with channels last and one pixel, a matrix product on the pixels."""
        x, padding = self._pad_same(x)
        x, weights = in_one_precision(x, weights)
        if self._pixel_by_pixel and layout(x) == torch.channels_last:
            pixels = x.permute(0, 2, 3, 1)
            y = grouped_linear(pixels.flatten(0, 2), weights.flatten(2), sizes, x.shape[2] * x.shape[3])
            y = y if bias is None else y.add_(bias.to(y.dtype))  # before it is a view, which sums would copy
            return y.view(*pixels.shape[:3], self.out_channels).permute(0, 3, 1, 2)
        y = grouped_conv2d(x, weights, sizes, self.stride, padding, self.dilation, self.groups)
        return y if bias is None else y.add_(bias.to(y.dtype)[:, None, None])

    @property
    def _pixel_by_pixel(self) -> bool:
        """Whether it is a matrix product on the pixels as they are."""
        return self.pointwise and self.groups == 1 and set(self.stride) == {1} and not self._pads_a_pixel

    @property
    def _pads_a_pixel(self) -> bool:
        """Whether a kernel of one pixel runs on more than its input: ``same`` adds nothing to it."""
        return self._run_padding not in (0, (0, 0), "valid", "same")

    def unfold(self, x: Tensor) -> Tensor:
        """(B, I*kh*kw, positions): what the kernel reads at each output position."""
        x, padding = self._pad_same(x)
        return F.unfold(x, self.kernel_size, self.dilation, padding, self.stride)

    def _pad_same(self, x: Tensor) -> tuple[Tensor, tuple[int, ...]]:
        """X, padded where the padding is called ``same``, and the padding that is left to do."""
        if self._run_padding == "same":
            x = F.pad(x, self._reversed_padding_repeated_twice)
        return x, (0, 0) if isinstance(self._run_padding, (str, int)) else self._run_padding

    def run_up(self, codes: Tensor, up: Tensor) -> Tensor:
        """1 x 1 convolution."""
        return F.conv2d(codes, up[:, :, None, None])

    def scale(self, y: Tensor, weights: Tensor) -> Tensor:
        """(B, C, h, w) times (B, C)."""
        return y * weights[:, :, None, None]

    def row_codes(self, x: Tensor, down: Tensor) -> Tensor:
        """(B, M, positions) of a 1 x 1 kernel."""
        if self._pads_a_pixel:
            x = F.pad(x, self._reversed_padding_repeated_twice)
        sampled = x[:, :, :: self.stride[0], :: self.stride[1]]
        if layout(x) == torch.channels_last:
            return torch.bmm(_pixels(sampled), down.flatten(2).transpose(1, 2)).transpose(1, 2)
        return torch.bmm(down.flatten(2), sampled.flatten(2))

    def add_up(self, y: Tensor, codes: Tensor, up: Tensor) -> Tensor:
        """Y (B, O, h, w) plus up times codes (B, M, h*w or h, w)."""
        codes = codes.flatten(2).to(y.dtype)
        if layout(y) == torch.channels_last:  # written as such, or all that follows would have to turn it around
            pixels = torch.baddbmm(_pixels(y), codes.transpose(1, 2), up.transpose(1, 2))
            return pixels.view(y.shape[0], *y.shape[2:], -1).permute(0, 3, 1, 2)
        return torch.baddbmm(y.flatten(2), up, codes).view_as(y)

    def add_shared_up(self, y: Tensor, codes: Tensor, up: Tensor) -> Tensor:
        """In one product where pixels follow each other."""
        if y.device.type == "cpu" or layout(y) != torch.channels_last:
            return super().add_shared_up(y, codes, up)
        pixels = torch.addmm(_pixels(y).flatten(0, 1), _pixels(codes).flatten(0, 1).to(y.dtype), up.t())
        return pixels.view(y.shape[0], *y.shape[2:], -1).permute(0, 3, 1, 2)

    def mix(self, every: Tensor, weights: Tensor) -> Tensor:
        """(B, E, O, h, w), (B, E) -> (B, O, h, w)."""
        return torch.einsum("beohw,be->bohw", every, weights)

    def columns(self, x: Tensor) -> Tensor:
        """(I*kh*kw, positions*B): what the kernel reads at each output position of each row."""
        sides = self._sides(x)
        x, padding = self._pad_same(x)
        return Columns.apply(x, KernelReads(x.shape, sides, self.kernel_size, self.stride, padding, self.dilation))

    def of_columns(self, y: Tensor, x: Tensor) -> Tensor:
        """(O, positions*B) -> (B, O, h, w), with the bias."""
        y = y if self.bias is None else y.add_(self.bias.to(y.dtype)[:, None])
        y = y.view(len(y), *self._sides(x), len(x)).permute(3, 0, 1, 2)
        return y.contiguous(memory_format=layout(x))

    def positions(self, x: Tensor) -> int:
        """B times output pixels."""
        h, w = self._sides(x)
        return x.shape[0] * h * w

    def _sides(self, x: Tensor) -> tuple[int, int]:
        """(h, w) of the output."""
        sides = []
        for axis in (0, 1):
            pad = self._run_padding if isinstance(self._run_padding, (int, str)) else self._run_padding[axis]
            reach = self.dilation[axis] * (self.weight.shape[2 + axis] - 1)
            around = reach if pad == "same" else 0 if pad == "valid" else 2 * pad
            sides.append((x.shape[2 + axis] + around - reach - 1) // self.stride[axis] + 1)
        return sides[0], sides[1]

    def regrouped_per_position(self) -> int:
        """Outputs and inputs; none where pixels follow each other, as they do on CUDA with channels last."""
        if self._pixel_by_pixel and self.weight.is_cuda:
            return 0
        return self.out_channels + self.inputs_per_position()

    def inputs_per_position(self) -> int:
        """Input channels, of as many pixels as the stride steps over."""
        return self.in_channels * self.stride[0] * self.stride[1]

    def plain(self) -> nn.Module:
        """A convolution of the replaced type that shares this one's weight and bias."""
        plain = self._plain_type()(**self._plain_settings(), device="meta")
        plain.weight, plain.bias = self.weight, self.bias
        return plain.train(self.training)

    def _plain_type(self) -> type[nn.Conv2d]:
        return nn.Conv2d

    def _plain_settings(self) -> dict[str, object]:
        return _settings(self)


class AdaptedConv2dSame(AdaptedConv2d):
    """timm's Conv2dSame with E experts: TensorFlow's SAME padding, which depends on the input's size."""

    def prepare(self, x: Tensor) -> Tensor:
        """Pad as Conv2dSame does."""
        return pad_same(x, self.kernel_size, self.stride, self.dilation)

    def _plain_type(self) -> type[nn.Conv2d]:
        return Conv2dSame

    def _plain_settings(self) -> dict[str, object]:
        settings = _settings(self)
        del settings["padding_mode"]
        return settings


def _pixels(x: Tensor) -> Tensor:
    """(B, C, h, w) -> (B, h*w, C), no copy where channels lie last."""
    return x.permute(0, 2, 3, 1).flatten(1, 2)


def _settings(conv: nn.Conv2d) -> dict[str, object]:
    """The constructor arguments of a convolution."""
    names = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    return {name: getattr(conv, name) for name in names} | {"bias": conv.bias is not None}
