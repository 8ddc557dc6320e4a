"""Products that the base layer and one of its experts' two factors share."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear


class LinearOfTwo(torch.autograd.Function):
    """A linear layer on (B, N, I) whose weight is two put together, along an axis; not kept for the backward pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, first: Tensor, second: Tensor, bias: Tensor | None, axis: int) -> Tensor:
        """One product."""
        return linear(x, torch.cat([first, second], axis), bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        """For the backward pass."""
        *tensors, bias, ctx.axis = inputs
        ctx.save_for_backward(*tensors)
        ctx.has_bias = bias is not None

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Of inputs, both parts, and bias."""
        x, *parts = ctx.saved_tensors
        rows = _rows(gradient)
        of_parts = (rows.t() @ _rows(x)).split([part.shape[ctx.axis] for part in parts], ctx.axis)
        return gradient @ torch.cat(parts, ctx.axis), *of_parts, rows.sum(0) if ctx.has_bias else None, None


class InputAndCodes(torch.autograd.Function):
    """Inputs (B, N, I), factor (M, I) and a weight of each code (B, M) -> (B, N, I + M) and the codes without weights.

    By itself so that the backward pass keeps the inputs only once: where they stand beside the codes.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, down: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Beside each other."""
        codes = x @ down.t()
        return torch.cat([x, codes * weights[:, None]], -1), codes

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
        """For the backward pass; results, as they can be differentiated once more."""
        ctx.save_for_backward(*output, *inputs[1:])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor, of_codes: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Gradients of inputs, factor and weights."""
        joined, codes, down, weights = ctx.saved_tensors
        sides = (down.shape[1], down.shape[0])
        (x, _), (of_x, of_weighted) = joined.split(sides, -1), gradient.split(sides, -1)
        of_codes = _rows(torch.addcmul(of_codes, of_weighted, weights[:, None]))
        of_x = torch.addmm(_rows(of_x), of_codes, down).view(x.shape)
        return of_x, of_codes.t() @ _rows(x), (of_weighted * codes).sum(1)


def _rows(x: Tensor) -> Tensor:
    """(B, N, C) -> (B N, C), of which vmap knows more than of ``flatten``."""
    return x.reshape(-1, x.shape[-1])
