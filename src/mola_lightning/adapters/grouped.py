"""A layer with a weight for each group of rows, as one operation: the compiler sees no group sizes.

The sizes come as a tensor on the host. So a compiled graph serves every mixture of tasks, nothing waits for a device,
and matrix products write their results where they belong instead of being put together afterwards.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import register_flop_formula


@torch.library.custom_op("mola_lightning::grouped_linear", mutates_args=())
def grouped_linear(x: Tensor, weights: Tensor, sizes: Tensor, times: int = 1) -> Tensor:
    """X (N, I) in consecutive groups of rows, each times its own weight (E, O, I) transposed -> (N, O).

    Args:
        x: (N, I).
        weights: (E, O, I).
        sizes: (E,) int64 on the host, rows of the batch in each group.
        times: rows of x for each of them.
    """
    rows = [size * times for size in sizes.tolist()]
    y = x.new_empty(x.shape[0], weights.shape[1])
    _multiply(x, weights.transpose(1, 2), y, rows)
    return y


def _multiply(x: Tensor, weights: Tensor, y: Tensor, rows: Sequence[int]) -> None:
    """Write x (N, I) times each group's weight (E, I, O) into y (N, O)."""
    if min(rows) == max(rows):  # as in batches with as many rows of each task: one launch serves them all
        groups = (len(rows), rows[0])
        torch.bmm(x.reshape(*groups, x.shape[1]), weights, out=y.view(*groups, y.shape[1]))
        return
    for own, weight, result in zip(x.split(rows), weights, y.split(rows), strict=True):
        torch.mm(own, weight, out=result)


@grouped_linear.register_fake
def _(x: Tensor, weights: Tensor, sizes: Tensor, times: int = 1) -> Tensor:
    return x.new_empty(x.shape[0], weights.shape[1])


@torch.library.custom_op("mola_lightning::grouped_linear_backward", mutates_args=())
def grouped_linear_backward(
    gradient: Tensor, x: Tensor, weights: Tensor, sizes: Tensor, times: int, wants_x: bool
) -> tuple[Tensor, Tensor]:
    """Gradients of x, empty where it is not wanted, and of the weights."""
    rows = [size * times for size in sizes.tolist()]
    of_x, of_weights = torch.empty_like(x) if wants_x else x.new_empty(0), torch.empty_like(weights)
    if wants_x:
        _multiply(gradient, weights, of_x, rows)
    # one by one: long sums over rows, which a product of its own may split over the device
    for given, own, of_weight in zip(gradient.split(rows), x.split(rows), of_weights, strict=True):
        torch.mm(given.t(), own, out=of_weight)  # zeros for a group without rows
    return of_x, of_weights


@grouped_linear_backward.register_fake
def _(gradient: Tensor, x: Tensor, weights: Tensor, sizes: Tensor, times: int) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), torch.empty_like(weights)


def _linear_backward_in_parts(
    gradient: Tensor, x: Tensor, weights: Tensor, sizes: Tensor, times: int, wants_x: bool
) -> tuple[Tensor, Tensor]:
    """The same by operations that torch can differentiate once more."""
    rows = [size * times for size in sizes.tolist()]
    parts = list(zip(gradient.split(rows), x.split(rows), weights, strict=True))
    return torch.cat([given @ weight for given, _, weight in parts]), torch.stack([g.t() @ own for g, own, _ in parts])


@torch.library.custom_op("mola_lightning::grouped_conv2d", mutates_args=())
def grouped_conv2d(
    x: Tensor,
    weights: Tensor,
    sizes: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    channel_groups: int,
) -> Tensor:
    """X (N, C, H, W) in consecutive groups of rows, each convolved with its own kernel (E, O, I, kh, kw).

    Args:
        x: (N, C, H, W).
        weights: (E, O, I, kh, kw).
        sizes: (E,) int64 on the host, rows of each group; their sum is N.
        stride: of the convolution.
        padding: of the convolution.
        dilation: of the convolution.
        channel_groups: of the convolution.
    """
    parts = [
        F.conv2d(own, weight, None, stride, padding, dilation, channel_groups)
        for own, weight in zip(x.split(sizes.tolist()), weights, strict=True)
    ]
    return torch.cat(parts).contiguous(memory_format=layout(x))


@grouped_conv2d.register_fake
def _(x: Tensor, weights: Tensor, sizes: Tensor, *settings: Any) -> Tensor:
    y = F.conv2d(x, weights[0], None, *settings)
    return y.new_empty(y.shape).contiguous(memory_format=layout(x))


@torch.library.custom_op("mola_lightning::grouped_conv2d_backward", mutates_args=())
def grouped_conv2d_backward(
    gradient: Tensor,
    x: Tensor,
    weights: Tensor,
    sizes: Tensor,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    channel_groups: int,
    wants_x: bool,
) -> tuple[Tensor, Tensor]:
    """Gradients of x, empty where it is not wanted, and of the weights."""
    return _conv2d_backward_in_parts(gradient, x, weights, sizes, stride, padding, dilation, channel_groups, wants_x)


def _conv2d_backward_in_parts(
    gradient: Tensor, x: Tensor, weights: Tensor, sizes: Tensor, *settings: Any
) -> tuple[Tensor, Tensor]:
    """What the operation does; by itself torch can differentiate it once more."""
    *geometry, channel_groups, wants_x = settings
    gradient = gradient.contiguous(memory_format=layout(x))
    settings = (None, *geometry, False, [0, 0], channel_groups, [wants_x, True, False])
    rows = sizes.tolist()
    of_x, of_weights = [], []
    for given, own, weight in zip(gradient.split(rows), x.split(rows), weights, strict=True):
        of_own, of_weight, _ = torch.ops.aten.convolution_backward(given, own, weight, *settings)
        of_x.append(of_own)
        of_weights.append(of_weight)
    whole = torch.cat(of_x).contiguous(memory_format=layout(x)) if wants_x else x.new_empty(0)
    return whole, torch.stack(of_weights)


@grouped_conv2d_backward.register_fake
def _(gradient: Tensor, x: Tensor, weights: Tensor, sizes: Tensor, *settings: object) -> tuple[Tensor, Tensor]:
    of_x = x.new_empty(x.shape).contiguous(memory_format=layout(x)) if settings[-1] else x.new_empty(0)
    return of_x, torch.empty_like(weights)


def _keep_linear(ctx: Any, inputs: tuple, output: Tensor) -> None:
    *kept, ctx.times = inputs
    ctx.save_for_backward(*kept)


def _linear_gradients(ctx: Any, gradient: Tensor) -> tuple:
    # with gradients on, those of the gradients are wanted (create_graph)
    backward = _linear_backward_in_parts if torch.is_grad_enabled() else grouped_linear_backward
    x, weights, sizes = ctx.saved_tensors
    of_x, of_weights = backward(gradient.contiguous(), x, weights, sizes, ctx.times, ctx.needs_input_grad[0])
    return of_x if ctx.needs_input_grad[0] else None, of_weights, None, None


grouped_linear.register_autograd(_linear_gradients, setup_context=_keep_linear)


def _keep_conv2d(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, weights, sizes, *ctx.settings = inputs
    ctx.save_for_backward(x, weights, sizes)


def _conv2d_gradients(ctx: Any, gradient: Tensor) -> tuple:
    x, weights, sizes = ctx.saved_tensors
    backward = _conv2d_backward_in_parts if torch.is_grad_enabled() else grouped_conv2d_backward
    of_x, of_weights = backward(gradient, x, weights, sizes, *ctx.settings, ctx.needs_input_grad[0])
    return of_x if ctx.needs_input_grad[0] else None, of_weights, None, None, None, None, None


grouped_conv2d.register_autograd(_conv2d_gradients, setup_context=_keep_conv2d)


def layout(x: Tensor) -> torch.memory_format:
    """Channels last where x has its channels last, and not only as one may read it."""
    last = x.shape[1] > 1 and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def in_one_precision(x: Tensor, *weights: Tensor) -> tuple[Tensor, ...]:
    """As automatic mixed precision casts the arguments of a product, which it does not do for operations of our own."""
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(x.device.type)
        return tuple(tensor.to(dtype) for tensor in (x, *weights))
    return x, *weights


@register_flop_formula(torch.ops.mola_lightning.grouped_linear)
def _linear_flops(x: Sequence[int], weights: Sequence[int], *_: object, **__: object) -> int:
    return 2 * x[0] * x[1] * weights[1]


@register_flop_formula(torch.ops.mola_lightning.grouped_linear_backward)
def _linear_backward_flops(gradient: Sequence[int], x: Sequence[int], *others: Any, **_: object) -> int:
    return 2 * (1 + others[-1]) * x[0] * x[1] * gradient[1]


@register_flop_formula(torch.ops.mola_lightning.grouped_conv2d)
def _conv2d_flops(x: object, weights: Sequence[int], *_: object, out_shape: Sequence[int], **__: object) -> int:
    return 2 * prod(out_shape) * prod(weights[2:])


@register_flop_formula(torch.ops.mola_lightning.grouped_conv2d_backward)
def _conv2d_backward_flops(
    gradient: Sequence[int], _: object, weights: Sequence[int], *others: Any, **__: object
) -> int:
    return 2 * (1 + others[-1]) * prod(gradient) * prod(weights[2:])
