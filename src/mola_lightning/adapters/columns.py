"""What a kernel reads of a whole batch, as the columns of a matrix: a convolution is a product with it (im2col).

The batch is the innermost axis, so that columns are copied in runs of a row of pixels times the batch.
"""

from collections.abc import Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor


class KernelReads:
    """Which pixels of a padded batch each place of a kernel reads.

    Args:
        shape: (B, I, H, W) of the input.
        sides: (h, w) of the output.
        kernel: (kh, kw).
        stride: of the convolution, for both axes, like all that follow.
        padding: zeros on each side.
        dilation: from one place of the kernel to the next.

    Attributes:
        sides: (h, w) of the output.
        padded: (I, H + 2 ph, W + 2 pw, B).
        inside: where the input lies in it.
        places: for each place of the kernel, row by row, where what it reads lies: (I, h, w, B).
    """

    def __init__(
        self,
        shape: Sequence[int],
        sides: tuple[int, int],
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
    ) -> None:
        batch, channels, *size = shape
        self.sides = sides
        self.padded = (channels, *(side + 2 * pad for side, pad in zip(size, padding, strict=True)), batch)
        self.inside = tuple(slice(pad, pad + side, 1) for side, pad in zip(size, padding, strict=True))
        axes = [
            [slice(k * apart, k * apart + step * (side - 1) + 1, step) for k in range(taps)]
            for side, taps, step, apart in zip(sides, kernel, stride, dilation, strict=True)
        ]
        self.places = list(product(*axes))


def _part(padded: Tensor, place: Sequence[slice]) -> Tensor:
    """Rows and columns of (I, H, W, B); by the operation itself, as vmap lacks that by which an index takes all."""
    for axis, along in enumerate(place, start=1):
        padded = torch.ops.aten.slice(padded, axis, along.start, along.stop, along.step)
    return padded


class _Map(torch.autograd.Function):
    """A linear map whose gradient is its transpose; of its inputs only the second is kept, which says what is read."""

    generate_vmap_rule = True

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        """For the backward pass."""
        ctx.reads = inputs[1]


class Columns(_Map):
    """(B, I, H, W), :class:`KernelReads` -> (I*kh*kw, h*w*B)."""

    @staticmethod
    def forward(x: Tensor, reads: KernelReads) -> Tensor:
        """Copy place by place."""
        padded = x.new_zeros(reads.padded)
        _part(padded, reads.inside).copy_(x.permute(1, 2, 3, 0))
        found = x.new_empty(len(padded), len(reads.places), *reads.sides, len(x))
        for k, place in enumerate(reads.places):
            found[:, k] = _part(padded, place)
        return found.view(found.shape[0] * found.shape[1], reads.sides[0] * reads.sides[1] * len(x))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """Each pixel's, from all places that read it."""
        return PixelSums.apply(gradient, ctx.reads), None


class PixelSums(_Map):
    """The transposed map of :class:`Columns`: (I*kh*kw, h*w*B) -> (B, I, H, W)."""

    @staticmethod
    def forward(columns: Tensor, reads: KernelReads) -> Tensor:
        """Add place by place."""
        channels, batch = reads.padded[0], reads.padded[-1]
        padded = columns.new_zeros(reads.padded)
        of_places = columns.view(channels, len(reads.places), *reads.sides, batch)
        for k, place in enumerate(reads.places):
            _part(padded, place).add_(of_places[:, k])
        return _part(padded, reads.inside).permute(3, 0, 1, 2).contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """What reads the pixels gets their gradients."""
        return Columns.apply(gradient, ctx.reads), None
